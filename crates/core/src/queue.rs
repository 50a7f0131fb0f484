//! One queue: where each of its messages is.
//!
//! A message is in exactly one of `ready`, `leases`, `delayed` and `parked`, and in the run that
//! tells its id and bytes. The methods here move messages; why they move is decided by the
//! commands (`apply`) and by what falls due (`due`).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use crate::id::{Fence, LeaseTime, MessageId, Offset, QueueId, SessionId, WallTime};
use crate::message::{BodyRef, Death};
use crate::ready::Ready;
use crate::row::{AttemptRow, Counters, LeaseRow, ParkedRow, QueueRow, RowKey, RunRow, SettledRow};
use crate::settings::QueueSettings;
use crate::shared::{Memory, Shared, Timer};
use crate::tracked::Tracked;
use crate::view::QueueView;

/// Messages of one publish, and how many of them are still in the queue.
pub(crate) struct Run {
    pub(crate) row: RunRow,
    pub(crate) live: u32,
}

impl Run {
    /// Bytes of those still in the queue.
    pub(crate) fn live_bytes(&self) -> u64 {
        share(self.row.bytes, self.live, self.row.count)
    }
}

/// `part` of `whole` equal shares of `bytes`, rounded down.
pub(crate) fn share(bytes: u64, part: u32, whole: u32) -> u64 {
    let product = u128::from(bytes) * u128::from(part);
    product
        .checked_div(u128::from(whole))
        .and_then(|share| u64::try_from(share).ok())
        .unwrap_or(0)
}

/// One message as its run tells it.
#[derive(Clone, Copy)]
pub(crate) struct Message {
    pub(crate) id: MessageId,
    pub(crate) body: BodyRef,
    pub(crate) published_at: WallTime,
    pub(crate) bytes: u64,
}

/// See the top of the file.
pub(crate) struct Queue {
    pub(crate) id: QueueId,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) revision: u64,
    pub(crate) settings: QueueSettings,
    pub(crate) counters: Counters,
    pub(crate) next_offset: Offset,
    pub(crate) next_fence: Fence,
    pub(crate) next_turn: u64,
    pub(crate) next_attempt: u64,
    pub(crate) runs: Tracked<Offset, Run>,
    pub(crate) ready: Ready,
    pub(crate) leases: Tracked<Offset, LeaseRow>,
    /// Messages under the leases.
    pub(crate) in_flight: u64,
    /// Deliveries of messages that are not in flight, where there were any.
    pub(crate) returned: Tracked<Offset, u32>,
    pub(crate) delayed: Tracked<Offset, LeaseTime>,
    pub(crate) parked: Tracked<Offset, ParkedRow>,
    pub(crate) deaths: Tracked<Offset, Vec<Death>>,
    pub(crate) settled: Tracked<(u64, Offset), SettledRow>,
    pub(crate) attempts: Tracked<u64, AttemptRow>,
    pub(crate) attempts_by_id: BTreeMap<Vec<u8>, u64>,
    /// Consumers that can take messages, in the order of their turns.
    pub(crate) line: BTreeMap<u64, SessionId>,
    pub(crate) sessions: BTreeSet<SessionId>,
    /// Bytes of all messages in it; wide, so that no claim of a publish can overflow the sum.
    pub(crate) bytes: u128,
    /// Something became ready in the present entry.
    pub(crate) became_ready: bool,
    /// Its row was there at the last drain.
    pub(crate) stored: bool,
}

impl Queue {
    pub(crate) fn new(id: QueueId, row: QueueRow) -> Self {
        Self {
            id,
            namespace: row.namespace,
            name: row.name,
            revision: row.revision,
            settings: row.settings,
            counters: row.counters,
            next_offset: row.next_offset,
            next_fence: row.next_fence,
            next_turn: row.next_turn,
            next_attempt: row.next_attempt,
            runs: Tracked::default(),
            ready: Ready::default(),
            leases: Tracked::default(),
            in_flight: 0,
            returned: Tracked::default(),
            delayed: Tracked::default(),
            parked: Tracked::default(),
            deaths: Tracked::default(),
            settled: Tracked::default(),
            attempts: Tracked::default(),
            attempts_by_id: BTreeMap::new(),
            line: BTreeMap::new(),
            sessions: BTreeSet::new(),
            bytes: 0,
            became_ready: false,
            stored: false,
        }
    }

