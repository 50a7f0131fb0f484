//! The segmented log: the message store and Raft's log in one.
//!
//! A [`Log`] is a cheap handle: it changes the visible state at once and queues the change for the one [`LogWriter`], which drains
//! what waits into one write and one sync and then answers. Entries are readable from the moment they are appended, from a bounded
//! cache or from the segments. A failed write or sync stops the log for good: nothing after it is acknowledged.
//!
//! Start reading at [`Log`]; `format` tells the bytes, `segment` the files, `writer` the only code that writes, `recovery` what a
//! start accepts.

mod bodies;
mod cache;
mod check;
mod counts;
mod footer;
mod format;
mod reader;
mod recovery;
mod segment;
mod shared;
mod state;
mod supply;
mod writer;

use std::io;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::Disk;
use crate::error::StorageError;
use crate::identity::Identity;
use crate::vote::VOTE_BYTES_MAX;
pub use bodies::{AdoptedBodies, BodySegmentInfo, BodyWriter, Holder, Holders};
pub use counts::LogCounts;
pub use recovery::{CutTail, Recovery};
use shared::{Closer, Shared};
use state::Op;
pub use writer::LogWriter;

/// Called once when an operation is durable, or failed. Runs on the writer's thread: it must be short and never block.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// One log entry; the payload is opaque here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Raft group, 0 for now.
    pub group: u32,
    /// Raft term.
    pub term: u64,
    /// Raft log index.
    pub index: u64,
    /// The entry's bytes; the cache holds these very bytes, not a copy.
    pub payload: Bytes,
}

/// Index and term of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    /// Raft log index.
    pub index: u64,
    /// Raft term.
    pub term: u64,
}

/// What the log holds, as its callers see it: appended entries are in, durable or not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogState {
    /// First index that can be read; one past `last` when the log is empty.
    pub first_index: u64,
    /// Newest entry that was purged.
    pub purged: Option<LogPosition>,
    /// Newest entry, or `purged` when there is none.
    pub last: Option<LogPosition>,
    /// What was last given to [`Log::save_committed`]; after a start never beyond `last`.
    pub committed: Option<u64>,
    /// Newest entry that is on disk.
    pub durable_index: Option<u64>,
    /// The vote.
    pub vote: Option<Bytes>,
}

/// One segment on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Number of the segment, growing, never used twice.
    pub epoch: u64,
    /// First and last entry in it; `None` when it holds none.
    pub indexes: Option<(u64, u64)>,
    /// Size of the file.
    pub bytes: u64,
    /// Bytes of the entries in it.
    pub entry_bytes: u64,
    /// Whether nothing will be written to it any more.
    pub sealed: bool,
}

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// The cluster; in every file's header.
    pub cluster_id: u128,
    /// The node; in every file's header.
    pub node_id: u64,
    /// Size of a segment file, `64 MiB`. At least 8 KiB, at most 1 GiB, rounded up to sectors.
    pub segment_bytes: u64,
    /// Bytes of newest entries kept in memory, `64 MiB`. What is not durable yet is kept beyond it.
    pub cache_bytes: usize,
    /// Most bytes that one write and sync takes together, `8 MiB`.
    pub drain_bytes_max: usize,
    /// Unused segment files that are kept for later, `16`: a replica frees about 1 GiB at once, and what is
    /// not kept has to be written in full again (measured with `4`: 1.8 bytes written per byte and node,
    /// with `16`: 1.2, at a third less CPU).
    pub spare_segments_max: usize,
}

impl LogConfig {
    /// Production's settings.
    pub fn new(cluster_id: u128, node_id: u64) -> Self {
        Self {
            cluster_id,
            node_id,
            segment_bytes: 64 << 20,
            cache_bytes: 64 << 20,
            drain_bytes_max: 8 << 20,
            spare_segments_max: 16,
        }
    }

    /// Largest payload of one record.
    pub fn payload_bytes_max(&self) -> usize {
        writer::payload_bytes_max(self.segment_bytes)
    }

    pub(crate) fn owner(&self) -> Identity {
        Identity {
            cluster_id: self.cluster_id,
            node_id: self.node_id,
        }
    }
}

/// A handle to the log. When the last one is dropped, the writer ends as after [`Log::close`].
#[derive(Clone)]
pub struct Log {
    owner: Identity,
    segment_bytes: u64,
    shared: Arc<Shared>,
    closer: Arc<Closer>,
}

