//! What falls due by replicated time, and what is forgotten by it.

use alloc::vec::Vec;

use crate::event::SessionEnd;
use crate::id::{LeaseTime, Offset, ProducerId, QueueId};
use crate::limits;
use crate::producer;
use crate::row::RowKey;
use crate::shared::{Memory, Timer};
use crate::state::State;

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
            let fired = self.fire(due, timer, left);
            self.hand_out();
            left = left.saturating_sub(fired.max(1));
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

    /// Fires a timer and says what it counts: a message each, a session without any one.
    fn fire(&mut self, due: LeaseTime, timer: Timer, max: usize) -> usize {
        match timer {
            Timer::Lease(queue, first) => self.expire_one(queue, first),
            Timer::Delay(queue, first) => self.end_one_delay(queue, first),
            Timer::Grace(session) => {
                let (taken, all) = self.expire_held(session, max);
                if all {
                    self.shared.timers.remove(&(due, timer));
                    self.end_session(session, SessionEnd::GraceOver, false);
                }
                return taken;
            }
        }
        1
    }

    /// Makes the first message of a delayed span ready because its time has come.
    fn end_one_delay(&mut self, id: QueueId, first: Offset) {
        let Some((queue, shared)) = self.change(id) else {
            return self.shared.halt("a delay without its queue");
        };
        match queue.end_delay(first, 1, shared) {
            Some(_) => queue.make_ready(first, 1),
            None => shared.halt("a delay without its message"),
        }
    }

    /// Ends the first lease of a range because its time is over.
    pub(crate) fn expire_one(&mut self, id: QueueId, first: Offset) {
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
    pub(crate) fn forget_producer(&mut self, id: ProducerId) {
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

#[cfg(test)]
mod tests {
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
}
