//! The leases that a consumer holds, and who is to be told when one is lost.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ledger::Key;
use crate::delivery::Receipt;

/// Every lease that is not settled, by receipt, whatever stream it came on.
#[derive(Debug, Default)]
pub(super) struct Leases {
    held: HashMap<Bytes, Held>,
    /// When [`Leases::overdue`] is to be asked next; nothing is watched where absent.
    next_look: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    key: Key,
    /// Until when it lasts as far as is known here. It may last longer: the cluster's time stands still without
    /// a leader.
    end: Instant,
    /// Made when somebody wants to know.
    lost: Option<CancellationToken>,
}

impl Leases {
    pub(super) fn add(&mut self, receipt: Bytes, key: Key, end: Instant) {
        let lost = None;
        self.held.insert(receipt, Held { key, end, lost });
    }

    /// The lease goes on until then; its key, if it is held.
    pub(super) fn renew(&mut self, receipt: &[u8], end: Instant) -> Option<Key> {
        let held = self.held.get_mut(receipt)?;
        held.end = held.end.max(end);
        Some(held.key)
    }

    pub(super) fn is_held(&self, receipt: &Receipt) -> bool {
        self.held.contains_key(receipt.as_bytes())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Bytes, Key)> {
        self.held.iter().map(|(receipt, held)| (receipt, held.key))
    }

    /// It was settled, or nobody works on it any more.
    pub(super) fn forget(&mut self, receipt: &Receipt) {
        self.held.remove(receipt.as_bytes());
    }

    /// It ended on the server.
    pub(super) fn lose(&mut self, receipt: &Receipt) {
        if let Some(held) = self.held.remove(receipt.as_bytes()) {
            held.tell();
        }
    }

    /// These ended on the server.
    pub(super) fn lose_keys(&mut self, lost: &HashSet<Key>) {
        self.held.retain(|_, held| {
            let keep = !lost.contains(&held.key);
            if !keep {
                held.tell();
            }
            keep
        });
    }

    /// All of them ended on the server.
    pub(super) fn lose_all(&mut self) {
        self.held.drain().for_each(|(_, held)| held.tell());
    }

    /// A token that is cancelled when the lease is lost; and whether [`Leases::overdue`] is now to be asked earlier
    /// than it said.
    pub(super) fn watch(&mut self, receipt: &Receipt) -> (CancellationToken, bool) {
        let Some(held) = self.held.get_mut(receipt.as_bytes()) else {
            let lost = CancellationToken::new();
            lost.cancel();
            return (lost, false);
        };
        let earlier = self.next_look.is_none_or(|look| held.end < look);
        if earlier {
            self.next_look = Some(held.end);
        }
        (held.lost.get_or_insert_default().clone(), earlier)
    }

    /// Tells those whose lease should be over by now, as far as is known here; when to ask again. Such a lease is
    /// still held: it may last longer than is known, and then its settlement still counts.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<Instant> {
        let watched = self.held.values().filter(|held| held.is_watched());
        let (over, going): (Vec<_>, Vec<_>) = watched.partition(|held| held.end <= now);
        over.into_iter().for_each(Held::tell);
        self.next_look = going.into_iter().map(|held| held.end).min();
        self.next_look
    }
}

impl Held {
    fn tell(&self) {
        if let Some(lost) = &self.lost {
            lost.cancel();
        }
    }

    fn is_watched(&self) -> bool {
        self.lost.as_ref().is_some_and(|lost| !lost.is_cancelled())
    }
}

/// When leases of this length that began now, or were extended now, are to be extended: early enough for two more
/// attempts.
pub(super) fn extend_after(lease: Duration) -> Duration {
    lease / 3
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn receipt(text: &'static str) -> Receipt {
        Receipt::from_bytes(text)
    }

    fn held(now: Instant) -> Leases {
        let mut leases = Leases::default();
        leases.add(Bytes::from("a"), 1, now + SECOND);
        leases.add(Bytes::from("b"), 2, now + 3 * SECOND);
        leases
    }

    #[test]
    fn who_watches_is_told_of_a_loss_and_not_of_a_settlement() {
        let mut leases = held(Instant::now());
        let (a, _) = leases.watch(&receipt("a"));
        let (b, _) = leases.watch(&receipt("b"));
        leases.lose_keys(&HashSet::from([1]));
        leases.forget(&receipt("b"));
        assert!(a.is_cancelled() && !b.is_cancelled());
        assert!(!leases.is_held(&receipt("a")) && !leases.is_held(&receipt("b")));
        let (late, _) = leases.watch(&receipt("a"));
        assert!(late.is_cancelled(), "who asks late hears it at once");
    }

    #[test]
    fn a_lease_that_nobody_renews_is_overdue_at_its_end_and_not_before() {
        let now = Instant::now();
        let mut leases = held(now);
        let (b, first) = leases.watch(&receipt("b"));
        let (a, earlier) = leases.watch(&receipt("a"));
        assert!(first && earlier, "the second one ends first");
        assert!(!leases.watch(&receipt("b")).1);
        assert_eq!(leases.overdue(now), Some(now + SECOND));
        leases.renew(b"a", now + 2 * SECOND);
        assert_eq!(leases.overdue(now + SECOND), Some(now + 2 * SECOND));
        assert!(!a.is_cancelled());
        assert_eq!(leases.overdue(now + 2 * SECOND), Some(now + 3 * SECOND));
        assert!(a.is_cancelled() && !b.is_cancelled());
        assert!(leases.is_held(&receipt("a")), "it may still be settled");
        assert_eq!(leases.overdue(now + 3 * SECOND), None);
        assert!(b.is_cancelled());
    }

    #[test]
    fn an_answer_that_comes_late_never_shortens_a_lease() {
        let now = Instant::now();
        let mut leases = held(now);
        assert_eq!(leases.renew(b"b", now + SECOND), Some(2));
        let (b, _) = leases.watch(&receipt("b"));
        leases.overdue(now + 2 * SECOND);
        assert!(!b.is_cancelled());
        assert_eq!(leases.renew(b"c", now), None);
    }
}
