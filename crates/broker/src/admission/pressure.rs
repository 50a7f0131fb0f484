//! Watermarks: what is short on this node, and on the others.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ticketrail_core::NodeId;
use tokio::sync::watch;
use tokio::time::Instant;

use super::limit::Bound;

/// What another node said of itself counts for so long.
const TOLD_VALID: Duration = Duration::from_secs(2);

/// What nodes tell each other, as bits of `pressure` in the peer messages.
const TOLD: [(Bound, u32); 2] = [(Bound::Memory, 1), (Bound::Disk, 2)];
/// What concerns this node alone.
const OWN: [(Bound, u32); 1] = [(Bound::ApplyLag, 1 << 16)];

fn bit(bound: Bound) -> u32 {
    let known = TOLD.iter().chain(&OWN).find(|(other, _)| *other == bound);
    known.map_or(0, |(_, bit)| *bit)
}

fn first(bits: u32) -> Option<Bound> {
    let mut known = TOLD.iter().chain(&OWN);
    known
        .find(|(_, bit)| bits & bit != 0)
        .map(|(bound, _)| *bound)
}

/// Why publishes are refused, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// What is short.
    pub bound: Bound,
    /// It is short on this node, not only on another.
    pub here: bool,
    /// Since when.
    pub since: Instant,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pressure {
    known: Mutex<Known>,
    blocked: watch::Sender<Option<Blocked>>,
}

#[derive(Debug, Default)]
struct Known {
    own: u32,
    told: BTreeMap<NodeId, (u32, Instant)>,
}

impl Known {
    fn told(&self, now: Instant) -> u32 {
        let fresh = |at: &Instant| now.saturating_duration_since(*at) < TOLD_VALID;
        let told = self.told.values().filter(|(_, at)| fresh(at));
        told.fold(0, |bits, (more, _)| bits | more)
    }
}

impl Pressure {
    pub(super) fn new() -> Self {
        Self {
            known: Mutex::default(),
            blocked: watch::Sender::new(None),
        }
    }

    /// Whether something is short on this node.
    pub(super) fn set(&self, bound: Bound, short: bool) {
        self.change(|known| match short {
            true => known.own |= bit(bound),
            false => known.own &= !bit(bound),
        });
    }

    /// Whether this node is short of it.
    pub(super) fn is_short(&self, bound: Bound) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.own & bit(bound) != 0
    }

    /// Another node said what is short there.
    pub(super) fn heard(&self, node: NodeId, bits: u32) {
        // By far the most messages say nothing, and nothing was known before.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if bits == 0 && !known.told.contains_key(&node) {
            return;
        }
        match bits {
            0 => drop(known.told.remove(&node)),
            bits => drop(known.told.insert(node, (bits, Instant::now()))),
        }
        self.decide(&known);
    }

    /// What this node tells of itself.
    pub(super) fn own(&self) -> u32 {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.own & told_bits()
    }

    /// What a leader tells: of itself and of those that it heard.
    pub(super) fn of_all(&self) -> u32 {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        (known.own | known.told(Instant::now())) & told_bits()
    }

    /// Looks again: what was told may be too old by now.
    pub(super) fn look(&self) {
        if self.blocked.borrow().is_some() {
            self.change(|_| {});
        }
    }

    pub(super) fn blocked(&self) -> Option<Blocked> {
        *self.blocked.borrow()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Option<Blocked>> {
        self.blocked.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut known);
        self.decide(&known);
    }

    fn decide(&self, known: &Known) {
        let now = Instant::now();
        let own = first(known.own).map(|bound| (bound, true));
        let short = own.or_else(|| first(known.told(now)).map(|bound| (bound, false)));
        self.blocked.send_if_modified(|blocked| {
            let same = blocked.map(|blocked| (blocked.bound, blocked.here)) == short;
            if same {
                return false;
            }
            match short {
                Some((bound, here)) => tracing::warn!(
                    short = bound.word(),
                    here,
                    setting = bound.setting(),
                    "publishes are refused"
                ),
                None => tracing::info!("publishes are taken again"),
            }
            let since = blocked.map_or(now, |blocked| blocked.since);
            *blocked = short.map(|(bound, here)| Blocked { bound, here, since });
            true
        });
    }
}

fn told_bits() -> u32 {
    TOLD.iter().fold(0, |bits, (_, bit)| bits | bit)
}

/// A mark with hysteresis: reached at `high`, left below `low`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watermark {
    pub(super) high: u64,
    pub(super) low: u64,
    reached: bool,
}

impl Watermark {
    pub(super) fn new(high: u64, low: u64) -> Self {
        Self {
            high,
            low: low.min(high),
            reached: false,
        }
    }

    /// Whether it is reached, with this value.
    pub(super) fn look(&mut self, value: u64) -> bool {
        self.reached = match self.reached {
            true => value >= self.low,
            false => value >= self.high,
        };
        self.reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_left_lower_than_it_is_reached() {
        let mut mark = Watermark::new(100, 80);
        let looks = [99, 100, 85, 80, 79, 99, 100].map(|value| mark.look(value));
        assert_eq!(looks, [false, true, true, true, false, false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_tell_blocks_until_they_take_it_back_or_fall_silent() {
        let pressure = Pressure::new();
        let blocked = pressure.subscribe();
        pressure.heard(NodeId(2), 0);
        assert!(!blocked.has_changed().unwrap());
        pressure.heard(NodeId(2), 2);
        let told = pressure.blocked().unwrap();
        assert_eq!((told.bound, told.here), (Bound::Disk, false));
        assert_eq!((pressure.own(), pressure.of_all()), (0, 2));
        pressure.set(Bound::Memory, true);
        assert_eq!(pressure.blocked().unwrap().bound, Bound::Memory);
        assert_eq!((pressure.own(), pressure.of_all()), (1, 3));
        pressure.set(Bound::Memory, false);
        pressure.heard(NodeId(2), 0);
        assert_eq!(pressure.blocked(), None);
        pressure.heard(NodeId(3), 1);
        tokio::time::advance(TOLD_VALID).await;
        pressure.look();
        assert_eq!(pressure.blocked(), None);
    }

    #[test]
    fn an_apply_lag_is_not_told_to_others() {
        let pressure = Pressure::new();
        pressure.set(Bound::ApplyLag, true);
        assert_eq!((pressure.own(), pressure.of_all()), (0, 0));
        assert!(pressure.blocked().is_some());
    }
}
