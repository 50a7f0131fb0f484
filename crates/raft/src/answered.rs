//! Which peer answered what was sent when, to know that a read is confirmed.
//!
//! A leader may answer a read when a majority has answered what was sent after the read began: then nobody led after it before.
//! openraft times a request when it makes it, and takes an answer for one to all requests that end at the same entry. Those
//! that carry only a commit end where the one before them ends. So a late answer to that one counts as one to a request that was
//! made after the read began, and perhaps never sent: a leader that is cut off would answer reads. Here every call is counted
//! by itself, in the order of sending, with no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use ticketrail_core::NodeId;

/// See the module.
#[derive(Default)]
pub(crate) struct Answered {
    moments: AtomicU64,
    /// When what a peer answered was sent, the newest of it.
    sent: Mutex<BTreeMap<NodeId, u64>>,
}

impl Answered {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, u64>> {
        self.sent.lock().expect("no panic under this lock")
    }

    /// A moment after all that were given before.
    pub(crate) fn now(&self) -> u64 {
        self.moments.fetch_add(1, Ordering::SeqCst)
    }

    /// A peer that takes this node for its leader answered what was sent at that moment.
    pub(crate) fn note(&self, peer: NodeId, sent: u64) {
        let mut known = self.lock();
        let newest = known.entry(peer).or_default();
        *newest = sent.max(*newest);
    }

    /// Whether a majority of each of these sets of voters, of which `me` needs no call, answered what was sent after a moment.
    pub(crate) fn since(&self, moment: u64, me: NodeId, voters: &[BTreeSet<u64>]) -> bool {
        let known = self.lock();
        let answered = |voter: &&u64| {
            let peer = NodeId(**voter);
            peer == me || known.get(&peer).is_some_and(|sent| *sent > moment)
        };
        let is_majority = |set: &BTreeSet<u64>| 2 * set.iter().filter(answered).count() > set.len();
        voters.iter().all(is_majority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sent_after_a_moment_counts_and_in_both_sets_of_a_change() {
        let answered = Answered::default();
        let (me, old, both) = (
            NodeId(1),
            [BTreeSet::from([1, 2, 3])],
            [BTreeSet::from([1, 2, 3]), BTreeSet::from([3, 4, 5])],
        );
        let before = answered.now();
        let moment = answered.now();
        answered.note(NodeId(2), before);
        assert!(!answered.since(moment, me, &old), "a late answer");
        let after = answered.now();
        answered.note(NodeId(2), after);
        answered.note(NodeId(2), before);
        assert!(answered.since(moment, me, &old));
        assert!(!answered.since(moment, me, &both));
        answered.note(NodeId(4), after);
        answered.note(NodeId(5), after);
        assert!(answered.since(moment, me, &both));
        assert!(answered.since(moment, me, &[BTreeSet::from([1])]), "alone");
    }
}
