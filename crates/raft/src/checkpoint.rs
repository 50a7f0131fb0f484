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

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ticketrail_storage::Log;
use ticketrail_storage::checkpoint::CheckpointStore;
use tokio::sync::mpsc;

use crate::applied::Shared;
use crate::codec;
use crate::config::ReplicaConfig;
use crate::rows;
use crate::shelf::Shelf;
use crate::types::SnapshotMeta;

/// How often the worker looks whether there is something to do.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A new snapshot file is on the shelf: openraft shall know it, and purge up to an entry.
pub(crate) struct SnapshotWritten {
    pub(crate) purge_upto: Option<u64>,
}

/// Writes checkpoints and snapshot files; driven by a worker.
pub(crate) struct Checkpointer {
    shared: Arc<Shared>,
    log: Log,
    store: Box<dyn CheckpointStore>,
    shelf: Arc<Shelf>,
    written: mpsc::Sender<SnapshotWritten>,
    config: ReplicaConfig,
    drained: Option<Drained>,
    checkpoint: Mark,
    snapshot: Mark,
    recycled_at: Duration,
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
    rows: Vec<ticketrail_storage::checkpoint::Row>,
    replaces_all: bool,
    meta: SnapshotMeta,
    version: u32,
    mark: Mark,
    /// Segments (first and last entry) in which this state refers to nothing.
    dead: Vec<(u64, u64)>,
}

