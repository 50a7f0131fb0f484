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
use crate::row::{AttemptRow, Counters, LeaseRow, ParkedRow, QueueRow, RowKey, RunRow, RunSeries};
use crate::runs::{Part, Runs};
use crate::settings::QueueSettings;
use crate::shared::{Memory, Shared, Timer};
use crate::spans::Spans;
use crate::tracked::Tracked;
use crate::view::QueueView;

/// `part` of `whole` equal shares of `bytes`, rounded down.
pub(crate) fn share(bytes: u64, part: impl Into<u64>, whole: impl Into<u64>) -> u64 {
    let product = u128::from(bytes) * u128::from(part.into());
    product
        .checked_div(u128::from(whole.into()))
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
    pub(crate) runs: Runs,
    pub(crate) ready: Spans<()>,
    pub(crate) leases: Tracked<Offset, LeaseRow>,
    /// Messages under the leases.
    pub(crate) in_flight: u64,
    /// Deliveries of messages that are not in flight, where there were any.
    pub(crate) returned: Spans<u32>,
    pub(crate) delayed: Spans<LeaseTime>,
    pub(crate) parked: Tracked<Offset, ParkedRow>,
    pub(crate) deaths: Tracked<Offset, Vec<Death>>,
    /// Settled messages that are remembered, by bucket of lease time: see `settled`.
    pub(crate) settled: BTreeMap<u64, Spans<u64>>,
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
            runs: Runs::default(),
            ready: Spans::default(),
            leases: Tracked::default(),
            in_flight: 0,
            returned: Spans::default(),
            delayed: Spans::default(),
            parked: Tracked::default(),
            deaths: Tracked::default(),
            settled: BTreeMap::new(),
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
            ready: self.ready.len(),
            delayed: self.delayed.len(),
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
            .len()
            .saturating_add(self.in_flight)
            .saturating_add(self.delayed.len())
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

    /// The run that holds this offset, and where it begins.
    pub(crate) fn run_at(&self, at: Offset) -> Option<(Offset, RunRow)> {
        self.runs.at(at)
    }

    pub(crate) fn message(&self, at: Offset) -> Option<Message> {
        let (first, run) = self.run_at(at)?;
        let k = at.0.saturating_sub(first.0);
        let bytes = RunSeries::one(run);
        Some(Message {
            id: MessageId(run.first_message_id.0.saturating_add(k)),
            body: BodyRef {
                position: run.body.position,
                item: run.body.item.saturating_add(low32(k)),
            },
            published_at: run.published_at,
            bytes: bytes.bytes_before(k.saturating_add(1)) - bytes.bytes_before(k),
        })
    }

    /// Adds messages at the end, ready.
    pub(crate) fn append(&mut self, run: RunRow, shared: &mut Shared) {
        let first = self.next_offset;
        let count = u64::from(run.count);
        self.next_offset = first.plus(count);
        self.bytes = self.bytes.saturating_add(u128::from(run.bytes));
        shared.bodies.add(run.body.position.index, count, run.bytes);
        self.runs.append(first, run);
        self.make_ready(first, count);
    }

    /// Puts messages that are in no state in line at their old places.
    pub(crate) fn make_ready(&mut self, first: Offset, count: u64) {
        self.ready.insert(first, count, ());
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
            self.returned.insert(first, count, delivery_count);
        }
        if delay_ms == 0 {
            self.make_ready(first, count);
            return;
        }
        let due = shared.lease_now.plus_ms(delay_ms);
        self.delay(first, count, due, shared);
    }

    /// Delays messages that are in no state. A span has one timer, at its first message.
    pub(crate) fn delay(&mut self, first: Offset, count: u64, due: LeaseTime, shared: &mut Shared) {
        let end = first.plus(count);
        if self.delayed.begins_at(end, due) {
            shared.timers.remove(&(due, Timer::Delay(self.id, end)));
        }
        if self.delayed.ends_before(first, due).is_none() {
            shared.timers.insert((due, Timer::Delay(self.id, first)));
        }
        self.delayed.insert(first, count, due);
    }

    /// Takes the first `max` messages, or all, of the delayed span that begins at `first`; they are
    /// in no state now. None if there is no such span.
    pub(crate) fn end_delay(
        &mut self,
        first: Offset,
        max: u64,
        shared: &mut Shared,
    ) -> Option<u64> {
        let span = self.delayed.begins(first)?;
        let (due, count) = (span.value, span.count.min(max));
        let end = first.plus(count);
        shared.timers.remove(&(due, Timer::Delay(self.id, first)));
        self.delayed.remove(first, end);
        if count < span.count {
            shared.timers.insert((due, Timer::Delay(self.id, end)));
        }
        Some(count)
    }

    /// Tells all messages in the queue, as ranges in no order.
    pub(crate) fn each_live(&self, mut each: impl FnMut(Offset, u64)) {
        for (first, span) in self.ready.iter() {
            each(first, span.count);
        }
        for (first, lease) in self.leases.iter() {
            each(*first, u64::from(lease.count));
        }
        for (first, span) in self.delayed.iter() {
            each(first, span.count);
        }
        for offset in self.parked.keys() {
            each(*offset, 1);
        }
    }

    /// Forgets messages that are in no state any more.
    pub(crate) fn forget(&mut self, first: Offset, count: u64, shared: &mut Shared) {
        let end = first.plus(count);
        let mut bytes: u128 = 0;
        let forgotten = self.runs.forget(first, end, |part| {
            bytes = bytes.saturating_add(u128::from(part.bytes));
            shared.bodies.sub(part.index, part.messages, part.bytes);
        });
        if let Err(reason) = forgotten {
            return shared.halt(reason);
        }
        self.bytes = self.bytes.saturating_sub(bytes);
        self.returned.remove(first, end);
        remove_range(&mut self.deaths, first, end);
    }

    /// Everything of it that is stored, for its deletion; and takes its timers and bodies along.
    pub(crate) fn dismantle(&self, shared: &mut Shared) {
        for (first, lease) in self.leases.iter() {
            let timer = Timer::Lease(self.id, *first);
            shared.timers.remove(&(lease.deadline, timer));
        }
        for (first, span) in self.delayed.iter() {
            let timer = Timer::Delay(self.id, first);
            shared.timers.remove(&(span.value, timer));
        }
        self.each_live(|first, count| {
            let end = first.plus(count);
            let bodies = &mut shared.bodies;
            let sub = |part: Part| bodies.sub(part.index, part.messages, part.bytes);
            self.runs.each_in(first, end, sub);
        });
        for bucket in self.settled.keys() {
            let due = crate::settled::forgotten_at(*bucket);
            shared
                .memory
                .remove(&(due, Memory::Settled(self.id, *bucket)));
        }
        for (number, attempt) in self.attempts.iter() {
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
        all(self.runs.chunks.stored_keys(), RowKey::Runs);
        all(self.ready.blocks.stored_keys(), RowKey::ReadySpans);
        all(self.leases.stored_keys(), RowKey::Lease);
        all(self.returned.blocks.stored_keys(), RowKey::ReturnedSpans);
        all(self.delayed.blocks.stored_keys(), RowKey::DelayedSpans);
        all(self.parked.stored_keys(), RowKey::Parked);
        all(self.deaths.stored_keys(), RowKey::Deaths);
        for (bucket, settled) in &self.settled {
            let stored = settled.blocks.stored_keys().into_iter();
            keys.extend(stored.map(|offset| RowKey::SettledSpans(id, *bucket, offset)));
        }
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
