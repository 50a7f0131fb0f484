//! What a start accepts.
//!
//! A complete segment is taken at its word: its trailer and footer are read, what is between them when it is wanted, and by
//! [`crate::Log::check_next_segment`] after the start. The others are read in order of epoch, batch by batch. Where a batch fails, everything behind it is searched for whole batches of
//! the same segment: if any of them, or any in a later segment, carries a mark beyond the failure, then what failed had been durable,
//! and the start stops with `DataLoss`. Otherwise it is a torn tail of writes that were never acknowledged: it is copied aside,
//! overwritten, and reported. Nothing is ever skipped.

#[cfg(test)]
mod first_footer;
mod scan;
mod verify;

use std::sync::Arc;

use self::scan::Scan;
pub(crate) use self::scan::is_footer_of;
use super::bodies::{self, BodyNames};
use super::format::{Position, Standing};
use super::segment::{SegmentFile, SegmentMaker, SegmentNames, Spares};
use super::state::State;
use super::writer::{Active, WriterStart};
use super::{LogConfig, LogPosition};
use crate::disk::{Disk, DiskFile};
use crate::error::StorageError;
use crate::vote::{self, VoteFile};

/// What a start found and did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Whether the folder held no log before.
    pub is_new: bool,
    /// Segments of the log.
    pub segments: usize,
    /// Of these, the complete ones of which only the footer was read.
    pub segments_trusted: usize,
    /// Body segments that were found whole.
    pub body_segments: usize,
    /// Entries that were found, purged ones included.
    pub entries: u64,
    /// Bytes of whole batches that were found.
    pub bytes: u64,
    /// Torn tails that were cut. None of it had been acknowledged.
    pub cut: Vec<CutTail>,
    /// Copies of the vote that were torn or damaged and have been written again.
    pub vote_copies_repaired: u32,
}

/// A torn tail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutTail {
    /// Segment file.
    pub file: String,
    /// Where the tail began.
    pub offset: u64,
    /// How many bytes were cut.
    pub bytes: u64,
    /// File in the same folder that holds what was cut.
    pub kept_as: String,
}

pub(crate) struct Recovered {
    pub(crate) state: State,
    pub(crate) writer: WriterStart,
    pub(crate) spares: Arc<Spares>,
    pub(crate) report: Recovery,
}

/// Most bytes of a torn tail that are kept aside.
const KEPT_ASIDE_BYTES_MAX: u64 = 16 << 20;
const CUT_PREFIX: &str = "cut-";

pub(crate) fn recover(disk: &Arc<dyn Disk>, config: &LogConfig) -> Result<Recovered, StorageError> {
    let list = || disk.list().map_err(|e| StorageError::io("list", ".", e));
    let found = list()?;
    let (names, body_names) = (SegmentNames::of(&found), BodyNames::of(&found));
    let is_new = names.live.is_empty();
    for name in names.unfinished.iter().chain(&body_names.unfinished) {
        disk.remove(name)
            .map_err(|e| StorageError::io("remove", name, e))?;
    }
    if !list()?.iter().any(|name| name == vote::FILE) {
        if !is_new {
            return Err(StorageError::damaged(
                vote::FILE,
                0,
                "missing, though the folder holds a log",
            ));
        }
        VoteFile::create(&**disk, config.owner())
            .map_err(|e| StorageError::io("create", vote::FILE, e))?;
    }
    let (vote_file, found_vote) = VoteFile::open(&**disk, config.owner())?;

    let mut scan = Scan::new(disk, config);
    for epoch in &names.live {
        scan.segment(*epoch)?;
    }
    let report = Recovery {
        is_new,
        segments: names.live.len(),
        segments_trusted: scan.state.unchecked.len(),
        vote_copies_repaired: found_vote.copies_repaired,
        ..Recovery::default()
    };
    let mut end = scan.finish(report)?;
    if end.standing.vote_sequence > found_vote.sequence {
        return Err(StorageError::damaged(
            vote::FILE,
            0,
            format!(
                "holds vote {}, but the log has seen vote {}",
                found_vote.sequence, end.standing.vote_sequence
            ),
        ));
    }
    end.state.vote = found_vote.vote;
    for id in &body_names.finished {
        let name = bodies::name(*id);
        let segment = bodies::open(&**disk, config.owner(), *id, &name)?;
        end.state.bodies.add(segment);
    }
    end.report.body_segments = body_names.finished.len();
    end.state.incoming = body_names.incoming;
    end.standing.vote_sequence = found_vote.sequence;

    let spares = Spares::new(names.spare.clone(), config.spare_segments_max);
    let next_epoch = names.newest_epoch() + 1;
    let maker = SegmentMaker::new(
        disk.clone(),
        config.owner(),
        config.segment_bytes,
        next_epoch,
        spares.clone(),
    );
    let writer = WriterStart {
        vote: vote_file,
        standing: end.standing,
        sequence: end.sequence,
        synced: end.synced,
        active: end.active,
        ready: end.ready,
        maker,
    };
    Ok(Recovered {
        state: end.state,
        writer,
        spares,
        report: end.report,
    })
}

