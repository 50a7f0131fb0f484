//! An open snapshot: a file with the rows of a checkpoint, and the bodies that are live in it.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use ticketrail_storage::{DiskFile, Log, StorageError};

use crate::export::Export;
use crate::types::{LogId, term_of};

/// A consistent copy of a replica, to be read in pieces. What it refers to is kept until it is
/// dropped, or taken away when it is read for too long.
pub struct Source {
    file: Arc<dyn DiskFile>,
    file_bytes: u64,
    body_bytes: u64,
    last: LogId,
    export: Export,
    log: Log,
}

/// Why a piece cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It was read for too long: what it refers to may be gone.
    #[error("the snapshot was read for too long and is not kept any more")]
    Gone,
    /// The disk.
    #[error("the snapshot's file cannot be read: {0}")]
    File(io::Error),
    /// Likewise.
    #[error("a body of the snapshot cannot be read: {0}")]
    Body(#[from] StorageError),
    /// The place is not in it.
    #[error("the snapshot ends before byte {0}")]
    Beyond(u64),
}

/// Some bodies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bodies {
    /// Log index and bytes of each, ascending.
    pub bodies: Vec<(u64, Bytes)>,
    /// From where to read on; none: these were the last.
    pub next_index: Option<u64>,
}

impl Bodies {
    /// Takes those that fit; where to read on in this run, unless it is done.
    fn take(&mut self, stored: Vec<(u64, Bytes)>, room: &mut usize) -> Option<u64> {
        let mut next = None;
        for (index, body) in stored {
            if body.len() > *room && !self.bodies.is_empty() {
                *room = 0;
                return next;
            }
            *room = room.saturating_sub(body.len());
            next = Some(index + 1);
            self.next_index = next;
            self.bodies.push((index, body));
        }
        next
    }
}

impl Source {
    pub(crate) fn open(export: Export, log: Log) -> io::Result<Self> {
        let last = export.file.meta().last_log_id;
        let last = last.ok_or_else(|| io::Error::other("a snapshot of nothing"))?;
        let file = export.file.raw()?;
        Ok(Self {
            file_bytes: file.len()?,
            body_bytes: live_bytes(&log, &export.bodies),
            file,
            last,
            export,
            log,
        })
    }

    pub(crate) fn last_log_id(&self) -> LogId {
        self.last
    }

    /// The last entry that it covers.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.last.index
    }

    /// Term of that entry.
    #[must_use]
    pub fn last_term(&self) -> u64 {
        term_of(&self.last)
    }

    /// Length of the file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// About how many bytes of bodies there are.
    #[must_use]
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// Bytes of the file, at most so many; none at its end. The frames in it are checked with this
    /// node's identity.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub fn read_file(&self, offset: u64, bytes_max: usize) -> Result<Bytes, SourceError> {
        if offset > self.file_bytes {
            return Err(SourceError::Beyond(offset));
        }
        let length = (self.file_bytes - offset).min(bytes_max as u64) as usize;
        let mut bytes = vec![0; length];
        let read = self.file.read_at(&mut bytes, offset);
        match read.map_err(SourceError::File)? {
            read if read == length => Ok(bytes.into()),
            _ => Err(SourceError::File(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// The bodies at or after `from_index`, as many as fit `bytes_max`, but at least one if there is
    /// one.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub fn read_bodies(&self, from_index: u64, bytes_max: usize) -> Result<Bodies, SourceError> {
        let runs = &self.export.bodies;
        let behind = runs.partition_point(|(_, last)| *last < from_index);
        let mut found = Bodies::default();
        let mut room = bytes_max;
        for (first, last) in &runs[behind..] {
            let (first, last) = ((*first).max(from_index), (*last).min(self.last.index));
            if first > last {
                continue;
            }
            if room == 0 {
                break;
            }
            // What does not fit is left for the next piece: within a run nothing is passed over.
            let mut next = first;
            while next <= last && room > 0 {
                let stored = self.log.read_bodies(next..=last, room)?;
                let Some(run_on) = found.take(stored, &mut room) else {
                    break;
                };
                next = run_on;
            }
        }
        // Asked last: what was read before it was broken was whole.
        if self.export.hold.is_broken() {
            return Err(SourceError::Gone);
        }
        Ok(found)
    }
}

/// An estimate: live entries are taken for as large as their neighbours in the segment.
fn live_bytes(log: &Log, live: &[(u64, u64)]) -> u64 {
    let of_run = |first: u64, last: u64, bytes: u64| {
        let overlap = |(from, to): &(u64, u64)| {
            let (from, to) = ((*from).max(first), (*to).min(last));
            to.saturating_add(1).saturating_sub(from)
        };
        let behind = live.partition_point(|(_, to)| *to < first);
        let within = live[behind..].iter().take_while(|(from, _)| *from <= last);
        let entries: u64 = within.map(overlap).sum();
        let all = u128::from(last - first) + 1;
        (u128::from(bytes) * u128::from(entries) / all) as u64
    };
    let segments = log.segments().into_iter();
    let in_log: u64 = segments
        .filter_map(|segment| Some((segment.indexes?, segment.entry_bytes)))
        .map(|((first, last), bytes)| of_run(first, last, bytes))
        .sum();
    let segments = log.body_segments().into_iter();
    let in_bodies: u64 = segments
        .map(|segment| of_run(segment.first_index, segment.last_index, segment.bytes))
        .sum();
    in_log + in_bodies
}
