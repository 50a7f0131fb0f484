//! Finding out that replicas differ. All fold the same outcomes into their digests; the leader gathers
//! those of the voters at the same index, and tells what a majority has. Whoever had another one there
//! stops: its state is wrong, and what it serves may be. The others go on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use ticketrail_core::NodeId;

use crate::config::{DIGEST_EVERY, DIGESTS_KEPT};

/// A digest and the index that it is of.
pub(crate) type DigestAt = (u64, u64);

/// Digests of this replica, and what it knows of others'.
#[derive(Default)]
pub(crate) struct Digests {
    state: Mutex<State>,
    counts: DigestCounts,
}

/// What the comparison found, for the node's figures.
#[derive(Debug, Default)]
pub struct DigestCounts {
    /// Indexes at which a majority was found to agree.
    pub agreed: AtomicU64,
    /// Indexes at which nodes differed, without a majority known.
    pub undecided: AtomicU64,
    /// Other nodes that were found to differ from a majority; each is told, and stops.
    pub others_differ: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Our own, oldest first.
    own: VecDeque<DigestAt>,
    /// As the leader: what members told, by index.
    told: BTreeMap<u64, BTreeMap<NodeId, u64>>,
    /// As the leader: the newest that a majority has.
    agreed: Option<DigestAt>,
    /// From a leader: what a majority has at indexes that are not applied here yet.
    expected: BTreeMap<u64, u64>,
    /// Indexes of which it was said that nodes differ.
    undecided: BTreeSet<u64>,
}

/// This replica differs from a majority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Diverged {
    pub(crate) index: u64,
    pub(crate) own: u64,
    pub(crate) agreed: u64,
}

impl Digests {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    pub(crate) fn counts(&self) -> &DigestCounts {
        &self.counts
    }

    /// The last of our own, oldest first.
    pub(crate) fn own(&self) -> Vec<DigestAt> {
        self.lock().own.iter().copied().collect()
    }

    /// The newest of our own.
    pub(crate) fn newest(&self) -> Option<DigestAt> {
        self.lock().own.back().copied()
    }

    /// What a majority has, to be told to followers.
    pub(crate) fn agreed(&self) -> Option<DigestAt> {
        self.lock().agreed
    }

    /// Our own of an entry that was just applied; kept at multiples of [`DIGEST_EVERY`].
    pub(crate) fn applied(&self, index: u64, digest: impl Fn() -> u64) -> Result<(), Diverged> {
        if !index.is_multiple_of(DIGEST_EVERY) {
            return Ok(());
        }
        let own = digest();
        let mut state = self.lock();
        state.own.push_back((index, own));
        if state.own.len() > DIGESTS_KEPT {
            state.own.pop_front();
        }
        let expected = state.expected.remove(&index);
        state.expected = state.expected.split_off(&index);
        match expected.filter(|agreed| *agreed != own) {
            Some(agreed) => Err(Diverged { index, own, agreed }),
            None => Ok(()),
        }
    }

    /// A snapshot was installed: what came before is not ours.
    pub(crate) fn replaced(&self) {
        let mut state = self.lock();
        state.own.clear();
        state.told.clear();
        state.expected.clear();
    }

    /// A leader told what a majority has.
    pub(crate) fn expect(&self, (index, agreed): DigestAt) -> Result<(), Diverged> {
        let mut state = self.lock();
        if let Some(own) = state.own_at(index) {
            return match own == agreed {
                true => Ok(()),
                false => Err(Diverged { index, own, agreed }),
            };
        }
        let is_ahead = state.own.back().is_none_or(|(newest, _)| *newest < index);
        if is_ahead && state.expected.len() < DIGESTS_KEPT {
            state.expected.insert(index, agreed);
        }
        Ok(())
    }

    /// As the leader: a member told its newest. `voters` is only asked when that is news, and not
    /// under our lock: it looks at the applied state, under whose lock ours is taken.
    pub(crate) fn heard(
        &self,
        member: NodeId,
        (index, digest): DigestAt,
        this_node: NodeId,
        voters: impl FnOnce() -> BTreeSet<NodeId>,
    ) -> Result<(), Diverged> {
        if !self.lock().note(member, (index, digest)) {
            return Ok(());
        }
        let voters = voters();
        let mut state = self.lock();
        let Some(agreed) = state.majority(index, this_node, &voters) else {
            if state.differs(index) && state.undecided.insert(index) {
                self.counts.undecided.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    index,
                    "replicas differ, and no majority agrees yet: none is stopped for it"
                );
                while state.undecided.len() > DIGESTS_KEPT {
                    state.undecided.pop_first();
                }
            }
            return Ok(());
        };
        if state.agreed.is_none_or(|(known, _)| known < index) {
            state.agreed = Some((index, agreed));
            self.counts.agreed.fetch_add(1, Ordering::Relaxed);
        }
        if member != this_node && digest != agreed {
            self.counts.others_differ.fetch_add(1, Ordering::Relaxed);
            tracing::error!(node = %member, index, "a node differs from a majority: it is told, and stops");
        }
        match state.own_at(index).filter(|own| *own != agreed) {
            Some(own) => Err(Diverged { index, own, agreed }),
            None => Ok(()),
        }
    }
}

