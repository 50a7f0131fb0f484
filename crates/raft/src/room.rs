//! Room on the disk: what waits for it, and what hurries because of it.
//!
//! The log is the durable state, and its segments are written ahead, so a full disk harms nothing as
//! long as checkpoint and snapshot files, which take fresh room, wait until there is some. And a disk
//! that is short gets room back the sooner the more often the log is purged.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ticketrail_storage::StorageError;
use ticketrail_storage::checkpoint::CheckpointError;
use ticketrail_storage::disk::is_full;

use crate::config::ReplicaConfig;

/// What found no room is tried again after so long.
pub(crate) const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// What a checkpoint may take beside its rows: sled writes whole leaves, and twice.
const CHECKPOINT_ROOM_BYTES: u64 = 16 << 20;
/// On a disk that is short, a snapshot file is written this often while something changes...
const SHORT_SNAPSHOT_EVERY: Duration = Duration::from_secs(10);
/// ...or when entries of so many bytes were applied since the last...
const SHORT_SNAPSHOT_BYTES: u64 = 64 << 20;
/// ...and so much is kept for peers which lag.
const SHORT_LOG_BYTES_KEPT: u64 = 64 << 20;

/// What is known of the disk. Without anybody who measures it, there is always room.
#[derive(Debug)]
pub(crate) struct Room {
    free_bytes: AtomicU64,
    is_short: AtomicBool,
    waits: AtomicBool,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            free_bytes: AtomicU64::new(u64::MAX),
            is_short: AtomicBool::new(false),
            waits: AtomicBool::new(false),
        }
    }
}

impl Room {
    /// The disk was measured.
    pub(crate) fn measured(&self, free_bytes: u64, is_short: bool) {
        self.set_free(free_bytes);
        self.is_short.store(is_short, Ordering::Relaxed);
    }

    /// So much is free.
    pub(crate) fn set_free(&self, bytes: u64) {
        self.free_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Whether these rows surely fit: the store is not even asked otherwise.
    pub(crate) fn is_enough_for(&self, row_bytes: u64) -> bool {
        let free = self.free_bytes.load(Ordering::Relaxed);
        free >= row_bytes
            .saturating_mul(4)
            .saturating_add(CHECKPOINT_ROOM_BYTES)
    }

    /// Whether a checkpoint or a snapshot file waits for room.
    pub(crate) fn waits(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    pub(crate) fn set_waits(&self, waits: bool) {
        self.waits.store(waits, Ordering::Relaxed);
    }

    /// The bounds of now.
    pub(crate) fn pace(&self, config: &ReplicaConfig) -> Pace {
        let usual = Pace {
            snapshot_every: config.snapshot_every,
            snapshot_bytes: config.snapshot_bytes,
            log_bytes_kept: config.log_bytes_kept,
        };
        if !self.is_short.load(Ordering::Relaxed) {
            return usual;
        }
        Pace {
            snapshot_every: usual.snapshot_every.min(SHORT_SNAPSHOT_EVERY),
            snapshot_bytes: usual.snapshot_bytes.min(SHORT_SNAPSHOT_BYTES),
            log_bytes_kept: usual.log_bytes_kept.min(SHORT_LOG_BYTES_KEPT),
        }
    }
}

/// How often snapshot files are written, and how much of the log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    pub(crate) snapshot_every: Duration,
    pub(crate) snapshot_bytes: u64,
    pub(crate) log_bytes_kept: u64,
}

/// Why a step of the checkpoint did not come through.
#[derive(Debug)]
pub(crate) enum StepError {
    /// The disk is full; nothing is broken.
    NoRoom(String),
    /// The node must stop.
    Broken(String),
}

impl From<CheckpointError> for StepError {
    fn from(error: CheckpointError) -> Self {
        let full = match &error {
            CheckpointError::Io { source, .. } => is_full(source),
            // sled unwraps here and there.
            CheckpointError::Panicked { message, .. } => {
                message.contains("StorageFull") || message.contains("No space left")
            }
            CheckpointError::Damaged { .. } => false,
        };
        Self::of(full, &error)
    }
}

impl From<StorageError> for StepError {
    fn from(error: StorageError) -> Self {
        let full = matches!(&error, StorageError::Io { source, .. } if is_full(source));
        Self::of(full, &error)
    }
}

impl From<std::io::Error> for StepError {
    fn from(error: std::io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        let inner_full = matches!(inner, Some(StorageError::Io { source, .. }) if is_full(source));
        Self::of(inner_full || is_full(&error), &error)
    }
}

impl StepError {
    fn of(full: bool, error: &dyn std::error::Error) -> Self {
        match full {
            true => Self::NoRoom(error.to_string()),
            false => Self::Broken(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use ticketrail_core::{BootId, NodeId};

    use super::*;

    #[test]
    fn a_short_disk_is_purged_sooner() {
        let (room, config) = (Room::default(), ReplicaConfig::new(1, NodeId(1), BootId(1)));
        assert_eq!(room.pace(&config).log_bytes_kept, config.log_bytes_kept);
        assert!(room.is_enough_for(u64::MAX / 8));
        room.measured(20 << 20, true);
        assert_eq!(room.pace(&config).log_bytes_kept, SHORT_LOG_BYTES_KEPT);
        assert!(room.is_enough_for(1 << 20) && !room.is_enough_for(2 << 20));
    }

    #[test]
    fn a_full_disk_is_told_from_a_broken_one_however_it_is_wrapped() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let stored = |source| StorageError::Io {
            operation: "write",
            file: "snapshot".to_owned(),
            source,
        };
        let wrapped = io::Error::other(stored(full()));
        assert!(matches!(StepError::from(wrapped), StepError::NoRoom(_)));
        assert!(matches!(StepError::from(full()), StepError::NoRoom(_)));
        assert!(matches!(
            StepError::from(stored(full())),
            StepError::NoRoom(_)
        ));
        let broken = || io::Error::from(io::ErrorKind::PermissionDenied);
        assert!(matches!(
            StepError::from(stored(broken())),
            StepError::Broken(_)
        ));
        let source = full();
        let error = CheckpointError::Io {
            operation: "write",
            source,
        };
        assert!(matches!(StepError::from(error), StepError::NoRoom(_)));
    }
}
