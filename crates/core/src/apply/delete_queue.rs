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
        let messages = self.queues.get(&id).map_or(0, Queue::messages);
        if command.if_empty && messages > 0 {
            return Err(Rejection::QueueNotEmpty { messages });
        }
        self.stop_waiting(id);
        if let Some(queue) = self.queues.remove(&id) {
            for session in &queue.sessions {
                self.end_with_queue(*session, &queue);
            }
            self.remove_queue(queue);
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
