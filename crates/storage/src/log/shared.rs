//! What the handles and the writer share: the visible state of the log and the queue of what is not on disk yet.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;

use super::cache::Cache;
use super::segment::{SegmentTable, Spares, TableChange};
use super::{Done, LogConfig, LogPosition, LogState, Record, SegmentInfo};
use crate::disk::Disk;
use crate::error::StorageError;

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

type FailureHook = Box<dyn FnOnce(&io::Error) + Send>;
type WorkHook = Arc<dyn Fn() + Send + Sync>;
type Refused = (io::Error, Done);

pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    state: Mutex<State>,
    work: Condvar,
    spares: Arc<Spares>,
    payload_bytes_max: usize,
}

/// The log as its callers see it. Lock order: this lock is never held during IO or a callback.
pub(crate) struct State {
    pub(crate) table: SegmentTable,
    pub(crate) cache: Cache,
    pub(crate) terms: TermRuns,
    pub(crate) purged: Option<LogPosition>,
    pub(crate) durable_purged: Option<LogPosition>,
    /// First index that is held, where anything is or was.
    pub(crate) start: Option<u64>,
    pub(crate) last: Option<LogPosition>,
    pub(crate) committed: Option<u64>,
    pub(crate) durable_index: Option<u64>,
    pub(crate) vote: Option<Bytes>,
    queue: VecDeque<(Op, Done)>,
    queued_bytes: usize,
    appends: u64,
    failure: Option<(io::ErrorKind, String)>,
    failure_hook: Option<FailureHook>,
    work_hook: Option<WorkHook>,
    closed: bool,
}

