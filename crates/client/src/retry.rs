//! When to try again: backoff with jitter, and a budget that keeps retries from becoming the load.

use std::sync::Mutex;
use std::time::Duration;

use rand::RngExt;
use tokio::time::Instant;

use crate::error::Error;

/// The longest that the first wait of a [`Backoff`] can be.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// The longest wait of a [`Backoff`].
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// How many retries a client may make in a burst.
const BUDGET_MAX: f64 = 100.0;
/// How many retries each success earns.
const BUDGET_PER_SUCCESS: f64 = 0.1;
/// How many retries each second earns, so that a quiet client is never without.
const BUDGET_PER_SECOND: f64 = 10.0;

/// Waits of which the bound doubles from 50 ms to 2 s, each drawn from all below it ("full jitter"), so that many
/// clients that lost the same node do not come back in step.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait before the next attempt; the time that the server asked for comes first, since all are told
    /// the same.
    pub(crate) fn next(&mut self, retry_after: Option<Duration>) -> Duration {
        self.failures = self.failures.saturating_add(1);
        Self::pause(Self::bound(self.failures), retry_after)
    }

    /// The same for a stream, which is opened again whatever happens: at the slowest pace while the budget is spent.
    pub(crate) fn next_within(
        &mut self,
        budget: &RetryBudget,
        retry_after: Option<Duration>,
    ) -> Duration {
        let pause = self.next(retry_after);
        match budget.take(Instant::now()) {
            true => pause,
            false => Self::pause(BACKOFF_MAX, retry_after),
        }
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    fn pause(bound: Duration, retry_after: Option<Duration>) -> Duration {
        let jitter = bound.mul_f64(rand::rng().random_range(0.0..=1.0));
        retry_after.unwrap_or_default() + jitter
    }

    fn bound(failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        (BACKOFF_FIRST * (1 << doublings)).min(BACKOFF_MAX)
    }
}

/// Counts the attempts in a row that surely did nothing and that say nothing of the other nodes: each of
/// them is asked once, at once and free of charge, before there is a pause.
#[derive(Debug, Default)]
pub(crate) struct TurnedAway {
    in_a_row: usize,
}

impl TurnedAway {
    /// Whether to ask the next of so many nodes at once.
    pub(crate) fn ask_next(&mut self, error: &Error, nodes: usize) -> bool {
        if error.is_turned_away() {
            self.in_a_row += 1;
        } else {
            self.in_a_row = 0;
        }
        (1..nodes).contains(&self.in_a_row)
    }

    /// An attempt went through.
    pub(crate) fn reset(&mut self) {
        self.in_a_row = 0;
    }
}

/// A bucket of retries: every retry takes one, successes and time give some back.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl RetryBudget {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            bucket: Mutex::new(Bucket {
                tokens: BUDGET_MAX,
                filled: now,
            }),
        }
    }

    /// Takes one retry; `false` means that there have been too many, and the failure should be shown.
    pub(crate) fn take(&self, now: Instant) -> bool {
        let mut bucket = self.lock();
        let seconds = now.saturating_duration_since(bucket.filled).as_secs_f64();
        bucket.filled = now;
        bucket.tokens = (bucket.tokens + seconds * BUDGET_PER_SECOND).min(BUDGET_MAX);
        let enough = bucket.tokens >= 1.0;
        if enough {
            bucket.tokens -= 1.0;
        }
        enough
    }

    pub(crate) fn succeeded(&self) {
        let mut bucket = self.lock();
        bucket.tokens = (bucket.tokens + BUDGET_PER_SUCCESS).min(BUDGET_MAX);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Bucket> {
        self.bucket
            .lock()
            .expect("nothing panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn the_bound_of_waits_doubles_and_all_below_it_is_drawn() {
        assert_eq!(Backoff::bound(1), Duration::from_millis(50));
        assert_eq!(Backoff::bound(3), Duration::from_millis(200));
        assert_eq!(Backoff::bound(1000), BACKOFF_MAX);
        for failures in [0, 2, 20] {
            let bound = Backoff::bound(failures + 1);
            let waits: Vec<_> = (0..200).map(|_| Backoff { failures }.next(None)).collect();
            assert!(waits.iter().all(|wait| *wait <= bound));
            // The chance that one of these fails is below 10^-24.
            assert!(waits.iter().any(|wait| *wait < bound / 4));
            assert!(waits.iter().any(|wait| *wait > bound / 4 * 3));
        }
        let mut backoff = Backoff { failures: 20 };
        backoff.reset();
        assert!(backoff.next(None) <= BACKOFF_FIRST);
    }

    #[test]
    fn who_was_told_the_same_time_does_not_come_back_at_the_same_time() {
        let told = Duration::from_secs(3);
        let waits: Vec<_> = (0..20)
            .map(|_| Backoff { failures: 20 }.next(Some(told)))
            .collect();
        assert!(
            waits
                .iter()
                .all(|wait| *wait >= told && *wait <= told + BACKOFF_MAX)
        );
        assert!(waits.iter().any(|wait| *wait != waits[0]));
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_break_at_once_are_opened_at_the_slowest_pace() {
        let budget = RetryBudget::new(Instant::now());
        let opened = Cell::new(0_u32);
        let stream = async || {
            loop {
                // Each is open for a moment, which resets its backoff.
                let pause = Backoff::default().next_within(&budget, None);
                tokio::time::sleep(pause).await;
                opened.set(opened.get() + 1);
            }
        };
        let streams = futures::future::join_all((0..100).map(|_| stream()));
        let _ = tokio::time::timeout(Duration::from_secs(60), streams).await;
        // Left to their first waits of 25 ms they would be 240,000; a hundred streams at one a second are 6,000.
        assert!((5_000..8_000).contains(&opened.get()), "{}", opened.get());
    }

    #[test]
    fn each_node_is_asked_once_before_there_is_a_pause() {
        let away = Error::new(tonic::Code::Unavailable, "SHUTTING_DOWN", "");
        let other = Error::new(tonic::Code::Unavailable, "NO_LEADER", "");
        let mut turned = TurnedAway::default();
        let asked = [&away, &away, &away, &other, &away].map(|error| turned.ask_next(error, 3));
        assert_eq!(asked, [true, true, false, false, true]);
        assert!(!TurnedAway::default().ask_next(&away, 1));
    }

    #[test]
    fn a_budget_ends_and_is_earned_again() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        assert_eq!((0..1000).filter(|_| budget.take(start)).count(), 100);
        (0..11).for_each(|_| budget.succeeded());
        assert!(budget.take(start) && !budget.take(start + Duration::from_millis(1)));
        assert!(budget.take(start + Duration::from_millis(200)));
    }
}