    pub(crate) fn row(&self) -> QueueRow {
        QueueRow {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            revision: self.revision,
            settings: self.settings.clone(),
            counters: self.counters,
            next_offset: self.next_offset,
            next_fence: self.next_fence,
            next_turn: self.next_turn,
            next_attempt: self.next_attempt,
        }
    }

    pub(crate) fn view(&self) -> QueueView<'_> {
        let oldest = self
            .ready
            .first()
            .and_then(|(first, _)| self.message(first));
        QueueView {
            id: self.id,
            revision: self.revision,
            namespace: &self.namespace,
            name: &self.name,
            settings: &self.settings,
            counters: &self.counters,
            ready: self.ready.count(),
            delayed: self.delayed.len() as u64,
            in_flight: self.in_flight,
            parked: self.parked.len() as u64,
            bytes: u64::try_from(self.bytes).unwrap_or(u64::MAX),
            consumers: self.sessions.len() as u64,
            next_offset: self.next_offset,
            oldest_ready: oldest.map(|message| message.published_at),
        }
    }

    /// Messages in any state.
    pub(crate) fn messages(&self) -> u64 {
        self.ready
            .count()
            .saturating_add(self.in_flight)
            .saturating_add(self.delayed.len() as u64)
            .saturating_add(self.parked.len() as u64)
    }

    /// Conservation: what arrived is in the queue or left by a counted door.
    pub(crate) fn is_conserved(&self) -> bool {
        let c = &self.counters;
        let doors = [
            c.acknowledged,
            c.dead_lettered_out,
            c.expired,
            c.dropped,
            c.purged,
            self.messages(),
        ];
        let left = doors.iter().try_fold(0_u64, |sum, n| sum.checked_add(*n));
        let came = c.published.checked_add(c.dead_lettered_in);
        came == Some(self.next_offset.0) && came == left
    }

    /// The run that holds this offset.
    pub(crate) fn run_at(&self, at: Offset) -> Option<(Offset, &RunRow)> {
        let (first, run) = self.runs.last_in(..=at)?;
        (first.plus(u64::from(run.row.count)) > at).then_some((*first, &run.row))
    }

    pub(crate) fn message(&self, at: Offset) -> Option<Message> {
        let (first, run) = self.run_at(at)?;
        let k = at.0.saturating_sub(first.0);
        Some(Message {
            id: MessageId(run.first_message_id.0.saturating_add(k)),
            body: BodyRef {
                position: run.body.position,
                item: run.body.item.saturating_add(low32(k)),
            },
            published_at: run.published_at,
            bytes: share(run.bytes, 1, run.count),
        })
    }

    /// Adds messages at the end, ready.
    pub(crate) fn append(&mut self, run: RunRow, shared: &mut Shared) {
        let first = self.next_offset;
        let count = u64::from(run.count);
        self.next_offset = first.plus(count);
        self.bytes = self.bytes.saturating_add(u128::from(run.bytes));
        shared.bodies.add(run.body.position.index, count);
        if !self.joins_last_run(first, &run) {
            let live = run.count;
            self.runs.insert(first, Run { row: run, live });
        }
        self.make_ready(first, count);
    }

    /// Lets the last run grow by `next`, if `next` goes on exactly where it stops.
    fn joins_last_run(&mut self, first: Offset, next: &RunRow) -> bool {
        let Some((start, last)) = self.runs.last_in(..first) else {
            return false;
        };
        let (start, row, live) = (*start, last.row, last.live);
        let count = u64::from(row.count);
        let goes_on = start.plus(count) == first
            && row.body.position == next.body.position
            && row.body.item.checked_add(row.count) == Some(next.body.item)
            && row.first_message_id.0.checked_add(count) == Some(next.first_message_id.0)
            && row.published_at == next.published_at;
        let count = row.count.checked_add(next.count);
        let bytes = row.bytes.checked_add(next.bytes);
        let (Some(count), Some(bytes), true) = (count, bytes, goes_on) else {
            return false;
        };
        // A run's bytes are shared evenly among its messages, so one that lost some does not grow.
        if live != row.count {
            return false;
        }
        if let Some(run) = self.runs.get_mut(&start) {
            run.row.count = count;
            run.row.bytes = bytes;
            run.live = count;
        }
        true
    }

    /// Puts messages that are in no state in line at their old places.
    pub(crate) fn make_ready(&mut self, first: Offset, count: u64) {
        self.ready.insert(first, count);
        self.became_ready = true;
    }

    /// Puts messages that are in no state back, to be ready at `due` or now.
    pub(crate) fn put_back(
        &mut self,
        first: Offset,
        count: u64,
        delivery_count: u32,
        delay_ms: u64,
        shared: &mut Shared,
    ) {
        if delivery_count > 0 {
            for k in 0..count {
                self.returned.insert(first.plus(k), delivery_count);
            }
        }
        if delay_ms == 0 {
            self.make_ready(first, count);
            return;
        }
        let due = shared.lease_now.plus_ms(delay_ms);
        for k in 0..count {
            let offset = first.plus(k);
            self.delayed.insert(offset, due);
            shared.timers.insert((due, Timer::Delay(self.id, offset)));
        }
    }

    /// Forgets messages that are in no state any more.
    pub(crate) fn forget(&mut self, first: Offset, count: u64, shared: &mut Shared) {
        let end = first.plus(count);
        let mut at = first;
        while at < end {
            let Some((start, run)) = self.runs.last_unmarked(..=at) else {
                return shared.halt("a message has no run");
            };
            let start = *start;
            let run_end = start.plus(u64::from(run.row.count));
            let part = end.min(run_end).0.saturating_sub(at.0);
            if part == 0 || part > u64::from(run.live) {
                return shared.halt("a message left its run twice");
            }
            let before = run.live_bytes();
            run.live = run.live.saturating_sub(low32(part));
            let less = before.saturating_sub(run.live_bytes());
            self.bytes = self.bytes.saturating_sub(u128::from(less));
            shared.bodies.sub(run.row.body.position.index, part);
            if run.live == 0 {
                self.runs.remove(&start);
            }
            at = at.plus(part);
        }
        remove_range(&mut self.returned, first, end);
        remove_range(&mut self.deaths, first, end);
    }

    /// Everything of it that is stored, for its deletion; and takes its timers and bodies along.
    pub(crate) fn dismantle(&self, shared: &mut Shared) {
        for (first, lease) in self.leases.map() {
            let timer = Timer::Lease(self.id, *first);
            shared.timers.remove(&(lease.deadline, timer));
        }
        for (offset, due) in self.delayed.map() {
            shared
                .timers
                .remove(&(*due, Timer::Delay(self.id, *offset)));
        }
        for run in self.runs.map().values() {
            let index = run.row.body.position.index;
            shared.bodies.sub(index, u64::from(run.live));
        }
        for (bucket, _) in self.settled.map().keys() {
            let due = crate::settled::forgotten_at(*bucket);
            shared
                .memory
                .remove(&(due, Memory::Settled(self.id, *bucket)));
        }
        for (number, attempt) in self.attempts.map() {
            let due = crate::attempts::forgotten_at(attempt);
            shared
                .memory
                .remove(&(due, Memory::Attempt(self.id, *number)));
        }
        self.stored_keys(&mut shared.gone);
    }

    fn stored_keys(&self, keys: &mut Vec<RowKey>) {
        let id = self.id;
        if self.stored {
            keys.push(RowKey::Queue(id));
        }
        let mut all = |stored: Vec<Offset>, key: fn(QueueId, Offset) -> RowKey| {
            keys.extend(stored.into_iter().map(|offset| key(id, offset)));
        };
        all(self.runs.stored_keys(), RowKey::Run);
        all(self.ready.ranges.stored_keys(), RowKey::Ready);
        all(self.leases.stored_keys(), RowKey::Lease);
        all(self.returned.stored_keys(), RowKey::Returned);
        all(self.delayed.stored_keys(), RowKey::Delayed);
        all(self.parked.stored_keys(), RowKey::Parked);
        all(self.deaths.stored_keys(), RowKey::Deaths);
        let settled = self.settled.stored_keys().into_iter();
        keys.extend(settled.map(|(bucket, offset)| RowKey::Settled(id, bucket, offset)));
        let attempts = self.attempts.stored_keys().into_iter();
        keys.extend(attempts.map(|number| RowKey::Attempt(id, number)));
    }
}

fn remove_range<V>(map: &mut Tracked<Offset, V>, first: Offset, end: Offset) {
    while let Some(offset) = map.first_in(first..end).map(|(offset, _)| *offset) {
        map.remove(&offset);
    }
}

/// A count that is known to fit; saturates.
pub(crate) fn low32(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
