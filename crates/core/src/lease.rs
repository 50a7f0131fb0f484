//! Granting messages and ending leases.
//!
//! A grant covers neighbouring ready messages of one run with equal delivery counts, or one dead
//! letter. A lease range begins as a grant and only ever gets smaller, so what is held can always
//! be told again as grants.

use alloc::vec::Vec;

use crate::event::Event;
use crate::id::{Fence, LeaseTime, MessageId, Offset, SessionId};
use crate::limits;
use crate::message::{BodyRef, Grant};
use crate::queue::{Queue, low32};
use crate::row::LeaseRow;
use crate::session::Session;
use crate::shared::{Shared, Timer};

/// Messages that can be granted together.
struct Piece {
    count: u32,
    /// Deliveries before.
    delivered: u32,
}

impl Queue {
    /// Hands ready messages to the consumers in line: each in its turn at most a quantum, and
    /// then to the end of the line if it has room left. Who is alone in line has all turns.
    pub(crate) fn hand_out(&mut self, shared: &mut Shared) {
        if self.settings.paused {
            return;
        }
        while self.ready.count() > 0 && shared.broken.is_none() {
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
        let Some(piece) = self.piece(first, ready.min(max)) else {
            shared.halt("a ready message has no run");
            return None;
        };
        let count = u64::from(piece.count);
        let lease = LeaseRow {
            count: piece.count,
            first_fence: self.next_fence,
            session,
            deadline,
            delivery_count: piece.delivered.saturating_add(1),
        };
        let Some(grant) = self.grant(first, &lease) else {
            shared.halt("a ready message has no run");
            return None;
        };
        self.ready.take_front(count);
        if piece.delivered > 0 {
            for k in 0..count {
                self.returned.remove(&first.plus(k));
            }
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
        let piece = self.piece(first, ready.min(max))?;
        let lease = LeaseRow {
            count: piece.count,
            first_fence: Fence(0),
            session: None,
            deadline: now,
            delivery_count: piece.delivered.saturating_add(1),
        };
        self.grant(first, &lease)
    }

    /// How many of `max` ready messages from `first` on can be granted together.
    fn piece(&self, first: Offset, max: u64) -> Option<Piece> {
        let (start, run) = self.run_at(first)?;
        let run_end = start.plus(u64::from(run.count));
        let mut end = run_end.min(first.plus(max));
        if self.deaths.get(&first).is_some() {
            end = end.min(first.plus(1));
        } else if let Some((dead, _)) = self.deaths.first_in(first..) {
            end = end.min(*dead);
        }
        let delivered = self.returned.get(&first).copied();
        match delivered {
            None => {
                if let Some((returned, _)) = self.returned.first_in(first..) {
                    end = end.min(*returned);
                }
            }
            Some(_) => {
                let mut same = first.plus(1);
                while same < end && self.returned.get(&same).copied() == delivered {
                    same = same.plus(1);
                }
                end = end.min(same);
            }
        }
        let count = low32(end.0.saturating_sub(first.0));
        (count > 0).then_some(Piece {
            count,
            delivered: delivered.unwrap_or(0),
        })
    }

    /// A lease told as a grant.
    pub(crate) fn grant(&self, first: Offset, lease: &LeaseRow) -> Option<Grant> {
        let (start, run) = self.run_at(first)?;
        let k = first.0.saturating_sub(start.0);
        Some(Grant {
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
        })
    }

    /// What a session holds, in queue order.
    pub(crate) fn grants_held(&self, session: &Session) -> Vec<Grant> {
        session
            .leases
            .iter()
            .filter_map(|first| self.grant(*first, self.leases.get(first)?))
            .collect()
    }

    fn put_lease(&mut self, first: Offset, lease: LeaseRow, shared: &mut Shared) {
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
        queue.ready.insert(Offset(7), 1);
        let entry = Entry {
            stamps: Stamps::default(),
            commands: vec![attach("q", 1, 1)],
        };
        let next = script.state.applied_index() + 1;
        let halt = script.state.apply(next, &entry).unwrap_err();
        assert_eq!(halt.reason, "a ready message has no run");
    }
}
