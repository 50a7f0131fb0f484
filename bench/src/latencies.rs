//! Latencies of one load, told apart to three digits.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The longest latency that is told apart: a minute, in microseconds.
const LONGEST_US: u64 = 60_000_000;

#[derive(Debug)]
pub(crate) struct Latencies(Histogram<u64>);

/// In milliseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
    pub(crate) samples: u64,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_US, 3).expect("the bounds are valid"))
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(latency.as_micros() as u64);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("the bounds are alike");
    }

    pub(crate) fn quantiles(&self) -> Quantiles {
        let ms = |quantile| self.0.value_at_quantile(quantile) as f64 / 1e3;
        Quantiles {
            p50: ms(0.5),
            p99: ms(0.99),
            p999: ms(0.999),
            max: self.0.max() as f64 / 1e3,
            samples: self.0.len(),
        }
    }
}
