//! `Receive`.

use alloc::vec::Vec;

use super::{Answer, check};
use crate::command::Receive;
use crate::id::{LeaseTime, Offset};
use crate::limits;
use crate::message::Grant;
use crate::outcome::Outcome;
use crate::queue::Queue;
use crate::state::State;

impl State {
    pub(super) fn receive(&mut self, command: &Receive) -> Answer {
        check_receive(command)?;
        let id = self.find_queue(&command.namespace, &command.queue)?;
        let now = self.shared.lease_now;
        let Some(queue) = self.queues.get(&id) else {
            return Ok(Outcome::Done);
        };
        let max = u64::from(command.max_messages);
        if let Some(attempt) = queue.attempt(&command.attempt, now) {
            let grants = queue.grants_of_attempt(attempt);
            return Ok(Outcome::Received { grants });
        }
        if queue.settings.paused || queue.ready.len() == 0 {
            let grants = Vec::new();
            return Ok(Outcome::Received { grants });
        }
        let lease_ms = command.lease_ms.unwrap_or(queue.settings.lease_ms);
        if lease_ms == 0 {
            let grants = show(queue, max, now);
            return Ok(Outcome::Received { grants });
        }
        let mut grants = Vec::new();
        if let Some((queue, shared)) = self.change(id) {
            let deadline = now.plus_ms(lease_ms);
            let mut left = max;
            while let Some(grant) = queue.grant_front(left, deadline, None, shared) {
                left = left.saturating_sub(u64::from(grant.count));
                grants.push(grant);
            }
            queue.remember_attempt(command.attempt.clone(), &grants, shared);
        }
        Ok(Outcome::Received { grants })
    }
}

fn check_receive(command: &Receive) -> Result<(), crate::outcome::Rejection> {
    check(
        (1..=limits::RECEIVE_MESSAGES_MAX).contains(&command.max_messages),
        "max_messages",
        "be 1 to 1,000",
    )?;
    check(
        command.lease_ms.unwrap_or(0) <= limits::LEASE_MS_MAX,
        "lease_ms",
        "be 0 ms to 12 h",
    )?;
    check(
        (1..=limits::ATTEMPT_ID_BYTES_MAX).contains(&command.attempt.len()),
        "attempt",
        "be 1 to 128 bytes",
    )
}

