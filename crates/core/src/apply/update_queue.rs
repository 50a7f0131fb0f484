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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::*;
    use crate::*;
    use std::vec;

    fn update(changes: QueueChanges, revision: Option<u64>) -> Command {
        Command::UpdateQueue(UpdateQueue {
            namespace: "default".into(),
            queue: "q".into(),
            changes,
            revision,
        })
    }

    fn pause(paused: bool) -> QueueChanges {
        QueueChanges {
            paused: Some(paused),
            ..QueueChanges::default()
        }
    }

    fn revision(outcome: &Outcome) -> u64 {
        match outcome {
            Outcome::Queue { revision, .. } => *revision,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn revisions_count_changes() {
        let mut script = Script::with_queues(&["q"]);
        assert_eq!(
            revision(&script.run(update(QueueChanges::default(), None))),
            1
        );
        assert_eq!(revision(&script.run(update(pause(true), Some(1)))), 2);
        let stale = Rejection::RevisionMismatch { current: 2 };
        assert_eq!(script.refused(update(pause(false), Some(1))), stale);
        let bad = QueueChanges {
            lease_ms: Some(0),
            ..QueueChanges::default()
        };
        let rejection = script.refused(update(bad, None));
        assert!(matches!(
            rejection,
            Rejection::InvalidField {
                field: "settings.lease_ms",
                ..
            }
        ));
    }

    #[test]
    fn a_paused_queue_takes_and_gives_nothing() {
        let mut script = Script::with_queues(&["q"]);
        script.run(attach("q", 1, 10));
        script.run(update(pause(true), None));
        script.run(publish("q", 2));
        assert_eq!(script.events, vec![""; 0]);
        assert_eq!(script.receive("q", 1, "a"), vec![]);
        script.run(update(pause(false), None));
        assert_eq!(script.events, vec!["s1 gets 0-1@1 x1"]);
    }

    #[test]
    fn who_waits_is_told_when_the_pause_ends() {
        let mut script = Script::with_queues(&["q"]);
        script.run(update(pause(true), None));
        script.run(publish("q", 2));
        script.run(update(pause(false), None));
        assert_eq!(script.events, vec!["q1 ready"]);
    }

    #[test]
    fn parked_messages_follow_the_target() {
        let mut script = Script::with_queues(&["q", "dead"]);
        let target = |dead_letter| {
            let changes = QueueChanges {
                dead_letter: Some(dead_letter),
                ..QueueChanges::default()
            };
            update(changes, None)
        };
        let to = |name: &str| {
            target(Some(DeadLetter {
                routing_key: name.into(),
            }))
        };
        let reject = |at| range(at, 1, at + 1, crate::command::SettleKind::Reject);
        script.run(publish("q", 3));
        script.receive("q", 3, "a");

        script.run(to("missing"));
        script.settle(vec![reject(0), reject(1)]);
        assert_eq!(script.counts("q"), [0, 0, 1, 2]);
        script.run(to("dead"));
        assert_eq!(script.counts("q"), [0, 0, 1, 0]);
        assert_eq!(script.counts("dead"), [2, 0, 0, 0]);

        script.run(to("missing"));
        script.settle(vec![reject(2)]);
        assert_eq!(script.counts("q"), [0, 0, 0, 1]);
        script.run(target(None));
        assert_eq!(script.counts("q"), [0, 0, 0, 0]);
        assert_eq!(script.queue("q").counters.dropped, 1);
    }
}
