//! The state from its rows.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::id::{LeaseTime, Offset, ProducerId, QueueId, SessionId};
use crate::message::Death;
use crate::packed::Value;
use crate::producer::Producer;
use crate::queue::Queue;
use crate::row::{
    AttemptRow, LeaseRow, MetaRow, ParkedRow, Piece, Remembered, Row, RowKey, RunRow, RunSeries,
    SettledRow, Span,
};
use crate::session::Session;
use crate::settled::diagonal;
use crate::shared::{Bodies, Memory, Shared, Timer};
use crate::spans::Spans;
use crate::state::State;

/// Rows that are no state: damaged, or of different states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreError {
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl core::error::Error for RestoreError {}

impl State {
    /// The state that gave these rows: same digest, same answers from now on. They may come in any
    /// order. Its first [`State::drain_changes`] tells only what changed after.
    ///
    /// # Errors
    /// [`RestoreError`] if they are not the rows of one state.
    pub fn restore(rows: impl IntoIterator<Item = (RowKey, Row)>) -> Result<Self, RestoreError> {
        let mut restoring = Restoring::default();
        for (key, row) in rows {
            restoring.row(key, row)?;
        }
        restoring.finish()
    }
}

impl Queue {
    /// Builds what is derived from the rows of its messages. False if they contradict each other.
    fn derive(&mut self, bodies: &mut Bodies) -> bool {
        let mut here: Vec<(Offset, u64)> = Vec::new();
        self.each_live(|first, count| here.push((first, count)));
        here.sort_unstable();
        let (mut end, mut bytes) = (Offset(0), 0_u128);
        for (first, count) in here {
            let begins_late_enough = first >= end;
            end = first.plus(count);
            let found = self.runs.revive(first, end, |part| {
                bytes = bytes.saturating_add(u128::from(part.bytes));
                bodies.add(part.index, part.messages, part.bytes);
            });
            if !begins_late_enough || !found {
                return false;
            }
        }
        self.bytes = bytes;
        let leases = self.leases.values();
        self.in_flight = leases.map(|lease| u64::from(lease.count)).sum();
        for (number, attempt) in self.attempts.iter() {
            self.attempts_by_id.insert(attempt.id.clone(), *number);
        }
        self.runs.all_live() && self.is_conserved()
    }

    /// Takes runs in as they were stored before there were chunks: from now on they are chunks.
    fn load_old_runs(&mut self, old: &BTreeMap<Offset, RunRow>, gone: &mut Vec<RowKey>) -> bool {
        for (at, run) in old {
            let end = at.0.checked_add(u64::from(run.count));
            if run.count == 0 || end.is_none_or(|end| end > self.next_offset.0) {
                return false;
            }
            self.runs.append(*at, *run);
            gone.push(RowKey::Run(self.id, *at));
        }
        self.runs.settle_old(self.next_offset);
        true
    }

    /// Takes in a span that is not in a block. False if it cannot be.
    fn load_old_span(&mut self, old: Old, shared: &mut Shared) -> bool {
        match old {
            Old::Ready(at, count) => load_old(&mut self.ready, at, count, ()),
            Old::Returned(at, span) => load_old(&mut self.returned, at, span.count, span.value),
            Old::Delayed(at, span) => {
                let is_new = is_new(&self.delayed, at, span.count);
                if is_new {
                    self.delay(at, span.count, span.value, shared);
                }
                is_new
            }
            Old::Settled(bucket, at, row) => {
                remember(shared, self.id, bucket);
                let settled = self.settled.entry(bucket).or_default();
                let value = diagonal(at, row.first_fence);
                load_old(settled, at, row.count, value)
            }
        }
    }
}

fn is_new<V: Value>(spans: &Spans<V>, at: Offset, count: u64) -> bool {
    count > 0 && at.0.checked_add(count).is_some() && spans.get(at).is_none()
}

fn load_old<V: Value>(spans: &mut Spans<V>, at: Offset, count: u64, value: V) -> bool {
    let is_new = is_new(spans, at, count);
    if is_new {
        spans.insert(at, count, value);
    }
    is_new
}

impl fmt::Debug for Restoring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Restoring").finish_non_exhaustive()
    }
}

/// A state in the making, row by row: see [`State::restore`].
#[derive(Default)]
pub struct Restoring {
    meta: Option<MetaRow>,
    state: State,
    chunks: Vec<(ProducerId, u64, Vec<Remembered>)>,
    sessions: Vec<(SessionId, Session)>,
    messages: Vec<(QueueId, Part)>,
    old_runs: BTreeMap<QueueId, BTreeMap<Offset, RunRow>>,
}

