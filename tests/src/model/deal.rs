//! Granting: to consumers in turn, or once to a `Receive`.

use ticketrail_core::command::Receive;
use ticketrail_core::event::Event;
use ticketrail_core::outcome::Outcome;
use ticketrail_core::{Fence, Grant, LeaseTime, Offset, QueueId, SessionId, limits};

use super::state::{Attempt, Model, Queue, Standing};
use super::{Answer, normal::invalid};

impl Model {
    /// Hands out whatever is ready, on every queue. Where nothing was touched, nothing happens.
    pub(super) fn deal_everywhere(&mut self) {
        let ids: Vec<QueueId> = self.queues.keys().copied().collect();
        for id in ids {
            while self.deal_once(id) {}
        }
    }

    /// One turn of one consumer; false when there is nothing to grant or nobody to take it.
    fn deal_once(&mut self, id: QueueId) -> bool {
        let queue = &self.queues[&id];
        if queue.settings.paused {
            return false;
        }
        let Some(session) = queue.line.first().copied() else {
            return false;
        };
        let ready = first_ready(queue, limits::ROUND_ROBIN_QUANTUM as usize);
        if ready.is_empty() {
            return false;
        }
        let credit = self.credit(queue, session) as usize;
        let (owner, lease_ms) = {
            let session = &self.sessions[&session];
            let lease_ms = session.lease_ms.unwrap_or(queue.settings.lease_ms);
            (session.owner, lease_ms)
        };
        for offset in ready.into_iter().take(credit) {
            let grant = self.lease(id, offset, lease_ms, Some(session));
            self.events.push(Event::Delivered {
                session,
                owner,
                grant,
            });
        }
        self.queue_mut(id).line.remove(0);
        self.line_up(Some(session));
        true
    }

    /// A consumer that has become able to take messages joins the end of its queue's line; one
    /// that is no longer able leaves it.
    pub(super) fn line_up(&mut self, session: Option<SessionId>) {
        let Some(session) = session else { return };
        let id = self.sessions[&session].queue;
        let able = self.credit(&self.queues[&id], session) > 0;
        let line = &mut self.queue_mut(id).line;
        if !able {
            line.retain(|other| *other != session);
        } else if !line.contains(&session) {
            line.push(session);
        }
    }

    /// How many more messages a consumer may be handed.
    fn credit(&self, queue: &Queue, session: SessionId) -> u32 {
        let held = queue.held_by(session).len();
        let session = &self.sessions[&session];
        if session.grace.is_some() {
            return 0;
        }
        let held = u32::try_from(held).expect("queues of tests are small");
        session.prefetch.saturating_sub(held)
    }

    fn lease(
        &mut self,
        id: QueueId,
        offset: Offset,
        lease_ms: u64,
        holder: Option<SessionId>,
    ) -> Grant {
        let deadline = self.lease_now.plus_ms(lease_ms);
        let queue = self.queue_mut(id);
        queue.last_fence += 1;
        let fence = Fence(queue.last_fence);
        let message = queue.message_mut(offset);
        message.deliveries += 1;
        message.standing = Standing::Leased {
            fence,
            deadline,
            holder,
        };
        let grant = message.grant(id).expect("just leased");
        queue.tally.granted += 1;
        if grant.delivery_count > 1 {
            queue.tally.redelivered += 1;
            self.reached("redelivery");
        }
        grant
    }

    pub(super) fn receive(&mut self, c: &Receive) -> Answer {
        if !(1..=limits::RECEIVE_MESSAGES_MAX).contains(&c.max_messages) {
            return Err(invalid("max_messages"));
        }
        if c.lease_ms.is_some_and(|ms| ms > limits::LEASE_MS_MAX) {
            return Err(invalid("lease_ms"));
        }
        if !(1..=limits::ATTEMPT_ID_BYTES_MAX).contains(&c.attempt.len()) {
            return Err(invalid("attempt"));
        }
        let queue = self.need_queue(&c.namespace, &c.queue)?;
        let id = queue.id;
        if let Some(attempt) = queue.attempts.iter().find(|a| self.recalls(a, &c.attempt)) {
            let grants = still_held(queue, attempt);
            self.reached("receive attempt asked again");
            return Ok(Outcome::Received { grants });
        }
        if queue.settings.paused {
            let grants = Vec::new();
            return Ok(Outcome::Received { grants });
        }
        let lease_ms = c.lease_ms.unwrap_or(queue.settings.lease_ms);
        let offsets = first_ready(queue, c.max_messages as usize);
        if lease_ms == 0 {
            let now = self.lease_now;
            let shown = offsets.iter().map(|offset| show(queue, *offset, now));
            let grants: Vec<Grant> = shown.collect();
            if !grants.is_empty() {
                self.reached("receive that only looks");
            }
            return Ok(Outcome::Received { grants });
        }
        let mut grants = Vec::new();
        for offset in offsets {
            grants.push(self.lease(id, offset, lease_ms, None));
        }
        if !grants.is_empty() {
            self.remember_attempt(id, c, &grants);
        }
        Ok(Outcome::Received { grants })
    }

    /// Is this the attempt of that id, and still remembered?
    pub(super) fn recalls(&self, attempt: &Attempt, id: &[u8]) -> bool {
        let until = attempt.at.plus_ms(limits::ATTEMPT_MEMORY_MS);
        attempt.id == id && self.lease_now < until
    }

    fn remember_attempt(&mut self, id: QueueId, c: &Receive, grants: &[Grant]) {
        let at = self.lease_now;
        let queue = self.queue_mut(id);
        queue.attempts.retain(|a| a.id != c.attempt);
        let leases = grants.iter().map(|g| (g.first_offset, g.first_fence));
        queue.attempts.push(Attempt {
            id: c.attempt.clone(),
            at,
            leases: leases.collect(),
        });
        let too_many = queue.attempts.len().saturating_sub(limits::ATTEMPTS_MAX);
        queue.attempts.drain(..too_many);
    }
}

fn first_ready(queue: &Queue, limit: usize) -> Vec<Offset> {
    let ready = queue.messages.iter().filter(|m| m.is_ready());
    ready.map(|m| m.offset).take(limit).collect()
}

fn still_held(queue: &Queue, attempt: &Attempt) -> Vec<Grant> {
    let leases = attempt.leases.iter();
    let grants = leases.filter_map(|(offset, fence)| {
        let grant = queue.message(*offset)?.grant(queue.id)?;
        (grant.first_fence == *fence).then_some(grant)
    });
    grants.collect()
}

/// A message as a lease of 0 ms shows it: as if granted, but nothing is held.
fn show(queue: &Queue, offset: Offset, now: LeaseTime) -> Grant {
    let message = queue.message(offset).expect("just listed");
    Grant {
        queue: queue.id,
        first_offset: offset,
        count: 1,
        first_fence: Fence(0),
        first_message_id: message.id,
        body: message.body,
        delivery_count: message.deliveries + 1,
        deadline: now,
        published_at: message.published_at,
        deaths: message.deaths.clone(),
    }
}
