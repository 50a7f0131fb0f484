//! Failed deliveries: back with a delay, or given up into the dead-letter queue.

use ticketrail_core::{
    DeadLetter, Death, DeathReason, Fence, MessageId, Offset, QueueId, RetryBackoff, WallTime,
    limits,
};

use super::settle::remember;
use super::state::{Message, Model, Queue, Standing};

/// Where a given-up message can go.
enum Exit {
    /// To this queue.
    Move(QueueId),
    /// Away: its queue has no target.
    Drop,
    /// Nowhere yet: the target is not there.
    Wait,
}

impl Model {
    /// A delivery failed: by a nack (`fence`, perhaps with its own delay), or because its lease or
    /// its session ended.
    pub(super) fn fail(
        &mut self,
        id: QueueId,
        offset: Offset,
        delay_ms: Option<u64>,
        fence: Option<Fence>,
    ) {
        let now = self.lease_now;
        let seed = self.bootstrapped.map_or(0, |(_, seed)| seed);
        let queue = self.queue_mut(id);
        let limit = queue.settings.max_deliveries;
        let backoff = queue.settings.retry_backoff;
        let message = queue.message_mut(offset);
        if limit != 0 && message.deliveries >= limit {
            return self.give_up(id, offset, DeathReason::MaxDeliveries, fence);
        }
        let delay = match (delay_ms, backoff) {
            (Some(ms), _) => ms,
            (None, Some(backoff)) => backoff_ms(&backoff, message.deliveries, message.id, seed),
            (None, None) => 0,
        };
        if delay > 0 {
            message.standing = Standing::Delayed {
                due: now.plus_ms(delay),
            };
        } else {
            message.standing = Standing::Ready;
            queue.became_ready = true;
        }
    }

    /// The queue gives a message up: to its dead-letter queue, into parking, or away.
    pub(super) fn give_up(
        &mut self,
        id: QueueId,
        offset: Offset,
        reason: DeathReason,
        fence: Option<Fence>,
    ) {
        let (now, wall_now) = (self.lease_now, self.wall_now);
        let queue = self.queue_mut(id);
        if let Some(fence) = fence {
            remember(queue, offset, fence, now);
        }
        queue.message_mut(offset).standing = Standing::Parked {
            reason,
            at: wall_now,
        };
        match self.exit_of(&self.queues[&id]) {
            Exit::Wait => self.reached("given up and parked"),
            Exit::Drop => {
                self.reached("given up and dropped");
                self.drop_message(id, offset);
            }
            Exit::Move(target) => {
                self.reached("given up and dead-lettered");
                self.dead_letter(id, offset, target);
            }
        }
    }

    /// The first parked message that can go now: because its target is there, or because its
    /// queue has no target any more.
    pub(super) fn next_parked(&self) -> Option<(QueueId, Offset)> {
        self.queues.values().find_map(|queue| {
            if let Exit::Wait = self.exit_of(queue) {
                return None;
            }
            let mut messages = queue.messages.iter();
            let parked = messages.find(|m| matches!(m.standing, Standing::Parked { .. }))?;
            Some((queue.id, parked.offset))
        })
    }

    /// Lets a parked message go.
    pub(super) fn unpark(&mut self, id: QueueId, offset: Offset) {
        match self.exit_of(&self.queues[&id]) {
            Exit::Wait => unreachable!("only messages that can go are let go"),
            Exit::Drop => {
                self.reached("parked and dropped later");
                self.drop_message(id, offset);
            }
            Exit::Move(target) => {
                self.reached("parked and moved later");
                self.dead_letter(id, offset, target);
            }
        }
    }

    fn exit_of(&self, queue: &Queue) -> Exit {
        let Some(DeadLetter { routing_key }) = &queue.settings.dead_letter else {
            return Exit::Drop;
        };
        match self.queue(&queue.namespace, routing_key) {
            Some(target) => Exit::Move(target.id),
            None => Exit::Wait,
        }
    }

    fn drop_message(&mut self, id: QueueId, offset: Offset) {
        let queue = self.queue_mut(id);
        queue.take(offset);
        queue.tally.dropped += 1;
    }

    /// Moves a given-up message to the end of the target.
    fn dead_letter(&mut self, id: QueueId, offset: Offset, target: QueueId) {
        if target == id {
            self.reached("dead letter into its own queue");
        }
        let source = self.queue_mut(id);
        let mut message = source.take(offset);
        let Standing::Parked { reason, at } = message.standing else {
            unreachable!("only parked messages are moved");
        };
        add_death(&mut message.deaths, source.name.clone(), reason, at);
        source.tally.dead_lettered_out += 1;
        let target = self.queue_mut(target);
        target.messages.push(Message {
            offset: Offset(target.next_offset),
            deliveries: 0,
            standing: Standing::Ready,
            ..message
        });
        target.next_offset += 1;
        target.tally.dead_lettered_in += 1;
        target.became_ready = true;
    }
}

fn add_death(deaths: &mut Vec<Death>, queue: String, reason: DeathReason, now: WallTime) {
    let same = |death: &&mut Death| death.queue == queue && death.reason == reason;
    if let Some(death) = deaths.iter_mut().find(same) {
        death.count += 1;
        death.last_time = now;
        return;
    }
    deaths.push(Death {
        routing_key: queue.clone(),
        queue,
        reason,
        count: 1,
        first_time: now,
        last_time: now,
    });
    let too_many = deaths.len().saturating_sub(limits::DEATHS_MAX);
    deaths.drain(..too_many);
}

/// Delay after delivery number `deliveries` failed. The jitter's hash is the core's own; that what
/// comes out keeps the promised bounds is checked here, by other arithmetic.
fn backoff_ms(backoff: &RetryBackoff, deliveries: u32, message: MessageId, seed: u64) -> u64 {
    let delay = backoff.delay_ms(deliveries, seed, message);
    let growth = f64::from(backoff.factor_percent) / 100.0;
    let longest = backoff.base_ms as f64 * growth.powf(f64::from(deliveries - 1));
    let longest = longest.min(backoff.max_ms as f64);
    let shortest = longest * (1.0 - f64::from(backoff.jitter_percent) / 100.0);
    let slack = 2.0 + longest * 1e-6;
    let fits = (shortest - slack..=longest + slack).contains(&(delay as f64));
    assert!(
        fits,
        "{backoff:?} gave {delay} ms after delivery {deliveries}"
    );
    delay
}
