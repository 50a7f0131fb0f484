//! What is counted while the load runs: by many tasks, read by one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// The longest latency that is told apart, in microseconds: ten minutes.
const LATENCY_US_MAX: u64 = 600_000_000;
/// Significant digits of a latency.
const DIGITS: u8 = 3;
/// Tasks share a histogram, but not all of them one.
const SHARDS: usize = 8;

#[derive(Debug)]
pub(super) struct Counts {
    origin: Instant,
    /// Messages that may still be published.
    left: AtomicU64,
    measuring: AtomicBool,
    /// Confirmed.
    pub(super) published: AtomicU64,
    pub(super) received: AtomicU64,
    /// Received, and had been delivered before.
    pub(super) redelivered: AtomicU64,
    /// The acknowledgement is confirmed.
    pub(super) acknowledged: AtomicU64,
    /// The lease was over before the acknowledgement.
    pub(super) lost: AtomicU64,
    pub(super) refused_for_load: AtomicU64,
    pub(super) told_to_pause: AtomicU64,
    pub(super) retried: AtomicU64,
    /// From the publish to its confirm.
    pub(super) confirm: Latencies,
    /// From the publish to the receipt.
    pub(super) deliver: Latencies,
    /// From the acknowledgement to its confirm.
    pub(super) acknowledge: Latencies,
}

impl Counts {
    pub(super) fn new(messages: u64) -> Self {
        let zero = AtomicU64::default;
        Self {
            origin: Instant::now(),
            left: AtomicU64::new(messages),
            measuring: AtomicBool::default(),
            published: zero(),
            received: zero(),
            redelivered: zero(),
            acknowledged: zero(),
            lost: zero(),
            refused_for_load: zero(),
            told_to_pause: zero(),
            retried: zero(),
            confirm: Latencies::new(),
            deliver: Latencies::new(),
            acknowledge: Latencies::new(),
        }
    }

    /// Takes up to so many of the messages that may be published.
    pub(super) fn take(&self, wanted: u32) -> u32 {
        let wanted = u64::from(wanted);
        let before = self
            .left
            .fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(wanted)))
            .unwrap_or_default();
        before.min(wanted) as u32
    }

    /// Nanoseconds since the run began: what messages are stamped with.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn measure(&self, on: bool) {
        self.measuring.store(on, Relaxed);
    }

    /// Records the time since a stamp, while it is measured.
    pub(super) fn record(&self, latencies: &Latencies, shard: usize, since: u64) {
        if self.measuring.load(Relaxed) {
            latencies.record(shard, self.now().saturating_sub(since) / 1_000);
        }
    }

    /// Anything that moves while all is well.
    pub(super) fn movement(&self) -> u64 {
        let all = [&self.published, &self.received, &self.acknowledged];
        all.iter().map(|counter| counter.load(Relaxed)).sum()
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "published": self.published.load(Relaxed),
            "received": self.received.load(Relaxed),
            "acknowledged": self.acknowledged.load(Relaxed),
            "redelivered": self.redelivered.load(Relaxed),
            "leases_lost": self.lost.load(Relaxed),
            "refused_for_load": self.refused_for_load.load(Relaxed),
            "told_to_pause": self.told_to_pause.load(Relaxed),
            "retried": self.retried.load(Relaxed),
        })
    }
}

/// Latencies in microseconds: a bounded histogram in a few parts.
#[derive(Debug)]
pub(super) struct Latencies([Mutex<Histogram<u64>>; SHARDS]);

impl Latencies {
    fn new() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(histogram())))
    }

    fn record(&self, shard: usize, us: u64) {
        let histogram = self.0[shard % SHARDS].lock();
        let mut histogram = histogram.unwrap_or_else(PoisonError::into_inner);
        histogram.saturating_record(us);
    }

    /// In milliseconds; null where nothing was recorded.
    pub(super) fn json(&self) -> Value {
        let mut all = histogram();
        for part in &self.0 {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            all.add(&*part).expect("all parts have the same bounds");
        }
        if all.is_empty() {
            return Value::Null;
        }
        let ms = |us: u64| us as f64 / 1e3;
        json!({
            "samples": all.len(),
            "mean": (all.mean().round() / 1e3),
            "p50": ms(all.value_at_quantile(0.5)),
            "p99": ms(all.value_at_quantile(0.99)),
            "p999": ms(all.value_at_quantile(0.999)),
            "max": ms(all.max()),
        })
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, DIGITS).expect("the bounds are in order")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_have_their_quantiles() {
        let latencies = Latencies::new();
        assert_eq!(latencies.json(), Value::Null);
        for us in 1..=1_000 {
            latencies.record(us as usize, us * 1_000);
        }
        let json = latencies.json();
        let near = |name: &str, expected: f64| {
            let value = json[name].as_f64().unwrap();
            assert!((value / expected - 1.0).abs() < 0.002, "{name}: {value}");
        };
        near("p50", 500.0);
        near("p99", 990.0);
        near("p999", 999.0);
        near("max", 1_000.0);
        near("mean", 500.5);
        assert_eq!(json["samples"], 1_000);
        latencies.record(0, u64::MAX);
        assert!(latencies.json()["max"].as_f64().unwrap() < 700_000.0);
    }

    #[test]
    fn only_what_is_measured_is_recorded() {
        let counts = Counts::new(0);
        counts.record(&counts.confirm, 0, 0);
        assert_eq!(counts.confirm.json(), Value::Null);
        counts.measure(true);
        counts.record(&counts.confirm, 0, 0);
        assert_eq!(counts.confirm.json()["samples"], 1);
    }

    #[test]
    fn no_more_is_taken_than_there_is() {
        let counts = Counts::new(12);
        assert_eq!([5, 5, 5, 5].map(|wanted| counts.take(wanted)), [5, 5, 2, 0]);
    }
}
