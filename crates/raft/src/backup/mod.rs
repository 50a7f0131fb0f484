//! Backups: what makes a folder of bytes one, and a new cluster out of it.
//!
//! A backup is a copy that a replica exported ([`crate::Replica::export`]): its snapshot file and the
//! bodies that are live in it. `contents` reads all of it and checks that it is whole as what it is;
//! `restore` makes the data folder of the first and only member of a new cluster from it. Others join
//! that cluster as they would any other: so there is never more than one beginning, however much of a
//! restore is done, or done twice.

mod contents;
mod restore;

use std::io;

use ticketrail_storage::{BackupError, StorageError};

pub use contents::{BackupContents, check_backup};
pub use restore::{Heir, restore_backup};

use crate::error::StartError;

/// Why a backup is not good, or no cluster was made from it.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Its files.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// Its files are whole, and what is in them is no copy of a cluster.
    #[error("the backup is no copy of a cluster: {0}; use another one")]
    Broken(String),
    /// It was written by a newer version of this software.
    #[error(
        "the state in the backup has version {found}, this software knows up to {known}: use a newer one"
    )]
    NewerState {
        /// Version of the state.
        found: u32,
        /// Newest version known here.
        known: u32,
    },
    /// The new cluster would be taken for the old one.
    #[error(
        "the backup is of cluster {0:032x}, and the new cluster must have another id, so that their nodes and receipts are \
         not taken for each other's: leave out `cluster_id`, or give another one"
    )]
    SameCluster(u128),
    /// There is something in the data folder.
    #[error("the data folder `{0}` is not empty; name one that is empty or not there")]
    NotEmpty(String),
    /// The data folder. What is there of it is of no use.
    #[error("{doing}: {source}; empty the data folder and restore again")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What went wrong.
        source: io::Error,
    },
    /// Likewise.
    #[error("{0}; empty the data folder and restore again")]
    Storage(#[from] StorageError),
    /// Likewise.
    #[error("{0}; empty the data folder and restore again")]
    Folders(#[from] StartError),
}

fn while_doing(doing: &'static str) -> impl FnOnce(io::Error) -> RestoreError {
    move |source| RestoreError::Io { doing, source }
}
