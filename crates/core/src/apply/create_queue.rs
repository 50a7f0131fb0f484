//! `CreateQueue`.

use alloc::vec::Vec;

use super::{Answer, check_name, check_settings};
use crate::command::CreateQueue;
use crate::id::{Fence, Offset, QueueId};
use crate::limits;
use crate::outcome::{Outcome, Rejection};
use crate::queue::Queue;
use crate::row::{Counters, QueueRow};
use crate::settings::QueueSettings;
use crate::state::State;

impl State {
    pub(super) fn create_queue(&mut self, command: &CreateQueue) -> Answer {
        check_name("queue", &command.queue)?;
        check_settings(&command.settings)?;
        match self.find_queue(&command.namespace, &command.queue) {
            Ok(id) => return self.same_queue(id, &command.settings),
            Err(Rejection::QueueNotFound { .. }) => {}
            Err(rejection) => return Err(rejection),
        }
        if self.queues.len() >= limits::QUEUES_MAX {
            return Err(Rejection::TooMany {
                what: "queues",
                limit: limits::QUEUES_MAX as u64,
            });
        }
        let id = self.add_queue(command);
        Ok(Outcome::Queue {
            id,
            revision: 1,
            created: true,
        })
    }

    fn same_queue(&self, id: QueueId, wanted: &QueueSettings) -> Answer {
        let Some(queue) = self.queues.get(&id) else {
            return Ok(Outcome::Done);
        };
        let differs = differences(&queue.settings, wanted);
        if !differs.is_empty() {
            return Err(Rejection::QueueExists { differs });
        }
        Ok(Outcome::Queue {
            id,
            revision: queue.revision,
            created: false,
        })
    }

    fn add_queue(&mut self, command: &CreateQueue) -> QueueId {
        let id = self.next_queue;
        self.next_queue = QueueId(id.0.saturating_add(1));
        let row = QueueRow {
            namespace: command.namespace.clone(),
            name: command.queue.clone(),
            revision: 1,
            settings: command.settings.clone(),
            counters: Counters::default(),
            next_offset: Offset(0),
            next_fence: Fence(1),
            next_turn: 0,
            next_attempt: 0,
        };
        self.queues.insert(id, Queue::new(id, row));
        self.shared.touch(id);
        if let Some(namespace) = self.namespaces.get_unmarked(&command.namespace) {
            namespace.queues.insert(command.queue.clone(), id);
            let waiting = namespace.waiting.remove(&command.queue);
            self.unparking.extend(waiting.into_iter().flatten());
        }
        id
    }
}

/// Names of the settings that differ.
fn differences(there: &QueueSettings, wanted: &QueueSettings) -> Vec<&'static str> {
    let settings = [
        ("lease_ms", there.lease_ms != wanted.lease_ms),
        (
            "max_deliveries",
            there.max_deliveries != wanted.max_deliveries,
        ),
        ("retry_backoff", there.retry_backoff != wanted.retry_backoff),
        ("dead_letter", there.dead_letter != wanted.dead_letter),
        ("paused", there.paused != wanted.paused),
    ];
    let differing = settings.into_iter().filter(|(_, differs)| *differs);
    differing.map(|(name, _)| name).collect()
}
