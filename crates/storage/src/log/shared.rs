//! What the handles and the writer share: the state behind its lock, and who is woken or told when.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::segment::Spares;
use super::state::{FailureHook, Op, Settled, State, WorkHook};
use super::{Done, LogConfig, LogCounts, Record};
use crate::disk::Disk;
use crate::error::StorageError;

type Refused = (io::Error, Done);

pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) counts: LogCounts,
    state: Mutex<State>,
    work: Condvar,
    spares: Arc<Spares>,
    payload_bytes_max: usize,
    segment_bytes: u64,
    next_body_id: AtomicU64,
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
        let read = state.bodies.segments.iter().map(|segment| segment.id());
        let waiting = state.incoming.iter().map(|incoming| incoming.id);
        let newest_body = read.chain(waiting).max().unwrap_or(0);
        Arc::new(Self {
            disk,
            next_body_id: AtomicU64::new(newest_body + 1),
            counts: LogCounts::default(),
            state: Mutex::new(state),
            work: Condvar::new(),
            spares,
            payload_bytes_max: config.payload_bytes_max(),
            segment_bytes: config.segment_bytes,
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

    /// What one sync can carry, and what may be called committed once it is written.
    pub(crate) fn drain(&self, bytes_max: usize) -> (Vec<(Op, Done)>, Option<u64>) {
        let mut state = self.lock();
        let taken = state.drain(bytes_max);
        let committed = state.committed_as_written();
        (taken, committed)
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

    /// Removes body segments; their bytes must not be needed, or be elsewhere by now.
    pub(crate) fn remove_bodies(&self, ids: &[u64]) -> Result<usize, StorageError> {
        let gone = self.lock().bodies.take(ids);
        for segment in &gone {
            let name = segment.file.name();
            self.disk
                .remove(&name)
                .map_err(|error| StorageError::io("remove", &name, error))?;
        }
        if !gone.is_empty() {
            self.disk
                .sync_dir()
                .map_err(|error| StorageError::io("sync", ".", error))?;
        }
        Ok(gone.len())
    }

    pub(crate) fn next_body_id(&self) -> u64 {
        self.next_body_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn payload_bytes_max(&self) -> usize {
        self.payload_bytes_max
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
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

    /// Nothing more is to be written than what is there.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
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