impl State {
    pub(crate) fn new(config: &LogConfig) -> Self {
        Self {
            table: SegmentTable::default(),
            cache: Cache::new(config.cache_bytes),
            terms: TermRuns::default(),
            purged: None,
            durable_purged: None,
            start: None,
            last: None,
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

    pub(crate) fn term_of(&self, index: u64) -> Option<u64> {
        let purged = self.purged.filter(|purged| purged.index == index);
        let held = || {
            self.holds(index)
                .then(|| self.terms.term_of(index))
                .flatten()
        };
        purged.map(|purged| purged.term).or_else(held)
    }

    fn append(&mut self, records: Vec<Record>) -> Option<Op> {
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

    fn check_append(&self, records: &[Record], payload_bytes_max: usize) -> Result<(), String> {
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
            entry_bytes: run
                .places
                .iter()
                .map(|(_, length)| u64::from(*length))
                .sum(),
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

    fn refusal(&self) -> Option<io::Error> {
        if let Some((kind, reason)) = &self.failure {
            return Some(io::Error::new(*kind, format!("the log stopped: {reason}")));
        }
        self.closed.then(|| io::Error::other("the log is closed"))
    }

    /// Takes what one sync can carry. A vote is taken alone: its file is synced by itself, in its turn.
    fn drain(&mut self, bytes_max: usize) -> Vec<(Op, Done)> {
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

    /// What became durable with a sync.
    fn settle(&mut self, settled: Settled) {
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

/// What the writer found when it waited.
pub(crate) enum Waited {
    Work,
    Idle,
    Closed,
}

impl Shared {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        config: &LogConfig,
        state: State,
        spares: Arc<Spares>,
    ) -> Arc<Self> {
        Arc::new(Self {
            disk,
            state: Mutex::new(state),
            work: Condvar::new(),
            spares,
            payload_bytes_max: config.payload_bytes_max(),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds the log's state")
    }

    pub(crate) fn append(&self, records: Vec<Record>, done: Done) -> Result<(), Refused> {
        let state = self.lock();
        if let Err(reason) = state.check_append(&records, self.payload_bytes_max) {
            return Err((io::Error::new(io::ErrorKind::InvalidInput, reason), done));
        }
        self.submit_locked(state, |state| state.append(records), done)
    }

    pub(crate) fn submit(
        &self,
        change: impl FnOnce(&mut State) -> Option<Op>,
        done: Done,
    ) -> Result<(), Refused> {
        self.submit_locked(self.lock(), change, done)
    }

    fn submit_locked(
        &self,
        mut state: MutexGuard<'_, State>,
        change: impl FnOnce(&mut State) -> Option<Op>,
        done: Done,
    ) -> Result<(), Refused> {
        if let Some(error) = state.refusal() {
            return Err((error, done));
        }
        let op = change(&mut state).unwrap_or(Op::Nothing);
        state.queued_bytes += op.payload_bytes();
        state.queue.push_back((op, done));
        let hook = state.work_hook.clone();
        drop(state);
        self.work.notify_one();
        if let Some(hook) = hook {
            hook();
        }
        Ok(())
    }

    pub(crate) fn drain(&self, bytes_max: usize) -> Vec<(Op, Done)> {
        self.lock().drain(bytes_max)
    }

    pub(crate) fn settle(&self, settled: Settled) {
        self.lock().settle(settled);
    }

    /// Waits for work; with a limit, answers `Idle` when it passed.
    pub(crate) fn wait(&self, idle_after: Option<Duration>) -> Waited {
        let mut state = self.lock();
        loop {
            if state.has_work() {
                return Waited::Work;
            }
            if state.closed || state.failure.is_some() {
                return Waited::Closed;
            }
            state = match idle_after {
                None => self
                    .work
                    .wait(state)
                    .expect("nothing panics while it holds the log's state"),
                Some(limit) => {
                    let (state, timeout) = self
                        .work
                        .wait_timeout(state, limit)
                        .expect("nothing panics while it holds the log's state");
                    if timeout.timed_out() && !state.has_work() {
                        return Waited::Idle;
                    }
                    state
                }
            };
        }
    }

    /// Stops the log for good; every waiting caller hears of it.
    pub(crate) fn fail(&self, error: &io::Error) {
        let mut state = self.lock();
        let first = state.failure.is_none();
        if first {
            state.failure = Some((error.kind(), error.to_string()));
        }
        let waiting: Vec<_> = state.queue.drain(..).collect();
        let hook = if first {
            state.failure_hook.take()
        } else {
            None
        };
        drop(state);
        self.work.notify_all();
        // The owner first: it must not hear a late answer as "still running".
        if let Some(hook) = hook {
            hook(error);
        }
        for (_, done) in waiting {
            done(Err(copy_of(error)));
        }
    }

    /// The writer is gone without having been closed: nobody will answer any more.
    pub(crate) fn abandon(&self) {
        // Called from a destructor, which must not panic on top of a panic.
        let Ok(mut state) = self.state.lock() else {
            return;
        };
        if state.failure.is_some() || (state.closed && state.queue.is_empty()) {
            return;
        }
        let error = io::Error::other("the log's writer ended");
        state.failure = Some((error.kind(), error.to_string()));
        let hook = state.failure_hook.take();
        // Dropped unanswered, as in a crash: whether they would have become durable is not known.
        let waiting = std::mem::take(&mut state.queue);
        drop(state);
        drop(waiting);
        if let Some(hook) = hook {
            hook(&error);
        }
    }

    pub(crate) fn recycle(
        &self,
        is_live: impl FnMut(u64, u64) -> bool,
    ) -> Result<usize, StorageError> {
        let mut state = self.lock();
        if let Some(reason) = state.failed() {
            return Err(StorageError::Stopped { reason });
        }
        let durable_purged = state.durable_purged.map(|purged| purged.index);
        let freed = state.table.take_dead(durable_purged, is_live);
        drop(state);
        let count = freed.len();
        if count > 0
            && let Err(error) = self.spares.retire(&*self.disk, freed)
        {
            self.fail(&io::Error::other(error.to_string()));
            return Err(error);
        }
        Ok(count)
    }

    pub(crate) fn spare_count(&self) -> usize {
        self.spares.count()
    }

    pub(crate) fn on_failure(&self, hook: FailureHook) {
        let mut state = self.lock();
        match &state.failure {
            None => state.failure_hook = Some(hook),
            Some((kind, reason)) => {
                let error = io::Error::new(*kind, reason.clone());
                drop(state);
                hook(&error);
            }
        }
    }

    pub(crate) fn on_work(&self, hook: WorkHook) {
        self.lock().work_hook = Some(hook);
    }

    fn close(&self) {
        if let Ok(mut state) = self.state.lock() {
            state.closed = true;
        }
        self.work.notify_all();
    }
}

/// An error for each of several listeners.
pub(crate) fn copy_of(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// Closes the log when the last handle is gone.
pub(crate) struct Closer(Arc<Shared>);

impl Closer {
    pub(crate) fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self(shared))
    }

    pub(crate) fn close(&self) {
        self.0.close();
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.close();
    }
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
