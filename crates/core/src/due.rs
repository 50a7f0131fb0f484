//! What falls due, and what becomes of messages that failed: another try later, the dead-letter
//! target, parked until it is there, or dropped.

use alloc::vec::Vec;

use crate::event::{Event, SessionEnd};
use crate::id::{LeaseTime, Offset, Owner, QueueId, SessionId, WallTime};
use crate::limits;
use crate::message::{Death, DeathReason};
use crate::producer;
use crate::queue::Queue;
use crate::row::{LeaseRow, ParkedRow, RunRow};
use crate::shared::{Memory, Timer};
use crate::state::State;

/// Where a given-up message goes.
enum Fate {
    Move(QueueId),
    Park,
    Drop,
}

impl State {
    /// When the next entry is due though nobody has anything to say: the earliest end of a lease,
    /// delay or grace; [`State::lease_now`] itself while such work is left over or parked dead
    /// letters can move. Forgetting (settled messages, receive attempts, producers) is done when
    /// an entry comes by and never asks for one, so that an idle cluster falls silent.
    #[must_use]
    pub fn next_deadline(&self) -> Option<LeaseTime> {
        let now = self.shared.lease_now;
        if !self.unparking.is_empty() {
            return Some(now);
        }
        let (due, _) = self.shared.timers.first()?;
        Some((*due).max(now))
    }

    /// Does what is due, oldest first and so much at most; then lets parked messages go.
    pub(crate) fn fire_due(&mut self) {
        let mut left = limits::EXPIRIES_PER_ENTRY_MAX;
        while left > 0 && self.shared.broken.is_none() {
            let Some((due, timer)) = self.shared.timers.first().copied() else {
                break;
            };
            if due > self.shared.lease_now {
                break;
            }
            self.fire(due, timer);
            self.hand_out();
            left -= 1;
        }
        while left > 0
            && self.shared.broken.is_none()
            && let Some(queue) = self.unparking.first().copied()
        {
            if self.unpark_one(queue) {
                self.hand_out();
                left -= 1;
            }
        }
    }

    fn fire(&mut self, due: LeaseTime, timer: Timer) {
        match timer {
            Timer::Lease(queue, first) => self.expire_one(queue, first),
            Timer::Delay(id, offset) => {
                self.shared.timers.remove(&(due, timer));
                let Some((queue, shared)) = self.change(id) else {
                    return self.shared.halt("a delay without its queue");
                };
                if queue.delayed.remove(&offset).is_none() {
                    return shared.halt("a delay without its message");
                }
                queue.make_ready(offset, 1);
            }
            Timer::Grace(session) => {
                self.shared.timers.remove(&(due, timer));
                self.end_session(session, SessionEnd::GraceOver, false);
            }
        }
    }

    /// Ends the first lease of a range because its time is over.
    fn expire_one(&mut self, id: QueueId, first: Offset) {
        let Some((queue, shared)) = self.change(id) else {
            return self.shared.halt("a lease without its queue");
        };
        let Some(lease) = queue.end_leases(first, first, 1, shared) else {
            return;
        };
        queue.counters.leases_expired = queue.counters.leases_expired.saturating_add(1);
        if let Some(session) = lease.session
            && let Some(owner) = shared.sessions.get(&session).map(|s| s.row.owner)
        {
            self.tell_lost(session, owner, id, first, 1);
        }
        self.fail(id, first, &lease, None);
    }

    /// Tells a consumer that it lost leases; together with the leases just before them.
    pub(crate) fn tell_lost(
        &mut self,
        session: SessionId,
        owner: Owner,
        queue: QueueId,
        first_offset: Offset,
        count: u32,
    ) {
        if let Some(Event::LeasesLost {
            session: before,
            owner: its_owner,
            queue: its_queue,
            first_offset: its_first,
            count: its_count,
        }) = self.shared.events.last_mut()
            && (*before, *its_owner, *its_queue) == (session, owner, queue)
            && its_first.plus(u64::from(*its_count)) == first_offset
            && let Some(total) = its_count.checked_add(count)
        {
            *its_count = total;
            return;
        }
        self.shared.events.push(Event::LeasesLost {
            session,
            owner,
            queue,
            first_offset,
            count,
        });
    }

