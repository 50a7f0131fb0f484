//! What happened, told to the invariants as it does.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use ticketrail_broker::Delivery;
use ticketrail_core::limits::DEFAULT_NAMESPACE;
use ticketrail_core::{BodyRef, Command, Fence, MessageId, Outcome, QueueId, State};
use ticketrail_proto::stored::decode_bodies;
use ticketrail_raft::{AppliedEntry, AppliedSink, Replaced};
use ticketrail_storage::StorageError;
use tokio::time::Instant;

use super::counts::Counts;
use super::invariants::{
    Delivered, Deliveries, Memberships, Payloads, Replay, Replicas, ReplicatedTime, Violation,
    Writes, conserved,
};
use super::network::Reachable;

/// The record of one simulation.
pub struct History {
    start: Instant,
    /// Whether every event is written down.
    traced: bool,
    record: Mutex<Record>,
}

struct Record {
    trace: String,
    violations: Vec<String>,
    counts: Counts,
    confirmed_index: u64,
    replicas: Replicas,
    replay: Replay,
    time: ReplicatedTime,
    writes: Writes,
    deliveries: Deliveries,
    memberships: Memberships,
    payloads: Payloads,
}

impl History {
    /// Begins now.
    pub(crate) fn new(traced: bool) -> Arc<Self> {
        let record = Record {
            trace: String::new(),
            violations: Vec::new(),
            counts: Counts::default(),
            confirmed_index: 0,
            replicas: Replicas::default(),
            replay: Replay::new(),
            time: ReplicatedTime::default(),
            writes: Writes::default(),
            deliveries: Deliveries::default(),
            memberships: Memberships::default(),
            payloads: Payloads::default(),
        };
        Arc::new(Self {
            start: Instant::now(),
            traced,
            record: Mutex::new(record),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().expect("no panic under this lock")
    }

    /// Virtual milliseconds since the beginning.
    pub(crate) fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Writes a line.
    pub(crate) fn note(&self, line: fmt::Arguments<'_>) {
        if self.traced {
            let now = self.now_ms();
            let mut record = self.lock();
            writeln!(record.trace, "{now:>6} {line}").expect("a string grows");
        }
    }

    /// Something that must never be.
    pub(crate) fn violation(&self, what: String) {
        self.note(format_args!("VIOLATION {what}"));
        let now = self.now_ms();
        self.lock().violations.push(format!("at {now} ms: {what}"));
    }

    fn must(&self, checked: Result<(), Violation>) {
        if let Err(what) = checked {
            self.violation(what);
        }
    }

    /// Whether there was one: what comes after proves nothing.
    pub(crate) fn is_violated(&self) -> bool {
        !self.lock().violations.is_empty()
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.lock().counts);
    }

    /// A node leads a term: nobody else ever did or will.
    pub(crate) fn leads(&self, node: u64, term: u64) {
        self.note(format_args!("n{node} leads term {term}"));
        let checked = self.lock().replicas.leads(node, term);
        self.must(checked);
    }

    /// An entry was confirmed to a client.
    pub(crate) fn confirmed_entry(&self, index: u64) {
        let mut record = self.lock();
        record.counts.confirmed += 1;
        record.confirmed_index = record.confirmed_index.max(index);
    }

    /// The highest confirmed index: a read that begins now must see it.
    pub(crate) fn confirmed_index(&self) -> u64 {
        self.lock().confirmed_index
    }

    /// Clients are about to publish these.
    pub(crate) fn publish_tried(&self, messages: &[Bytes]) {
        let mut record = self.lock();
        messages
            .iter()
            .for_each(|message| record.writes.tried(message.clone()));
    }

    /// A message was confirmed as published.
    pub(crate) fn published(&self, id: MessageId, message: Bytes) {
        let checked = {
            let mut record = self.lock();
            record.counts.published += 1;
            record.writes.confirmed(id, message)
        };
        self.must(checked);
    }

    /// A client was told that these were surely not stored.
    pub(crate) fn publish_refused(&self, messages: &[Bytes]) {
        let mut record = self.lock();
        record.counts.refused += messages.len() as u64;
        messages
            .iter()
            .for_each(|message| record.writes.refused(message.clone()));
    }

    /// Messages came to a client.
    pub(crate) fn delivered(&self, deliveries: &[Delivery]) {
        for delivery in deliveries {
            let id = delivery.message_id;
            let checked = {
                let mut record = self.lock();
                record.counts.delivered += 1;
                if record.writes.bytes_of(id) == Some(&delivery.message) {
                    record
                        .deliveries
                        .delivered(id, delivery.queue, delivery.fence)
                        .map(|how| record.counts.late += u64::from(how == Delivered::Late))
                } else {
                    Err(format!("message {id} was delivered with other bytes"))
                }
            };
            self.must(checked);
        }
    }

    /// A client is about to settle a message for good.
    pub(crate) fn settle_tried(&self, id: MessageId) {
        self.lock().deliveries.settle_tried(id);
    }

    /// A client was told that a message is acknowledged.
    pub(crate) fn acked(&self, id: MessageId, queue: QueueId, fence: Fence) {
        let mut record = self.lock();
        record.counts.acked += 1;
        record.deliveries.acked(id, queue, fence);
    }

    /// A node's life ended, and its disk keeps these members.
    pub(crate) fn membership_kept(&self, node: u64, entry: Option<(u64, u64)>) {
        self.lock().memberships.kept(node, entry);
    }

    /// Whether a node's disk is known to keep members.
    pub(crate) fn has_membership(&self, node: u64) -> bool {
        self.lock().memberships.are_kept(node)
    }

    /// A node started, and goes by these members.
    pub(crate) fn membership_found(&self, node: u64, entry: Option<(u64, u64)>) {
        let checked = self.lock().memberships.found(node, entry);
        self.must(checked);
    }

    /// A node gave bodies of a snapshot to a peer.
    pub(crate) fn bodies_sent(&self, node: u64, bodies: &[(u64, Bytes)]) {
        let checked = {
            let mut record = self.lock();
            record.counts.bodies_sent += bodies.len() as u64;
            let mut sent = bodies.iter();
            sent.try_for_each(|(index, payload)| record.payloads.check(*index, payload))
        };
        self.must(checked.map_err(|what| format!("n{node} sent a snapshot in which {what}")));
    }

    /// A node must have the bytes of this message, as they were published.
    pub(crate) fn check_body(&self, node: &Reachable, id: MessageId, body: BodyRef) {
        let payload = match node.broker.replica().body(body.position.index) {
            Ok(payload) => payload,
            // A disk that was made to fail says nothing about its bytes.
            Err(StorageError::Io { .. } | StorageError::Stopped { .. }) => return,
            Err(error) => {
                return self
                    .violation(format!("n{} has no body of message {id}: {error}", node.id));
            }
        };
        let found = decode_bodies(payload)
            .ok()
            .and_then(|bodies| Some(bodies.get(body.position.place, body.item)?.message.clone()));
        let stored = self.lock().writes.bytes_of(id).cloned();
        if found.is_none() || stored != found {
            let n = node.id;
            self.violation(format!(
                "n{n} has other bytes for message {id} at {body:?}: {found:?}, and the log {stored:?}"
            ));
        }
        self.count(|counts| counts.bodies += 1);
    }

    /// What the queues hold when all is over: what was confirmed and not settled is in them, what
    /// was acknowledged is not, and what was called refused never was.
    pub(crate) fn check_present(&self, present: &BTreeSet<MessageId>) {
        let (there, refused) = {
            let record = self.lock();
            let confirmed = record.writes.all_confirmed();
            (
                record.deliveries.check_present(confirmed, present),
                record.writes.check_refused(),
            )
        };
        self.must(there);
        self.must(refused);
    }

    /// Trace, violations, counts.
    pub(crate) fn finish(&self) -> (String, Vec<String>, Counts) {
        let mut record = self.lock();
        let (leaders, replay) = (record.replicas.terms(), &record.replay);
        let counts = Counts {
            leaders,
            expired: replay.reached("lease expired"),
            redelivered: replay.reached("redelivery"),
            dead_lettered: replay.reached("given up and dead-lettered"),
            duplicates: replay.reached("duplicate publish"),
            attempts_repeated: replay.reached("receive attempt asked again"),
            sessions_resumed: replay.reached("session came back within its grace"),
            ..record.counts.clone()
        };
        (
            std::mem::take(&mut record.trace),
            std::mem::take(&mut record.violations),
            counts,
        )
    }

    /// A snapshot was put in the place of a node's state: it must be what the others had there.
    fn installed(&self, node: u64, state: &State, replaced: Replaced) {
        let (index, term, digest) = (replaced.index, replaced.term, state.digest());
        self.note(format_args!(
            "n{node} installs a snapshot up to {index} of term {term}: {digest:016x}"
        ));
        let checked = {
            let mut record = self.lock();
            record.counts.installs += 1;
            record.replicas.applied(node, index, term, digest)
        };
        self.must(checked.map(drop));
    }

    fn applied(&self, node: u64, state: &State, applied: &AppliedEntry<'_>) {
        let (index, term, digest) = (applied.index, applied.term, state.digest());
        self.note(format_args!(
            "n{node} applied {index} of term {term}: {digest:016x}"
        ));
        let first = {
            let mut record = self.lock();
            record.counts.applied += 1;
            record.replicas.applied(node, index, term, digest)
        };
        let checked = match first {
            Ok(true) => self.lock().committed(state, applied),
            Ok(false) => Ok(()),
            Err(violation) => Err(violation),
        };
        self.must(checked);
    }
}

impl Record {
    /// An entry is applied for the first time anywhere.
    fn committed(&mut self, state: &State, applied: &AppliedEntry<'_>) -> Result<(), Violation> {
        let index = applied.index;
        self.payloads.committed(index, applied.payload.clone());
        if applied.payload.is_empty() {
            return Ok(());
        }
        self.counts.entries += 1;
        self.stored(applied)?;
        self.replay
            .next(index, applied.entry, applied.outcomes, applied.events)?;
        self.time
            .after(index, state.lease_now(), state.wall_now())?;
        state
            .queues(DEFAULT_NAMESPACE, None)
            .try_for_each(|queue| conserved(index, &queue))
    }

