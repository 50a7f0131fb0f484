//! `UpdateQueue`.

use super::{Answer, check_settings};
use crate::command::UpdateQueue;
use crate::outcome::{Outcome, Rejection};
use crate::settings::{QueueChanges, QueueSettings};
use crate::state::State;

impl State {
    pub(super) fn update_queue(&mut self, command: &UpdateQueue) -> Answer {
        let id = self.find_queue(&command.namespace, &command.queue)?;
        let Some(queue) = self.queues.get(&id) else {
            return Ok(Outcome::Done);
        };
        let current = queue.revision;
        if command.revision.is_some_and(|wanted| wanted != current) {
            return Err(Rejection::RevisionMismatch { current });
        }
        let settings = changed(&queue.settings, &command.changes);
        check_settings(&settings)?;
        if settings == queue.settings {
            return Ok(Outcome::Queue {
                id,
                revision: current,
                created: false,
            });
        }
        let other_target = settings.dead_letter != queue.settings.dead_letter;
        let revision = current.saturating_add(1);
        if other_target {
            self.stop_waiting(id);
        }
        if let Some((queue, _)) = self.change(id) {
            queue.became_ready |= queue.settings.paused && !settings.paused;
            queue.settings = settings;
            queue.revision = revision;
        }
        if other_target {
            self.wait_for_target(id);
        }
        Ok(Outcome::Queue {
            id,
            revision,
            created: false,
        })
    }
}

fn changed(there: &QueueSettings, changes: &QueueChanges) -> QueueSettings {
    let dead_letter = changes.dead_letter.as_ref();
    QueueSettings {
        lease_ms: changes.lease_ms.unwrap_or(there.lease_ms),
        max_deliveries: changes.max_deliveries.unwrap_or(there.max_deliveries),
        retry_backoff: changes.retry_backoff.unwrap_or(there.retry_backoff),
        dead_letter: dead_letter.unwrap_or(&there.dead_letter).clone(),
        paused: changes.paused.unwrap_or(there.paused),
    }
}
