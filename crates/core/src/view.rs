//! What can be read of the state without changing it.

use alloc::vec::Vec;

use crate::id::{
    LeaseTime, MessageId, NodeId, Offset, Owner, ProducerId, QueueId, SessionId, WallTime,
};
use crate::message::{BodyRef, Death, Grant};
use crate::row::{Counters, NodeRow};
use crate::settings::QueueSettings;
use crate::state::State;

/// Where a message is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageState {
    /// To be granted next.
    Ready,
    /// To be ready when it is due.
    Delayed,
    /// Leased.
    InFlight,
    /// A dead letter whose target is not there.
    Parked,
}

/// A queue, as it is.
#[derive(Clone, Copy, Debug)]
pub struct QueueView<'a> {
    /// Its incarnation.
    pub id: QueueId,
    /// Changes of settings, from 1.
    pub revision: u64,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its settings.
    pub settings: &'a QueueSettings,
    /// What came and went.
    pub counters: &'a Counters,
    /// Messages ready.
    pub ready: u64,
    /// Messages delayed.
    pub delayed: u64,
    /// Messages leased.
    pub in_flight: u64,
    /// Dead letters whose target is not there; above 0 an operator should look.
    pub parked: u64,
    /// Bytes of all these, exact to within a publish.
    pub bytes: u64,
    /// Sessions on it, those in their grace included.
    pub consumers: u64,
    /// Offset that the next message gets.
    pub next_offset: Offset,
    /// When the first ready message in line was published.
    pub oldest_ready: Option<WallTime>,
}

/// A message, looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peeked {
    /// Its place in the queue.
    pub offset: Offset,
    /// Its id.
    pub message_id: MessageId,
    /// Its bytes.
    pub body: BodyRef,
    /// Where it is in its life.
    pub state: MessageState,
    /// How often it was granted.
    pub delivery_count: u32,
    /// Death history, oldest first.
    pub deaths: Vec<Death>,
    /// When it was published.
    pub published_at: WallTime,
    /// When a delayed message is ready, or a lease ends.
    pub due: Option<LeaseTime>,
}

/// A consumer's session, as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Which.
    pub session: SessionId,
    /// The queue that it consumes.
    pub queue: QueueId,
    /// Who serves it, or last did.
    pub owner: Owner,
    /// False during its grace.
    pub connected: bool,
    /// Most unsettled deliveries.
    pub prefetch: u32,
    /// Unsettled deliveries.
    pub held: u64,
}

/// An idempotent producer, as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerView {
    /// Its newest epoch.
    pub epoch: u32,
    /// The last sequence stored, 0 at first.
    pub last_sequence: u64,
}

