//! What a replica starts from: the checkpoint; else the newest good snapshot file; else nothing.

use std::io;
use std::path::{Path, PathBuf};

use ticketrail_core::State;
use ticketrail_storage::checkpoint::{self, CheckpointError, CheckpointStore, SledCheckpoint};
use ticketrail_storage::{Log, LogState, disk_space};

use crate::codec;
use crate::error::StartError;
use crate::rows::Reading;
use crate::shelf::Shelf;
use crate::types::{LogId, SnapshotMeta, term_of};

/// Opens a checkpoint store, and sets a broken one aside.
pub trait CheckpointOpener: Send + 'static {
    /// Opens it, empty where there is none.
    fn open(&mut self) -> Result<Box<dyn CheckpointStore>, CheckpointError>;
    /// Moves what is there out of the way, for an operator to look at; says where to.
    fn set_aside(&mut self) -> io::Result<String>;
    /// The room that there is for it at this moment; none where that is not known.
    fn free_bytes(&self) -> Option<u64> {
        None
    }
}

/// A sled checkpoint in a folder.
#[derive(Debug)]
pub struct SledFolder {
    folder: PathBuf,
}

impl SledFolder {
    /// In this folder.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }
}

impl CheckpointOpener for SledFolder {
    fn open(&mut self) -> Result<Box<dyn CheckpointStore>, CheckpointError> {
        Ok(Box::new(SledCheckpoint::open(&self.folder)?))
    }

    fn set_aside(&mut self) -> io::Result<String> {
        Ok(checkpoint::set_aside(&self.folder)?.display().to_string())
    }

    fn free_bytes(&self) -> Option<u64> {
        let space = disk_space(self.folder.parent()?);
        space.ok().map(|space| space.free_bytes)
    }
}

/// What was restored.
pub(crate) struct Restored {
    pub(crate) state: State,
    pub(crate) meta: SnapshotMeta,
    pub(crate) checkpoint: Box<dyn CheckpointStore>,
    /// The state is a snapshot file's: the checkpoint is to be written anew from it, once the log on
    /// disk goes so far.
    pub(crate) rewrite: bool,
}

/// What a checkpoint is good for.
enum Checkpoint {
    Whole(Box<Restored>),
    /// A snapshot file is newer: one came from a peer, and its install did not come to its end.
    Behind(Box<dyn CheckpointStore>),
}

/// Restores the newest state that there is and checks that the log goes on from it.
pub(crate) fn restore(
    opener: &mut dyn CheckpointOpener,
    shelf: &Shelf,
    log: &Log,
) -> Result<Restored, StartError> {
    let newest = shelf.newest().and_then(|file| file.last_index());
    let restored = match from_checkpoint(opener, newest, &log.state()) {
        Ok(Checkpoint::Whole(restored)) => *restored,
        Ok(Checkpoint::Behind(checkpoint)) => {
            let restored = from_snapshot(checkpoint, shelf, log)?;
            go_on_behind(restored.meta.last_log_id, log);
            restored
        }
        Err(reason) => {
            tracing::error!(
                reason,
                "the checkpoint is set aside; the state comes from a snapshot file and the log"
            );
            set_aside(opener)?;
            from_snapshot(open_empty(opener)?, shelf, log)?
        }
    };
    if log.bodies_wait_for().is_some() {
        // They came with a snapshot that is not the state now.
        shelf.discard_fetched(log, None).map_err(bodies_failed)?;
    }
    check_against_log(restored.meta.last_log_id, &log.state())?;
    Ok(restored)
}

fn bodies_failed(source: io::Error) -> StartError {
    StartError::Io {
        doing: "taking or removing the bodies that came with a snapshot",
        source,
    }
}

/// Where the log does not hold the last entry of a snapshot, it goes on behind it, as it would after
/// an install that came to its end: what it holds is covered by the snapshot or was never committed.
fn go_on_behind(last: Option<LogId>, log: &Log) {
    let Some(last) = last else { return };
    let term = term_of(&last);
    if log.term_of(last.index) != Some(term) {
        tracing::warn!(index = last.index, "the log goes on behind a snapshot");
        // If it fails, the log has stopped and its failure hook says so.
        log.purge(last.index, term, Box::new(|_| {}));
    }
}