    /// A session's connection is gone: it gets nothing more, and its grace begins.
    pub(crate) fn disconnect(&mut self, id: SessionId) {
        let until = self.shared.lease_now.plus_ms(limits::SESSION_GRACE_MS);
        let Some(session) = self.shared.sessions.get_mut(&id) else {
            return;
        };
        session.row.grace_until = Some(until);
        let queue = session.row.queue;
        self.shared.timers.insert((until, Timer::Grace(id)));
        if let Some((queue, shared)) = self.change(queue)
            && let Some(session) = shared.sessions.get_mut(&id)
        {
            queue.leave_line(session);
        }
    }

    /// Ends a session. What it held goes back without penalty, or as failed deliveries.
    pub(crate) fn end_session(&mut self, id: SessionId, why: SessionEnd, release: bool) {
        let Some(mut session) = self.shared.sessions.remove(&id) else {
            return;
        };
        if let Some(until) = session.row.grace_until {
            self.shared.timers.remove(&(until, Timer::Grace(id)));
        }
        let (owner, queue_id) = (session.row.owner, session.row.queue);
        if let Some((queue, _)) = self.change(queue_id) {
            queue.sessions.remove(&id);
            queue.leave_line(&mut session);
        }
        for first in &session.leases {
            self.take_from_ended(id, owner, queue_id, *first, release);
        }
        self.shared.events.push(Event::SessionEnded {
            session: id,
            owner,
            why,
        });
    }