impl State {
    /// What is known of a node id; none where it was never taken.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<NodeRow> {
        self.nodes.get(&id).copied()
    }

    /// All node ids that were ever taken, ascending.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, NodeRow)> {
        self.nodes.iter().map(|(id, row)| (*id, *row))
    }

    /// Names of all namespaces, ascending.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.namespaces.keys().map(|name| name.as_str())
    }

    /// Is there a namespace of this name?
    #[must_use]
    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.get(namespace).is_some()
    }

    /// The queue of this name.
    #[must_use]
    pub fn queue(&self, namespace: &str, name: &str) -> Option<QueueView<'_>> {
        self.queue_by_id(self.queue_id(namespace, name)?)
    }

    /// The queue of this incarnation.
    #[must_use]
    pub fn queue_by_id(&self, id: QueueId) -> Option<QueueView<'_>> {
        self.queues.get(&id).map(|queue| queue.view())
    }

    /// Queues of a namespace in name order, those after `after` if given.
    pub fn queues<'a>(
        &'a self,
        namespace: &str,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = QueueView<'a>> {
        use core::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.namespaces
            .get(namespace)
            .into_iter()
            .flat_map(move |space| space.queues.range::<str, _>((from, Unbounded)))
            .filter_map(|(_, id)| self.queue_by_id(*id))
    }

    /// Queues of all namespaces in the order in which they were made, those after `after` if given:
    /// an order that nothing but a deletion changes.
    pub fn queues_in_order(&self, after: Option<QueueId>) -> impl Iterator<Item = QueueView<'_>> {
        use core::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        let queues = self.queues.range((from, Unbounded));
        queues.map(|(_, queue)| queue.view())
    }

    /// How many queues there are.
    #[must_use]
    pub fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// Up to `limit` messages of a queue from offset `from` on, in order; all or those of one
    /// state. Nothing if the queue is gone.
    #[must_use]
    pub fn peek(
        &self,
        queue: QueueId,
        only: Option<MessageState>,
        from: Offset,
        limit: usize,
    ) -> Vec<Peeked> {
        self.queues
            .get(&queue)
            .map(|queue| queue.peek(only, from, limit))
            .unwrap_or_default()
    }

    /// A session.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<SessionView> {
        self.shared
            .sessions
            .get(&id)
            .map(|session| session.view(id))
    }

    /// All sessions, ascending.
    pub fn sessions(&self) -> impl Iterator<Item = SessionView> {
        self.shared
            .sessions
            .iter()
            .map(|(id, session)| session.view(*id))
    }

    /// Whether a receive attempt was answered and is remembered, though of what it was granted
    /// nothing may be left.
    #[must_use]
    pub fn remembers_attempt(&self, queue: QueueId, attempt: &[u8]) -> bool {
        let queue = self.queues.get(&queue);
        queue.is_some_and(|queue| queue.attempt(attempt, self.shared.lease_now).is_some())
    }

    /// What a session holds, in queue order.
    #[must_use]
    pub fn held(&self, id: SessionId) -> Vec<Grant> {
        let Some(session) = self.shared.sessions.get(&id) else {
            return Vec::new();
        };
        self.queues
            .get(&session.row.queue)
            .map(|queue| queue.grants_held(session))
            .unwrap_or_default()
    }

    /// Does any message refer to a body in the log entries `first_index..=last_index`? May say
    /// yes for a neighbour within [`crate::limits::BODY_BUCKET_INDEXES`], never no wrongly.
    #[must_use]
    pub fn body_is_live(&self, first_index: u64, last_index: u64) -> bool {
        self.shared.bodies.any_live(first_index, last_index)
    }

    /// The log entries, as first and last index, in which live bodies are; ascending, and whole
    /// buckets of [`crate::limits::BODY_BUCKET_INDEXES`]. Outside of them none is live.
    #[must_use]
    pub fn live_bodies(&self) -> Vec<(u64, u64)> {
        self.shared.bodies.live_runs()
    }

    /// A producer of this namespace.
    #[must_use]
    pub fn producer(&self, namespace: &str, id: ProducerId) -> Option<ProducerView> {
        let row = &self.producers.get(&id)?.row;
        (row.namespace == namespace).then_some(ProducerView {
            epoch: row.epoch,
            last_sequence: row.last_sequence,
        })
    }

    /// Producers remembered.
    #[must_use]
    pub fn producers(&self) -> usize {
        self.producers.len()
    }

    /// Messages accepted, ever, that reached no queue.
    #[must_use]
    pub fn unroutable(&self) -> u64 {
        self.unroutable
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::SettleKind;
    use crate::script::*;
    use crate::*;
    use std::vec;

    #[test]
    fn queues_are_listed_in_name_order_and_page_by_page() {
        let script = Script::with_queues(&["b", "c", "a"]);
        let names = |after| {
            let queues = script.state.queues("default", after);
            queues.map(|queue| queue.name).collect::<Vec<_>>()
        };
        assert_eq!(names(None), vec!["a", "b", "c"]);
        assert_eq!(names(Some("a")), vec!["b", "c"]);
        assert_eq!(names(Some("bb")), vec!["c"]);
        assert_eq!(script.state.queues("none", None).count(), 0);
        let made = |after| {
            let queues = script.state.queues_in_order(after);
            queues.map(|queue| queue.name).collect::<Vec<_>>()
        };
        assert_eq!(made(None), vec!["b", "c", "a"]);
        assert_eq!(made(Some(QueueId(1))), vec!["c", "a"]);
        assert_eq!(script.state.queue_count(), 3);
    }

    #[test]
    fn peeking_tells_every_state_and_changes_nothing() {
        let mut script = Script::new();
        script.run(create("q", dead_to("missing", 3)));
        script.run(publish("q", 5));
        script.receive("q", 4, "a");
        let later = SettleKind::Nack {
            delay_ms: Some(700),
        };
        let reject = SettleKind::Reject;
        script.settle(vec![range(0, 1, 1, later), range(2, 1, 3, reject)]);
        let before = script.state.rows();
        let told = |only, from, limit| {
            let peeked = script.state.peek(QueueId(1), only, Offset(from), limit);
            peeked
                .iter()
                .map(|p| {
                    (
                        p.offset.0,
                        p.state,
                        p.delivery_count,
                        p.due.map(|due| due.0),
                    )
                })
                .collect::<Vec<_>>()
        };
        let lease = Some(limits::LEASE_MS_DEFAULT);
        let all = vec![
            (0, MessageState::Delayed, 1, Some(700)),
            (1, MessageState::InFlight, 1, lease),
            (2, MessageState::Parked, 1, None),
            (3, MessageState::InFlight, 1, lease),
            (4, MessageState::Ready, 0, None),
        ];
        assert_eq!(told(None, 0, 9), all);
        assert_eq!(told(None, 2, 2), all[2..4]);
        assert_eq!(told(Some(MessageState::InFlight), 2, 9), all[3..4]);
        assert_eq!(told(None, u64::MAX, 9), vec![]);
        assert_eq!(script.state.peek(QueueId(9), None, Offset(0), 9), vec![]);
        assert_eq!(script.state.rows(), before);
    }
}
