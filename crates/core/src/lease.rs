//! Granting messages and ending leases.
//!
//! A grant covers neighbouring ready messages of one run with equal delivery counts, or one dead
//! letter. A lease range may cover several grants that were made one after the other; what is held is
//! told again as grants.

use alloc::vec::Vec;

use crate::event::Event;
use crate::id::{Fence, LeaseTime, MessageId, Offset, SessionId};
use crate::limits;
use crate::message::{BodyRef, Grant};
use crate::queue::{Queue, low32};
use crate::row::{LeaseRow, RunRow};
use crate::session::Session;
use crate::settled::diagonal;
use crate::shared::{Shared, Timer};

/// Neighbouring messages of one run, or one dead letter.
struct Stretch {
    /// Where the run begins.
    start: Offset,
    run: RunRow,
    count: u32,
}

impl Queue {
    /// Hands ready messages to the consumers in line: each in its turn at most a quantum, and
    /// then to the end of the line if it has room left. Who is alone in line has all turns.
    pub(crate) fn hand_out(&mut self, shared: &mut Shared) {
        if self.settings.paused {
            return;
        }
        while self.ready.len() > 0 && shared.broken.is_none() {
            let Some((_, id)) = self.line.pop_first() else {
                return;
            };
            let Some(session) = shared.sessions.get_mut(&id) else {
                return shared.halt("a consumer in line has no session");
            };
            session.row.turn = None;
            let (owner, room) = (session.row.owner, session.room());
            let lease_ms = session.row.lease_ms.unwrap_or(self.settings.lease_ms);
            let deadline = shared.lease_now.plus_ms(lease_ms);
            let quantum = u64::from(limits::ROUND_ROBIN_QUANTUM);
            let mut left = if self.line.is_empty() {
                room
            } else {
                room.min(quantum)
            };
            while let Some(grant) = self.grant_front(left, deadline, Some(id), shared) {
                left = left.saturating_sub(u64::from(grant.count));
                shared.events.push(Event::Delivered {
                    session: id,
                    owner,
                    grant,
                });
            }
            self.join_line(id, shared);
        }
    }

    /// Puts a consumer at the end of the line if it can take messages and is not in it.
    pub(crate) fn join_line(&mut self, id: SessionId, shared: &mut Shared) {
        let can = |session: &Session| session.row.turn.is_none() && session.room() > 0;
        if !shared.sessions.get(&id).is_some_and(can) {
            return;
        }
        if let Some(session) = shared.sessions.get_mut(&id) {
            session.row.turn = Some(self.next_turn);
            self.line.insert(self.next_turn, id);
            self.next_turn = self.next_turn.saturating_add(1);
        }
    }

    /// Takes a consumer out of the line.
    pub(crate) fn leave_line(&mut self, session: &mut Session) {
        if let Some(turn) = session.row.turn.take() {
            self.line.remove(&turn);
        }
    }

    /// Grants up to `max` of the first ready messages that go together. `None` when there are
    /// none or `max` is 0.
    pub(crate) fn grant_front(
        &mut self,
        max: u64,
        deadline: LeaseTime,
        session: Option<SessionId>,
        shared: &mut Shared,
    ) -> Option<Grant> {
        let (first, ready) = self.ready.first()?;
        if max == 0 {
            return None;
        }
        // Whoever hands out goes on as long as something is ready: that nothing can be had of it
        // must end the entry, not the loop's hope.
        let Some(stretch) = self.stretch(first, ready.count.min(max)) else {
            shared.halt("a ready message has no run");
            return None;
        };
        let (count, delivered) = self.delivered_alike(first, stretch.count);
        let lease = LeaseRow {
            count,
            first_fence: self.next_fence,
            session,
            deadline,
            delivery_count: delivered.saturating_add(1),
        };
        let grant = self.grant(first, &lease, &stretch);
        let count = u64::from(count);
        self.ready.remove(first, first.plus(count));
        if delivered > 0 {
            self.returned.remove(first, first.plus(count));
            self.counters.redelivered = self.counters.redelivered.saturating_add(count);
        }
        self.next_fence = Fence(self.next_fence.0.saturating_add(count));
        self.in_flight = self.in_flight.saturating_add(count);
        self.counters.granted = self.counters.granted.saturating_add(count);
        if let Some(session) = session.and_then(|id| shared.sessions.get_unmarked(&id)) {
            session.held = session.held.saturating_add(count);
        }
        self.put_lease(first, lease, shared);
        Some(grant)
    }