    fn take_from_ended(
        &mut self,
        session: SessionId,
        owner: Owner,
        id: QueueId,
        first: Offset,
        release: bool,
    ) {
        let Some((queue, shared)) = self.change(id) else {
            return;
        };
        let count = queue.leases.get(&first).map_or(0, |lease| lease.count);
        let Some(lease) = queue.end_leases(first, first, count, shared) else {
            return;
        };
        if release {
            let before = lease.delivery_count.saturating_sub(1);
            queue.put_back(first, u64::from(count), before, 0, shared);
        } else {
            let expired = &mut queue.counters.leases_expired;
            *expired = expired.saturating_add(u64::from(count));
        }
        self.tell_lost(session, owner, id, first, count);
        if !release {
            self.fail(id, first, &lease, None);
        }
    }

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
                    queue.returned.insert(offset, delivered);
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
    fn unpark_one(&mut self, id: QueueId) -> bool {
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

    /// Forgets what is due to be forgotten, so much at most.
    pub(crate) fn forget_due(&mut self) {
        let mut left = limits::EXPIRIES_PER_ENTRY_MAX;
        while left > 0
            && let Some((due, memory)) = self.shared.memory.first().copied()
            && due <= self.shared.lease_now
        {
            left = left.saturating_sub(self.forget(due, memory, left));
        }
        let mut left = limits::EXPIRIES_PER_ENTRY_MAX;
        while left > 0
            && let Some((used_at, id)) = self.producer_uses.first().copied()
            && producer::forgotten_at(used_at) <= self.shared.wall_now
        {
            self.forget_producer(id);
            left -= 1;
        }
    }

    /// Forgets up to `max` rows of one memory; at least 1 is said to be done.
    fn forget(&mut self, due: LeaseTime, memory: Memory, max: usize) -> usize {
        let (Memory::Settled(id, _) | Memory::Attempt(id, _)) = memory;
        let Some(queue) = self.queues.get_mut(&id) else {
            self.shared.memory.remove(&(due, memory));
            return 1;
        };
        self.shared.dirty.insert(id);
        match memory {
            Memory::Settled(_, bucket) => {
                let (done, all) = queue.forget_settled(bucket, max);
                if all {
                    self.shared.memory.remove(&(due, memory));
                }
                done.max(1)
            }
            Memory::Attempt(_, number) => {
                self.shared.memory.remove(&(due, memory));
                queue.forget_attempt(number, &mut self.shared);
                1
            }
        }
    }

    /// Forgets a producer with all that it stored.
    pub(crate) fn forget_producer(&mut self, id: crate::id::ProducerId) {
        use crate::row::RowKey;
        let Some(producer) = self.producers.remove(&id) else {
            return;
        };
        self.producer_uses.remove(&(producer.row.used_at, id));
        if let Some(namespace) = self.namespaces.get_unmarked(&producer.row.namespace) {
            namespace.producers.remove(&id);
            if let Some(name) = &producer.row.name {
                namespace.producer_names.remove(name);
            }
        }
        let chunks: Vec<u64> = producer.chunks.stored_keys();
        let keys = chunks.into_iter();
        let keys = keys.map(|chunk| RowKey::ProducerChunk(id, chunk));
        self.shared.gone.extend(keys);
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
    use crate::script::*;
    use crate::*;
    use std::vec;

    #[test]
    fn an_expired_lease_is_a_failed_delivery() {
        let mut script = Script::with_queues(&["q"]);
        script.run(publish("q", 2));
        script.run(attach("q", 1, 1));
        assert_eq!(script.pass(29_999), vec![""; 0]);
        let told = vec!["s1 loses 0", "s1 gets 0@2 x2", "q1 ready"];
        assert_eq!(script.pass(1), told);
        assert_eq!(script.queue("q").counters.leases_expired, 1);
    }

    #[test]
    fn an_ack_in_the_entry_of_the_expiry_wins() {
        let mut script = Script::with_queues(&["q"]);
        script.run(publish("q", 1));
        script.receive("q", 1, "a");
        script.pass(29_000);
        let stamps = Stamps {
            lease_now: LeaseTime(30_000),
            wall_now: WallTime(0),
        };
        let ack = crate::command::Settle {
            ranges: vec![range(0, 1, 1, crate::command::SettleKind::Ack)],
        };
        let outcomes = script.entry(stamps, vec![Command::Settle(ack)]);
        assert_eq!(outcomes, vec![Outcome::Settled { exceptions: vec![] }]);
        assert_eq!(script.queue("q").counters.acknowledged, 1);
    }

    #[test]
    fn lease_time_goes_on_by_a_second_at_most_and_never_back() {
        let mut script = Script::with_queues(&["q"]);
        let mut stamp = |lease, wall| {
            let stamps = Stamps {
                lease_now: LeaseTime(lease),
                wall_now: WallTime(wall),
            };
            script.entry(stamps, vec![]);
            (script.state.lease_now().0, script.state.wall_now().0)
        };
        assert_eq!(stamp(600, 1_000_000), (600, 1_000_000));
        assert_eq!(stamp(u64::MAX, 5), (1_600, 1_000_000));
        assert_eq!(stamp(3, 1_000_001), (1_600, 1_000_001));
    }

    #[test]
    fn a_thousand_expire_per_entry_oldest_first() {
        let mut script = Script::with_queues(&["q"]);
        for attempt in ["a", "b", "c"] {
            script.run(publish("q", 600));
            script.receive("q", 600, attempt);
        }
        script.pass(29_000);
        script.pass(1_000);
        assert_eq!(script.counts("q"), [1_000, 0, 800, 0]);
        assert_eq!(script.state.next_deadline(), Some(script.state.lease_now()));
        // Nothing is granted twice meanwhile: what is left is still leased.
        let told = in_words(&script.receive("q", 1_000, "d"));
        assert_eq!(told, vec!["0-599@1801 x2", "600-999@2401 x2"]);
        assert_eq!(script.counts("q"), [800, 0, 1_000, 0]);
    }

    #[test]
    fn expiry_gives_up_in_the_end() {
        let mut script = Script::new();
        script.run(create("q", dead_to("dead", 1)));
        script.run(create("dead", QueueSettings::default()));
        script.run(publish("q", 2));
        script.receive("q", 2, "a");
        assert_eq!(script.pass(30_000), vec!["q2 ready"]);
        let dead = in_words(&script.receive("dead", 9, "b"));
        let each = |at: u64| std::format!("{at}@{} x1 q:MaxDeliveries*1", at + 1);
        assert_eq!(dead, vec![each(0), each(1)]);
        let late = script.settle(vec![range(0, 2, 1, crate::command::SettleKind::Ack)]);
        assert_eq!(late, vec!["0-1 NotFound"]);
    }

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
