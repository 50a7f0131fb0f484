//! The log as its callers see it, durable or not, and the queue of what is on its way to the disk.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::bodies::{BodyTable, Incoming};
use super::cache::Cache;
use super::segment::{Place, SegmentTable, TableChange};
use super::{Done, LogConfig, LogPosition, LogState, Record, SegmentInfo};

/// What waits for the writer.
pub(crate) enum Op {
    Append {
        records: Vec<Record>,
        append: u64,
    },
    Truncate {
        from: u64,
    },
    /// `forget`: what the log holds is not what was purged; none of it may be read any more.
    Purge {
        upto: LogPosition,
        forget: bool,
    },
    Vote(Bytes),
    /// Nothing to write; answered in its turn.
    Nothing,
}

impl Op {
    pub(crate) fn payload_bytes(&self) -> usize {
        match self {
            Self::Append { records, .. } => records.iter().map(|record| record.payload.len()).sum(),
            _ => 0,
        }
    }
}

pub(super) type FailureHook = Box<dyn FnOnce(&io::Error) + Send>;
pub(super) type WorkHook = Arc<dyn Fn() + Send + Sync>;

/// The log as its callers see it. Lock order: this lock is never held during IO or a callback.
pub(crate) struct State {
    pub(crate) table: SegmentTable,
    pub(crate) bodies: BodyTable,
    /// Body segments that wait for their snapshot's install.
    pub(crate) incoming: Vec<Incoming>,
    /// Segments of which the start read the footer alone, by epoch, newest first.
    pub(crate) unchecked: Vec<u64>,
    pub(crate) cache: Cache,
    pub(crate) terms: TermRuns,
    pub(crate) purged: Option<LogPosition>,
    pub(crate) durable_purged: Option<LogPosition>,
    /// First index that is held, where anything is or was.
    pub(crate) start: Option<u64>,
    pub(crate) last: Option<LogPosition>,
    /// Bodies before this index are not served: a purge made them doubtful, and may still be on its way to the disk.
    body_floor: u64,
    pub(crate) committed: Option<u64>,
    pub(crate) durable_index: Option<u64>,
    pub(crate) vote: Option<Bytes>,
    pub(super) queue: VecDeque<(Op, Done)>,
    pub(super) queued_bytes: usize,
    pub(super) appends: u64,
    pub(super) failure: Option<(io::ErrorKind, String)>,
    pub(super) failure_hook: Option<FailureHook>,
    pub(super) work_hook: Option<WorkHook>,
    pub(super) closed: bool,
}

impl State {
    pub(crate) fn new(config: &LogConfig) -> Self {
        Self {
            table: SegmentTable::default(),
            bodies: BodyTable::default(),
            incoming: Vec::new(),
            unchecked: Vec::new(),
            cache: Cache::new(config.cache_bytes),
            terms: TermRuns::default(),
            purged: None,
            durable_purged: None,
            start: None,
            last: None,
            body_floor: 0,
            committed: None,
            durable_index: None,
            vote: None,
            queue: VecDeque::new(),
            queued_bytes: 0,
            appends: 0,
            failure: None,
            failure_hook: None,
            work_hook: None,
            closed: false,
        }
    }

    pub(crate) fn view(&self) -> LogState {
        LogState {
            first_index: self.first_index(),
            purged: self.purged,
            last: self.last,
            committed: self.committed,
            durable_index: self.durable_index,
            vote: self.vote.clone(),
        }
    }

    pub(crate) fn first_index(&self) -> u64 {
        self.start.unwrap_or(0)
    }

    pub(crate) fn last_index(&self) -> Option<u64> {
        self.last.map(|last| last.index)
    }

    /// Whether the log holds this entry.
    pub(crate) fn holds(&self, index: u64) -> bool {
        self.start.is_some_and(|start| index >= start)
            && self.last_index().is_some_and(|last| index <= last)
    }

    /// Whether what the table has of this index may be served. Beyond the last entry it may still have what a truncation on its
    /// way to the disk has removed.
    pub(crate) fn may_serve_body(&self, index: u64) -> bool {
        index >= self.body_floor && self.last_index().is_some_and(|last| index <= last)
    }

    pub(crate) fn body_floor(&self) -> u64 {
        self.body_floor
    }

    /// Where an entry's payload lies: in the log, else in a body segment.
    pub(crate) fn locate_body(&self, index: u64) -> Option<Place> {
        let place = self.table.locate(index);
        place
            .filter(|_| self.may_serve_body(index))
            .or_else(|| self.bodies.locate(index))
    }

    pub(crate) fn term_of(&self, index: u64) -> Option<u64> {
        let purged = self.purged.filter(|purged| purged.index == index);
        let held = || {
            self.holds(index)
                .then(|| self.terms.term_of(index))
                .flatten()
        };
        purged.map(|purged| purged.term).or_else(held)
    }

    pub(super) fn append(&mut self, records: Vec<Record>) -> Option<Op> {
        let (first, last) = (records.first()?, records.last()?);
        self.last = Some(LogPosition {
            index: last.index,
            term: last.term,
        });
        self.start = self.start.or(Some(first.index));
        self.appends += 1;
        for record in &records {
            self.terms.push(record.index, record.term);
            self.cache.push(record.clone(), self.appends);
        }
        Some(Op::Append {
            records,
            append: self.appends,
        })
    }

