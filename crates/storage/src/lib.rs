//! Room `storage`: how bytes survive a crash.
//!
//! The log (which is also the message store), the vote, the node's identity, the checkpoint of the state machine, the snapshot
//! file and backups. Called by `raft`, which gives it opaque bytes; it knows neither commands nor queues, starts no async runtime, and is the
//! only room that names sled. Everything but sled goes through the [`disk`] seam, so that a simulator can crash, tear and flip it.
//!
//! It never repairs by guessing: bytes that had been durable and are damaged stop the start with `DATA_LOSS`, and a failed write
//! or sync stops the log for good.
//!
//! Start reading at [`log`], then [`disk`], then [`checkpoint`] and [`snapshot`].

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod backup;
pub mod checkpoint;
pub mod disk;
mod error;
mod header;
pub mod histogram;
pub mod identity;
pub mod log;
pub mod snapshot;
mod vote;

pub use backup::{Backup, BackupBodies, BackupError, BackupManifest, BackupWriter};
pub use checkpoint::{CheckpointError, CheckpointStore, MemoryCheckpoint, SledCheckpoint};
pub use disk::{Disk, DiskFile, DiskLock, DiskSpace, OsDisk, disk_space, sim};
pub use error::StorageError;
pub use histogram::{Histogram, HistogramCounts};
pub use identity::Identity;
pub use log::{
    AdoptedBodies, BodySegmentInfo, BodyWriter, Done, Holder, Holders, Log, LogConfig, LogCounts,
    LogPosition, LogState, LogWriter, Record, Recovery, SegmentInfo,
};
