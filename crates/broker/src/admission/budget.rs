//! A budget of bytes or places: taken when something comes, given back by dropping what was taken.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// How long the rate of what is given back is measured at a time.
const RATE_OVER: Duration = Duration::from_millis(100);
/// What is told to wait where nothing was given back yet.
const RETRY_UNKNOWN: Duration = Duration::from_secs(1);
/// Bounds of what is told to wait.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// So much may be under way at a time.
#[derive(Clone, Debug)]
pub struct Budget {
    room: Arc<Semaphore>,
    max: u32,
    given_back: Arc<AtomicU64>,
    rate: Arc<Mutex<Rate>>,
}

/// How fast a budget is given back.
#[derive(Debug)]
struct Rate {
    at: Instant,
    given_back: u64,
    per_second: f64,
}

/// A share of a [`Budget`]; dropping it gives it back.
#[derive(Debug)]
pub struct Share {
    permit: OwnedSemaphorePermit,
    given_back: Arc<AtomicU64>,
}

impl Budget {
    /// A budget of so much.
    #[must_use]
    pub fn new(max: u32) -> Self {
        Self {
            room: Arc::new(Semaphore::new(max as usize)),
            max,
            given_back: Arc::default(),
            rate: Arc::new(Mutex::new(Rate {
                at: Instant::now(),
                given_back: 0,
                per_second: 0.0,
            })),
        }
    }

    /// Takes so much if it is free and nobody waits; what is larger than the budget takes all of it.
    #[must_use]
    pub fn try_take(&self, amount: usize) -> Option<Share> {
        let permit = Arc::clone(&self.room).try_acquire_many_owned(self.clamp(amount));
        permit.ok().map(|permit| self.share(permit))
    }

    /// As [`Budget::try_take`], waiting in the order of the calls.
    pub async fn take(&self, amount: usize) -> Share {
        let permit = Arc::clone(&self.room).acquire_many_owned(self.clamp(amount));
        self.share(permit.await.expect("the budget is never closed"))
    }

    /// How much is taken.
    #[must_use]
    pub fn used(&self) -> u64 {
        let free = u64::try_from(self.room.available_permits()).unwrap_or(u64::MAX);
        u64::from(self.max).saturating_sub(free)
    }

    /// How much there is.
    #[must_use]
    pub fn max(&self) -> u32 {
        self.max
    }

    /// When what is under way now may be through, by the pace at which things were lately.
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let given_back = self.given_back.load(Ordering::Relaxed);
        let passed = rate.at.elapsed();
        if passed >= RATE_OVER {
            rate.per_second = (given_back - rate.given_back) as f64 / passed.as_secs_f64();
            rate.given_back = given_back;
            rate.at += passed;
        }
        if rate.per_second < 1.0 {
            return RETRY_UNKNOWN;
        }
        let seconds = self.used() as f64 / rate.per_second;
        Duration::from_secs_f64(seconds.min(RETRY_MAX.as_secs_f64())).max(RETRY_MIN)
    }

    fn clamp(&self, amount: usize) -> u32 {
        u32::try_from(amount).unwrap_or(u32::MAX).min(self.max)
    }

    fn share(&self, permit: OwnedSemaphorePermit) -> Share {
        Share {
            permit,
            given_back: Arc::clone(&self.given_back),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let amount = self.permit.num_permits() as u64;
        self.given_back.fetch_add(amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn what_is_taken_comes_back_whatever_happens() {
        let budget = Budget::new(100);
        let first = budget.try_take(60).unwrap();
        assert!(budget.try_take(41).is_none());
        assert_eq!(budget.used(), 60);
        let mut waiting = Box::pin(budget.take(50));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(budget.try_take(1).is_none(), "others waited first");
        drop(waiting);
        assert_eq!(budget.used(), 60, "a wait that is given up holds nothing");
        let whole = budget.take(1_000);
        drop(first);
        let whole = whole.await;
        assert_eq!(budget.used(), 100);
        drop(whole);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_follows_the_pace() {
        let budget = Budget::new(1_000_000);
        assert_eq!(budget.retry_after(), RETRY_UNKNOWN);
        drop(budget.take(1_000_000).await);
        let _held = budget.take(500_000).await;
        tokio::time::advance(Duration::from_secs(1)).await;
        // A million in a second, half a million to go.
        let wait = budget.retry_after();
        assert!(wait >= Duration::from_millis(450) && wait <= Duration::from_millis(550));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(budget.retry_after(), RETRY_UNKNOWN, "it stands still");
    }
}
