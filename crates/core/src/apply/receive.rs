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
        if queue.settings.paused || queue.ready.count() == 0 {
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