fn from_checkpoint(
    opener: &mut dyn CheckpointOpener,
    newest: Option<u64>,
    log: &LogState,
) -> Result<Checkpoint, String> {
    let checkpoint = opener.open().map_err(|error| error.to_string())?;
    let meta = match checkpoint.load_meta().map_err(|error| error.to_string())? {
        Some(bytes) => codec::meta_from(&bytes).map_err(|error| error.to_string())?,
        None => SnapshotMeta::default(),
    };
    let applied = meta.last_log_id.map(|id| id.index);
    if newest > applied {
        return Ok(Checkpoint::Behind(checkpoint));
    }
    if log
        .purged
        .is_some_and(|purged| applied < Some(purged.index))
    {
        return Err(format!(
            "it ends at entry {applied:?}, before the log's first"
        ));
    }
    let mut reading = Reading::default();
    let read = checkpoint.for_each_row(&mut |key, value| reading.row(key, value));
    read.map_err(|error| error.to_string())?;
    let state = reading.state().map_err(|error| error.to_string())?;
    if Some(state.applied_index()).filter(|index| *index > 0) > applied {
        return Err(format!("its rows go beyond entry {applied:?}"));
    }
    Ok(Checkpoint::Whole(Box::new(Restored {
        state,
        meta,
        checkpoint,
        rewrite: false,
    })))
}

/// Moves the checkpoint out of the way.
pub(crate) fn set_aside(opener: &mut dyn CheckpointOpener) -> Result<(), StartError> {
    let aside = opener.set_aside();
    let aside = aside.map_err(|source| StartError::Io {
        doing: "setting the checkpoint aside",
        source,
    })?;
    tracing::warn!(aside, "the checkpoint was set aside");
    Ok(())
}

fn open_empty(opener: &mut dyn CheckpointOpener) -> Result<Box<dyn CheckpointStore>, StartError> {
    opener.open().map_err(|error| StartError::Io {
        doing: "opening an empty checkpoint",
        source: io::Error::other(error.to_string()),
    })
}

fn from_snapshot(
    checkpoint: Box<dyn CheckpointStore>,
    shelf: &Shelf,
    log: &Log,
) -> Result<Restored, StartError> {
    let (state, meta) = read_newest(shelf)?;
    if let Some(last) = meta.last_log_id {
        // They are here if the install did not come to its end.
        let bodies = log.adopt_bodies(last.index).map_err(io::Error::other);
        bodies.map_err(bodies_failed)?.show();
    }
    Ok(Restored {
        state,
        rewrite: meta.last_log_id.is_some(),
        meta,
        checkpoint,
    })
}

fn read_newest(shelf: &Shelf) -> Result<(State, SnapshotMeta), StartError> {
    for file in [shelf.newest(), shelf.older()].into_iter().flatten() {
        match file.read() {
            Ok((state, _)) => return Ok((state, file.meta().clone())),
            Err(error) => tracing::error!(%error, "a snapshot file is passed over"),
        }
    }
    Ok((State::new(), SnapshotMeta::default()))
}

