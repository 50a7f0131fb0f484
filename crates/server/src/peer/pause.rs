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
    /// Why the peer is not to be asked at `now`, if so.
    pub(crate) fn blocks(&self, now: Instant) -> Option<String> {
        let state = self.state();
        let until = state.until?;
        (now < until).then(|| state.why.clone())
    }

    /// It could not be reached at `now`.
    pub(crate) fn failed(&self, why: &str, now: Instant) {
        let mut state = self.state();
        let next = (state.last * 2).clamp(limits::RECONNECT_MIN, limits::RECONNECT_MAX);
        *state = State {
            until: Some(now + next),
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

    #[test]
    fn pauses_grow_and_end_when_the_peer_is_heard_of() {
        let pause = Pause::default();
        let mut now = Instant::now();
        assert_eq!(pause.blocks(now), None);
        for expected in [50, 100, 200, 400, 800, 1_000, 1_000] {
            pause.failed("gone", now);
            now += Duration::from_millis(expected - 1);
            assert_eq!(pause.blocks(now).as_deref(), Some("gone"));
            now += Duration::from_millis(1);
            assert_eq!(pause.blocks(now), None);
        }
        pause.failed("gone", now);
        pause.over();
        assert_eq!(pause.blocks(now), None);
        pause.failed("gone", now);
        assert_eq!(
            pause.blocks(now + Duration::from_millis(50)),
            None,
            "from the start again"
        );
    }
}
