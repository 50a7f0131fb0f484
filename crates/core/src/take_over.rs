//! A new cluster that begins with the state of another one, out of a backup.

use alloc::string::String;
use alloc::vec::Vec;

use crate::digest;
use crate::event::SessionEnd;
use crate::id::{NodeId, Offset, QueueId, SessionId};
use crate::limits;
use crate::shared::Timer;
use crate::state::{Halt, State};

impl State {
    /// Makes this state, which was another cluster's, the first one of `cluster_id`. Nobody whom it
    /// knows is there any more: node ids are free again, sessions end, and what was leased goes back
    /// as a failed delivery, in the order in which the leases would have ended (receipts of the other
    /// cluster are refused by this one, so nobody could settle it). Queues, messages in every other
    /// state, dead letters with their history, producers with what they stored and both clocks stay.
    /// Message ids go on far beyond those that the other cluster may give out after the backup.
    ///
    /// # Errors
    /// [`Halt`] where the state belongs to no cluster, or is broken; it must not be used then.
    pub fn take_over(&mut self, cluster_id: u128) -> Result<(), Halt> {
        let halt = |reason: &str| Halt {
            reason: String::from(reason),
        };
        let Some((_, hash_seed)) = self.bootstrap else {
            return Err(halt("the state belongs to no cluster yet"));
        };
        self.bootstrap = Some((cluster_id, hash_seed));
        for half in [cluster_id as u64, (cluster_id >> 64) as u64] {
            self.digest = digest::word(self.digest, half);
        }
        let ids = self.next_message_id.0;
        let ids = ids.checked_add(limits::MESSAGE_ID_GAP);
        self.next_message_id.0 = ids.ok_or_else(|| halt("there are no message ids left"))?;
        self.meta_dirty = true;
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for node in nodes {
            self.nodes.remove(&node);
        }
        self.end_all_leases();
        let sessions: Vec<SessionId> = self.shared.sessions.keys().copied().collect();
        for session in sessions {
            self.end_session(session, SessionEnd::GraceOver, false);
        }
        let ended = self.end_entry();
        // There is nobody to be told.
        self.shared.events.clear();
        ended
    }

    fn end_all_leases(&mut self) {
        // Whoever is still in line must not be granted what another one loses.
        self.disconnect_all(|_| true);
        let timers = self.shared.timers.iter();
        let leases: Vec<(QueueId, Offset)> = timers
            .filter_map(|(_, timer)| match timer {
                Timer::Lease(queue, first) => Some((*queue, *first)),
                _ => None,
            })
            .collect();
        for (queue, first) in leases {
            let lease = self.queues.get(&queue);
            let lease = lease.and_then(|queue| queue.leases.get(&first));
            let count = lease.map_or(0, |lease| u64::from(lease.count));
            for k in 0..count {
                self.expire_one(queue, first.plus(k));
            }
        }
        self.hand_out();
    }
}

#[cfg(test)]
mod tests {
    use crate::command::{AdmitNode, SettleKind};
    use crate::script::*;
    use crate::*;
    use std::vec;

    const NEW: u128 = 77;

    /// The rows of a state after it was taken over; what a restored cluster begins with.
    fn taken_over(script: &mut Script) -> State {
        script.state.take_over(NEW).unwrap();
        State::restore(script.state.rows()).unwrap()
    }

    #[test]
    fn what_was_held_goes_back_as_failed_and_nobody_is_known_any_more() {
        let mut script = Script::with_queues(&["q"]);
        script.run(Command::AdmitNode(AdmitNode {
            node: NodeId(3),
            disk: DiskId(30),
        }));
        script.run(publish("q", 5));
        script.run(attach("q", 1, 2));
        script.receive("q", 1, "a");
        assert_eq!(script.counts("q"), [2, 0, 3, 0]);
        let ids = script.state.rows();
        let state = taken_over(&mut script);
        assert_ne!(state.rows(), ids);
        assert_eq!(state.cluster_id(), Some(NEW));
        assert_eq!((state.nodes().count(), state.sessions().count()), (0, 0));
        let queue = state.queue("default", "q").unwrap();
        assert_eq!(queue.counters.leases_expired, 3);
        let counted: vec::Vec<u32> = state
            .peek(queue.id, None, Offset(0), 9)
            .iter()
            .map(|peeked| peeked.delivery_count)
            .collect();
        assert_eq!(counted, vec![1, 1, 1, 0, 0]);
        assert_eq!(state.next_deadline(), None);
    }

    #[test]
    fn a_last_delivery_that_was_held_is_a_dead_letter() {
        let mut script = Script::new();
        script.run(create("q", dead_to("dead", 1)));
        script.run(create("dead", QueueSettings::default()));
        script.run(publish("q", 2));
        script.receive("q", 1, "a");
        script.state = taken_over(&mut script);
        assert_eq!(script.counts("q"), [1, 0, 0, 0]);
        assert_eq!(script.counts("dead"), [1, 0, 0, 0]);
    }

    #[test]
    fn delays_parked_dead_letters_and_what_was_settled_stay() {
        let mut script = Script::new();
        script.run(create("q", dead_to("dead", 9)));
        script.run(publish("q", 3));
        script.receive("q", 3, "a");
        let reject = range(0, 1, 1, SettleKind::Reject);
        let nack = range(
            1,
            1,
            2,
            SettleKind::Nack {
                delay_ms: Some(60_000),
            },
        );
        let ack = range(2, 1, 3, SettleKind::Ack);
        script.settle(vec![reject, nack, ack]);
        let before = script.counts("q");
        let deadline = script.state.next_deadline();
        script.state = taken_over(&mut script);
        assert_eq!(script.counts("q"), before);
        assert_eq!(script.state.next_deadline(), deadline);
        // The target comes, and the parked one moves.
        script.run(create("dead", QueueSettings::default()));
        assert_eq!(script.counts("dead"), [1, 0, 0, 0]);
    }

    #[test]
    fn message_ids_of_the_old_clusters_future_are_not_given_out() {
        let mut script = Script::with_queues(&["q"]);
        script.run(publish("q", 2));
        script.state = taken_over(&mut script);
        script.run(publish("q", 1));
        let queue = script.state.queue("default", "q").unwrap().id;
        let peeked = script.state.peek(queue, None, Offset(0), 9);
        let ids: vec::Vec<u64> = peeked.iter().map(|peeked| peeked.message_id.0).collect();
        assert_eq!(ids, vec![1, 2, 3 + limits::MESSAGE_ID_GAP]);
    }

    #[test]
    fn a_state_without_a_cluster_cannot_be_taken_over() {
        assert!(State::new().take_over(NEW).is_err());
    }
}