/// A row of a queue's messages.
enum Part {
    Runs(Offset, Vec<RunSeries>),
    Ready(Offset, Vec<Piece>),
    Lease(Offset, LeaseRow),
    Returned(Offset, Vec<Piece>),
    Delayed(Offset, Vec<Piece>),
    Parked(Offset, ParkedRow),
    Deaths(Offset, Vec<Death>),
    Settled(u64, Offset, Vec<Piece>),
    Attempt(u64, AttemptRow),
    /// A span that is not in a block yet.
    Old(RowKey, Old),
}

/// A span as it was stored before there were blocks: from now on it is in one.
enum Old {
    Ready(Offset, u64),
    Returned(Offset, Span<u32>),
    Delayed(Offset, Span<LeaseTime>),
    Settled(u64, Offset, SettledRow),
}

impl Restoring {
    /// Takes a row.
    ///
    /// # Errors
    /// If it does not fit its key or was there before; then there is no state.
    pub fn row(&mut self, key: RowKey, row: Row) -> Result<(), RestoreError> {
        let told = key.clone();
        if self.sort_in(key, row) {
            return Ok(());
        }
        Err(RestoreError {
            reason: format!("row {told:?} is there twice or holds something else"),
        })
    }

    /// Takes a row in. False if it does not fit its key or was there before.
    fn sort_in(&mut self, key: RowKey, row: Row) -> bool {
        let (queue, part) = match (key, row) {
            (RowKey::Meta, Row::Meta(row)) => return self.meta.replace(row).is_none(),
            (RowKey::Namespace(name), Row::Namespace) => {
                return self.state.namespaces.load(name, Default::default());
            }
            (RowKey::Producer(id), Row::Producer(row)) => {
                return self.state.producers.load(id, Producer::new(row));
            }
            (RowKey::ProducerChunk(id, chunk), Row::ProducerChunk(stored)) => {
                self.chunks.push((id, chunk, stored));
                return true;
            }
            (RowKey::Queue(id), Row::Queue(row)) => {
                let mut queue = Box::new(Queue::new(id, *row));
                queue.stored = true;
                return self.state.queues.insert(id, queue).is_none();
            }
            (RowKey::Session(id), Row::Session(row)) => {
                self.sessions.push((id, Session::new(row)));
                return true;
            }
            (RowKey::Node(id), Row::Node(row)) => return self.state.nodes.load(id, row),
            (RowKey::Run(id, at), Row::Run(row)) => {
                let runs = self.old_runs.entry(id).or_default();
                return runs.insert(at, row).is_none();
            }
            (RowKey::Runs(id, at), Row::Runs(stored)) => (id, Part::Runs(at, stored)),
            (RowKey::ReadySpans(id, at), Row::Spans(row)) => (id, Part::Ready(at, row)),
            (RowKey::Lease(id, at), Row::Lease(row)) => (id, Part::Lease(at, row)),
            (RowKey::ReturnedSpans(id, at), Row::Spans(row)) => (id, Part::Returned(at, row)),
            (RowKey::DelayedSpans(id, at), Row::Spans(row)) => (id, Part::Delayed(at, row)),
            (RowKey::Parked(id, at), Row::Parked(row)) => (id, Part::Parked(at, row)),
            (RowKey::Deaths(id, at), Row::Deaths(deaths)) => (id, Part::Deaths(at, deaths)),
            (RowKey::SettledSpans(id, bucket, at), Row::Spans(row)) => {
                (id, Part::Settled(bucket, at, row))
            }
            (RowKey::Attempt(id, number), Row::Attempt(row)) => (id, Part::Attempt(number, row)),
            (key, row) => match old_span(&key, &row) {
                Some((id, old)) => (id, Part::Old(key, old)),
                None => return false,
            },
        };
        // Put in at once, since there may be many: their queue mostly came before them. Only a lease needs its session.
        if !matches!(part, Part::Lease(..)) && self.state.queues.contains_key(&queue) {
            return put_part(&mut self.state, queue, part);
        }
        self.messages.push((queue, part));
        true
    }

