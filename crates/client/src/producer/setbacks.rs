//! Counts of what a producer bears without its user noticing.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tonic::Code;

use crate::error::Error;

/// What a producer had to bear and made good by sending again: how often, not how many messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Setbacks {
    /// The cluster had too much under way, and said when to come back (`RESOURCE_EXHAUSTED`).
    pub refused_for_load: u64,
    /// The node told the stream to pause, until it has room again.
    pub told_to_pause: u64,
    /// A stream broke, could not be opened, or had no leader behind it.
    pub retried: u64,
}

/// The same, as the driver counts them.
#[derive(Debug, Default)]
pub(super) struct Counters {
    refused_for_load: AtomicU64,
    told_to_pause: AtomicU64,
    retried: AtomicU64,
}

impl Counters {
    pub(super) fn now(&self) -> Setbacks {
        Setbacks {
            refused_for_load: self.refused_for_load.load(Relaxed),
            told_to_pause: self.told_to_pause.load(Relaxed),
            retried: self.retried.load(Relaxed),
        }
    }

    /// An error after which the same is sent again.
    pub(super) fn note(&self, error: &Error) {
        let counter = match error.code() {
            Code::ResourceExhausted => &self.refused_for_load,
            _ => &self.retried,
        };
        counter.fetch_add(1, Relaxed);
    }

    pub(super) fn told_to_pause(&self) {
        self.told_to_pause.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_for_load_is_told_from_other_setbacks() {
        let counters = Counters::default();
        counters.note(&Error::new(Code::ResourceExhausted, "OVERLOADED", ""));
        counters.note(&Error::new(Code::Unavailable, "NO_LEADER", ""));
        counters.note(&Error::new(Code::ResourceExhausted, "OVERLOADED", ""));
        counters.told_to_pause();
        let expected = Setbacks {
            refused_for_load: 2,
            told_to_pause: 1,
            retried: 1,
        };
        assert_eq!(counters.now(), expected);
    }
}
