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