struct ScanEnd {
    state: State,
    standing: Standing,
    sequence: u64,
    synced: Position,
    active: Option<Active>,
    ready: Vec<Arc<SegmentFile>>,
    report: Recovery,
}

impl Scan<'_> {
    fn finish(mut self, mut report: Recovery) -> Result<ScanEnd, StorageError> {
        self.check_ends()?;
        let standing = self
            .newest
            .as_ref()
            .map(|newest| newest.standing)
            .unwrap_or_default();
        self.check_continuity(&standing)?;
        report.entries = self.entries;
        report.bytes = self.bytes;
        self.cut_torn_tails(&mut report)?;
        let (active, ready, synced) = self.sync_what_was_found()?;
        let sequence = self.newest.as_ref().map_or(0, |newest| newest.sequence + 1);
        let standing = fill_state(&mut self.state, standing);
        Ok(ScanEnd {
            state: self.state,
            standing,
            sequence,
            synced,
            active,
            ready,
            report,
        })
    }

    fn cut_torn_tails(&mut self, report: &mut Recovery) -> Result<(), StorageError> {
        let newest_used = self
            .newest
            .as_ref()
            .map_or(0, |newest| newest.position.epoch);
        for scanned in &mut self.scanned {
            let Some((offset, bytes)) = scanned
                .torn
                .take()
                .filter(|_| scanned.segment.epoch >= newest_used)
            else {
                continue;
            };
            let name = scanned.segment.name();
            let kept_as = format!("{CUT_PREFIX}{:016x}-{offset:010}", scanned.segment.epoch);
            keep_aside(&**self.disk, &kept_as, &bytes)
                .map_err(|e| StorageError::io("keep aside", &kept_as, e))?;
            let zeros = vec![0; bytes.len()];
            let file = &scanned.segment.file;
            file.write_at(&zeros, offset)
                .and_then(|()| file.sync_data())
                .map_err(|e| StorageError::io("cut", &name, e))?;
            report.cut.push(CutTail {
                file: name,
                offset,
                bytes: bytes.len() as u64,
                kept_as,
            });
        }
        Ok(())
    }

    /// What was read may come from memory only, if the process died and the machine did not: it is durable from here on.
    #[allow(clippy::type_complexity)]
    fn sync_what_was_found(
        &self,
    ) -> Result<(Option<Active>, Vec<Arc<SegmentFile>>, Position), StorageError> {
        let mut active = None;
        let mut ready = Vec::new();
        let mut synced = Position {
            epoch: 0,
            offset: 0,
        };
        for scanned in &self.scanned {
            let segment = &scanned.segment;
            if scanned.batches == 0 {
                ready.push(segment.clone());
                continue;
            }
            synced = Position {
                epoch: segment.epoch,
                offset: scanned.end,
            };
            active = (!scanned.sealed).then(|| Active {
                segment: segment.clone(),
                end: scanned.end,
                footer: scanned.footer.clone(),
            });
        }
        if let Some(newest) = self
            .scanned
            .iter()
            .rev()
            .find(|scanned| scanned.batches > 0)
        {
            let name = newest.segment.name();
            newest
                .segment
                .file
                .sync_data()
                .map_err(|e| StorageError::io("sync", &name, e))?;
        }
        self.disk
            .sync_dir()
            .map_err(|e| StorageError::io("sync", ".", e))?;
        Ok((active, ready, synced))
    }
}

fn keep_aside(disk: &dyn Disk, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    if disk.list()?.iter().any(|existing| existing == name) {
        disk.remove(name)?;
    }
    let file: Arc<dyn DiskFile> = disk.create(name)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    disk.sync_dir()
}

/// Sets the visible state from what was read and returns the standing as it is from now on.
fn fill_state(state: &mut State, mut standing: Standing) -> Standing {
    state.purged = standing.purged;
    state.durable_purged = standing.purged;
    state.start = standing.start_index;
    let purged_index = standing.purged.map(|purged| purged.index);
    let last = state
        .table
        .last_index()
        .filter(|last| purged_index.is_none_or(|purged| *last > purged));
    state.last = match last {
        Some(index) => state
            .terms
            .term_of(index)
            .map(|term| LogPosition { index, term }),
        None => standing.purged,
    };
    if state.last.is_none() {
        state.start = None;
    }
    if let Some(purged) = purged_index {
        state.terms.purge(purged);
    }
    state.durable_index = state.last.map(|last| last.index);
    state.committed = standing.committed.min(state.durable_index);
    standing.committed = state.committed;
    standing.start_index = state.start;
    standing
}
