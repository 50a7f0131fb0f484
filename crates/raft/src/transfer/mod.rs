//! Snapshots from node to node: pulled by the one that needs them, in checked pieces.
//!
//! * `source`: an open snapshot that is read from, here (`Replica::export`) or by a peer (`serving`).
//! * `offer`: the leader tells a peer that its log does not reach, and waits until it has caught up.
//! * `fetch`: what a receiver does: rows, bodies, verification, the file on its own shelf.
//! * `receive`: one fetch at a time, driven by offers, and the install into Raft.
//! * `rejoin`: the same before Raft starts, for a node whose state is lost or proved wrong.
//!
//! What is durable before what, on a receiver: the bodies before the snapshot file, the file before
//! the install. So whatever moment a crash takes, the node starts with its old state, or finds a file
//! on the shelf that is newer than its checkpoint and has everything that it needs (see `restore`).
//! The bodies are read from the moment on in which the state takes its place, and not before: what
//! died between the old state and the new one is not in them.

mod fetch;
mod offer;
mod receive;
mod rejoin;
mod serving;
mod source;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use ticketrail_core::NodeId;

use crate::checkpoint::Readers;
pub(crate) use fetch::Fetcher;
pub(crate) use offer::Offering;
pub(crate) use receive::{Receiving, on_offer};
pub(crate) use rejoin::rejoin;
pub(crate) use serving::Serving;
pub use source::{Source, SourceError};

/// What was done, for the node's figures.
#[derive(Debug, Default)]
pub struct TransferCounts {
    /// Snapshots that were opened by peers.
    pub opened: AtomicU64,
    /// Bytes that were given to peers.
    pub bytes_sent: AtomicU64,
    /// Bytes that were fetched from peers.
    pub bytes_received: AtomicU64,
    /// Snapshots that were installed here.
    pub installed: AtomicU64,
    /// Pieces that did not come and were asked for again: fetches that went on where they were.
    pub resumed: AtomicU64,
    /// Fetches and installs that failed.
    pub failed: AtomicU64,
    /// At the start, a state that was proved wrong was replaced by a peer's.
    pub replaced_wrong: AtomicU64,
    /// At the start, a state that ended before the log began was replaced by a peer's.
    pub replaced_lost: AtomicU64,
}

/// How far a transfer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransferProgress {
    /// Bytes that are through.
    pub bytes_done: u64,
    /// About how many there are; 0 while that is not known.
    pub bytes_total: u64,
}

/// The same while it grows.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    pub(crate) fn set_total(&self, bytes: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> TransferProgress {
        TransferProgress {
            bytes_done: self.done.load(Ordering::Relaxed),
            bytes_total: self.total.load(Ordering::Relaxed),
        }
    }
}

/// All transfers of a replica.
pub(crate) struct Transfers {
    pub(crate) readers: Readers,
    pub(crate) serving: Serving,
    pub(crate) receiving: Receiving,
    pub(crate) counts: Arc<TransferCounts>,
    to_members: Mutex<BTreeMap<NodeId, TransferProgress>>,
    stopping: AtomicBool,
}

impl Transfers {
    pub(crate) fn new(readers: Readers, serving: Serving, fetcher: Fetcher) -> Self {
        Self {
            readers,
            counts: fetcher.counts.clone(),
            serving,
            receiving: Receiving::new(fetcher),
            to_members: Mutex::default(),
            stopping: AtomicBool::new(false),
        }
    }

    fn members(&self) -> MutexGuard<'_, BTreeMap<NodeId, TransferProgress>> {
        self.to_members.lock().expect("no panic under this lock")
    }

    /// As the leader knows it: what its members are fetching.
    pub(crate) fn to_members(&self) -> BTreeMap<NodeId, TransferProgress> {
        self.members().clone()
    }

    pub(crate) fn note_member(&self, member: NodeId, progress: Option<TransferProgress>) {
        match progress {
            Some(progress) => self.members().insert(member, progress),
            None => self.members().remove(&member),
        };
    }

    /// Ends what is under way, at its next step.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.receiving.stop();
        self.serving.close_all();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}