/// Up to `max` ready messages, leased to nobody.
fn show(queue: &Queue, max: u64, now: LeaseTime) -> Vec<Grant> {
    let mut grants = Vec::new();
    let mut from = Offset(0);
    let mut left = max;
    while let Some(grant) = queue.show(from, left, now) {
        let count = u64::from(grant.count);
        left = left.saturating_sub(count);
        from = grant.first_offset.plus(count);
        grants.push(grant);
    }
    grants
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::*;
    use crate::*;
    use std::vec;

    use std::string::ToString;
    use std::vec::Vec as StdVec;

    fn with_lease(lease_ms: u64, attempt: &str) -> Command {
        Command::Receive(Receive {
            namespace: "default".into(),
            queue: "q".into(),
            max_messages: 10,
            lease_ms: Some(lease_ms),
            attempt: attempt.as_bytes().to_vec(),
        })
    }

    fn ack(at: u64) -> crate::command::SettleRange {
        range(at, 1, at + 1, crate::command::SettleKind::Ack)
    }

    #[test]
    fn leases_in_order_what_goes_together() {
        let mut script = Script::with_queues(&["q"]);
        script.run(publish("q", 3));
        script.run(publish("q", 3));
        assert_eq!(
            in_words(&script.receive("q", 5, "a")),
            vec!["0-2@1 x1", "3-4@4 x1"]
        );
        assert_eq!(in_words(&script.receive("q", 5, "b")), vec!["5@6 x1"]);
        assert_eq!(script.receive("q", 5, "c"), vec![]);
        assert_eq!(script.counts("q"), [0, 0, 6, 0]);
        let lease = script.state.lease_now().plus_ms(limits::LEASE_MS_DEFAULT);
        assert_eq!(script.state.next_deadline(), Some(lease));
    }

    #[test]
    fn a_repeated_attempt_gets_what_it_still_holds() {
        let mut script = Script::with_queues(&["q"]);
        script.run(publish("q", 9));
        script.receive("q", 4, "a");
        script.settle(vec![
            ack(1),
            range(2, 1, 3, crate::command::SettleKind::Release),
        ]);
        assert_eq!(
            in_words(&script.receive("q", 4, "a")),
            vec!["0@1 x1", "3@4 x1"]
        );
        script.receive("q", 1, "b");
        assert_eq!(
            in_words(&script.receive("q", 4, "a")),
            vec!["0@1 x1", "3@4 x1"]
        );
        let extend = crate::command::SettleKind::Extend { lease_ms: 70_000 };
        script.settle(vec![range(0, 1, 1, extend)]);
        assert_eq!(script.receive("q", 4, "a")[0].deadline, LeaseTime(70_000));
    }

    #[test]
    fn an_attempt_is_forgotten_in_time_and_an_empty_answer_at_once() {
        let mut script = Script::with_queues(&["q"]);
        script.receive("q", 1, "a");
        script.run(publish("q", 2));
        assert_eq!(in_words(&script.receive("q", 1, "a")), vec!["0@1 x1"]);
        script.settle(vec![ack(0)]);
        script.pass(limits::ATTEMPT_MEMORY_MS - 1);
        assert_eq!(script.receive("q", 1, "a"), vec![]);
        script.pass(1);
        assert_eq!(in_words(&script.receive("q", 1, "a")), vec!["1@2 x1"]);
    }

    #[test]
    fn beyond_the_cap_the_oldest_attempts_are_forgotten() {
        let mut script = Script::with_queues(&["q"]);
        let many = limits::ATTEMPTS_MAX as u32 + 2;
        for _ in 0..many / 1_000 {
            script.run(publish("q", 1_000));
        }
        script.run(publish("q", 10));
        let stamps = Stamps::default();
        let attempts = (0..limits::ATTEMPTS_MAX + 1).map(|n| receive("q", 1, &n.to_string()));
        script.entry(stamps, attempts.collect());
        assert_eq!(in_words(&script.receive("q", 1, "1")), vec!["1@2 x1"]);
        assert_eq!(
            in_words(&script.receive("q", 1, "0")),
            vec!["10001@10002 x1"]
        );
    }

    #[test]
    fn a_lease_of_nothing_shows_and_changes_nothing() {
        let mut script = Script::with_queues(&["q"]);
        script.run(publish("q", 2));
        script.run(publish("q", 1));
        for _ in 0..2 {
            match script.run(with_lease(0, "a")) {
                Outcome::Received { grants } => {
                    assert_eq!(in_words(&grants), vec!["0-1@0 x1", "2@0 x1"]);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(script.counts("q"), [3, 0, 0, 0]);
        assert_eq!(
            script.settle(vec![range(0, 1, 0, crate::command::SettleKind::Ack)]),
            vec!["0 LeaseLost"]
        );
    }

    #[test]
    fn bounds_are_named() {
        let mut script = Script::with_queues(&["q"]);
        let mut field = |command| match script.refused(command) {
            Rejection::InvalidField { field, .. } => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(receive("q", 0, "a")), "max_messages");
        assert_eq!(field(receive("q", 1_001, "a")), "max_messages");
        assert_eq!(field(with_lease(limits::LEASE_MS_MAX + 1, "a")), "lease_ms");
        assert_eq!(field(receive("q", 1, "")), "attempt");
        assert_eq!(field(receive("q", 1, &"x".repeat(129))), "attempt");
        let missing = script.refused(receive("none", 1, "a"));
        assert!(matches!(missing, Rejection::QueueNotFound { .. }));
        let names: StdVec<&str> = script
            .state
            .queues("default", None)
            .map(|q| q.name)
            .collect();
        assert_eq!(names, vec!["q"]);
    }
}
