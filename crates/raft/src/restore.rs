//! What a replica starts from: the checkpoint; else the newest good snapshot file; else nothing.

use std::io;
use std::path::{Path, PathBuf};

use ticketrail_core::State;
use ticketrail_storage::checkpoint::{self, CheckpointError, CheckpointStore, SledCheckpoint};
use ticketrail_storage::{Log, LogState};

use crate::codec;
use crate::error::StartError;
use crate::machine::StateAndRows;
use crate::rows::Reading;
use crate::shelf::Shelf;
use crate::types::{LogId, SnapshotMeta};

/// Opens a checkpoint store, and sets a broken one aside.
pub trait CheckpointOpener: Send + 'static {
    /// Opens it, empty where there is none.
    fn open(&mut self) -> Result<Box<dyn CheckpointStore>, CheckpointError>;
    /// Moves what is there out of the way, for an operator to look at; says where to.
    fn set_aside(&mut self) -> io::Result<String>;
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
}

/// What was restored.
pub(crate) struct Restored {
    pub(crate) state: State,
    pub(crate) meta: SnapshotMeta,
    pub(crate) checkpoint: Box<dyn CheckpointStore>,
}

/// Restores the newest state that there is and checks that the log goes on from it.
pub(crate) fn restore(
    opener: &mut dyn CheckpointOpener,
    shelf: &Shelf,
    log: &Log,
) -> Result<Restored, StartError> {
    let log = log.state();
    let restored = match from_checkpoint(opener, &log) {
        Ok(restored) => restored,
        Err(reason) => {
            tracing::error!(
                reason,
                "the checkpoint is set aside; the state comes from a snapshot file and the log"
            );
            from_snapshot(opener, shelf)?
        }
    };
    check_against_log(restored.meta.last_log_id, &log)?;
    Ok(restored)
}

fn from_checkpoint(opener: &mut dyn CheckpointOpener, log: &LogState) -> Result<Restored, String> {
    let checkpoint = opener.open().map_err(|error| error.to_string())?;
    let meta = match checkpoint.load_meta().map_err(|error| error.to_string())? {
        Some(bytes) => codec::meta_from(&bytes).map_err(|error| error.to_string())?,
        None => SnapshotMeta::default(),
    };
    let applied = meta.last_log_id.map(|id| id.index);
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
    Ok(Restored {
        state,
        meta,
        checkpoint,
    })
}

fn from_snapshot(opener: &mut dyn CheckpointOpener, shelf: &Shelf) -> Result<Restored, StartError> {
    let aside = opener.set_aside();
    let aside = aside.map_err(|source| StartError::Io {
        doing: "setting the checkpoint aside",
        source,
    })?;
    tracing::warn!(aside, "the checkpoint was set aside");
    let mut checkpoint = opener.open().map_err(|error| StartError::Io {
        doing: "opening an empty checkpoint",
        source: io::Error::other(error.to_string()),
    })?;
    let (state, rows, meta) = read_newest(shelf)?;
    let rows: Vec<ticketrail_storage::checkpoint::Row> = rows
        .into_iter()
        .map(|(key, value)| (key, Some(value)))
        .collect();
    if !rows.is_empty() {
        let bytes = codec::meta_to(meta.last_log_id, &meta.last_membership);
        checkpoint
            .write(&rows, bytes)
            .map_err(|error| StartError::Io {
                doing: "writing the checkpoint anew",
                source: io::Error::other(error.to_string()),
            })?;
    }
    Ok(Restored {
        state,
        meta,
        checkpoint,
    })
}

type Newest = (State, Vec<(Vec<u8>, Vec<u8>)>, SnapshotMeta);

fn read_newest(shelf: &Shelf) -> Result<Newest, StartError> {
    for file in [shelf.newest(), shelf.older()].into_iter().flatten() {
        match file.read() {
            Ok((state, rows)) => return Ok((state, rows, file.meta().clone())),
            Err(error) => tracing::error!(%error, "a snapshot file is passed over"),
        }
    }
    let (state, rows): StateAndRows = (State::new(), Vec::new());
    Ok((state, rows, SnapshotMeta::default()))
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
    use ticketrail_storage::{Identity, LogConfig, LogWriter, MemoryCheckpoint, Record};

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
        let rows: Vec<_> = rows_at(index)
            .into_iter()
            .map(|(key, row)| (key, Some(row)))
            .collect();
        let meta = meta_at(index);
        checkpoint
            .write(
                &rows,
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
        // And the checkpoint was written anew from it.
        assert_eq!(start(&disks).unwrap(), Some(6));
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