    pub(super) fn check_append(
        &self,
        records: &[Record],
        payload_bytes_max: usize,
    ) -> Result<(), String> {
        let mut next = self.last_index().map(|last| last + 1);
        for record in records {
            if next.is_some_and(|next| next != record.index) {
                return Err(format!(
                    "entry {} does not follow entry {:?}",
                    record.index,
                    next.map(|next| next - 1)
                ));
            }
            if record.payload.len() > payload_bytes_max {
                return Err(format!(
                    "entry {} has more than {payload_bytes_max} bytes",
                    record.index
                ));
            }
            next = Some(record.index + 1);
        }
        Ok(())
    }

    pub(crate) fn truncate_after(&mut self, last_kept: Option<u64>) -> Option<Op> {
        let start = self.first_index();
        let from = last_kept.map_or(start, |kept| kept + 1).max(start);
        if self.last_index().is_none_or(|last| last < from) {
            return None;
        }
        self.cache.truncate(from);
        self.terms.truncate(from);
        self.last = match from.checked_sub(1).filter(|kept| self.holds(*kept)) {
            Some(index) => self
                .terms
                .term_of(index)
                .map(|term| LogPosition { index, term }),
            None => self.purged,
        };
        if self.last.is_none() {
            self.start = None;
        }
        self.durable_index = self.durable_index.min(self.last_index());
        Some(Op::Truncate { from })
    }

    pub(crate) fn purge(&mut self, upto: LogPosition) -> Option<Op> {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return None;
        }
        // A purge beyond the end, or of an entry of another term, follows the install of a snapshot: whether the entries here are
        // the ones that the snapshot includes is not known, so their bodies must never be served for them.
        let forget = !self.holds(upto.index) || self.terms.term_of(upto.index) != Some(upto.term);
        if forget {
            self.body_floor = upto.index + 1;
            self.cache.clear();
            self.terms.truncate(0);
            self.last = Some(upto);
            self.durable_index = None;
        }
        self.purged = Some(upto);
        self.start = Some(upto.index + 1);
        self.terms.purge(upto.index);
        Some(Op::Purge { upto, forget })
    }

    pub(crate) fn segments(&self) -> Vec<SegmentInfo> {
        let info = |run: &super::segment::SegmentIndex| SegmentInfo {
            epoch: run.segment.epoch,
            indexes: run.last_index().map(|last| (run.first_index, last)),
            bytes: run.segment.bytes,
            entry_bytes: run.entry_bytes,
            sealed: run.sealed,
        };
        self.table.segments.iter().map(info).collect()
    }

    pub(crate) fn failed(&self) -> Option<String> {
        self.failure.as_ref().map(|(_, reason)| reason.clone())
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    pub(crate) fn cached_bytes(&self) -> usize {
        self.cache.bytes()
    }

    pub(super) fn refusal(&self) -> Option<io::Error> {
        if let Some((kind, reason)) = &self.failure {
            return Some(io::Error::new(*kind, format!("the log stopped: {reason}")));
        }
        self.closed.then(|| io::Error::other("the log is closed"))
    }

    /// Takes what one sync can carry. A vote is taken alone: its file is synced by itself, in its turn.
    pub(super) fn drain(&mut self, bytes_max: usize) -> Vec<(Op, Done)> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some((op, _)) = self.queue.front() {
            let is_vote = matches!(op, Op::Vote(_));
            let more = op.payload_bytes();
            if !taken.is_empty() && (is_vote || bytes + more > bytes_max) {
                break;
            }
            bytes += more;
            taken.extend(self.queue.pop_front());
            if is_vote {
                break;
            }
        }
        taken
    }

    /// The committed index, if all operations were taken: it may speak of entries that are still in the queue, behind a
    /// truncation of others of the same index.
    pub(super) fn committed_as_written(&self) -> Option<u64> {
        self.committed.filter(|_| self.queue.is_empty())
    }

    /// What became durable with a sync.
    pub(super) fn settle(&mut self, settled: Settled) {
        for change in settled.changes {
            self.table.apply(change);
        }
        self.queued_bytes -= settled.payload_bytes;
        self.durable_purged = settled.purged;
        if let Some(append) = settled.append {
            self.cache.evict(append);
        }
        let purged = settled.purged.map(|purged| purged.index);
        let mut durable = self.table.last_index().max(purged).min(self.last_index());
        for (op, _) in &self.queue {
            if let Op::Truncate { from } = op {
                durable = durable.min(from.checked_sub(1));
            }
        }
        self.durable_index = durable;
    }
}

/// What one drained batch changed.
#[derive(Default)]
pub(crate) struct Settled {
    pub(crate) changes: Vec<TableChange>,
    pub(crate) payload_bytes: usize,
    pub(crate) append: Option<u64>,
    pub(crate) purged: Option<LogPosition>,
}

/// The term of every entry, as runs: terms change rarely.
#[derive(Default)]
pub(crate) struct TermRuns(VecDeque<(u64, u64)>);

impl TermRuns {
    pub(crate) fn push(&mut self, index: u64, term: u64) {
        if self.0.back().is_none_or(|(_, last)| *last != term) {
            self.0.push_back((index, term));
        }
    }

    pub(crate) fn truncate(&mut self, from: u64) {
        while self.0.back().is_some_and(|(first, _)| *first >= from) {
            self.0.pop_back();
        }
    }

    /// Forgets what lies wholly before the first entry after `upto`.
    pub(crate) fn purge(&mut self, upto: u64) {
        while self
            .0
            .get(1)
            .is_some_and(|(first, _)| *first <= upto.saturating_add(1))
        {
            self.0.pop_front();
        }
    }

    pub(crate) fn term_of(&self, index: u64) -> Option<u64> {
        self.0
            .iter()
            .rev()
            .find(|(first, _)| *first <= index)
            .map(|(_, term)| *term)
    }
}
