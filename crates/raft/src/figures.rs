//! Numbers for those who watch a node: what happened since its start, and how much there is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ticketrail_storage::{Histogram, HistogramCounts, Log};

/// Counted where things happen.
#[derive(Debug)]
pub(crate) struct Counts {
    leader_changes: AtomicU64,
    checkpoints: Histogram,
    checkpoint_index: AtomicU64,
    /// When the last one was written, in milliseconds of the replica's clock.
    checkpoint_at_ms: AtomicU64,
    snapshots: Histogram,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            leader_changes: AtomicU64::new(0),
            checkpoints: Histogram::of_durations(),
            checkpoint_index: AtomicU64::new(0),
            checkpoint_at_ms: AtomicU64::new(0),
            snapshots: Histogram::of_durations(),
        }
    }
}

impl Counts {
    pub(crate) fn note_leader(&self) {
        self.leader_changes.fetch_add(1, Ordering::Relaxed);
    }

    /// A checkpoint up to an entry is on disk since `now`; it took from `start` to `now`.
    pub(crate) fn note_checkpoint(&self, index: Option<u64>, start: Duration, now: Duration) {
        self.checkpoints.record_duration(now.saturating_sub(start));
        self.checkpoint_index
            .store(index.unwrap_or_default(), Ordering::Relaxed);
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.checkpoint_at_ms.store(now_ms, Ordering::Relaxed);
    }

    /// A snapshot file is on disk.
    pub(crate) fn note_snapshot(&self, took: Duration) {
        self.snapshots.record_duration(took);
    }
}

/// A replica in numbers, at one moment; counted since the start of the process where nothing else
/// is said.
#[derive(Clone, Debug)]
pub struct Figures {
    /// How often this node learned of a leader that it did not have before.
    pub leader_changes: u64,
    /// Durations of writing checkpoints, ns.
    pub checkpoints: HistogramCounts,
    /// The last entry that the newest checkpoint of this process covers; 0 before the first.
    pub checkpoint_index: u64,
    /// Since the newest checkpoint of this process, or its start.
    pub checkpoint_age: Duration,
    /// Durations of writing snapshot files, ns.
    pub snapshots: HistogramCounts,
    /// Durations of the log's syncs, ns.
    pub log_syncs: HistogramCounts,
    /// Bytes that the log wrote.
    pub log_bytes_written: u64,
    /// Segments that were begun.
    pub log_segments_begun: u64,
    /// Segments on disk.
    pub log_segments: usize,
    /// Bytes of their files.
    pub log_segment_bytes: u64,
    /// Bytes of the entries in them.
    pub log_entry_bytes: u64,
    /// Unused segment files that are kept for later.
    pub log_spare_segments: usize,
    /// Newest entry that is on this node's disk.
    pub log_durable_index: Option<u64>,
    /// Payload bytes that wait for their sync.
    pub log_queued_bytes: usize,
    /// Payload bytes in memory.
    pub log_cached_bytes: usize,
}

impl Figures {
    pub(crate) fn of(counts: &Counts, log: &Log, now: Duration) -> Self {
        let segments = log.segments();
        let checkpoint_at = Duration::from_millis(counts.checkpoint_at_ms.load(Ordering::Relaxed));
        Self {
            leader_changes: counts.leader_changes.load(Ordering::Relaxed),
            checkpoints: counts.checkpoints.counts(),
            checkpoint_index: counts.checkpoint_index.load(Ordering::Relaxed),
            checkpoint_age: now.saturating_sub(checkpoint_at),
            snapshots: counts.snapshots.counts(),
            log_syncs: log.counts().syncs.counts(),
            log_bytes_written: log.counts().bytes_written(),
            log_segments_begun: log.counts().segments_begun(),
            log_segments: segments.len(),
            log_segment_bytes: segments.iter().map(|segment| segment.bytes).sum(),
            log_entry_bytes: segments.iter().map(|segment| segment.entry_bytes).sum(),
            log_spare_segments: log.spare_segments(),
            log_durable_index: log.state().durable_index,
            log_queued_bytes: log.queued_bytes(),
            log_cached_bytes: log.cached_bytes(),
        }
    }
}
