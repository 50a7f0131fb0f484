//! What this node knows of the others besides Raft: which process runs there, when it was last
//! heard of, what its clock says. From it the leader tells whose sessions are lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ticketrail_core::{BootId, Command, NodeId, command::SessionsLost};
use ticketrail_raft::Replica;
use tokio::time::{Instant, MissedTickBehavior};

use crate::broker::{Inner, WallClockSource};

/// A node that was not heard of for so long is taken for gone by the leader; its consumers then
/// have their grace to come back elsewhere.
const GONE_AFTER: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A wall clock that was told longer ago does not count.
const CLOCK_VALID: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
struct Peer {
    boot: BootId,
    heard_at: Instant,
    wall_ms: u64,
}

/// See the module.
pub(crate) struct Peers {
    me: NodeId,
    /// How many, where it is not known who.
    voters_expected: usize,
    voters: Mutex<BTreeSet<NodeId>>,
    wall: WallClockSource,
    heard: Mutex<BTreeMap<NodeId, Peer>>,
}

impl Peers {
    pub(crate) fn new(me: NodeId, voters: usize, wall: WallClockSource) -> Self {
        Self {
            me,
            voters_expected: voters,
            voters: Mutex::default(),
            wall,
            heard: Mutex::default(),
        }
    }

    /// A peer was heard of.
    pub(crate) fn heard(&self, node: NodeId, boot: BootId, wall_ms: u64) {
        let peer = Peer {
            boot,
            heard_at: Instant::now(),
            wall_ms,
        };
        self.heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(node, peer);
    }

    /// This node's wall clock and those of the other voters as far as known, carried on to `now`; and
    /// how many voters there are (0: not known yet).
    pub(crate) fn wall_clocks(&self, now: Instant) -> (Vec<u64>, usize) {
        let mut clocks = vec![(self.wall)()];
        let voters = self.voters.lock().unwrap_or_else(PoisonError::into_inner);
        let votes = |node: &NodeId| voters.is_empty() || voters.contains(node);
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        for (node, peer) in heard.iter() {
            let age = now.saturating_duration_since(peer.heard_at);
            if *node != self.me && votes(node) && age < CLOCK_VALID && peer.wall_ms > 0 {
                let age_ms = u64::try_from(age.as_millis()).unwrap_or(0);
                clocks.push(peer.wall_ms.saturating_add(age_ms));
            }
        }
        match voters.len() {
            0 => (clocks, self.voters_expected),
            known => (clocks, known),
        }
    }

    /// The members are known, and change.
    fn note_voters(&self, replica: &Replica) {
        let members = replica.status().members;
        let voters = members.iter().filter(|(_, member)| member.voter);
        let voters = voters.map(|(node, _)| *node).collect();
        *self.voters.lock().unwrap_or_else(PoisonError::into_inner) = voters;
    }

    /// Time since a peer's process was heard of.
    pub(crate) fn silence(&self, node: NodeId) -> Option<(BootId, Duration)> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard
            .get(&node)
            .map(|peer| (peer.boot, peer.heard_at.elapsed()))
    }
}

/// Whether a leader may tell who is gone: not before it has listened for the full time, and not
/// after it was paused itself, when all that the others said is still to be read.
#[derive(Debug, Default)]
struct Judge {
    listening_since: Option<Instant>,
    paused_at: Option<Instant>,
}

impl Judge {
    /// It waits for its next look.
    fn pauses(&mut self, now: Instant) {
        self.paused_at = Some(now);
    }

    fn may(&mut self, leads: bool, now: Instant) -> bool {
        let overslept = |at: Instant| now.saturating_duration_since(at) > 2 * LOOK_EVERY;
        if !leads || self.paused_at.is_some_and(overslept) {
            self.listening_since = None;
        }
        if !leads {
            return false;
        }
        let since = *self.listening_since.get_or_insert(now);
        now.saturating_duration_since(since) >= GONE_AFTER
    }
}

/// While this node leads: proposes `SessionsLost` for processes that are gone but still own
/// connected sessions.
pub(crate) async fn watch_for_lost_nodes(inner: Arc<Inner>) {
    let me = inner.hub.owner();
    let mut judge = Judge::default();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        judge.pauses(Instant::now());
        look.tick().await;
        inner.peers.note_voters(&inner.replica);
        if !judge.may(inner.leadership.borrow().is_leader, Instant::now()) {
            continue;
        }
        for (node, boot) in owners(&inner.replica) {
            if (node, boot) == (me.node, me.boot) {
                continue;
            }
            let alive = inner
                .peers
                .silence(node)
                .is_some_and(|(now, silence)| now == boot && silence < GONE_AFTER);
            if !alive {
                tracing::info!(%node, %boot, "a node's process is gone; its sessions have their grace");
                let lost = Command::SessionsLost(SessionsLost { node, boot });
                if let Err(error) = inner.submit(&lost, &[], Instant::now() + GONE_AFTER).await {
                    tracing::debug!(%error, "sessions of a lost node could not be ended yet");
                }
            }
        }
    }
}

/// Processes that own connected sessions.
fn owners(replica: &Replica) -> Vec<(NodeId, BootId)> {
    replica.with_state(|state| {
        let mut owners: Vec<_> = state
            .sessions()
            .filter(|session| session.connected)
            .map(|session| (session.owner.node, session.owner.boot))
            .collect();
        owners.sort_unstable();
        owners.dedup();
        owners
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_listens_before_it_judges_and_again_after_a_pause() {
        let start = Instant::now();
        let mut judge = Judge::default();
        let mut look = |ms: u64, leads: bool, slept_ms: u64| {
            let now = start + Duration::from_millis(ms);
            judge.pauses(now - Duration::from_millis(slept_ms));
            judge.may(leads, now)
        };
        assert!(!look(500, true, 500), "it has just begun to lead");
        assert!(!look(2_000, true, 500));
        assert!(look(2_500, true, 500));
        assert!(!look(9_000, true, 6_500), "it was paused");
        assert!(!look(10_500, true, 500));
        assert!(look(11_000, true, 500));
        assert!(!look(11_500, false, 500));
        assert!(!look(12_000, true, 500), "a new term");
    }
}
