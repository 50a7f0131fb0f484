//! What becomes of a message whose delivery failed: another try later, the dead-letter target,
//! parked until that is there, or dropped and counted.

use alloc::vec::Vec;

use crate::id::{Offset, QueueId, WallTime};
use crate::limits;
use crate::message::{Death, DeathReason};
use crate::queue::Queue;
use crate::row::{LeaseRow, ParkedRow, RunRow};
use crate::state::State;

/// Where a given-up message goes.
enum Fate {
    Move(QueueId),
    Park,
    Drop,
}

impl State {
    /// A delivery of these messages failed: they are given up if it was their last one, or else
    /// put back, to be ready after `delay_ms` or the queue's backoff. They are in no state now.
    /// True if they were given up.
    pub(crate) fn fail(
        &mut self,
        id: QueueId,
        first: Offset,
        lease: &LeaseRow,
        delay_ms: Option<u64>,
    ) -> bool {
        let Some((queue, shared)) = self.change(id) else {
            self.shared.halt("a message failed without its queue");
            return false;
        };
        let count = u64::from(lease.count);
        let delivered = lease.delivery_count;
        let max = queue.settings.max_deliveries;
        if max != 0 && delivered >= max {
            for k in 0..count {
                let reason = DeathReason::MaxDeliveries;
                self.give_up(id, first.plus(k), delivered, reason);
            }
            return true;
        }
        match (delay_ms, queue.settings.retry_backoff) {
            (None, Some(backoff)) => {
                for offset in (0..count).map(|k| first.plus(k)) {
                    let Some(message) = queue.message(offset) else {
                        shared.halt("a leased message has no run");
                        return false;
                    };
                    let delay_ms = backoff.delay_ms(delivered, shared.hash_seed, message.id);
                    queue.put_back(offset, 1, delivered, delay_ms, shared);
                }
            }
            (delay_ms, _) => {
                queue.put_back(first, count, delivered, delay_ms.unwrap_or(0), shared);
            }
        }
        false
    }

    fn fate(&self, queue: &Queue) -> Fate {
        match &queue.settings.dead_letter {
            None => Fate::Drop,
            Some(target) => match self.queue_id(&queue.namespace, &target.routing_key) {
                Some(id) => Fate::Move(id),
                None => Fate::Park,
            },
        }
    }

    /// Gives up one message, which is in no state now.
    pub(crate) fn give_up(
        &mut self,
        id: QueueId,
        offset: Offset,
        delivered: u32,
        reason: DeathReason,
    ) {
        let at = self.shared.wall_now;
        let Some(queue) = self.queues.get(&id) else {
            return self.shared.halt("a message was given up without its queue");
        };
        match self.fate(queue) {
            Fate::Drop => self.drop_dead(id, offset),
            Fate::Move(target) => self.move_dead(id, offset, target, reason, at),
            Fate::Park => {
                if let Some((queue, _)) = self.change(id) {
                    queue.parked.insert(offset, ParkedRow { reason, at });
                    queue.returned.insert(offset, 1, delivered);
                }
                self.wait_for_target(id);
            }
        }
    }

    fn drop_dead(&mut self, id: QueueId, offset: Offset) {
        if let Some((queue, shared)) = self.change(id) {
            queue.forget(offset, 1, shared);
            queue.counters.dropped = queue.counters.dropped.saturating_add(1);
        }
    }

    /// Moves a message to the end of another queue, or of its own, in one step: it is never in
    /// both and never in none.
    fn move_dead(
        &mut self,
        id: QueueId,
        offset: Offset,
        target: QueueId,
        reason: DeathReason,
        at: WallTime,
    ) {
        let Some((queue, shared)) = self.change(id) else {
            return;
        };
        let Some(message) = queue.message(offset) else {
            return shared.halt("a dead letter has no run");
        };
        let mut deaths = queue.deaths.remove(&offset).unwrap_or_default();
        add_death(&mut deaths, &queue.name, reason, at);
        queue.forget(offset, 1, shared);
        let out = &mut queue.counters.dead_lettered_out;
        *out = out.saturating_add(1);
        shared.bodies.note_move(message.body);
        let Some((queue, shared)) = self.change(target) else {
            return self.shared.halt("a dead-letter target is gone");
        };
        queue.deaths.insert(queue.next_offset, deaths);
        let run = RunRow {
            count: 1,
            first_message_id: message.id,
            body: message.body,
            published_at: message.published_at,
            bytes: message.bytes,
        };
        queue.append(run, shared);
        let came = &mut queue.counters.dead_lettered_in;
        *came = came.saturating_add(1);
    }

