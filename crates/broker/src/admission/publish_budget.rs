//! The bytes of publishes, in two parts, so that calls and streams both get their share.
//!
//! Streams wait for room in the order in which they came, so while one waits nothing is free for a
//! call, which does not wait. Therefore a part is for calls alone; they may use the rest, too,
//! while no stream waits for it.

use std::time::Duration;

use super::budget::{Budget, Share};

/// The part of the budget that is for calls alone: one of so many.
const CALLS_PART: u32 = 4;

/// See the module.
#[derive(Clone, Debug)]
pub struct PublishBudget {
    calls: Budget,
    common: Budget,
}

/// Where the bytes of a request are taken from.
#[derive(Clone, Debug)]
pub struct Purse {
    /// Tried first.
    own: Option<Budget>,
    common: Budget,
}

impl PublishBudget {
    /// The least budget in which a request of so many bytes fits into each part.
    #[must_use]
    pub const fn least(request_bytes: u32) -> u32 {
        request_bytes.saturating_mul(CALLS_PART)
    }

    /// So many bytes in all.
    #[must_use]
    pub fn new(max: u32) -> Self {
        let calls = max / CALLS_PART;
        Self {
            calls: Budget::new(calls),
            common: Budget::new(max - calls),
        }
    }

    /// For a call.
    #[must_use]
    pub fn of_calls(&self) -> Purse {
        Purse {
            own: Some(self.calls.clone()),
            common: self.common.clone(),
        }
    }

    /// For a stream.
    #[must_use]
    pub fn of_streams(&self) -> Purse {
        Purse::from(self.common.clone())
    }

    /// How much is taken, of both parts.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.calls.used() + self.common.used()
    }

    /// How much there is, in both parts.
    #[must_use]
    pub fn max(&self) -> u64 {
        u64::from(self.calls.max()) + u64::from(self.common.max())
    }
}

impl From<Budget> for Purse {
    /// All of it is common.
    fn from(common: Budget) -> Self {
        Self { own: None, common }
    }
}

impl Purse {
    /// As [`Budget::try_take`], from whichever part has room.
    #[must_use]
    pub fn try_take(&self, amount: usize) -> Option<Share> {
        let own = self.own.as_ref().and_then(|own| own.try_take(amount));
        own.or_else(|| self.common.try_take(amount))
    }

    /// As [`Budget::take`], from the common part.
    pub async fn take(&self, amount: usize) -> Share {
        self.common.take(amount).await
    }

    /// As [`Budget::retry_after`], of the part that is tried first.
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        self.own.as_ref().unwrap_or(&self.common).retry_after()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn calls_have_room_of_their_own_while_streams_wait() {
        let budget = PublishBudget::new(100);
        let (calls, streams) = (budget.of_calls(), budget.of_streams());
        let of_stream = streams.try_take(75).unwrap();
        let mut waiting = Box::pin(streams.take(10));
        assert!(waiting.as_mut().now_or_never().is_none());
        // Whatever streams do, a quarter is there for calls, and comes back to them alone.
        for _ in 0..3 {
            let of_calls = [calls.try_take(15).unwrap(), calls.try_take(10).unwrap()];
            assert!(calls.try_take(1).is_none());
            assert_eq!((budget.used(), budget.max()), (100, 100));
            drop(of_calls);
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        drop(of_stream);
        let of_stream = waiting.now_or_never().unwrap();
        assert_eq!(budget.used(), 10);
        // Where no stream waits, calls have the rest as well, and a stream never has theirs.
        let of_calls = [25, 65].map(|amount| calls.try_take(amount).unwrap());
        assert!(calls.try_take(1).is_none());
        drop(of_calls);
        assert!(streams.try_take(66).is_none());
        drop(of_stream);
        assert!(streams.try_take(75).is_some());
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn the_largest_request_fits_into_each_part_of_the_least_budget() {
        let budget = PublishBudget::new(PublishBudget::least(30));
        let _all = budget.of_streams().try_take(90).unwrap();
        assert!(budget.of_calls().try_take(30).is_some());
        assert!(budget.of_streams().try_take(1).is_none());
    }
}
