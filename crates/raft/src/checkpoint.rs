//! The checkpoint and the snapshot files, written behind: never on the way of a confirm.
//!
//! What follows what:
//!
//! * A checkpoint holds nothing beyond the log's durable index: apply may run ahead of the local
//!   fsync, and a state without its log must not survive a crash.
//! * A snapshot file is made of a checkpoint's rows, so it never goes beyond one.
//! * Raft's log is purged to the *older* of two snapshot files, less what is kept for peers.
//! * A segment is recycled when the state of a *durable* checkpoint refers to nothing in it: what a
//!   crash brings back must find its bodies.
//! * Where a few bodies stay in a segment, they are moved first (see `compaction`).
//! * A full disk stops nothing here: the log is the durable state, and what found no room is tried
//!   again (see `room`). Nothing is recycled meanwhile.
//! * While somebody reads a checkpoint (see `hold`), nothing in or after it is purged or recycled;
//!   and since nothing could be purged, no snapshot file is made but those that are asked for.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ticketrail_storage::Log;
use ticketrail_storage::checkpoint::{Changes, CheckpointError, CheckpointStore};
use tokio::sync::{mpsc, oneshot};

use crate::applied::{Applied, Shared};
use crate::codec;
use crate::compaction::{Around, CompactionCounts, Compactor};
use crate::config::ReplicaConfig;
use crate::export::{Export, ExportError, Exported, Exports};
use crate::hold::{Hold, Holds};
use crate::restore::CheckpointOpener;
use crate::room::{self, StepError};
use crate::rows;
use crate::shelf::Shelf;
use crate::types::SnapshotMeta;

/// How often the worker looks whether there is something to do.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One of the segments that the start took at their word is read so often.
const CHECK_EVERY: Duration = Duration::from_millis(250);
/// One that the disk did not read is tried again after so long...
const CHECK_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// ...so many times in all.
const CHECKS_REFUSED_MAX: u32 = 5;

/// A store that found no room is waited for so long, once there is room: what still has it open may wait
/// for ever, and then only a new process helps.
const LOCKED_MAX: Duration = Duration::from_secs(60);

/// A new snapshot file is on the shelf: openraft shall know it, and purge up to an entry.
pub(crate) struct SnapshotWritten {
    pub(crate) purge_upto: Option<u64>,
}

/// What is asked of the checkpoint from outside.
#[derive(Clone, Default)]
pub(crate) struct Readers {
    pub(crate) exports: Arc<Exports>,
    pub(crate) holds: Arc<Holds>,
    pub(crate) compactions: Arc<CompactionCounts>,
}

/// The checkpoint store, and the last entry that it covers.
pub(crate) struct Stored {
    pub(crate) store: Box<dyn CheckpointStore>,
    pub(crate) opener: Box<dyn CheckpointOpener>,
    pub(crate) last_index: Option<u64>,
}

/// Writes checkpoints and snapshot files; driven by a worker.
pub(crate) struct Checkpointer {
    shared: Arc<Shared>,
    log: Log,
    /// None after it found no room: what it is worth then, only opening it anew tells.
    store: Option<Box<dyn CheckpointStore>>,
    opener: Box<dyn CheckpointOpener>,
    shelf: Arc<Shelf>,
    readers: Readers,
    written: mpsc::Sender<SnapshotWritten>,
    config: ReplicaConfig,
    drained: Option<Drained>,
    checkpoint: Mark,
    snapshot: Mark,
    recycled_at: Duration,
    /// When the next segment is to be read; none once all are.
    check_at: Option<Duration>,
    /// So often in a row that could not be done.
    checks_refused: u32,
    compactor: Compactor,
    /// Nothing is written before: there was no room.
    no_room_until: Option<Duration>,
    /// Since then there is room, but the store that had found none is still open.
    locked_since: Option<Duration>,
}

/// When and where something was last done.
#[derive(Clone, Copy)]
struct Mark {
    at: Duration,
    bytes: u64,
    index: Option<u64>,
}

