//! When batches are due that are to come at a steady rate.
//!
//! The runtime's timers count whole milliseconds, which is more than a confirm takes. So a thread waits for each turn: it
//! wakes within some tens of microseconds.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::failure::{Failure, Result};

/// When messages are due that are to come at a steady rate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) producers: u64,
    pub(super) place: u64,
    pub(super) batch: u64,
    /// Messages per second of all producers.
    pub(super) rate: u64,
}

impl Pace {
    /// How long after the beginning this producer's `turn`-th batch is due. The producers take turns.
    pub(super) fn due(&self, turn: u64) -> Duration {
        let before = (turn * self.producers + self.place) * self.batch;
        let ns = u128::from(before) * 1_000_000_000 / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }
}

/// Opens the turns of one producer as they become due; its thread ends when this is dropped.
pub(super) struct Turns {
    open: Arc<Semaphore>,
    _until_dropped: Sender<()>,
}

impl Turns {
    /// Begins now.
    pub(super) fn start(pace: Pace) -> Result<Self> {
        let open = Arc::new(Semaphore::new(0));
        let (until_dropped, dropped) = channel();
        let (begun, opens) = (Instant::now(), Arc::clone(&open));
        let wait = move || {
            for turn in 0.. {
                let left = pace.due(turn).saturating_sub(begun.elapsed());
                if !matches!(dropped.recv_timeout(left), Err(RecvTimeoutError::Timeout)) {
                    return;
                }
                opens.add_permits(1);
            }
        };
        let thread = std::thread::Builder::new().name("pace".to_owned());
        thread
            .spawn(wait)
            .map_err(|error| Failure::local("a thread that keeps the pace", error))?;
        Ok(Self {
            open,
            _until_dropped: until_dropped,
        })
    }

    /// Resolves when the next turn is due, at once where that is past. Cancel safe.
    pub(super) async fn next(&self) {
        if let Ok(turn) = self.open.acquire().await {
            turn.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producers_take_turns_at_a_steady_rate() {
        let pace = |place| Pace {
            producers: 2,
            place,
            batch: 5,
            rate: 1_000,
        };
        let due = |place, turn| pace(place).due(turn).as_millis();
        assert_eq!([due(0, 0), due(1, 0), due(0, 1), due(1, 1)], [0, 5, 10, 15]);
        assert_eq!(due(0, 100), 1_000);
    }

    #[tokio::test]
    async fn turns_open_when_they_are_due_and_not_before() {
        let pace = Pace {
            producers: 1,
            place: 0,
            batch: 1,
            rate: 2_000,
        };
        let (begun, turns) = (Instant::now(), Turns::start(pace).unwrap());
        for turn in 0..20 {
            turns.next().await;
            assert!(begun.elapsed() >= pace.due(turn), "turn {turn} came early");
        }
    }
}