    /// Lets the first parked message of a queue go. False if none of them can.
    pub(crate) fn unpark_one(&mut self, id: QueueId) -> bool {
        let parked = self
            .queues
            .get(&id)
            .and_then(|queue| Some((queue.parked.first()?, self.fate(queue))));
        let Some(((offset, row), fate)) = parked else {
            self.unparking.remove(&id);
            return false;
        };
        let (offset, row) = (*offset, *row);
        if matches!(fate, Fate::Park) {
            self.unparking.remove(&id);
            self.wait_for_target(id);
            return false;
        }
        if let Some((queue, _)) = self.change(id) {
            queue.parked.remove(&offset);
            if queue.parked.is_empty() {
                self.unparking.remove(&id);
            }
        }
        match fate {
            Fate::Move(target) => self.move_dead(id, offset, target, row.reason, row.at),
            Fate::Drop | Fate::Park => self.drop_dead(id, offset),
        }
        true
    }

    /// Finds out anew what the parked messages of a queue wait for.
    pub(crate) fn wait_for_target(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get(&id) else {
            return;
        };
        if queue.parked.is_empty() {
            return;
        }
        let (Fate::Park, Some(target)) = (self.fate(queue), &queue.settings.dead_letter) else {
            self.unparking.insert(id);
            return;
        };
        self.unparking.remove(&id);
        if let Some(namespace) = self.namespaces.get_unmarked(&queue.namespace) {
            match namespace.waiting.get_mut(&target.routing_key) {
                Some(waiting) => {
                    waiting.insert(id);
                }
                None => {
                    let waiting = [id].into_iter().collect();
                    namespace
                        .waiting
                        .insert(target.routing_key.clone(), waiting);
                }
            }
        }
    }

    /// The parked messages of a queue wait for nothing any more.
    pub(crate) fn stop_waiting(&mut self, id: QueueId) {
        self.unparking.remove(&id);
        let Some(queue) = self.queues.get(&id) else {
            return;
        };
        let Some(target) = &queue.settings.dead_letter else {
            return;
        };
        if let Some(namespace) = self.namespaces.get_unmarked(&queue.namespace)
            && let Some(waiting) = namespace.waiting.get_mut(&target.routing_key)
        {
            waiting.remove(&id);
            if waiting.is_empty() {
                namespace.waiting.remove(&target.routing_key);
            }
        }
    }
}

/// Adds one death to a history: one line per queue and reason, the oldest line goes at the cap.
fn add_death(deaths: &mut Vec<Death>, queue: &str, reason: DeathReason, at: WallTime) {
    let known = deaths
        .iter_mut()
        .find(|death| death.queue == queue && death.reason == reason);
    if let Some(death) = known {
        death.count = death.count.saturating_add(1);
        death.last_time = at;
        return;
    }
    if deaths.len() >= limits::DEATHS_MAX {
        deaths.remove(0);
    }
    deaths.push(Death {
        queue: queue.into(),
        reason,
        count: 1,
        first_time: at,
        last_time: at,
        // On the default exchange the key is the queue's name.
        routing_key: queue.into(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_keeps_one_line_per_queue_and_reason_and_the_newest_lines() {
        let mut deaths = Vec::new();
        for n in 0..limits::DEATHS_MAX as u64 + 1 {
            add_death(
                &mut deaths,
                &std::format!("q{n}"),
                DeathReason::Rejected,
                WallTime(n),
            );
        }
        assert_eq!(deaths.len(), limits::DEATHS_MAX);
        assert_eq!(deaths[0].queue, "q1");
        add_death(&mut deaths, "q1", DeathReason::Rejected, WallTime(99));
        assert_eq!((deaths[0].count, deaths[0].last_time), (2, WallTime(99)));
        assert_eq!(deaths.len(), limits::DEATHS_MAX);
    }
}
