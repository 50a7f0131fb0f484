//! Why a backup cannot be written or used, with what to do.

use std::io;

use crate::error::StorageError;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The operating system refused an operation.
    #[error("{operation} `{file}` of the backup: {source}")]
    Io {
        /// What was being done, as a verb phrase.
        operation: &'static str,
        /// File inside the folder.
        file: String,
        /// The refusal.
        source: io::Error,
    },
    /// There is something in the folder already.
    #[error("the folder is not empty; name one that is empty or not there")]
    NotEmpty,
    /// There is no manifest.
    #[error(
        "the folder holds no `manifest`: it is no backup, or one that did not come to its end, which is of no use; \
         take another one"
    )]
    Unfinished,
    /// One of the files is not there.
    #[error(
        "`{file}` of the backup is missing; copy the whole folder again, or use another backup"
    )]
    Missing {
        /// Which.
        file: &'static str,
    },
    /// Bytes are not what they were when they were written.
    #[error(
        "`{file}` of the backup is damaged at offset {offset}: {reason}; use another copy of it, or another backup"
    )]
    Damaged {
        /// File inside the folder.
        file: String,
        /// Where.
        offset: u64,
        /// What does not fit.
        reason: String,
    },
    /// A file is whole, perhaps, but not the one that the manifest tells of.
    #[error(
        "`{file}` of the backup {what}: it was cut off, or is another backup's; copy the whole folder again, or use \
         another backup"
    )]
    NotTheManifests {
        /// File inside the folder.
        file: &'static str,
        /// What tells.
        what: String,
    },
    /// It was written by a newer version of this software.
    #[error(
        "`{file}` of the backup has format version {found}, this software knows up to {known}: use a newer one"
    )]
    NewerFormat {
        /// File inside the folder.
        file: String,
        /// Version that the file names.
        found: u32,
        /// Newest version known here.
        known: u32,
    },
}

impl BackupError {
    pub(super) fn io(operation: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |source| Self::Io {
            operation,
            file,
            source,
        }
    }

    pub(super) fn damaged(file: &str, offset: u64, reason: &str) -> Self {
        Self::Damaged {
            file: file.to_owned(),
            offset,
            reason: reason.to_owned(),
        }
    }

    /// What a shared reader says of a file of the backup.
    pub(super) fn of(file: &'static str) -> impl FnOnce(StorageError) -> Self {
        move |error| match error {
            StorageError::Io {
                operation, source, ..
            } => Self::io(operation, file)(source),
            StorageError::DataLoss { offset, reason, .. } => Self::damaged(file, offset, &reason),
            StorageError::NewerFormat { found, known, .. } => Self::NewerFormat {
                file: file.to_owned(),
                found,
                known,
            },
            StorageError::ForeignFolder { .. } => Self::NotTheManifests {
                file,
                what: "is of another node or cluster".to_owned(),
            },
            other => Self::io("read", file)(io::Error::other(other)),
        }
    }
}
