//! What can go wrong when bytes are stored, with what a caller needs to act on.

use std::io;

/// Why a log, a vote, an identity or a snapshot file could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused an operation. After a failed write or fsync the node must stop.
    #[error("{operation} `{file}`: {source}")]
    Io {
        /// What was being done, as a verb phrase.
        operation: &'static str,
        /// File inside the node's folder.
        file: String,
        /// The refusal.
        source: io::Error,
    },
    /// Bytes that were once durable are damaged or gone. Never repaired by guessing.
    #[error(
        "DATA_LOSS: `{file}` at offset {offset}, {}: {reason}. To rejoin: move this folder aside, start the node with an \
         empty one under a new node id, and let it copy from its peers; never reuse the old id",
        index_range(*first_index, *last_index)
    )]
    DataLoss {
        /// File inside the node's folder.
        file: String,
        /// Offset in bytes where the damage was met.
        offset: u64,
        /// First log index that may be affected, where that is known.
        first_index: Option<u64>,
        /// Last log index that may be affected; `None` where it is unknown.
        last_index: Option<u64>,
        /// What did not fit.
        reason: String,
    },
    /// The folder belongs to another cluster or node.
    #[error(
        "this folder belongs to node {found_node_id} of cluster {found_cluster_id:032x}, not to node {node_id} of cluster \
         {cluster_id:032x}: check the data directory"
    )]
    ForeignFolder {
        /// Cluster that was asked for.
        cluster_id: u128,
        /// Node that was asked for.
        node_id: u64,
        /// Cluster that the folder names.
        found_cluster_id: u128,
        /// Node that the folder names.
        found_node_id: u64,
    },
    /// Another process holds the folder.
    #[error("the data directory is in use by another process")]
    Locked,
    /// The file was written by a newer version of this software.
    #[error(
        "`{file}` has format version {found}, this software knows up to {known}: upgrade first"
    )]
    NewerFormat {
        /// File inside the node's folder.
        file: String,
        /// Version that the file names.
        found: u32,
        /// Newest version known here.
        known: u32,
    },
    /// The log holds no entry of this index any more, or never did.
    #[error("no log entry {index} on this node's disk")]
    NoSuchEntry {
        /// The index that was asked for.
        index: u64,
    },
    /// The log stopped after a failed write or fsync.
    #[error("the log stopped: {reason}")]
    Stopped {
        /// The first failure.
        reason: String,
    },
}

impl StorageError {
    pub(crate) fn io(operation: &'static str, file: &str, source: io::Error) -> Self {
        Self::Io {
            operation,
            file: file.to_owned(),
            source,
        }
    }

    pub(crate) fn damaged(file: &str, offset: u64, reason: impl Into<String>) -> Self {
        Self::DataLoss {
            file: file.to_owned(),
            offset,
            first_index: None,
            last_index: None,
            reason: reason.into(),
        }
    }

    /// Whether durable bytes are damaged, as opposed to a refusal that may pass.
    pub fn is_data_loss(&self) -> bool {
        matches!(self, Self::DataLoss { .. })
    }
}

impl From<StorageError> for io::Error {
    fn from(error: StorageError) -> Self {
        let kind = match &error {
            StorageError::Io { source, .. } => source.kind(),
            StorageError::DataLoss { .. } => io::ErrorKind::InvalidData,
            StorageError::NoSuchEntry { .. } => io::ErrorKind::NotFound,
            StorageError::Locked => io::ErrorKind::WouldBlock,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

fn index_range(first: Option<u64>, last: Option<u64>) -> String {
    match (first, last) {
        (Some(first), Some(last)) => format!("log indexes {first} to {last}"),
        (Some(first), None) => format!("log indexes from {first}"),
        (None, Some(last)) => format!("log indexes up to {last}"),
        (None, None) => "no log indexes".to_owned(),
    }
}