impl Checkpointer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        log: Log,
        store: Box<dyn CheckpointStore>,
        shelf: Arc<Shelf>,
        written: mpsc::Sender<SnapshotWritten>,
        config: ReplicaConfig,
        restored_index: Option<u64>,
    ) -> Self {
        let now = (shared.now)();
        let mark = Mark {
            at: now,
            bytes: 0,
            index: restored_index,
        };
        let snapshot = Mark {
            index: shelf.newest().and_then(|file| file.last_index()),
            ..mark
        };
        Self {
            shared,
            log,
            store,
            shelf,
            written,
            config,
            drained: None,
            checkpoint: mark,
            snapshot,
            recycled_at: now,
        }
    }

    /// Does what is due. `last`: the replica stops, so a checkpoint is due whenever it was.
    pub(crate) fn step(&mut self, last: bool) {
        if self.shared.failure.borrow().is_some() {
            return;
        }
        if let Err(reason) = self.try_step(last) {
            self.shared
                .fail(&format!("the checkpoint cannot be written: {reason}"));
        }
    }

    fn try_step(&mut self, last: bool) -> Result<(), String> {
        if self.drained.is_none() {
            self.drained = self.drain(last);
        }
        if self.drained.is_none() {
            return self.recycle_at_rest();
        }
        let durable = self.log.state().durable_index;
        let Some(drained) = self
            .drained
            .take_if(|drained| drained.mark.index <= durable)
        else {
            return Ok(());
        };
        if drained.replaces_all {
            self.store.clear().map_err(|error| error.to_string())?;
        }
        let meta = codec::meta_to(drained.meta.last_log_id, &drained.meta.last_membership);
        self.store
            .write(&drained.rows, meta)
            .map_err(|error| error.to_string())?;
        self.checkpoint = drained.mark;
        self.recycle(&drained.dead)?;
        if self.snapshot_is_due() && !last {
            self.write_snapshot(&drained)?;
        }
        Ok(())
    }

    /// Takes the changes since the last checkpoint, if one is due and there are any.
    fn drain(&mut self, last: bool) -> Option<Drained> {
        let now = (self.shared.now)();
        let mut applied = self.shared.lock();
        let mark = Mark {
            at: now,
            bytes: applied.bytes,
            index: applied.last.map(|id| id.index),
        };
        let elapsed = now.saturating_sub(self.checkpoint.at);
        let due = last
            || applied.replaced
            || elapsed >= self.config.checkpoint_every
            || mark.bytes - self.checkpoint.bytes >= self.config.checkpoint_bytes;
        if !due || mark.index == self.checkpoint.index {
            return None;
        }
        let changes = applied.state.drain_changes();
        let replaces_all = std::mem::take(&mut applied.replaced);
        let all = replaces_all.then(|| rows::encode_all(&applied.state));
        let meta = SnapshotMeta {
            last_log_id: applied.last,
            last_membership: applied.membership.clone(),
        };
        let version = applied.state.version();
        let mut dead = Vec::new();
        if now.saturating_sub(self.recycled_at) >= self.config.recycle_every {
            self.recycled_at = now;
            dead = self.dead_segments(|first, last| applied.state.body_is_live(first, last));
        }
        drop(applied);
        let rows = match all {
            Some(all) => all.into_iter().map(|(key, row)| (key, Some(row))).collect(),
            None => rows::encode_changes(changes),
        };
        Some(Drained {
            rows,
            replaces_all,
            meta,
            version,
            mark,
            dead,
        })
    }

    /// The state is the durable checkpoint's: what is dead in it may go.
    fn recycle_at_rest(&mut self) -> Result<(), String> {
        let now = (self.shared.now)();
        if now.saturating_sub(self.recycled_at) < self.config.recycle_every {
            return Ok(());
        }
        let applied = self.shared.lock();
        if applied.last.map(|id| id.index) != self.checkpoint.index {
            return Ok(());
        }
        self.recycled_at = now;
        let dead = self.dead_segments(|first, last| applied.state.body_is_live(first, last));
        drop(applied);
        self.recycle(&dead)
    }

    fn recycle(&self, dead: &[(u64, u64)]) -> Result<(), String> {
        if dead.is_empty() {
            return Ok(());
        }
        let is_live = |first, last| !dead.contains(&(first, last));
        self.log
            .recycle(is_live)
            .map(drop)
            .map_err(|error| error.to_string())
    }

    fn dead_segments(&self, is_live: impl Fn(u64, u64) -> bool) -> Vec<(u64, u64)> {
        let Some(purged) = self.log.state().purged else {
            return Vec::new();
        };
        let segments = self
            .log
            .segments()
            .into_iter()
            .filter_map(|segment| segment.indexes);
        segments
            .filter(|(first, last)| *last <= purged.index && !is_live(*first, *last))
            .collect()
    }

    fn snapshot_is_due(&self) -> bool {
        let (done, newest) = (self.snapshot, self.checkpoint);
        done.index < newest.index
            && (newest.bytes - done.bytes >= self.config.snapshot_bytes
                || newest.at.saturating_sub(done.at) >= self.config.snapshot_every)
    }

    fn write_snapshot(&mut self, drained: &Drained) -> Result<(), String> {
        let written = self
            .shelf
            .write(drained.meta.clone(), drained.version, |writer| {
                let mut pushed = Ok(());
                let read = self.store.for_each_row(&mut |key, row| {
                    if pushed.is_ok() {
                        pushed = writer.push(key, row);
                    }
                });
                read.map_err(io::Error::other)?;
                Ok(pushed?)
            });
        written.map_err(|error| error.to_string())?;
        self.snapshot = drained.mark;
        let purge_upto = self
            .shelf
            .older()
            .and_then(|older| self.purge_upto(older.last_index()?));
        // Full only while openraft is busy with the last one; the next file says it all again.
        let _ = self.written.try_send(SnapshotWritten { purge_upto });
        Ok(())
    }

    /// The last entry that nobody needs: covered by a snapshot file, and behind the newest bytes
    /// that are kept for peers which lag.
    fn purge_upto(&self, covered: u64) -> Option<u64> {
        let mut kept = 0;
        for segment in self.log.segments().iter().rev() {
            kept += segment.entry_bytes;
            let Some((first, _)) = segment.indexes else {
                continue;
            };
            if kept >= self.config.log_bytes_kept {
                return first.checked_sub(1).map(|upto| upto.min(covered));
            }
        }
        None
    }
}