    /// Shows up to `max` of the ready messages at or after `from` that go together, as if granted
    /// with no lease.
    pub(crate) fn show(&self, from: Offset, max: u64, now: LeaseTime) -> Option<Grant> {
        let (first, ready) = self.ready.at_or_after(from)?;
        let stretch = self.stretch(first, ready.count.min(max))?;
        let (count, delivered) = self.delivered_alike(first, stretch.count);
        let lease = LeaseRow {
            count,
            first_fence: Fence(0),
            session: None,
            deadline: now,
            delivery_count: delivered.saturating_add(1),
        };
        Some(self.grant(first, &lease, &stretch))
    }

    /// How many of `max` messages from `first` on can be told together.
    fn stretch(&self, first: Offset, max: u64) -> Option<Stretch> {
        let (start, run) = self.run_at(first)?;
        let mut end = start.plus(u64::from(run.count)).min(first.plus(max));
        if let Some((dead, _)) = self.deaths.first_in(first..) {
            end = end.min((*dead).max(first.plus(1)));
        }
        let count = low32(end.0.saturating_sub(first.0));
        (count > 0).then_some(Stretch { start, run, count })
    }

    /// How many of `max` messages from `first` on were granted equally often before, and how often.
    fn delivered_alike(&self, first: Offset, max: u32) -> (u32, u32) {
        match self.returned.at_or_after(first) {
            None => (max, 0),
            Some((at, span)) if at == first => (max.min(low32(span.count)), span.value),
            Some((at, _)) => (max.min(low32(at.0.saturating_sub(first.0))), 0),
        }
    }

    /// A lease of the first messages of a stretch, told as a grant.
    fn grant(&self, first: Offset, lease: &LeaseRow, stretch: &Stretch) -> Grant {
        let k = first.0.saturating_sub(stretch.start.0);
        let run = &stretch.run;
        Grant {
            queue: self.id,
            first_offset: first,
            count: lease.count,
            first_fence: lease.first_fence,
            first_message_id: MessageId(run.first_message_id.0.saturating_add(k)),
            body: BodyRef {
                position: run.body.position,
                item: run.body.item.saturating_add(low32(k)),
            },
            delivery_count: lease.delivery_count,
            deadline: lease.deadline,
            published_at: run.published_at,
            deaths: self.deaths.get(&first).cloned().unwrap_or_default(),
        }
    }

    /// A lease range told as grants.
    pub(crate) fn tell(&self, first: Offset, lease: &LeaseRow, grants: &mut Vec<Grant>) {
        let mut told = 0;
        while let Some(left) = lease.count.checked_sub(told).filter(|left| *left > 0) {
            let at = first.plus(u64::from(told));
            let Some(stretch) = self.stretch(at, u64::from(left)) else {
                return;
            };
            let part = LeaseRow {
                count: stretch.count,
                first_fence: Fence(lease.first_fence.0.saturating_add(u64::from(told))),
                ..*lease
            };
            grants.push(self.grant(at, &part, &stretch));
            told = told.saturating_add(stretch.count);
        }
    }

    /// What a session holds, in queue order.
    pub(crate) fn grants_held(&self, session: &Session) -> Vec<Grant> {
        let mut grants = Vec::new();
        for first in &session.leases {
            if let Some(lease) = self.leases.get(first) {
                self.tell(*first, lease, &mut grants);
            }
        }
        grants
    }

    /// Adds a lease range, or lets the one right before it grow if it is of the same kind.
    fn put_lease(&mut self, first: Offset, lease: LeaseRow, shared: &mut Shared) {
        if self.joins_lease(first, &lease) {
            return;
        }
        let timer = Timer::Lease(self.id, first);
        shared.timers.insert((lease.deadline, timer));
        if let Some(session) = lease
            .session
            .and_then(|id| shared.sessions.get_unmarked(&id))
        {
            session.leases.insert(first);
        }
        self.leases.insert(first, lease);
    }

