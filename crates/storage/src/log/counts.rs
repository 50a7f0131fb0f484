//! What the writer counts, for those who watch the node.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::histogram::Histogram;

/// Counted since the start of the process, by the writer alone.
#[derive(Debug)]
pub struct LogCounts {
    /// Duration of each sync of the log, in nanoseconds.
    pub syncs: Histogram,
    bytes_written: AtomicU64,
    segments_begun: AtomicU64,
}

impl Default for LogCounts {
    fn default() -> Self {
        Self {
            syncs: Histogram::of_durations(),
            bytes_written: AtomicU64::new(0),
            segments_begun: AtomicU64::new(0),
        }
    }
}

impl LogCounts {
    /// Bytes given to the disk, headers and padding included.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Ordering::Relaxed)
    }

    /// Segments that were begun.
    #[must_use]
    pub fn segments_begun(&self) -> u64 {
        self.segments_begun.load(Ordering::Relaxed)
    }

    pub(crate) fn note_write(&self, bytes: u64) {
        self.bytes_written.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn note_segment(&self) {
        self.segments_begun.fetch_add(1, Ordering::Relaxed);
    }
}