    /// The state of all rows.
    ///
    /// # Errors
    /// If they are not the rows of one state.
    pub fn finish(mut self) -> Result<State, RestoreError> {
        let error = |what: &str| RestoreError {
            reason: format!("the rows are no state: {what}"),
        };
        let Some(meta) = self.meta else {
            return Err(error("the row of the cluster is missing"));
        };
        let state = &mut self.state;
        set_meta(state, meta);
        for id in state.queues.keys().copied().collect::<Vec<_>>() {
            if id >= state.next_queue || !index_queue(state, id) {
                return Err(error("a queue has no namespace, or not its name alone"));
            }
        }
        for id in state.producers.keys().copied().collect::<Vec<_>>() {
            if !index_producer(state, id) {
                return Err(error("a producer has no namespace, or not its name alone"));
            }
        }
        for (id, chunk, stored) in self.chunks {
            let producer = state.producers.get_unmarked(&id);
            if !producer.is_some_and(|producer| producer.chunks.load(chunk, stored)) {
                return Err(error("a chunk has no producer, or is there twice"));
            }
        }
        for (id, session) in self.sessions {
            if !put_session(state, id, session) {
                return Err(error("a session has no queue, or not its turn alone"));
            }
        }
        for (id, part) in self.messages {
            if !put_part(state, id, part) {
                return Err(error("a row has no queue or session, or is there twice"));
            }
        }
        for (id, old) in self.old_runs {
            let queue = state.queues.get_mut(&id);
            if !queue.is_some_and(|queue| queue.load_old_runs(&old, &mut state.shared.gone)) {
                return Err(error("a run has no queue, or goes beyond it"));
            }
            state.shared.dirty.insert(id);
        }
        for queue in state.queues.values_mut() {
            if !queue.derive(&mut state.shared.bodies) {
                return Err(error("the messages of a queue contradict each other"));
            }
        }
        for id in state.queues.keys().copied().collect::<Vec<_>>() {
            state.wait_for_target(id);
        }
        Ok(self.state)
    }
}

fn set_meta(state: &mut State, meta: MetaRow) {
    state.applied_index = meta.applied_index;
    state.shared.lease_now = meta.lease_now;
    state.shared.wall_now = meta.wall_now;
    state.digest = meta.digest;
    state.version = meta.version;
    state.bootstrap = meta.bootstrap;
    state.shared.hash_seed = meta.bootstrap.map_or(0, |(_, seed)| seed);
    state.next_queue = meta.next_queue;
    state.next_message_id = meta.next_message_id;
    state.unroutable = meta.unroutable;
}

fn index_queue(state: &mut State, id: QueueId) -> bool {
    let Some(queue) = state.queues.get(&id) else {
        return false;
    };
    let Some(namespace) = state.namespaces.get_unmarked(&queue.namespace) else {
        return false;
    };
    namespace.queues.insert(queue.name.clone(), id).is_none()
}

fn index_producer(state: &mut State, id: ProducerId) -> bool {
    let Some(producer) = state.producers.get(&id) else {
        return false;
    };
    let row = &producer.row;
    let Some(namespace) = state.namespaces.get_unmarked(&row.namespace) else {
        return false;
    };
    namespace.producers.insert(id);
    state.producer_uses.insert((row.used_at, id));
    match &row.name {
        Some(name) => {
            let names = &mut namespace.producer_names;
            names.insert(name.clone(), id).is_none()
        }
        None => true,
    }
}

fn put_session(state: &mut State, id: SessionId, session: Session) -> bool {
    let Some(queue) = state.queues.get_mut(&session.row.queue) else {
        return false;
    };
    queue.sessions.insert(id);
    if let Some(until) = session.row.grace_until {
        state.shared.timers.insert((until, Timer::Grace(id)));
    }
    if let Some(turn) = session.row.turn
        && queue.line.insert(turn, id).is_some()
    {
        return false;
    }
    state.shared.sessions.load(id, session)
}

fn put_part(state: &mut State, id: QueueId, part: Part) -> bool {
    let Some(queue) = state.queues.get_mut(&id) else {
        return false;
    };
    let shared = &mut state.shared;
    match part {
        Part::Runs(at, stored) => queue.runs.load(at, &stored, queue.next_offset),
        Part::Ready(at, row) => queue.ready.load(at, &row),
        Part::Lease(at, row) => {
            shared.timers.insert((row.deadline, Timer::Lease(id, at)));
            if let Some(holder) = row.session {
                let session = shared.sessions.get_unmarked(&holder);
                let Some(session) = session.filter(|session| session.row.queue == id) else {
                    return false;
                };
                session.held = session.held.saturating_add(u64::from(row.count));
                session.leases.insert(at);
            }
            queue.leases.load(at, row)
        }
        Part::Returned(at, row) => queue.returned.load(at, &row),
        Part::Delayed(at, row) => {
            for piece in &row {
                let first = at.plus(u64::from(piece.at));
                let due = LeaseTime(piece.value);
                shared.timers.insert((due, Timer::Delay(id, first)));
            }
            queue.delayed.load(at, &row)
        }
        Part::Parked(at, row) => queue.parked.load(at, row),
        Part::Deaths(at, deaths) => queue.deaths.load(at, deaths),
        Part::Settled(bucket, at, row) => {
            remember(shared, id, bucket);
            queue.settled.entry(bucket).or_default().load(at, &row)
        }
        Part::Old(key, old) => {
            shared.gone.push(key);
            shared.dirty.insert(id);
            queue.load_old_span(old, shared)
        }
        Part::Attempt(number, row) => {
            let due = crate::attempts::forgotten_at(&row);
            shared.memory.insert((due, Memory::Attempt(id, number)));
            queue.attempts.load(number, row)
        }
    }
}

