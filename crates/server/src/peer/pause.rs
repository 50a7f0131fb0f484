use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::limits;

/// Keeps a peer that cannot be reached from being asked again at once, with a growing pause, which
/// ends the moment that the peer is heard of.
#[derive(Debug, Default)]
pub(crate) struct Pause(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    until: Option<Instant>,
    last: Duration,
    why: String,
}

impl Pause {
    /// Why the peer is not to be asked now, if so.
    pub(crate) fn blocks(&self) -> Option<String> {
        let state = self.state();
        let until = state.until?;
        (Instant::now() < until).then(|| state.why.clone())
    }

    /// It could not be reached.
    pub(crate) fn failed(&self, why: &str) {
        let mut state = self.state();
        let next = (state.last * 2).clamp(limits::RECONNECT_MIN, limits::RECONNECT_MAX);
        *state = State {
            until: Some(Instant::now() + next),
            last: next,
            why: why.to_owned(),
        };
    }

    /// It was reached, or was heard of.
    pub(crate) fn over(&self) {
        let mut state = self.state();
        if state.until.is_some() {
            *state = State::default();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_end_when_the_peer_is_heard_of() {
        let pause = Pause::default();
        assert_eq!(pause.blocks(), None);
        for expected in [50, 100, 200, 400, 800, 1_000, 1_000] {
            pause.failed("gone");
            let start = Instant::now();
            while pause.blocks().is_some() {
                tokio::time::advance(Duration::from_millis(10)).await;
            }
            assert_eq!(start.elapsed(), Duration::from_millis(expected));
        }
        pause.failed("gone");
        assert_eq!(pause.blocks().as_deref(), Some("gone"));
        pause.over();
        assert_eq!(pause.blocks(), None);
    }
}
