//! `DeleteQueue`.

use alloc::vec::Vec;

use super::Answer;
use crate::command::DeleteQueue;
use crate::event::{Event, SessionEnd};
use crate::id::{QueueId, SessionId};
use crate::outcome::{Outcome, Rejection};
use crate::queue::Queue;
use crate::shared::Timer;
use crate::state::State;

impl State {
    pub(super) fn delete_queue(&mut self, command: &DeleteQueue) -> Answer {
        let id = self.find_queue(&command.namespace, &command.queue)?;
        let messages = self.queues.get(&id).map_or(0, |queue| queue.messages());
        if command.if_empty && messages > 0 {
            return Err(Rejection::QueueNotEmpty { messages });
        }
        self.stop_waiting(id);
        if let Some(queue) = self.queues.remove(&id) {
            for session in &queue.sessions {
                self.end_with_queue(*session, &queue);
            }
            self.remove_queue(*queue);
        }
        Ok(Outcome::Deleted { messages })
    }

    /// Ends a session whose queue goes away with all leases.
    fn end_with_queue(&mut self, id: SessionId, queue: &Queue) {
        let Some(session) = self.shared.sessions.remove(&id) else {
            return;
        };
        if let Some(until) = session.row.grace_until {
            self.shared.timers.remove(&(until, Timer::Grace(id)));
        }
        let owner = session.row.owner;
        for first in session.leases {
            let count = queue.leases.get(&first).map_or(0, |lease| lease.count);
            self.tell_lost(id, owner, queue.id, first, count);
        }
        self.shared.events.push(Event::SessionEnded {
            session: id,
            owner,
            why: SessionEnd::QueueDeleted,
        });
    }

    fn remove_queue(&mut self, queue: Queue) {
        queue.dismantle(&mut self.shared);
        if let Some(namespace) = self.namespaces.get_unmarked(&queue.namespace) {
            namespace.queues.remove(&queue.name);
        }
        // Those whose parked messages were on their way here wait again.
        let unparking: Vec<QueueId> = self.unparking.iter().copied().collect();
        for source in unparking {
            self.wait_for_target(source);
        }
        self.shared.events.push(Event::QueueDeleted {
            queue: queue.id,
            namespace: queue.namespace,
            name: queue.name,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::*;
    use crate::*;
    use std::vec;

    fn delete(queue: &str, if_empty: bool) -> Command {
        Command::DeleteQueue(DeleteQueue {
            namespace: "default".into(),
            queue: queue.into(),
            if_empty,
        })
    }

    #[test]
    fn everything_goes_and_everybody_is_told() {
        let mut script = Script::with_queues(&["q"]);
        script.run(publish("q", 30));
        script.run(attach("q", 1, 5));
        script.run(attach("q", 2, 5));
        script.run(detach(2, false));
        script.receive("q", 3, "a");
        let nack = crate::command::SettleKind::Nack {
            delay_ms: Some(9_000),
        };
        script.settle(vec![range(10, 1, 11, nack)]);
        let busy = Rejection::QueueNotEmpty { messages: 30 };
        assert_eq!(script.refused(delete("q", true)), busy);

        assert_eq!(
            script.run(delete("q", false)),
            Outcome::Deleted { messages: 30 }
        );
        let told = vec![
            "s1 loses 0-4",
            "s1 ends QueueDeleted",
            "s2 loses 5-9",
            "s2 ends QueueDeleted",
            "q1 `q` deleted",
        ];
        assert_eq!(script.events, told);
        assert_eq!(script.state.next_deadline(), None);
        assert_eq!(script.state.sessions().count(), 0);
        assert!(!script.state.body_is_live(0, u64::MAX));
        assert!(matches!(
            script.refused(delete("q", false)),
            Rejection::QueueNotFound { .. }
        ));
    }

    #[test]
    fn the_next_of_that_name_is_another() {
        let mut script = Script::with_queues(&["q"]);
        script.run(publish("q", 1));
        let grant = script.receive("q", 1, "a").pop().unwrap();
        script.run(delete("q", false));
        script.run(create("q", QueueSettings::default()));
        script.run(publish("q", 1));
        script.receive("q", 1, "a");
        let ack = range(0, 1, grant.first_fence.0, crate::command::SettleKind::Ack);
        assert_eq!(script.settle(vec![ack]), vec!["0 NotFound"]);
        assert_eq!(script.queue("q").id, QueueId(2));
        assert_eq!(script.counts("q"), [0, 0, 1, 0]);
    }

    #[test]
    fn a_dead_letter_target_that_goes_is_waited_for() {
        let mut script = Script::new();
        script.run(create("q", dead_to("dead", 1)));
        for attempt in ["a", "b"] {
            script.run(publish("q", 600));
            script.receive("q", 600, attempt);
        }
        let reject = crate::command::SettleKind::Reject;
        script.settle(vec![range(0, 1_200, 1, reject)]);
        script.run(create("dead", QueueSettings::default()));
        assert_eq!(script.counts("q"), [0, 0, 0, 200]);
        script.run(delete("dead", false));
        assert_eq!(script.state.next_deadline(), None);
        assert_eq!(script.counts("q"), [0, 0, 0, 200]);
        script.run(create("dead", QueueSettings::default()));
        assert_eq!(script.counts("q"), [0, 0, 0, 0]);
        assert_eq!(script.counts("dead"), [200, 0, 0, 0]);
        assert_eq!(
            script.run(delete("q", false)),
            Outcome::Deleted { messages: 0 }
        );
    }

    #[test]
    fn a_long_backlog_goes_by_its_ranges() {
        let mut script = Script::with_queues(&["q"]);
        let thousand = |_| publish("q", 1_000);
        script.entry(Stamps::default(), (0..1_000).map(thousand).collect());
        let rows = script.state.rows().len();
        assert!(rows < 1_010, "{rows} rows for a million messages");
        let all = Outcome::Deleted {
            messages: 1_000_000,
        };
        assert_eq!(script.run(delete("q", false)), all);
        assert!(!script.state.body_is_live(0, u64::MAX));
        // The cluster, its namespace, and nothing else.
        assert_eq!(script.state.rows().len(), 2);
    }
}