impl Log {
    /// Opens the log of a folder, or makes an empty one. The caller holds the folder (see [`crate::identity::open`]) and lets the
    /// writer run on a thread of its own.
    ///
    /// # Errors
    /// `DataLoss` where bytes that were durable are damaged or gone.
    pub fn open(
        disk: Arc<dyn Disk>,
        mut config: LogConfig,
    ) -> Result<(Self, LogWriter, Recovery), StorageError> {
        config.segment_bytes = format::align_up(config.segment_bytes.clamp(8 << 10, 1 << 30));
        let recovered = recovery::recover(&disk, &config)?;
        let (owner, segment_bytes) = (config.owner(), config.segment_bytes);
        let shared = Shared::new(disk, &config, recovered.state, recovered.spares);
        let writer = LogWriter::new(config, shared.clone(), recovered.writer);
        Ok((
            Self {
                owner,
                segment_bytes,
                closer: Closer::new(shared.clone()),
                shared,
            },
            writer,
            recovered.report,
        ))
    }

    /// Appends entries. They can be read when this returns; `done` is called when they are on disk.
    ///
    /// The first index must follow the last one, and the payloads keep [`LogConfig::payload_bytes_max`]; else `done` gets
    /// `InvalidInput` and nothing is appended.
    pub fn append(&self, records: Vec<Record>, done: Done) {
        if let Err((error, done)) = self.shared.append(records, done) {
            done(Err(error));
        }
    }

    /// Removes what follows `last_kept`; `None` removes everything that is not purged.
    pub fn truncate_after(&self, last_kept: Option<u64>, done: Done) {
        self.submit(|state| state.truncate_after(last_kept), done);
    }

    /// Declares everything up to this entry as no longer needed by Raft. Bodies stay readable with [`Log::read_body`] until their
    /// segment is recycled. Where the log does not hold this very entry, of this term, it is emptied, bodies included, and goes on
    /// behind `upto_index`: that is what an installed snapshot asks for.
    pub fn purge(&self, upto_index: u64, term: u64, done: Done) {
        self.submit(
            |state| {
                state.purge(LogPosition {
                    index: upto_index,
                    term,
                })
            },
            done,
        );
    }