impl State {
    /// Notes what a member told; whether that is news.
    fn note(&mut self, member: NodeId, (index, digest): DigestAt) -> bool {
        if self.agreed.is_some_and(|(agreed, _)| index < agreed) {
            return false;
        }
        let told = self.told.entry(index).or_default();
        if told.insert(member, digest) == Some(digest) {
            return false;
        }
        while self.told.len() > DIGESTS_KEPT {
            self.told.pop_first();
        }
        true
    }

    fn own_at(&self, index: u64) -> Option<u64> {
        let found = self.own.iter().find(|(at, _)| *at == index);
        found.map(|(_, digest)| *digest)
    }

    /// The digest at an index that more than half of the voters have.
    fn majority(&self, index: u64, this_node: NodeId, voters: &BTreeSet<NodeId>) -> Option<u64> {
        let told = self.told.get(&index)?.iter().map(|(node, d)| (*node, *d));
        let own = self.own_at(index).map(|own| (this_node, own));
        let mut count: BTreeMap<u64, usize> = BTreeMap::new();
        for (_, digest) in told.chain(own).filter(|(node, _)| voters.contains(node)) {
            *count.entry(digest).or_default() += 1;
        }
        let found = count.into_iter().find(|(_, n)| n * 2 > voters.len());
        found.map(|(digest, _)| digest)
    }

    fn differs(&self, index: u64) -> bool {
        let told = self.told.get(&index).into_iter().flat_map(BTreeMap::values);
        let all: BTreeSet<u64> = told.copied().chain(self.own_at(index)).collect();
        all.len() > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 3 * DIGEST_EVERY;

    fn voters() -> BTreeSet<NodeId> {
        (1..=3).map(NodeId).collect()
    }

    fn leader(own: u64) -> Digests {
        let digests = Digests::default();
        digests.applied(AT, || own).unwrap();
        digests
    }

    fn hear(digests: &Digests, node: u64, digest: u64) -> Result<(), Diverged> {
        digests.heard(NodeId(node), (AT, digest), NodeId(1), voters)
    }

    #[test]
    fn two_of_three_decide_and_the_odd_follower_stops() {
        let one = leader(7);
        assert_eq!(hear(&one, 2, 8), Ok(()));
        assert_eq!(one.agreed(), None, "one against one is nobody's fault");
        assert_eq!(one.counts().undecided.load(Ordering::Relaxed), 1);
        assert_eq!(hear(&one, 3, 7), Ok(()));
        assert_eq!(one.agreed(), Some((AT, 7)));
        let diverged = Diverged {
            index: AT,
            own: 8,
            agreed: 7,
        };
        assert_eq!(leader(8).expect((AT, 7)), Err(diverged));
        assert_eq!(leader(7).expect((AT, 7)), Ok(()));
    }

    #[test]
    fn a_leader_that_is_the_odd_one_stops() {
        let one = leader(9);
        assert_eq!(hear(&one, 2, 7), Ok(()));
        let diverged = Diverged {
            index: AT,
            own: 9,
            agreed: 7,
        };
        assert_eq!(hear(&one, 3, 7), Err(diverged));
    }

    #[test]
    fn three_that_all_differ_stop_nobody() {
        let one = leader(1);
        assert_eq!(hear(&one, 2, 2), Ok(()));
        assert_eq!(hear(&one, 3, 3), Ok(()));
        assert_eq!(one.agreed(), None);
    }

    #[test]
    fn a_learner_has_no_say() {
        let one = leader(1);
        let two = || [NodeId(1), NodeId(2)].into();
        assert_eq!(one.heard(NodeId(3), (AT, 1), NodeId(1), two), Ok(()));
        assert_eq!(one.agreed(), None);
    }

    #[test]
    fn what_is_expected_of_an_entry_to_come_is_compared_when_it_is_applied() {
        let late = Digests::default();
        assert_eq!(late.expect((AT, 7)), Ok(()));
        assert_eq!(late.applied(AT - 1, || 0), Ok(()));
        assert!(late.applied(AT, || 8).is_err());
        let installed = Digests::default();
        assert_eq!(installed.expect((AT, 7)), Ok(()));
        installed.replaced();
        assert_eq!(
            installed.applied(AT, || 8),
            Ok(()),
            "it was before the snapshot"
        );
    }
}
