//! `CreateQueue`.

use alloc::boxed::Box;
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
        self.queues.insert(id, Box::new(Queue::new(id, row)));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::*;
    use crate::*;
    use std::vec;

    #[test]
    fn the_same_again_is_fine_and_another_is_told_apart() {
        let mut script = Script::new();
        let made = |created| Outcome::Queue {
            id: QueueId(1),
            revision: 1,
            created,
        };
        let settings = QueueSettings::default;
        assert_eq!(script.run(create("q", settings())), made(true));
        assert_eq!(script.run(create("q", settings())), made(false));
        let other = QueueSettings {
            lease_ms: 1,
            paused: true,
            ..settings()
        };
        let differs = vec!["lease_ms", "paused"];
        assert_eq!(
            script.refused(create("q", other)),
            Rejection::QueueExists { differs }
        );
        let names: vec::Vec<&str> = script
            .state
            .queues("default", None)
            .map(|q| q.name)
            .collect();
        assert_eq!(names, vec!["q"]);
    }

    #[test]
    fn one_queue_too_many_is_refused_until_another_is_deleted() {
        let mut script = Script::new();
        let settings = QueueSettings::default;
        for place in 0..limits::QUEUES_MAX {
            script.run(create(&std::format!("q{place}"), settings()));
        }
        let too_many = Rejection::TooMany {
            what: "queues",
            limit: limits::QUEUES_MAX as u64,
        };
        assert_eq!(script.refused(create("more", settings())), too_many);
        let again = script.run(create("q0", settings()));
        assert!(matches!(again, Outcome::Queue { created: false, .. }));
        script.run(Command::DeleteQueue(crate::command::DeleteQueue {
            namespace: "default".into(),
            queue: "q0".into(),
            if_empty: true,
        }));
        script.run(create("more", settings()));
        assert_eq!(script.refused(create("q0", settings())), too_many);
    }

    #[test]
    fn settings_out_of_bounds_are_named() {
        let backoff = |base_ms, factor_percent, max_ms, jitter_percent| QueueSettings {
            retry_backoff: Some(RetryBackoff {
                base_ms,
                factor_percent,
                max_ms,
                jitter_percent,
            }),
            ..QueueSettings::default()
        };
        let lease = |lease_ms| QueueSettings {
            lease_ms,
            ..QueueSettings::default()
        };
        let cases = [
            ("settings.lease_ms", lease(0)),
            ("settings.lease_ms", lease(limits::LEASE_MS_MAX + 1)),
            ("settings.retry_backoff.base_ms", backoff(0, 100, 1, 0)),
            (
                "settings.retry_backoff.factor_percent",
                backoff(1, 99, 1, 0),
            ),
            ("settings.retry_backoff.max_ms", backoff(2, 100, 1, 0)),
            (
                "settings.retry_backoff.jitter_percent",
                backoff(1, 100, 1, 101),
            ),
            ("settings.dead_letter.routing_key", dead_to("", 1)),
        ];
        let mut script = Script::new();
        for (named, settings) in cases {
            match script.refused(create("q", settings)) {
                Rejection::InvalidField { field, .. } => assert_eq!(field, named),
                other => panic!("{named}: {other:?}"),
            }
        }
        assert_eq!(
            script.run(create("q", lease(limits::LEASE_MS_MAX))),
            Outcome::Queue {
                id: QueueId(1),
                revision: 1,
                created: true,
            }
        );
    }

    #[test]
    fn a_name_like_a_path_is_a_name() {
        let mut script = Script::with_queues(&["../../etc/passwd"]);
        script.run(publish("../../etc/passwd", 1));
        assert_eq!(script.counts("../../etc/passwd"), [1, 0, 0, 0]);
    }

    #[test]
    fn parked_dead_letters_move_in_a_thousand_at_a_time() {
        let mut script = Script::new();
        script.run(create("q", dead_to("dead", 1)));
        for _ in 0..2 {
            script.run(publish("q", 600));
        }
        for attempt in ["a", "b"] {
            script.receive("q", 1_000, attempt);
        }
        let reject = crate::command::SettleKind::Reject;
        script.settle(vec![range(0, 1_200, 1, reject)]);
        assert_eq!(script.counts("q"), [0, 0, 0, 1_200]);
        assert_eq!(script.state.next_deadline(), None);

        script.run(create("dead", QueueSettings::default()));
        assert_eq!(script.counts("q"), [0, 0, 0, 200]);
        assert_eq!(script.counts("dead"), [1_000, 0, 0, 0]);
        assert_eq!(script.state.next_deadline(), Some(script.state.lease_now()));
        script.pass(1);
        assert_eq!(script.counts("q"), [0, 0, 0, 0]);
        assert_eq!(script.counts("dead"), [1_200, 0, 0, 0]);
        assert_eq!(script.state.next_deadline(), None);
        let counters = script.queue("q").counters;
        assert_eq!(counters.dead_lettered_out, 1_200);
        assert_eq!(script.queue("dead").counters.dead_lettered_in, 1_200);
    }
}
