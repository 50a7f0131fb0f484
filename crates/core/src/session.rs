//! A consumer's session: what it may take, how its connection is lost and how it ends.

use alloc::collections::BTreeSet;

use crate::event::{Event, SessionEnd};
use crate::id::{Offset, Owner, QueueId, SessionId};
use crate::limits;
use crate::queue::low32;
use crate::row::SessionRow;
use crate::shared::Timer;
use crate::state::State;
use crate::view::SessionView;

/// The stored part, and what is derived from the queue's leases.
pub(crate) struct Session {
    pub(crate) row: SessionRow,
    /// Messages that it holds.
    pub(crate) held: u64,
    /// Where its leases begin.
    pub(crate) leases: BTreeSet<Offset>,
}

impl Session {
    pub(crate) fn new(row: SessionRow) -> Self {
        Self {
            row,
            held: 0,
            leases: BTreeSet::new(),
        }
    }

    pub(crate) fn connected(&self) -> bool {
        self.row.grace_until.is_none()
    }

    /// How many more messages it may take now.
    pub(crate) fn room(&self) -> u64 {
        if self.connected() {
            u64::from(self.row.prefetch).saturating_sub(self.held)
        } else {
            0
        }
    }

    pub(crate) fn view(&self, session: SessionId) -> SessionView {
        SessionView {
            session,
            queue: self.row.queue,
            owner: self.row.owner,
            connected: self.connected(),
            prefetch: self.row.prefetch,
            held: self.held,
        }
    }
}

impl State {
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

    /// Takes up to `max` messages from a session whose grace is over, as failed deliveries. How many,
    /// and whether it holds nothing any more.
    pub(crate) fn expire_held(&mut self, id: SessionId, max: usize) -> (usize, bool) {
        let mut taken = 0;
        while let Some(session) = self.shared.sessions.get(&id)
            && let Some(first) = session.leases.first().copied()
        {
            let (owner, queue) = (session.row.owner, session.row.queue);
            let room = max.saturating_sub(taken) as u64;
            if room == 0 {
                return (taken, false);
            }
            let lease = self.queues.get(&queue);
            let lease = lease.and_then(|queue| queue.leases.get(&first));
            let count = lease.map_or(0, |lease| u64::from(lease.count).min(room));
            self.take_from_ended(id, owner, queue, first, low32(count), false);
            if self.shared.broken.is_some() {
                return (taken, false);
            }
            taken = taken.saturating_add(count as usize);
        }
        (taken, true)
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
            let lease = self.queues.get(&queue_id);
            let lease = lease.and_then(|queue| queue.leases.get(first));
            let count = lease.map_or(0, |lease| lease.count);
            self.take_from_ended(id, owner, queue_id, *first, count, release);
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
        count: u32,
        release: bool,
    ) {
        let Some((queue, shared)) = self.change(id) else {
            return;
        };
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
}
