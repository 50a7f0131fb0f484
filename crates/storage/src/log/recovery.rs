//! What a start accepts.
//!
//! Segments are read in order of epoch, batch by batch. Where a batch fails, everything behind it is searched for whole batches of
//! the same segment: if any of them, or any in a later segment, carries a mark beyond the failure, then what failed had been durable,
//! and the start stops with `DataLoss`. Otherwise it is a torn tail of writes that were never acknowledged: it is copied aside,
//! overwritten, and reported. Nothing is ever skipped.

use std::sync::Arc;

use super::format::{self, BatchHeader, BatchKind, FoundRecord, Position, RecordKind, Standing};
use super::segment::{
    self, DATA_START, SegmentFile, SegmentMaker, SegmentNames, Spares, TableChange,
};
use super::shared::State;
use super::writer::{Active, WriterStart};
use super::{LogConfig, LogPosition};
use crate::disk::{Disk, DiskFile, read_up_to};
use crate::error::StorageError;
use crate::header;
use crate::vote::{self, VoteFile};

/// What a start found and did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Whether the folder held no log before.
    pub is_new: bool,
    /// Segments that were read.
    pub segments: usize,
    /// Entries that were read, purged ones included.
    pub entries: u64,
    /// Bytes of whole batches that were read.
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
    let names = SegmentNames::of(&list()?);
    let is_new = names.live.is_empty();
    for name in &names.unfinished {
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

/// One segment as it was read.
struct Scanned {
    segment: Arc<SegmentFile>,
    /// Whole batches from the start on.
    batches: u64,
    end: u64,
    sealed: bool,
    /// End of the last whole batch beyond `end`, if there is one: something between was lost.
    beyond: Option<u64>,
    /// Bytes beyond `end` that a torn write left.
    torn: Option<(u64, Vec<u8>)>,
}

struct Scan<'a> {
    disk: &'a Arc<dyn Disk>,
    config: &'a LogConfig,
    state: State,
    scanned: Vec<Scanned>,
    /// Header of the newest whole batch.
    newest: Option<BatchHeader>,
    /// Newest mark of any whole batch.
    mark: Option<Position>,
    /// Places where indexes jump, as (last before, first after, file, offset): only purged entries may be missing there.
    gaps: Vec<(u64, u64, String, u64)>,
    /// The run of the log's indexes as read so far.
    next_index: Option<u64>,
    entries: u64,
    bytes: u64,
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

impl<'a> Scan<'a> {
    fn new(disk: &'a Arc<dyn Disk>, config: &'a LogConfig) -> Self {
        Self {
            disk,
            config,
            state: State::new(config),
            scanned: Vec::new(),
            newest: None,
            mark: None,
            gaps: Vec::new(),
            next_index: None,
            entries: 0,
            bytes: 0,
        }
    }

    fn segment(&mut self, epoch: u64) -> Result<(), StorageError> {
        let name = segment::live_name(epoch);
        let io = |e| StorageError::io("read", &name, e);
        let file = self.disk.open(&name).map_err(io)?;
        let extra = header::read(segment::MAGIC, self.config.owner(), &name, &*file)?;
        if header::u64_at(&extra, 0) != epoch {
            return Err(StorageError::damaged(
                &name,
                0,
                "its header names another segment",
            ));
        }
        let bytes = file.len().map_err(io)?;
        let content = read_up_to(&*file, 0, bytes as usize).map_err(io)?;
        let segment = SegmentFile::new(self.config.owner(), epoch, bytes, file);
        let mut at = DATA_START;
        let mut scanned = Scanned {
            segment: segment.clone(),
            batches: 0,
            end: at,
            sealed: false,
            beyond: None,
            torn: None,
        };
        while !scanned.sealed {
            let Some((header, records)) = read_batch(&segment, &content, at) else {
                break;
            };
            self.check_sequence(&name, epoch, at, &header)?;
            if scanned.batches == 0 {
                self.state
                    .table
                    .apply(TableChange::Segment(segment.clone()));
            }
            scanned.sealed = header.kind == BatchKind::Seal;
            scanned.batches += 1;
            self.records(&segment, &content, &records)?;
            at += format::batch_bytes(u64::from(header.body_bytes));
            scanned.end = at;
            self.mark = self.mark.max(Some(header.mark));
            self.newest = Some(header);
        }
        self.bytes += scanned.end - DATA_START;
        if !scanned.sealed {
            scanned.beyond = self.search_beyond(&segment, &content, at);
            scanned.torn = torn_tail(epoch, &content, at, scanned.beyond);
        }
        self.scanned.push(scanned);
        Ok(())
    }

    /// Batches are numbered: a segment that is gone, or an old one that came back, breaks the chain.
    fn check_sequence(
        &self,
        name: &str,
        epoch: u64,
        at: u64,
        header: &BatchHeader,
    ) -> Result<(), StorageError> {
        let Some(previous) = &self.newest else {
            return Ok(());
        };
        let follows = header.sequence == previous.sequence + 1;
        let is_neighbour = epoch <= previous.position.epoch + 1;
        if follows || (!is_neighbour && header.sequence > previous.sequence) {
            return Ok(());
        }
        let reason = format!(
            "batch {} comes after batch {}",
            header.sequence, previous.sequence
        );
        Err(self.loss(name, at, reason))
    }

    fn records(
        &mut self,
        segment: &Arc<SegmentFile>,
        content: &[u8],
        records: &[FoundRecord],
    ) -> Result<(), StorageError> {
        for record in records {
            match record.kind {
                RecordKind::Entry => self.entry(segment, record)?,
                RecordKind::Truncate => self.truncate(record.index),
                RecordKind::Footer => {
                    self.check_footer(segment, record.start, &content[record.payload_range()])?;
                    self.state.table.apply(TableChange::Seal);
                }
            }
        }
        Ok(())
    }

    fn truncate(&mut self, from: u64) {
        self.state.table.apply(TableChange::Truncate { from });
        self.state.terms.truncate(from);
        self.next_index = self.next_index.map(|next| next.min(from));
        // What was truncated need not be there: its segment may have been recycled before this one.
        self.gaps.retain_mut(|(missing_from, next, ..)| {
            *next = from.min(*next);
            *missing_from < *next
        });
    }

    fn entry(
        &mut self,
        segment: &Arc<SegmentFile>,
        record: &FoundRecord,
    ) -> Result<(), StorageError> {
        let index = record.index;
        if let Some(next) = self.next_index.filter(|next| *next != index) {
            let name = segment.name();
            if index < next {
                let reason = format!("entry {index} comes after entry {}", next - 1);
                return Err(self.loss(&name, record.start as u64, reason));
            }
            self.gaps.push((next, index, name, record.start as u64));
        }
        let run = self.state.table.segments.last();
        if run.is_some_and(|run| run.last_index().is_some_and(|last| last + 1 != index)) {
            return Err(self.loss(
                &segment.name(),
                record.start as u64,
                "indexes jump inside a segment".to_owned(),
            ));
        }
        let (offset, length) = (record.start as u32, record.length as u32);
        self.state.table.apply(TableChange::Entry {
            index,
            offset,
            length,
        });
        self.state.terms.push(index, record.term);
        self.next_index = Some(index + 1);
        self.entries += 1;
        Ok(())
    }

    fn check_footer(
        &self,
        segment: &SegmentFile,
        at: usize,
        payload: &[u8],
    ) -> Result<(), StorageError> {
        let run = self
            .state
            .table
            .segments
            .last()
            .expect("a batch was read, so its segment is in the table");
        let first_index = if run.places.is_empty() {
            None
        } else {
            Some(run.first_index)
        };
        let expected = format::encode_footer(
            run.first_index,
            run.places.iter().map(|(offset, _)| *offset),
        );
        let same_first = first_index.is_none() || payload.get(..8) == expected.get(..8);
        if !same_first || payload.get(8..) != expected.get(8..) {
            return Err(self.loss(
                &segment.name(),
                at as u64,
                "the footer does not fit the entries".to_owned(),
            ));
        }
        Ok(())
    }

    fn search_beyond(&mut self, segment: &SegmentFile, content: &[u8], from: u64) -> Option<u64> {
        let mut end = None;
        let mut at = from + format::ALIGN_BYTES;
        while at < content.len() as u64 {
            if let Some(header) =
                format::decode_header(segment.crc_seed, segment.epoch, content, at)
            {
                self.mark = self.mark.max(Some(header.mark));
                end = Some(at + format::batch_bytes(u64::from(header.body_bytes)));
            }
            at += format::ALIGN_BYTES;
        }
        // The header that failed only in its records counts too: its mark was written with it.
        if let Some(header) = format::decode_header(segment.crc_seed, segment.epoch, content, from)
        {
            self.mark = self.mark.max(Some(header.mark));
        }
        end
    }

    fn loss(&self, file: &str, offset: u64, reason: String) -> StorageError {
        StorageError::DataLoss {
            file: file.to_owned(),
            offset,
            first_index: self.next_index.or(Some(0)),
            last_index: None,
            reason,
        }
    }

    /// Nothing that was durable may be missing.
    fn check_ends(&self) -> Result<(), StorageError> {
        let newest_used = self
            .scanned
            .iter()
            .rfind(|scanned| scanned.batches > 0 || scanned.beyond.is_some());
        let Some(newest_used) = newest_used.map(|scanned| scanned.segment.epoch) else {
            return Ok(());
        };
        for scanned in &self.scanned {
            let epoch = scanned.segment.epoch;
            let end = Position {
                epoch,
                offset: scanned.end,
            };
            let name = scanned.segment.name();
            if epoch < newest_used && !scanned.sealed {
                return Err(self.loss_at(
                    scanned,
                    &name,
                    "the segment ends early, though a later one is in use",
                ));
            }
            if self
                .mark
                .is_some_and(|mark| mark.epoch == epoch && mark > end)
            {
                return Err(self.loss_at(scanned, &name, "bytes that had been synced are damaged"));
            }
        }
        Ok(())
    }

    fn loss_at(&self, scanned: &Scanned, name: &str, reason: &str) -> StorageError {
        let run = self
            .state
            .table
            .segments
            .iter()
            .find(|run| run.segment.epoch == scanned.segment.epoch);
        let earlier = self
            .state
            .table
            .segments
            .iter()
            .rev()
            .filter(|run| run.segment.epoch < scanned.segment.epoch);
        let last_good = run
            .and_then(|run| run.last_index())
            .or_else(|| earlier.filter_map(|run| run.last_index()).next());
        let later = self
            .state
            .table
            .segments
            .iter()
            .filter(|run| run.segment.epoch > scanned.segment.epoch);
        let next_good = later
            .filter(|run| !run.places.is_empty())
            .map(|run| run.first_index)
            .next();
        StorageError::DataLoss {
            file: name.to_owned(),
            offset: scanned.end,
            first_index: Some(last_good.map_or(0, |last| last + 1)),
            last_index: next_good.and_then(|next| next.checked_sub(1)),
            reason: reason.to_owned(),
        }
    }

    /// Every entry behind the purge point must be there.
    fn check_continuity(&self, standing: &Standing) -> Result<(), StorageError> {
        let Some(start) = standing.start_index else {
            return Ok(());
        };
        for (missing_from, next, file, offset) in &self.gaps {
            if *next > start {
                let reason = format!("entries {missing_from} to {} are missing", next - 1);
                return Err(StorageError::DataLoss {
                    file: file.clone(),
                    offset: *offset,
                    first_index: Some(*missing_from),
                    last_index: Some(next - 1),
                    reason,
                });
            }
        }
        let held = self
            .state
            .table
            .segments
            .iter()
            .filter(|run| run.last_index().is_some_and(|last| last >= start));
        let first = held
            .map(|run| (run.first_index.max(start), run.segment.name()))
            .min();
        if let Some((first, file)) = first.filter(|(first, _)| *first > start) {
            return Err(StorageError::DataLoss {
                file,
                offset: DATA_START,
                first_index: Some(start),
                last_index: Some(first - 1),
                reason: "the segment that held these entries is missing".to_owned(),
            });
        }
        Ok(())
    }

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
            active = (!scanned.sealed).then(|| self.active_of(scanned));
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

    fn active_of(&self, scanned: &Scanned) -> Active {
        let run = self
            .state
            .table
            .segments
            .last()
            .expect("the newest segment with batches is the table's last");
        Active {
            segment: scanned.segment.clone(),
            end: scanned.end,
            first_index: run.first_index,
            offsets: run.places.iter().map(|(offset, _)| *offset).collect(),
        }
    }
}

fn read_batch(
    segment: &SegmentFile,
    content: &[u8],
    at: u64,
) -> Option<(BatchHeader, Vec<FoundRecord>)> {
    let header = format::decode_header(segment.crc_seed, segment.epoch, content, at)?;
    let records = format::decode_records(segment.crc_seed, &header, content)?;
    Some((header, records))
}

/// What a torn write left at the end of the batches: a batch that is not whole, or whole ones behind it (a footer that reached
/// the disk before the batch that it follows). Other bytes there are zeros or a recycled segment's old content.
fn torn_tail(epoch: u64, content: &[u8], end: u64, beyond: Option<u64>) -> Option<(u64, Vec<u8>)> {
    let head = content.get(end as usize..)?;
    let mut torn_bytes = beyond.map_or(0, |beyond| beyond - end);
    if format::looks_like_a_batch(epoch, content, end) {
        let batch_bytes = format::batch_bytes(u64::from(header::u32_at(head, 12)));
        torn_bytes = torn_bytes.max(batch_bytes.min(KEPT_ASIDE_BYTES_MAX));
    }
    torn_bytes = torn_bytes.min(head.len() as u64);
    (torn_bytes > 0).then(|| (end, head[..torn_bytes as usize].to_vec()))
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