    fn joins_lease(&mut self, first: Offset, next: &LeaseRow) -> bool {
        let Some((start, before)) = self.leases.last_in(..first) else {
            return false;
        };
        let alike = start.plus(u64::from(before.count)) == first
            && diagonal(*start, before.first_fence) == diagonal(first, next.first_fence)
            && before.session == next.session
            && before.deadline == next.deadline
            && before.delivery_count == next.delivery_count;
        let (start, total) = (*start, before.count.checked_add(next.count));
        let (Some(total), true) = (total, alike) else {
            return false;
        };
        if let Some(before) = self.leases.get_mut(&start) {
            before.count = total;
        }
        true
    }

    /// Cuts `count` leases from `from` on out of the range that begins at `start`, and gives them
    /// back as a range of their own; the messages are in no state now.
    fn cut_lease(
        &mut self,
        start: Offset,
        from: Offset,
        count: u32,
        shared: &mut Shared,
    ) -> Option<LeaseRow> {
        let whole = *self.leases.get(&start)?;
        let skip = low32(from.0.checked_sub(start.0)?);
        let rest = whole.count.checked_sub(skip)?.checked_sub(count)?;
        if skip == 0 {
            self.leases.remove(&start);
            let timer = Timer::Lease(self.id, start);
            shared.timers.remove(&(whole.deadline, timer));
            if let Some(session) = whole
                .session
                .and_then(|id| shared.sessions.get_unmarked(&id))
            {
                session.leases.remove(&start);
            }
        } else if let Some(left) = self.leases.get_mut(&start) {
            left.count = skip;
        }
        let shifted = |by: u32, count: u32| LeaseRow {
            count,
            first_fence: Fence(whole.first_fence.0.saturating_add(u64::from(by))),
            ..whole
        };
        if rest > 0 {
            let first = from.plus(u64::from(count));
            self.put_lease(first, shifted(skip.saturating_add(count), rest), shared);
        }
        Some(shifted(skip, count))
    }

    /// Ends `count` leases from `from` on, all in the range that begins at `start`. The messages
    /// are in no state now: the caller moves them on.
    pub(crate) fn end_leases(
        &mut self,
        start: Offset,
        from: Offset,
        count: u32,
        shared: &mut Shared,
    ) -> Option<LeaseRow> {
        let Some(ended) = self.cut_lease(start, from, count, shared) else {
            shared.halt("a lease is not where it was seen");
            return None;
        };
        let count = u64::from(count);
        self.in_flight = self.in_flight.saturating_sub(count);
        if let Some(id) = ended.session {
            if let Some(session) = shared.sessions.get_unmarked(&id) {
                session.held = session.held.saturating_sub(count);
            }
            self.join_line(id, shared);
        }
        Some(ended)
    }

    /// Gives `count` leases from `from` on, all in the range that begins at `start`, a new end.
    pub(crate) fn extend_leases(
        &mut self,
        start: Offset,
        from: Offset,
        count: u32,
        deadline: LeaseTime,
        shared: &mut Shared,
    ) {
        match self.cut_lease(start, from, count, shared) {
            Some(lease) => self.put_lease(from, LeaseRow { deadline, ..lease }, shared),
            None => shared.halt("a lease is not where it was seen"),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::script::*;
    use crate::*;
    use std::vec;

    #[test]
    fn a_ready_message_without_its_run_halts_and_does_not_spin() {
        let mut script = Script::with_queues(&["q"]);
        let id = script.queue("q").id;
        let queue = script.state.queues.get_mut(&id).unwrap();
        queue.ready.insert(Offset(7), 1, ());
        let entry = Entry {
            stamps: Stamps::default(),
            commands: vec![attach("q", 1, 1)],
        };
        let next = script.state.applied_index() + 1;
        let halt = script.state.apply(next, &entry).unwrap_err();
        assert_eq!(halt.reason, "a ready message has no run");
    }
}