    /// Saves the vote, 256 bytes at most.
    pub fn save_vote(&self, vote: Bytes, done: Done) {
        if vote.len() > VOTE_BYTES_MAX {
            return done(Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a vote has at most 256 bytes",
            )));
        }
        self.submit(
            |state| {
                state.vote = Some(vote.clone());
                Some(Op::Vote(vote))
            },
            done,
        );
    }

    /// Remembers what is committed. Rides on the next batch; never synced for itself.
    pub fn save_committed(&self, index: u64) {
        let mut state = self.shared.lock();
        state.committed = state.committed.max(Some(index));
    }

    /// What the log holds.
    pub fn state(&self) -> LogState {
        self.shared.lock().view()
    }

    /// One entry; `None` where the log does not hold it (purged, truncated or not yet appended).
    ///
    /// # Errors
    /// `DataLoss` when the bytes on disk fail their check.
    pub fn read(&self, index: u64) -> Result<Option<Record>, StorageError> {
        Ok(self.read_range(index..index.saturating_add(1), 0)?.pop())
    }

    /// The term of an entry that the log holds, or of the newest purged one; without a read.
    pub fn term_of(&self, index: u64) -> Option<u64> {
        self.shared.lock().term_of(index)
    }

    /// Consecutive entries from `range.start` on: as many as fit `max_bytes` of payload, but at least one if the log holds it.
    ///
    /// # Errors
    /// `DataLoss` when bytes on disk fail their check.
    pub fn read_range(
        &self,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<Record>, StorageError> {
        reader::read_range(&self.shared, range, max_bytes)
    }

    /// Longest payload that a segment has room for.
    pub fn payload_bytes_max(&self) -> usize {
        self.shared.payload_bytes_max()
    }

    /// The payload of an entry, purged or not, as long as its segment was not recycled, or what a body segment keeps of it.
    ///
    /// # Errors
    /// `NoSuchEntry` where neither holds it; `DataLoss` when its bytes fail their check.
    pub fn read_body(&self, index: u64) -> Result<Bytes, StorageError> {
        reader::read_body(&self.shared, index)
    }

    /// The same and, where it is read from a segment, the entries that lie behind it there: as many as one read of `bytes_max` bytes
    /// takes, 1,024 at most.
    ///
    /// # Errors
    /// As [`Log::read_body`], of any of them.
    pub fn read_body_and_next(
        &self,
        index: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Bytes)>, StorageError> {
        reader::read_body_and_next(&self.shared, index, bytes_max)
    }

    /// The payloads that are stored of these entries, purged or not, from log and body segments, in the order of indexes: as many as
    /// fit `max_bytes`, but at least one if there is any. Each is what [`Log::read_body`] says of it.
    ///
    /// # Errors
    /// `DataLoss` when bytes on disk fail their check.
    pub fn read_bodies(
        &self,
        range: RangeInclusive<u64>,
        max_bytes: usize,
    ) -> Result<Vec<(u64, Bytes)>, StorageError> {
        bodies::read_bodies(&self.shared, range, max_bytes)
    }

    /// Starts to write body segments. What is pushed survives every purge, and is read where the log itself does not hold the entry.
    ///
    /// # Errors
    /// `Stopped` when the log has stopped.
    pub fn body_writer(&self) -> Result<BodyWriter, StorageError> {
        match self.failed() {
            Some(reason) => Err(StorageError::Stopped { reason }),
            None => {
                let shared = self.shared.clone();
                Ok(BodyWriter::new(shared, self.owner, self.segment_bytes))
            }
        }
    }

    /// Gives the body segments that came with the snapshot that ends at entry `last_index` to the log, for the moment in which the
    /// snapshot's state takes the place of the one that is here.
    ///
    /// # Errors
    /// `Io`, or `DataLoss` where one is damaged: the snapshot must not be installed then.
    pub fn adopt_bodies(&self, last_index: u64) -> Result<AdoptedBodies, StorageError> {
        bodies::adopt(&self.shared, self.owner, last_index)
    }

    /// Last entry of the snapshot whose body segments wait for its install.
    pub fn bodies_wait_for(&self) -> Option<u64> {
        let newest = self.shared.lock().incoming.last().copied();
        newest.map(|incoming| incoming.snapshot)
    }

    /// Removes the body segments that wait for an install.
    ///
    /// # Errors
    /// `Io`: some still wait.
    pub fn discard_bodies(&self) -> Result<(), StorageError> {
        bodies::discard(&self.shared)
    }

    /// The body segments on disk, oldest first.
    pub fn body_segments(&self) -> Vec<BodySegmentInfo> {
        self.shared.lock().bodies.info()
    }

    /// Which file holds which entry's payload now.
    pub fn holders(&self) -> Holders {
        Holders::of(&self.shared)
    }

    /// Removes body segments whose entries the caller needs no more, or has elsewhere, durably so. Returns how many.
    ///
    /// # Errors
    /// `Io`: a start may find some of them again.
    pub fn remove_body_segments(&self, ids: &[u64]) -> Result<usize, StorageError> {
        self.shared.remove_bodies(ids)
    }

    /// Frees the segments that are purged, durably so, and of whose entries (first to last index) the caller needs none. Returns how many.
    ///
    /// # Errors
    /// `Io`; the log is stopped then.
    pub fn recycle(&self, is_live: impl FnMut(u64, u64) -> bool) -> Result<usize, StorageError> {
        self.shared.recycle(is_live)
    }

    /// The segments on disk, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.shared.lock().segments()
    }

    /// Reads one of the segments that the start took at their word, every byte of it. Returns whether there was one: to be called
    /// from time to time after a start, until there is none.
    ///
    /// # Errors
    /// `DataLoss` where it is damaged, and then the log is stopped; `Io` where it cannot be read: it is the next one again.
    pub fn check_next_segment(&self) -> Result<bool, StorageError> {
        check::next_segment(&self.shared)
    }

    /// Unused segment files that are kept for later.
    pub fn spare_segments(&self) -> usize {
        self.shared.spare_count()
    }

    /// What was written since the start, and how long the syncs took.
    pub fn counts(&self) -> &LogCounts {
        &self.shared.counts
    }

    /// Bytes of the unused segment files: room for entries that a full disk does not take away.
    pub fn spare_bytes(&self) -> u64 {
        self.spare_segments() as u64 * self.shared.segment_bytes()
    }

    /// Why the log stopped, if it did.
    pub fn failed(&self) -> Option<String> {
        self.shared.lock().failed()
    }

    /// Sets what is called, once, when the log stops by a failure; at once if it already has. The owner must stop the node.
    pub fn on_failure(&self, hook: Box<dyn FnOnce(&io::Error) + Send>) {
        self.shared.on_failure(hook);
    }

    /// Sets what is called when something waits for the writer. For a simulator, which then calls [`LogWriter::step`] when it likes.
    pub fn on_work(&self, hook: Box<dyn Fn() + Send + Sync>) {
        self.shared.on_work(Arc::from(hook));
    }

    /// Whether something waits for the writer.
    pub fn has_work(&self) -> bool {
        self.shared.lock().has_work()
    }

    /// Payload bytes that were appended and are not on disk yet.
    pub fn queued_bytes(&self) -> usize {
        self.shared.lock().queued_bytes()
    }

    /// Payload bytes in the cache, what is not durable included.
    pub fn cached_bytes(&self) -> usize {
        self.shared.lock().cached_bytes()
    }

    /// Lets the writer drain, mark and end. What is submitted later fails.
    pub fn close(&self) {
        self.closer.close();
    }

    fn submit(&self, change: impl FnOnce(&mut state::State) -> Option<Op>, done: Done) {
        if let Err((error, done)) = self.shared.submit(change, done) {
            done(Err(error));
        }
    }
}
