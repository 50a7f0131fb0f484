//! The two clocks that a leader stamps entries with.

use std::time::Duration;

use ticketrail_core::{LeaseTime, WallTime, limits::LEASE_STEP_MS_MAX};
use tokio::time::Instant;

/// A leader's lease clock: goes on from the last committed value with the leader's own monotonic
/// time, and by at most one second from stamp to stamp. A process that was paused for an hour
/// moves it by a second, so leases that are queued behind the pause are not expired by it.
#[derive(Debug)]
pub(crate) struct LeaseClock {
    last_ms: u64,
    last_at: Instant,
}

impl LeaseClock {
    /// A clock that stands at `committed` now.
    pub(crate) fn resume(committed: LeaseTime, now: Instant) -> Self {
        Self {
            last_ms: committed.0,
            last_at: now,
        }
    }

    /// What the next stamp would say, without stamping.
    pub(crate) fn read(&self, now: Instant) -> LeaseTime {
        LeaseTime(self.last_ms + self.step_ms(now))
    }

    /// The next stamp.
    pub(crate) fn stamp(&mut self, now: Instant) -> LeaseTime {
        let step_ms = self.step_ms(now);
        self.last_ms += step_ms;
        // Only whole milliseconds are consumed, else a busy leader's clock would stand still.
        if step_ms == LEASE_STEP_MS_MAX {
            self.last_at = now;
        } else {
            self.last_at += Duration::from_millis(step_ms);
        }
        LeaseTime(self.last_ms)
    }

    /// When the last stamp was made.
    pub(crate) fn last_at(&self) -> Instant {
        self.last_at
    }

    fn step_ms(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.last_at).as_millis();
        u64::try_from(elapsed)
            .unwrap_or(u64::MAX)
            .min(LEASE_STEP_MS_MAX)
    }
}

/// How far clocks may be apart and still agree.
const AGREE_MS: u64 = 5_000;

/// A leader's wall clock. It jumps to the median of the voters' clocks while a majority agrees
/// within five seconds; otherwise it slews towards the median, at most twice as fast as real time
/// and never back, and says so once. So one wrong clock moves nothing, and a cluster that was off
/// for a day is right at once.
#[derive(Debug)]
pub(crate) struct WallClock {
    last_ms: u64,
    last_at: Instant,
    alarm: bool,
}

impl WallClock {
    /// A clock that stands at `committed` now.
    pub(crate) fn resume(committed: WallTime, now: Instant) -> Self {
        Self {
            last_ms: committed.0,
            last_at: now,
            alarm: false,
        }
    }

    /// Whether no majority of the clocks agreed at the last stamp.
    pub(crate) fn disagrees(&self) -> bool {
        self.alarm
    }

    /// The next stamp, from the clocks that are known (this node's own among them) of `voters`
    /// (0: not known yet, so that no majority agrees).
    pub(crate) fn stamp(&mut self, now: Instant, clocks: &mut [u64], voters: usize) -> WallTime {
        let elapsed = now.saturating_duration_since(self.last_at).as_millis();
        let elapsed_ms = u64::try_from(elapsed).unwrap_or(u64::MAX);
        self.last_at = now;
        clocks.sort_unstable();
        let Some(&median) = clocks.get(clocks.len().saturating_sub(1) / 2) else {
            self.last_ms = self.last_ms.saturating_add(elapsed_ms);
            return WallTime(self.last_ms);
        };
        let agreeing = clocks
            .iter()
            .filter(|&&ms| ms.abs_diff(median) <= AGREE_MS)
            .count();
        let agreed = voters > 0 && agreeing * 2 > voters;
        if agreed == self.alarm {
            self.alarm = !agreed;
            if self.alarm {
                tracing::warn!(clocks = ?clocks, voters, "wall clocks of the nodes disagree by over 5 s; replicated wall time slews until a majority agrees");
            } else {
                tracing::info!("a majority of the nodes' wall clocks agrees again");
            }
        }
        let target = if agreed {
            median
        } else {
            // At most twice the elapsed time ahead, and never behind real elapsed time by choice.
            median.clamp(
                self.last_ms,
                self.last_ms.saturating_add(elapsed_ms.saturating_mul(2)),
            )
        };
        self.last_ms = self.last_ms.max(target);
        WallTime(self.last_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn lease_clock_goes_on_from_the_committed_value() {
        let start = Instant::now();
        let mut clock = LeaseClock::resume(LeaseTime(5_000), start);
        assert_eq!(clock.stamp(at(start, 300)), LeaseTime(5_300));
        assert_eq!(clock.read(at(start, 400)), LeaseTime(5_400));
        assert_eq!(clock.stamp(at(start, 900)), LeaseTime(5_900));
    }

    #[test]
    fn a_pause_moves_the_lease_clock_by_one_second() {
        let start = Instant::now();
        let mut clock = LeaseClock::resume(LeaseTime(0), start);
        assert_eq!(clock.stamp(at(start, 3_600_000)), LeaseTime(1_000));
        assert_eq!(clock.stamp(at(start, 3_600_001)), LeaseTime(1_001));
    }

    #[test]
    fn stamps_closer_than_a_millisecond_still_add_up() {
        let start = Instant::now();
        let mut clock = LeaseClock::resume(LeaseTime(0), start);
        for step in 1..=1_000 {
            clock.stamp(start + Duration::from_micros(step * 500));
        }
        assert_eq!(clock.read(at(start, 500)), LeaseTime(500));
    }

    #[test]
    fn one_wrong_wall_clock_moves_nothing() {
        let start = Instant::now();
        let mut clock = WallClock::resume(WallTime(1_000_000), start);
        let stamp = clock.stamp(at(start, 100), &mut [1_000_100, 1_000_200, 4_600_100], 3);
        assert_eq!(stamp, WallTime(1_000_200));
    }

    #[test]
    fn after_a_day_off_an_agreeing_majority_sets_the_clock() {
        let start = Instant::now();
        let mut clock = WallClock::resume(WallTime(0), start);
        let day = 86_400_000;
        assert_eq!(clock.stamp(start, &mut [day, day + 10], 3), WallTime(day));
    }

    #[test]
    fn without_agreement_it_slews_and_never_goes_back() {
        let start = Instant::now();
        let mut clock = WallClock::resume(WallTime(1_000_000), start);
        let hour = 3_600_000;
        assert_eq!(
            clock.stamp(at(start, 100), &mut [1_000_000 + hour], 3),
            WallTime(1_000_200)
        );
        assert_eq!(
            clock.stamp(at(start, 200), &mut [5], 3),
            WallTime(1_000_200)
        );
    }
}