fn remember(shared: &mut Shared, id: QueueId, bucket: u64) {
    let due = crate::settled::forgotten_at(bucket);
    shared.memory.insert((due, Memory::Settled(id, bucket)));
}

fn old_span(key: &RowKey, row: &Row) -> Option<(QueueId, Old)> {
    Some(match (key, row) {
        (RowKey::Ready(id, at), Row::Ready(count)) => (*id, Old::Ready(*at, *count)),
        (RowKey::Returned(id, at), Row::Returned(span)) => (*id, Old::Returned(*at, *span)),
        (RowKey::Delayed(id, at), Row::Delayed(span)) => (*id, Old::Delayed(*at, *span)),
        (RowKey::Settled(id, bucket, at), Row::Settled(row)) => {
            (*id, Old::Settled(*bucket, *at, *row))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;
    use crate::command::SettleKind;
    use crate::id::Fence;
    use crate::script::*;

    /// The row of a block as the rows of single spans that it was before there were blocks.
    fn as_before(key: &RowKey, row: &Row) -> Vec<(RowKey, Row)> {
        let Row::Spans(row) = row else {
            return vec![(key.clone(), row.clone())];
        };
        let single = |piece: &Piece| {
            let Piece { at, count, value } = *piece;
            let on = |start: Offset| start.plus(u64::from(at));
            let due = LeaseTime(value);
            match *key {
                RowKey::ReadySpans(id, start) => (RowKey::Ready(id, on(start)), Row::Ready(count)),
                RowKey::ReturnedSpans(id, start) => {
                    let value = value as u32;
                    let key = RowKey::Returned(id, on(start));
                    (key, Row::Returned(Span { count, value }))
                }
                RowKey::DelayedSpans(id, start) => {
                    let key = RowKey::Delayed(id, on(start));
                    (key, Row::Delayed(Span { count, value: due }))
                }
                RowKey::SettledSpans(id, bucket, start) => {
                    let first_fence = Fence(on(start).0.wrapping_add(value));
                    let row = SettledRow { count, first_fence };
                    (RowKey::Settled(id, bucket, on(start)), Row::Settled(row))
                }
                _ => panic!("{key:?} has no spans"),
            }
        };
        row.iter().map(single).collect()
    }

    #[test]
    fn spans_that_were_rows_of_their_own_are_taken_in_and_written_anew() {
        let mut script = Script::with_queues(&["q"]);
        script.run(publish("q", 600));
        script.receive("q", 590, "a");
        let of = |k: u64| match k % 3 {
            0 => SettleKind::Ack,
            1 => SettleKind::Nack { delay_ms: None },
            _ => SettleKind::Nack {
                delay_ms: Some(9_000 + k),
            },
        };
        script.settle((0..580).map(|k| range(k, 1, k + 1, of(k))).collect());
        let rows = script.state.rows();
        let before: Vec<_> = rows
            .iter()
            .flat_map(|(key, row)| as_before(key, row))
            .collect();
        assert!(before.len() > 4 * 190, "{} rows", before.len());
        let mut restored = State::restore(before.clone()).unwrap();
        assert_eq!(restored.rows(), rows);
        assert_eq!(restored.next_deadline(), script.state.next_deadline());
        let mut stored: BTreeMap<_, _> = before.into_iter().collect();
        restored.drain_changes(|key, row| {
            match row {
                Some(row) => stored.insert(key, row),
                None => stored.remove(&key),
            };
        });
        assert!(stored.into_iter().eq(rows));
    }

    #[test]
    fn spans_that_overlap_are_no_state() {
        let mut script = Script::with_queues(&["q"]);
        script.run(publish("q", 3));
        let mut rows = script.state.rows();
        let queue = script.queue("q").id;
        let key = RowKey::Ready(queue, Offset(2));
        rows.push((key, Row::Ready(1)));
        assert!(State::restore(rows).is_err());
    }
}