/// Changes that were taken from the state and are not on disk yet.
struct Drained {
    changes: Changes,
    replaces_all: bool,
    meta: SnapshotMeta,
    version: u32,
    mark: Mark,
    /// If it is time to look for it.
    dead: Option<Dead>,
    export: Option<Exporting>,
}

/// What a state refers to nothing in.
#[derive(Default)]
struct Dead {
    /// Log segments, as first and last entry.
    segments: Vec<(u64, u64)>,
    /// Body segments.
    bodies: Vec<u64>,
}

/// An export of these changes that is under way.
struct Exporting {
    bodies: Vec<(u64, u64)>,
    waiting: Vec<(oneshot::Sender<Exported>, Hold)>,
}

impl Checkpointer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        log: Log,
        stored: Stored,
        shelf: Arc<Shelf>,
        readers: Readers,
        written: mpsc::Sender<SnapshotWritten>,
        config: ReplicaConfig,
    ) -> Self {
        let now = (shared.now)();
        let mark = Mark {
            at: now,
            bytes: 0,
            index: stored.last_index,
        };
        let snapshot = Mark {
            index: shelf.newest().and_then(|file| file.last_index()),
            ..mark
        };
        let compactor = Compactor::new(
            shared.clone(),
            log.clone(),
            config.dead_bytes_max,
            config.recycle_every,
            readers.compactions.clone(),
        );
        Self {
            compactor,
            shared,
            log,
            store: Some(stored.store),
            opener: stored.opener,
            shelf,
            readers,
            written,
            config,
            drained: None,
            checkpoint: mark,
            snapshot,
            recycled_at: now,
            check_at: Some(now + CHECK_EVERY),
            checks_refused: 0,
            locked_since: None,
            no_room_until: None,
        }
    }

    /// Does what is due. `last`: the replica stops, so a checkpoint is due whenever it was.
    pub(crate) fn step(&mut self, last: bool) {
        if last {
            self.readers.exports.close();
        }
        if self.shared.failure.borrow().is_some() {
            self.readers.exports.close();
            return;
        }
        let now = (self.shared.now)();
        if self.no_room_until.is_some_and(|until| now < until) && !last {
            return;
        }
        match self.try_step(last) {
            Ok(()) if self.no_room_until.is_some() && self.drained.is_none() => {
                tracing::info!("checkpoints have room again");
                self.no_room_until = None;
                self.shared.room.set_waits(false);
            }
            Ok(()) => {}
            Err(StepError::NoRoom(reason)) => {
                if self.no_room_until.is_none() {
                    tracing::warn!(reason, "no room for a checkpoint; it is tried again");
                }
                self.no_room_until = Some(now + room::AGAIN_AFTER);
                self.shared.room.set_waits(true);
            }
            Err(StepError::Broken(reason)) => self
                .shared
                .fail(&format!("the checkpoint cannot be written: {reason}")),
        }
    }

    fn try_step(&mut self, last: bool) -> Result<(), StepError> {
        let applied_bytes = {
            let applied = self.shared.lock();
            if applied.replaced {
                // A snapshot was installed since: what it replaced must not be written over it.
                self.drained = None;
            }
            applied.bytes
        };
        self.readers
            .holds
            .break_old(applied_bytes, self.config.hold_bytes_max);
        self.checkpoint(last)?;
        if last {
            return Ok(());
        }
        let compacted = self.compactor.step(Around {
            checkpoint_index: self.checkpoint.index,
            is_held: self.readers.holds.any(),
        });
        compacted.map_err(StepError::Broken)?;
        self.check_segment();
        Ok(())
    }

    /// Damage stops the log, and with it the node; so does what cannot be read again and again.
    fn check_segment(&mut self) {
        let now = (self.shared.now)();
        if self.check_at.is_none_or(|at| now < at) {
            return;
        }
        match self.log.check_next_segment() {
            Ok(true) => {
                self.checks_refused = 0;
                self.check_at = Some(now + CHECK_EVERY);
            }
            Ok(false) => self.check_at = None,
            Err(error) => {
                tracing::error!(%error, "a complete segment of the log could not be checked");
                self.checks_refused += 1;
                self.check_at = Some(now + CHECK_AGAIN_AFTER);
                if self.checks_refused >= CHECKS_REFUSED_MAX {
                    let reason = format!("a complete segment of the log cannot be read: {error}");
                    self.shared.fail(&reason);
                }
            }
        }
    }

    fn checkpoint(&mut self, last: bool) -> Result<(), StepError> {
        if self.drained.is_none() {
            self.drained = self.drain(last);
        }
        if self.drained.is_none() {
            return self.recycle_at_rest();
        }
        let durable = self.log.state().durable_index;
        let Some(mut drained) = self
            .drained
            .take_if(|drained| drained.mark.index <= durable)
        else {
            return Ok(());
        };
        let start = (self.shared.now)();
        if let Err(error) = self.write_checkpoint(&drained) {
            // Who waits for an export asks again; the changes are kept, later ones gather behind them.
            drained.export = None;
            self.drained = Some(drained);
            return Err(error);
        }
        let counts = &self.shared.counts;
        counts.note_checkpoint(drained.mark.index, start, (self.shared.now)());
        self.checkpoint = drained.mark;
        if let Some(dead) = &drained.dead {
            self.recycle(dead)?;
        }
        let export = drained.export.take().filter(|_| !last);
        if export.is_some() || (self.snapshot_is_due() && !last) {
            self.write_snapshot(&drained)?;
        }
        if let Some(export) = export {
            self.answer(export, &drained);
        }
        Ok(())
    }

    /// The same rows may be written twice: what a store that found no room has kept of them does not
    /// matter.
    fn write_checkpoint(&mut self, drained: &Drained) -> Result<(), StepError> {
        // What was measured a moment ago may be gone.
        if let Some(free) = self.opener.free_bytes() {
            self.shared.room.set_free(free);
        }
        let bytes = drained.changes.bytes();
        if !self.shared.room.is_enough_for(bytes) {
            let reason = format!("{bytes} bytes of rows might not fit the disk");
            return Err(StepError::NoRoom(reason));
        }
        let mut store = match self.store.take() {
            Some(store) => store,
            None => self.reopen(drained)?,
        };
        if drained.replaces_all {
            store.clear()?;
        }
        let meta = codec::meta_to(drained.meta.last_log_id, &drained.meta.last_membership);
        store.write(&drained.changes, meta)?;
        self.store = Some(store);
        Ok(())
    }

    /// Opens the store anew after it found no room. The changes go onto what it held before or already
    /// hold these; onto anything else the whole state is written.
    fn reopen(&mut self, drained: &Drained) -> Result<Box<dyn CheckpointStore>, StepError> {
        let now = (self.shared.now)();
        let opened = self.opener.open();
        if let Err(error) = &opened
            && is_locked(error)
        {
            let since = *self.locked_since.get_or_insert_with(|| {
                tracing::warn!(%error, "the store that found no room is not closed yet");
                now
            });
            if now.saturating_sub(since) < LOCKED_MAX {
                return Err(StepError::NoRoom(error.to_string()));
            }
        }
        let mut store = opened?;
        self.locked_since = None;
        let meta = store.load_meta()?;
        let held = meta.map(|meta| codec::meta_from(&meta)).transpose()?;
        let held = held.and_then(|meta| meta.last_log_id).map(|id| id.index);
        if !drained.replaces_all && held != self.checkpoint.index && held != drained.mark.index {
            tracing::error!(
                held,
                expected = self.checkpoint.index,
                "the checkpoint is not what was last written: it is written anew"
            );
            (self.store, self.checkpoint.index) = (Some(store), held);
            self.shared.lock().replaced = true;
            let reason = "the whole state is to be written first".to_owned();
            return Err(StepError::NoRoom(reason));
        }
        if held.is_none() {
            // A first write that ended in the middle may have left rows without a meta.
            store.clear()?;
        }
        Ok(store)
    }

    /// Gives those who wait the file that was just written, each with a hold of its own.
    fn answer(&self, export: Exporting, drained: &Drained) {
        let file = self.shelf.newest();
        let Some(file) = file.filter(|file| file.last_index() == drained.mark.index) else {
            // A peer's snapshot came meanwhile and is about to be installed.
            for (waiting, _) in export.waiting {
                let _ = waiting.send(Err(ExportError::Busy));
            }
            return;
        };
        for (waiting, hold) in export.waiting {
            let export = Export {
                file: file.clone(),
                bodies: export.bodies.clone(),
                hold,
            };
            // An error means that nobody waits any more; the hold goes with it.
            let _ = waiting.send(Ok(export));
        }
    }

    /// Takes the changes since the last checkpoint, if one is due and there are any.
    fn drain(&mut self, last: bool) -> Option<Drained> {
        let now = (self.shared.now)();
        let wanted = !last && self.readers.exports.is_wanted();
        let mut applied = self.shared.lock();
        let mark = Mark {
            at: now,
            bytes: applied.bytes,
            index: applied.last.map(|id| id.index),
        };
        let elapsed = now.saturating_sub(self.checkpoint.at);
        let due = last
            || wanted
            || applied.replaced
            || elapsed >= self.config.checkpoint_every
            || mark.bytes - self.checkpoint.bytes >= self.config.checkpoint_bytes
            || applied.state.changed_queues() >= self.config.checkpoint_queues;
        if !due || (mark.index == self.checkpoint.index && !applied.replaced && !wanted) {
            return None;
        }
        let export = wanted.then(|| self.export(&applied, mark)).flatten();
        let replaces_all = std::mem::take(&mut applied.replaced);
        let changes = if replaces_all {
            applied.state.drain_changes(|_, _| {});
            let all = rows::encode_all(&applied.state).into_iter();
            all.map(|(key, row)| (key, Some(row))).collect()
        } else {
            rows::drain_changes(&mut applied.state)
        };
        let meta = SnapshotMeta {
            last_log_id: applied.last,
            last_membership: applied.membership.clone(),
        };
        let version = applied.state.version();
        let dead = self.recycle_is_due().then(|| self.dead(&applied));
        drop(applied);
        Some(Drained {
            changes,
            replaces_all,
            meta,
            version,
            mark,
            dead,
            export,
        })
    }

    /// Takes those who wait for an export of this very state.
    fn export(&self, applied: &Applied, mark: Mark) -> Option<Exporting> {
        let waiting = self.readers.exports.take();
        if mark.index.is_none() {
            for waiting in waiting {
                let _ = waiting.send(Err(ExportError::Empty));
            }
            return None;
        }
        let hold = |waiting| (waiting, self.readers.holds.take(mark.index, mark.bytes));
        Some(Exporting {
            bodies: applied.state.live_bodies(),
            waiting: waiting.into_iter().map(hold).collect(),
        })
    }

    /// The state is the durable checkpoint's: what is dead in it may go.
    fn recycle_at_rest(&mut self) -> Result<(), StepError> {
        if !self.recycle_is_due() {
            return Ok(());
        }
        let applied = self.shared.lock();
        if applied.last.map(|id| id.index) != self.checkpoint.index {
            return Ok(());
        }
        let dead = self.dead(&applied);
        drop(applied);
        self.recycle(&dead)
    }

    fn recycle_is_due(&self) -> bool {
        let elapsed = (self.shared.now)().saturating_sub(self.recycled_at);
        elapsed >= self.config.recycle_every && !self.readers.holds.any()
    }

    fn recycle(&mut self, dead: &Dead) -> Result<(), StepError> {
        // One may have been taken since: then it stays due.
        if self.readers.holds.any() {
            return Ok(());
        }
        self.recycled_at = (self.shared.now)();
        if !dead.segments.is_empty() {
            let is_live = |first, last| !dead.segments.contains(&(first, last));
            // The log has stopped if this fails, whatever the reason.
            let recycled = self.log.recycle(is_live);
            recycled.map_err(|error| StepError::Broken(error.to_string()))?;
        }
        if let Err(error) = self.log.remove_body_segments(&dead.bodies) {
            // They are not read any more, and removed after the next start.
            tracing::warn!(%error, "an old body segment could not be removed");
        }
        Ok(())
    }

    /// What Raft no longer needs and the state does not refer to.
    fn dead(&self, applied: &Applied) -> Dead {
        let (Some(purged), Some(last)) = (self.log.state().purged, applied.last) else {
            return Dead::default();
        };
        let is_dead = |first, last| !applied.state.body_is_live(first, last);
        let segments = self.log.segments().into_iter();
        let segments = segments.filter_map(|segment| segment.indexes);
        let bodies = self.log.body_segments().into_iter();
        let bodies = bodies.filter(|bodies| {
            bodies.last_index <= last.index && is_dead(bodies.first_index, bodies.last_index)
        });
        Dead {
            segments: segments
                .filter(|(first, last)| *last <= purged.index && is_dead(*first, *last))
                .collect(),
            bodies: bodies.map(|bodies| bodies.id).collect(),
        }
    }

    fn snapshot_is_due(&self) -> bool {
        let (done, newest) = (self.snapshot, self.checkpoint);
        let pace = self.shared.room.pace(&self.config);
        done.index < newest.index
            && !self.readers.holds.any()
            && (newest.bytes - done.bytes >= pace.snapshot_bytes
                || newest.at.saturating_sub(done.at) >= pace.snapshot_every)
    }

    fn write_snapshot(&mut self, drained: &Drained) -> Result<(), StepError> {
        let newest = self.shelf.newest().and_then(|file| file.last_index());
        if newest >= drained.mark.index {
            return Ok(());
        }
        let start = (self.shared.now)();
        let Some(store) = &self.store else {
            return Ok(());
        };
        let written = self
            .shelf
            .write(drained.meta.clone(), drained.version, |writer| {
                let mut pushed = Ok(());
                let read = store.for_each_row(&mut |key, row| {
                    if pushed.is_ok() {
                        pushed = writer.push(key, row);
                    }
                });
                read.map_err(io::Error::other)?;
                Ok(pushed?)
            });
        written?;
        let took = (self.shared.now)().saturating_sub(start);
        self.shared.counts.note_snapshot(took);
        self.snapshot = drained.mark;
        let purge_upto = self
            .shelf
            .older()
            .and_then(|older| self.purge_upto(older.last_index()?));
        let purge_upto = match self.readers.holds.purge_upto() {
            Some(held) => purge_upto.min(held),
            None => purge_upto,
        };
        // Full only while openraft is busy with the last one; the next file says it all again.
        let _ = self.written.try_send(SnapshotWritten { purge_upto });
        Ok(())
    }

    /// The last entry that nobody needs: covered by a snapshot file, and behind the newest bytes
    /// that are kept for peers which lag.
    fn purge_upto(&self, covered: u64) -> Option<u64> {
        let mut kept = 0;
        let log_bytes_kept = self.shared.room.pace(&self.config).log_bytes_kept;
        for segment in self.log.segments().iter().rev() {
            kept += segment.entry_bytes;
            let Some((first, _)) = segment.indexes else {
                continue;
            };
            if kept >= log_bytes_kept {
                return first.checked_sub(1).map(|upto| upto.min(covered));
            }
        }
        None
    }
}

/// Whether the store's folder is still held by a handle of this process.
fn is_locked(error: &CheckpointError) -> bool {
    matches!(error, CheckpointError::Io { source, .. } if source.kind() == io::ErrorKind::WouldBlock)
}
