//! What happened, and what must be true of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use ticketrail_core::{BodyRef, MessageId, State};
use ticketrail_proto::stored::decode_bodies;
use ticketrail_raft::{AppliedEntry, AppliedSink};
use ticketrail_storage::StorageError;
use tokio::time::Instant;

use super::network::Reachable;

/// How often things happened: a run in which too little did proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries confirmed to a client.
    pub confirmed: u64,
    /// Proposals whose outcome no client learnt.
    pub unknown: u64,
    /// Messages confirmed as published.
    pub published: u64,
    /// Messages confirmed as acknowledged.
    pub acked: u64,
    /// Bodies read back and compared.
    pub bodies: u64,
    /// Linearizable reads confirmed.
    pub reads: u64,
    /// Terms with a leader.
    pub leaders: u64,
    /// Crashes of a node, with what was not synced partly lost.
    pub crashes: u64,
    /// Partitions.
    pub partitions: u64,
    /// Entries applied on the nodes, again after restarts.
    pub applied: u64,
    /// Nodes that purged their logs.
    pub purged: u64,
}

/// The record of one simulation.
pub struct History {
    start: Instant,
    record: Mutex<Record>,
}

#[derive(Default)]
struct Record {
    trace: String,
    violations: Vec<String>,
    entries: BTreeMap<u64, (u64, u64)>,
    leaders: BTreeMap<u64, u64>,
    confirmed_index: u64,
    published: BTreeMap<MessageId, Bytes>,
    settle_tried: BTreeSet<MessageId>,
    acked: BTreeSet<MessageId>,
    counts: Counts,
}

impl History {
    /// Begins now.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            record: Mutex::default(),
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
        let now = self.now_ms();
        let mut record = self.lock();
        writeln!(record.trace, "{now:>6} {line}").expect("a string grows");
    }

    /// Something that must never be.
    pub(crate) fn violation(&self, what: String) {
        self.note(format_args!("VIOLATION {what}"));
        self.lock().violations.push(what);
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
        let other = {
            let mut record = self.lock();
            let first = *record.leaders.entry(term).or_insert(node);
            record.counts.leaders = record.leaders.len() as u64;
            first
        };
        if other != node {
            self.violation(format!("n{other} and n{node} both lead term {term}"));
        }
    }

    /// An entry was confirmed to a client.
    pub(crate) fn confirmed(&self, index: u64) {
        let mut record = self.lock();
        record.counts.confirmed += 1;
        record.confirmed_index = record.confirmed_index.max(index);
    }

    /// The highest confirmed index: a read that begins now must see it.
    pub(crate) fn confirmed_index(&self) -> u64 {
        self.lock().confirmed_index
    }

    /// A message was confirmed as published.
    pub(crate) fn published(&self, id: MessageId, message: Bytes) {
        let before = {
            let mut record = self.lock();
            record.counts.published += 1;
            record.published.insert(id, message)
        };
        if before.is_some() {
            self.violation(format!("message id {id} was given twice"));
        }
    }

    /// A node must have the bytes of this message, as they were published.
    pub(crate) fn check_body(&self, node: &Reachable, id: MessageId, body: BodyRef) {
        let payload = match node.replica.body(body.position.index) {
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
        let published = self.lock().published.get(&id).cloned();
        // One whose confirm never came is not known here.
        if found.is_none() || published.is_some_and(|published| Some(published) != found) {
            self.violation(format!("n{} has other bytes for message {id}", node.id));
        }
        self.count(|counts| counts.bodies += 1);
    }

    /// A client is about to settle a message for good.
    pub(crate) fn settle_tried(&self, id: MessageId) {
        self.lock().settle_tried.insert(id);
    }

    /// A client was told that a message is acknowledged.
    pub(crate) fn acked(&self, id: MessageId) {
        let mut record = self.lock();
        record.counts.acked += 1;
        record.acked.insert(id);
    }

    /// A message was delivered: it must not have been acknowledged.
    pub(crate) fn delivered(&self, id: MessageId) {
        if self.lock().acked.contains(&id) {
            self.violation(format!(
                "message {id} was delivered after its confirmed ack"
            ));
        }
    }

    /// What the queue holds when all is over: what was confirmed and not settled is in it, what was
    /// acknowledged is not.
    pub(crate) fn check_present(&self, present: &BTreeSet<MessageId>) {
        let (lost, back) = {
            let record = self.lock();
            let kept = record
                .published
                .keys()
                .filter(|id| !record.settle_tried.contains(id));
            let lost: Vec<_> = kept.filter(|id| !present.contains(id)).copied().collect();
            let back: Vec<_> = record.acked.intersection(present).copied().collect();
            (lost, back)
        };
        if !lost.is_empty() {
            self.violation(format!(
                "{} confirmed messages are lost: {lost:?}",
                lost.len()
            ));
        }
        if !back.is_empty() {
            self.violation(format!(
                "{} acknowledged messages are back: {back:?}",
                back.len()
            ));
        }
    }

    /// Trace, violations, counts.
    pub(crate) fn finish(&self) -> (String, Vec<String>, Counts) {
        let mut record = self.lock();
        (
            std::mem::take(&mut record.trace),
            std::mem::take(&mut record.violations),
            record.counts,
        )
    }

    fn applied(&self, node: u64, index: u64, term: u64, digest: u64) {
        self.note(format_args!(
            "n{node} applied {index} of term {term}: {digest:016x}"
        ));
        let first = {
            let mut record = self.lock();
            record.counts.applied += 1;
            *record.entries.entry(index).or_insert((term, digest))
        };
        if first != (term, digest) {
            let (first_term, first_digest) = first;
            self.violation(format!(
                "entry {index} on n{node} is of term {term} with digest {digest:016x}, elsewhere of term {first_term} with \
                 digest {first_digest:016x}"
            ));
        }
    }
}

/// Hears what one life of a node applies.
pub(crate) struct Ear {
    pub(crate) node: u64,
    pub(crate) history: Arc<History>,
    pub(crate) last: Mutex<Option<u64>>,
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
        self.history
            .applied(self.node, applied.index, applied.term, state.digest());
    }
}