/// openraft closes a gap between state and log by purging, in release builds silently: a gap means
/// that durable entries are gone, and that is for an operator to see.
fn check_against_log(applied: Option<LogId>, log: &LogState) -> Result<(), StartError> {
    let applied = applied.map(|id| id.index);
    if let Some(purged) = log.purged.filter(|purged| applied < Some(purged.index)) {
        return Err(StartError::StateLost {
            purged: purged.index,
            applied,
        });
    }
    match applied {
        Some(applied) if log.last.is_none_or(|last| last.index < applied) => {
            Err(StartError::LogLost {
                applied,
                last: log.last.map(|last| last.index),
            })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use ticketrail_storage::sim::SimDisk;
    use ticketrail_storage::{
        Identity, LogConfig, LogWriter, MemoryCheckpoint, Record, StorageError,
    };

    use super::*;
    use crate::shelf::push_all;
    use crate::types::{StoredMembership, log_id};

    struct Memory(MemoryCheckpoint);

    impl CheckpointOpener for Memory {
        fn open(&mut self) -> Result<Box<dyn CheckpointStore>, CheckpointError> {
            Ok(Box::new(self.0.clone()))
        }

        fn set_aside(&mut self) -> io::Result<String> {
            self.0.clear().map_err(io::Error::other)?;
            Ok("nowhere".to_owned())
        }
    }

    struct Disks {
        shelf: Shelf,
        log: Log,
        writer: LogWriter,
        checkpoint: MemoryCheckpoint,
    }

    /// A log of entries 0 to `last`, of which `purged` are gone.
    fn disks(last: u64, purged: Option<u64>) -> Disks {
        let owner = Identity {
            cluster_id: 1,
            node_id: 1,
        };
        let (log, mut writer, _) =
            Log::open(Arc::new(SimDisk::new(1)), LogConfig::new(1, 1)).unwrap();
        let payload = Bytes::from_static(&[0]);
        let record = |index| Record {
            group: 0,
            term: 1,
            index,
            payload: payload.clone(),
        };
        log.append(
            (0..=last).map(record).collect(),
            Box::new(|done| done.unwrap()),
        );
        if let Some(upto) = purged {
            log.purge(upto, 1, Box::new(|done| done.unwrap()));
        }
        while writer.step() {}
        let shelf = Shelf::open(Arc::new(SimDisk::new(2)), owner).unwrap();
        Disks {
            shelf,
            log,
            writer,
            checkpoint: MemoryCheckpoint::new(),
        }
    }

    /// A state after entry `index`, and its rows.
    fn rows_at(index: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut state = State::new();
        state.skip(index);
        crate::rows::encode_all(&state)
    }

    fn meta_at(index: u64) -> SnapshotMeta {
        let last_membership = StoredMembership::default();
        SnapshotMeta {
            last_log_id: Some(log_id(1, index)),
            last_membership,
        }
    }

    fn save(checkpoint: &mut MemoryCheckpoint, index: u64) {
        let rows = rows_at(index)
            .into_iter()
            .map(|(key, row)| (key, Some(row)));
        let meta = meta_at(index);
        checkpoint
            .write(
                &rows.collect(),
                codec::meta_to(meta.last_log_id, &meta.last_membership),
            )
            .unwrap();
    }

    fn start(disks: &Disks) -> Result<Option<u64>, StartError> {
        let mut opener = Memory(disks.checkpoint.clone());
        let restored = restore(&mut opener, &disks.shelf, &disks.log)?;
        let applied = restored.meta.last_log_id.map(|id| id.index);
        assert_eq!(restored.state.applied_index(), applied.unwrap_or(0));
        Ok(applied)
    }

    #[test]
    fn a_new_node_starts_empty_and_an_old_one_from_its_checkpoint() {
        let mut disks = disks(9, None);
        assert_eq!(start(&disks).unwrap(), None);
        save(&mut disks.checkpoint, 7);
        assert_eq!(start(&disks).unwrap(), Some(7));
        drop(disks.writer);
    }

    #[test]
    fn an_empty_state_with_a_purged_log_is_refused() {
        let disks = disks(9, Some(4));
        let refused = start(&disks).unwrap_err();
        assert!(
            matches!(
                refused,
                StartError::StateLost {
                    purged: 4,
                    applied: None
                }
            ),
            "{refused}"
        );
        drop(disks.writer);
    }

    #[test]
    fn a_state_ahead_of_the_log_is_refused() {
        let mut disks = disks(9, None);
        save(&mut disks.checkpoint, 12);
        let refused = start(&disks).unwrap_err();
        let expected = matches!(
            refused,
            StartError::LogLost {
                applied: 12,
                last: Some(9)
            }
        );
        assert!(expected, "{refused}");
        drop(disks.writer);
    }

    #[test]
    fn a_damaged_checkpoint_gives_way_to_the_snapshot_file() {
        let mut disks = disks(9, Some(4));
        save(&mut disks.checkpoint, 8);
        disks
            .shelf
            .write(meta_at(6), 1, push_all(&rows_at(6)))
            .unwrap();
        assert!(
            disks.checkpoint.flip(None, 3, 1),
            "the meta is there to be damaged"
        );
        assert_eq!(start(&disks).unwrap(), Some(6));
        drop(disks.writer);
    }

    #[test]
    fn an_install_that_was_cut_off_is_brought_to_its_end() {
        // The file came, the log was not purged: it ends before, or has other entries there.
        for (term, last) in [(1, 12), (2, 8)] {
            let mut disks = disks(9, None);
            save(&mut disks.checkpoint, 5);
            let meta = SnapshotMeta {
                last_log_id: Some(log_id(term, last)),
                ..SnapshotMeta::default()
            };
            let rows = rows_at(last);
            disks.shelf.write(meta, 1, push_all(&rows)).unwrap();
            assert_eq!(start(&disks).unwrap(), Some(last));
            let log = disks.log.state();
            assert_eq!(log.last.map(|id| (id.term, id.index)), Some((term, last)));
            assert_eq!(log.first_index, last + 1);
            let stale = disks.log.read_body(7);
            assert!(matches!(stale, Err(StorageError::NoSuchEntry { .. })));
            drop(disks.writer);
        }
    }

    /// A snapshot that ends at `last` came, with a body of entry 20, and is not installed.
    fn fetch(disks: &Disks, last: u64) {
        let mut bodies = disks.log.body_writer().unwrap();
        bodies.push(20, b"fetched").unwrap();
        bodies.finish_for_snapshot(last).unwrap();
        let rows = rows_at(last);
        disks
            .shelf
            .write(meta_at(last), 1, push_all(&rows))
            .unwrap();
    }

    #[test]
    fn bodies_that_came_with_a_snapshot_go_where_its_state_goes() {
        for (last, expected) in [(12, "fetched"), (4, "own")] {
            let mut disks = disks(9, None);
            save(&mut disks.checkpoint, 5);
            let mut own = disks.log.body_writer().unwrap();
            own.push(20, b"own").unwrap();
            own.finish().unwrap();
            fetch(&disks, last);
            assert_eq!(start(&disks).unwrap(), Some(last.max(5)));
            assert_eq!(disks.log.bodies_wait_for(), None);
            assert_eq!(&disks.log.read_body(20).unwrap()[..], expected.as_bytes());
            drop(disks.writer);
        }
    }

    #[test]
    fn what_was_fetched_in_vain_goes_with_its_file() {
        let mut disks = disks(9, None);
        save(&mut disks.checkpoint, 5);
        fetch(&disks, 12);
        // Raft must not hear of it before it is installed.
        let newest = |upto| disks.shelf.newest_upto(Some(log_id(1, upto)));
        assert!(newest(11).is_none());
        assert_eq!(newest(12).and_then(|file| file.last_index()), Some(12));
        disks.shelf.discard_fetched(&disks.log, None).unwrap();
        assert_eq!(disks.log.bodies_wait_for(), None);
        assert!(disks.shelf.newest().is_none());
        assert_eq!(start(&disks).unwrap(), Some(5));
        // One without bodies is told by its end.
        let rows = rows_at(12);
        let file = push_all(&rows);
        disks.shelf.write(meta_at(12), 1, file).unwrap();
        disks.shelf.discard_fetched(&disks.log, Some(12)).unwrap();
        assert_eq!(start(&disks).unwrap(), Some(5));
        drop(disks.writer);
    }

    #[test]
    fn a_log_that_goes_on_from_the_snapshot_keeps_its_tail() {
        let mut disks = disks(9, None);
        save(&mut disks.checkpoint, 5);
        disks
            .shelf
            .write(meta_at(7), 1, push_all(&rows_at(7)))
            .unwrap();
        assert_eq!(start(&disks).unwrap(), Some(7));
        let log = disks.log.state();
        assert_eq!((log.first_index, log.last.map(|id| id.index)), (0, Some(9)));
        drop(disks.writer);
    }

    #[test]
    fn a_checkpoint_from_before_the_purge_gives_way_to_the_snapshot_file() {
        let mut disks = disks(9, Some(4));
        save(&mut disks.checkpoint, 2);
        disks
            .shelf
            .write(meta_at(6), 1, push_all(&rows_at(6)))
            .unwrap();
        assert_eq!(start(&disks).unwrap(), Some(6));
        drop(disks.writer);
    }
}
