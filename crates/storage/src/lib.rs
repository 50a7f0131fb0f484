//! Room `storage`: how bytes survive a crash.
//!
//! The log (which is also the message store), the vote, the node's identity, the checkpoint of the state machine and the snapshot
//! file. Called by `raft`, which gives it opaque bytes; it knows neither commands nor queues, starts no async runtime, and is the
//! only room that names sled. Everything but sled goes through the [`disk`] seam, so that a simulator can crash, tear and flip it.
//!
//! It never repairs by guessing: bytes that had been durable and are damaged stop the start with `DATA_LOSS`, and a failed write
//! or sync stops the log for good.
//!
//! Start reading at [`log`], then [`disk`], then [`checkpoint`] and [`snapshot`].

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod checkpoint;
pub mod disk;
mod error;
mod header;
pub mod identity;
pub mod log;
pub mod snapshot;
mod vote;

pub use checkpoint::{CheckpointError, CheckpointStore, MemoryCheckpoint, SledCheckpoint};
pub use disk::{Disk, DiskFile, DiskLock, OsDisk, sim};
pub use error::StorageError;
pub use identity::Identity;
pub use log::{
    Done, Log, LogConfig, LogPosition, LogState, LogWriter, Record, Recovery, SegmentInfo,
};
