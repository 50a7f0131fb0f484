//! The checkpoint: the state machine's rows between restarts, written behind.
//!
//! Not trusted alone: a checkpoint that does not open, panics or fails its check is an error here; the caller then sets the
//! folder aside ([`set_aside`]) and rebuilds from the newest good snapshot file and the log. Every write is one
//! atomic step with the caller's meta, so that rows and meta are always of the same moment.

mod changes;
pub mod conformance;
mod memory;
mod rows;
mod sled;

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

pub use self::sled::SledCheckpoint;
pub use changes::Changes;
pub use memory::MemoryCheckpoint;

/// Where the state machine's rows are kept. One writer.
pub trait CheckpointStore: Send {
    /// The meta of the last write; `None` when nothing was ever written.
    fn load_meta(&self) -> Result<Option<Bytes>, CheckpointError>;
    /// Visits every row in the order of keys. On an error everything visited must be dropped: rows may be missing.
    fn for_each_row(&self, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), CheckpointError>;
    /// Writes all rows and the meta, or nothing; durable when this returns.
    fn write(&mut self, changes: &Changes, meta: Bytes) -> Result<(), CheckpointError>;
    /// Removes everything, the meta included.
    fn clear(&mut self) -> Result<(), CheckpointError>;
}

/// Why a checkpoint cannot be used. The state is not lost: snapshot file and log have it.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The store refused an operation.
    #[error("{operation} the checkpoint: {source}")]
    Io {
        /// What was being done, as a verb phrase.
        operation: &'static str,
        /// The refusal.
        source: io::Error,
    },
    /// The store panicked.
    #[error("{operation} the checkpoint: the store panicked: {message}")]
    Panicked {
        /// What was being done, as a verb phrase.
        operation: &'static str,
        /// The panic's message.
        message: String,
    },
    /// What the store gave back is not what was put in.
    #[error("the checkpoint is damaged: {reason}")]
    Damaged {
        /// What did not fit.
        reason: String,
    },
}

impl CheckpointError {
    pub(crate) fn damaged(reason: impl Into<String>) -> Self {
        Self::Damaged {
            reason: reason.into(),
        }
    }
}

/// Moves a checkpoint folder that cannot be used out of the way and returns where it is now. At most four are kept.
pub fn set_aside(folder: &Path) -> io::Result<PathBuf> {
    const KEPT: u32 = 4;
    let name = folder
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let aside = |number: u32| folder.with_file_name(format!("{name}.set-aside-{number}"));
    let free = (1..=KEPT).find(|number| !aside(*number).exists());
    let target = match free {
        Some(number) => aside(number),
        None => {
            std::fs::remove_dir_all(aside(1))?;
            for number in 2..=KEPT {
                std::fs::rename(aside(number), aside(number - 1))?;
            }
            aside(KEPT)
        }
    };
    std::fs::rename(folder, &target)?;
    Ok(target)
}