    fn stored(&mut self, applied: &AppliedEntry<'_>) -> Result<(), Violation> {
        let mut bodies = None;
        for (place, outcome) in applied.outcomes.iter().enumerate() {
            let (Command::Publish(_), Outcome::Published { accepted, .. }) =
                (&applied.entry.commands[place], outcome)
            else {
                continue;
            };
            let bodies = match &bodies {
                Some(bodies) => bodies,
                None => bodies.insert(
                    decode_bodies(applied.payload.clone()).map_err(|error| error.to_string())?,
                ),
            };
            for range in accepted.iter().filter(|range| !range.duplicate) {
                for (item, id) in (range.first_item..).zip(ids(range.first_message_id, range.count))
                {
                    let body = bodies.get(place as u32, item);
                    let body = body.ok_or_else(|| format!("message {id} has no body"))?;
                    self.writes.stored(id, body.message.clone())?;
                }
            }
        }
        Ok(())
    }
}

/// Neighbouring ids.
pub(crate) fn ids(first: MessageId, count: u32) -> impl Iterator<Item = MessageId> {
    (first.0..first.0 + u64::from(count)).map(MessageId)
}

/// Hears what one life of a node applies, before its broker does.
pub(crate) struct Ear {
    pub(crate) node: u64,
    pub(crate) history: Arc<History>,
    pub(crate) broker: Arc<dyn AppliedSink>,
    pub(crate) last: Mutex<Option<u64>>,
    /// Where the last snapshot ends that was installed.
    pub(crate) installed: Arc<AtomicU64>,
}

impl AppliedSink for Ear {
    fn applied(&self, state: &State, applied: AppliedEntry<'_>) {
        let last = {
            let mut last = self.last.lock().expect("no panic under this lock");
            last.replace(applied.index)
        };
        if last.is_some_and(|last| last + 1 != applied.index) {
            let what = format!("n{} applied {} after {last:?}", self.node, applied.index);
            self.history.violation(what);
        }
        self.history.applied(self.node, state, &applied);
        self.broker.applied(state, applied);
    }

    fn polls(&self) -> bool {
        self.broker.polls()
    }

    fn replaced(&self, state: &State, replaced: Replaced) {
        *self.last.lock().expect("no panic under this lock") = Some(replaced.index);
        self.installed.store(replaced.index, Ordering::Relaxed);
        self.history.installed(self.node, state, replaced);
        self.broker.replaced(state, replaced);
    }
}
