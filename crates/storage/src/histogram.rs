//! Counting into fixed buckets, without a lock or an allocation.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds for durations, in nanoseconds: 100 us to 10 s, three a decade.
pub const DURATION_BOUNDS_NS: &[u64] = &[
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// How often a value fell into which bucket. Counted by many threads at once, read by anyone; a
/// reader may see a value's bucket a moment before its sum.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One for each bound, and one for what is above the last.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// A [`Histogram`] at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistogramCounts {
    /// Upper bounds of the buckets, ascending, inclusive.
    pub bounds: &'static [u64],
    /// Values in each bucket; the last is of those above all bounds.
    pub counts: Vec<u64>,
    /// Sum of all values.
    pub sum: u64,
}

impl Histogram {
    /// An empty one; `bounds` are ascending and inclusive.
    #[must_use]
    pub fn new(bounds: &'static [u64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }

    /// An empty one of durations in nanoseconds.
    #[must_use]
    pub fn of_durations() -> Self {
        Self::new(DURATION_BOUNDS_NS)
    }

    /// Counts a value.
    pub fn record(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Counts a duration, in nanoseconds.
    pub fn record_duration(&self, duration: Duration) {
        self.record(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> HistogramCounts {
        let counts = self.counts.iter();
        HistogramCounts {
            bounds: self.bounds,
            counts: counts.map(|count| count.load(Ordering::Relaxed)).collect(),
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::new(&[10, 20]);
        for value in [0, 10, 11, 20, 21, 1_000] {
            histogram.record(value);
        }
        let found = histogram.counts();
        assert_eq!((found.counts, found.sum), (vec![2, 2, 2], 1_062));
    }

    #[test]
    fn durations_from_microseconds_to_hours_are_told_apart() {
        let histogram = Histogram::of_durations();
        histogram.record_duration(Duration::from_micros(145));
        histogram.record_duration(Duration::from_secs(3_600));
        let counts = histogram.counts().counts;
        assert_eq!((counts[1], counts.last()), (1, Some(&1)));
        assert!(DURATION_BOUNDS_NS.is_sorted());
    }
}
