//! Reading the segments: what is whole, in order, and what lies behind the first thing that is not.

use std::sync::Arc;

use super::KEPT_ASIDE_BYTES_MAX;
use crate::disk::{Disk, read_up_to};
use crate::error::StorageError;
use crate::header;
use crate::log::LogConfig;
use crate::log::format::{self, BatchHeader, BatchKind, FoundRecord, Position, RecordKind};
use crate::log::segment::{self, DATA_START, SegmentFile, TableChange};
use crate::log::state::State;

/// One segment as it was read.
pub(super) struct Scanned {
    pub(super) segment: Arc<SegmentFile>,
    /// Whole batches from the start on.
    pub(super) batches: u64,
    pub(super) end: u64,
    pub(super) sealed: bool,
    /// End of the last whole batch beyond `end`, if there is one: something between was lost.
    pub(super) beyond: Option<u64>,
    /// Bytes beyond `end` that a torn write left.
    pub(super) torn: Option<(u64, Vec<u8>)>,
}

pub(super) struct Scan<'a> {
    pub(super) disk: &'a Arc<dyn Disk>,
    pub(super) config: &'a LogConfig,
    pub(super) state: State,
    pub(super) scanned: Vec<Scanned>,
    /// Header of the newest whole batch.
    pub(super) newest: Option<BatchHeader>,
    /// Newest mark of any whole batch.
    pub(super) mark: Option<Position>,
    /// Places where indexes jump, as (last before, first after, file, offset): only purged entries may be missing there.
    pub(super) gaps: Vec<(u64, u64, String, u64)>,
    /// The run of the log's indexes as read so far.
    pub(super) next_index: Option<u64>,
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

impl<'a> Scan<'a> {
    pub(super) fn new(disk: &'a Arc<dyn Disk>, config: &'a LogConfig) -> Self {
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

    pub(super) fn segment(&mut self, epoch: u64) -> Result<(), StorageError> {
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
