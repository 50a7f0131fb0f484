//! openraft's log and vote on `ticketrail-storage`'s log.
//!
//! Order on the disk is the order of the calls, and a later operation is never durable before an
//! earlier one. So only the vote is waited for: an append that follows a truncation is acknowledged
//! after both.

use std::fmt::Debug;
use std::io;
use std::marker::PhantomData;
use std::ops::{Bound, Range, RangeBounds};

use futures::{Stream, StreamExt, stream};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use ticketrail_storage::{Log, LogPosition};
use tokio::sync::oneshot;

use crate::codec;
use crate::config::{APPLY_BYTES_MAX, FRAME_BYTES_MAX};
use crate::seam::Runtime;
use crate::types::{Entry, LogId, Types, Vote, log_id, term_of};

/// Log and vote of one replica; also its reader, any number of them.
pub(crate) struct LogStore<R> {
    log: Log,
    runtime: PhantomData<fn() -> R>,
}

impl<R> LogStore<R> {
    /// On an open log whose writer runs elsewhere.
    pub(crate) fn new(log: Log) -> Self {
        Self {
            log,
            runtime: PhantomData,
        }
    }

    /// The next entries of a range. A range may reach beyond the end of the log, but not begin
    /// there; and a log that has failed may not end within it.
    fn read_next(&self, range: Range<u64>, begins: bool) -> io::Result<Vec<Entry>> {
        let entries = self.read(range.clone(), APPLY_BYTES_MAX)?;
        let found = entries.first().map(|entry| entry.log_id.index);
        let ends_here = found.is_none() && !begins && self.log.failed().is_none();
        if found != Some(range.start) && !ends_here {
            let text = format!("entry {} is not in the log", range.start);
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        Ok(entries)
    }

    fn read(&self, range: impl RangeBounds<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let state = self.log.state();
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        let start = start.max(state.first_index);
        if start >= end {
            return Ok(Vec::new());
        }
        let records = self.log.read_range(start..end, bytes_max)?;
        records.into_iter().map(codec::entry_of).collect()
    }
}

/// The log id of a place in the log.
pub(crate) fn id_of(position: LogPosition) -> LogId {
    log_id(position.term, position.index)
}

/// A callback for an operation that nobody waits for: if it fails, the whole log has stopped, and
/// its failure hook says so.
fn unattended() -> ticketrail_storage::Done {
    Box::new(|_| {})
}

impl<R: Runtime> RaftLogReader<Types<R>> for LogStore<R> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(range, usize::MAX)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(start..end, FRAME_BYTES_MAX)
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let first = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        let reader = Self::new(self.log.clone());
        // A piece at a time: what is applied after a restart may be gigabytes. An error rather than
        // nothing: openraft would take an entry that is left out for applied.
        let pieces = stream::unfold(Some(first), move |next| {
            let piece = next.filter(|next| *next < end);
            let read = piece.map(|next| reader.read_next(next..end, next == first));
            async move {
                match read? {
                    Ok(entries) => {
                        let next = entries.last().map(|entry| entry.log_id.index + 1);
                        Some((
                            stream::iter(entries.into_iter().map(Ok).collect::<Vec<_>>()),
                            next,
                        ))
                    }
                    Err(error) => Some((stream::iter(vec![Err(error)]), None)),
                }
            }
        });
        Box::pin(pieces.flatten())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.log
            .state()
            .vote
            .as_ref()
            .map(codec::vote_from_disk)
            .transpose()
    }
}

impl<R: Runtime> RaftLogStorage<Types<R>> for LogStore<R> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types<R>>, io::Error> {
        let state = self.log.state();
        Ok(LogState {
            last_purged_log_id: state.purged.map(id_of),
            last_log_id: state.last.map(id_of),
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        Self::new(self.log.clone())
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, durable) = oneshot::channel();
        let done = Box::new(move |result| drop(done.send(result)));
        self.log.save_vote(codec::vote_to_disk(vote), done);
        durable
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the log's writer ended")))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(id) = committed {
            self.log.save_committed(id.index);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let state = self.log.state();
        let Some(index) = state.committed else {
            return Ok(None);
        };
        if let Some(purged) = state.purged.filter(|purged| purged.index >= index) {
            return Ok(Some(id_of(purged)));
        }
        let record = self.log.read(index)?;
        Ok(record.map(|record| log_id(record.term, record.index)))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<Types<R>>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records: Vec<_> = entries.into_iter().map(codec::record_of).collect();
        let last = records.last().map(|record| record.index);
        let done = Box::new(move |result| callback.io_completed(result));
        self.log.append(records, done);
        // A log that failed refuses, through `done`; but openraft may apply what it appended before
        // it hears of that, and must not find less than it believes.
        if last.is_some_and(|last| self.log.state().last.is_none_or(|held| held.index < last)) {
            return Err(io::Error::other("the log takes no more entries"));
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last_kept: Option<LogId>) -> Result<(), io::Error> {
        self.log
            .truncate_after(last_kept.map(|id| id.index), unattended());
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.log.purge(upto.index, term_of(&upto), unattended());
        Ok(())
    }
}
