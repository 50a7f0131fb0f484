//! Reading the segments: what is whole, in order, and what lies behind the first thing that is not.

use std::io;
use std::sync::Arc;

use super::KEPT_ASIDE_BYTES_MAX;
use crate::disk::{Disk, read_up_to};
use crate::error::StorageError;
use crate::header;
use crate::log::LogConfig;
use crate::log::footer::{self, Footer, FooterEntry, TRAILER_BYTES};
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
    /// What it holds, as far as it is whole.
    pub(super) footer: Footer,
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
        let segment = SegmentFile::new(self.config.owner(), epoch, bytes, file);
        if let Some((seal, footer)) = read_seal(&segment).map_err(io)? {
            return self.trust(segment, seal, footer);
        }
        let content = read_up_to(&*segment.file, 0, bytes as usize).map_err(io)?;
        let mut at = DATA_START;
        let mut scanned = Scanned {
            segment: segment.clone(),
            batches: 0,
            end: at,
            sealed: false,
            footer: Footer::default(),
            beyond: None,
            torn: None,
        };
        while !scanned.sealed {
            let batch = content.get(at as usize..).unwrap_or_default();
            let found = format::decode_batch(segment.crc_seed, epoch, batch, at);
            let Some((header, records)) = found else {
                break;
            };
            self.check_sequence(&name, epoch, at, header.sequence)?;
            if scanned.batches == 0 {
                scanned.footer = Footer::new(header.sequence);
                self.state
                    .table
                    .apply(TableChange::Segment(segment.clone()));
            }
            scanned.sealed = header.kind == BatchKind::Seal;
            scanned.batches += 1;
            self.records(&mut scanned, batch, at, &records)?;
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

    /// Takes a complete segment for what its footer says.
    fn trust(
        &mut self,
        segment: Arc<SegmentFile>,
        seal: BatchHeader,
        footer: Footer,
    ) -> Result<(), StorageError> {
        let (name, epoch) = (segment.name(), segment.epoch);
        self.check_sequence(&name, epoch, DATA_START, footer.first_sequence)?;
        let table = &mut self.state.table;
        table.apply(TableChange::Segment(segment.clone()));
        // What a truncation in it removed of itself is not in the footer any more.
        if let Some(from) = footer.truncated_from {
            self.truncate(from);
        }
        for entry in footer.entries() {
            self.entry(&segment, &entry)?;
        }
        self.state.table.apply(TableChange::Seal);
        self.state.unchecked.insert(0, epoch);
        let end = seal.position.offset + format::batch_bytes(u64::from(seal.body_bytes));
        self.bytes += end - DATA_START;
        self.mark = self.mark.max(Some(seal.mark));
        self.newest = Some(seal);
        self.scanned.push(Scanned {
            segment,
            batches: 1,
            end,
            sealed: true,
            footer: Footer::default(),
            beyond: None,
            torn: None,
        });
        Ok(())
    }

    /// Batches are numbered: a segment that is gone, or an old one that came back, breaks the chain.
    fn check_sequence(
        &self,
        name: &str,
        epoch: u64,
        at: u64,
        sequence: u64,
    ) -> Result<(), StorageError> {
        let Some(previous) = &self.newest else {
            return Ok(());
        };
        let follows = sequence == previous.sequence + 1;
        let is_neighbour = epoch <= previous.position.epoch + 1;
        if follows || (!is_neighbour && sequence > previous.sequence) {
            return Ok(());
        }
        let reason = format!("batch {sequence} comes after batch {}", previous.sequence);
        Err(self.loss(name, at, reason))
    }

    fn records(
        &mut self,
        scanned: &mut Scanned,
        batch: &[u8],
        at: u64,
        records: &[FoundRecord],
    ) -> Result<(), StorageError> {
        for record in records {
            match record.kind {
                RecordKind::Entry => {
                    let entry = record.entry(at);
                    self.entry(&scanned.segment, &entry)?;
                    scanned.footer.entry(&entry);
                }
                RecordKind::Truncate => {
                    self.truncate(record.index);
                    scanned.footer.truncate(record.index);
                }
                RecordKind::FirstFooter | RecordKind::Footer => {
                    if !is_footer_of(&scanned.footer, record, batch) {
                        let reason = "the footer does not fit the entries".to_owned();
                        let name = scanned.segment.name();
                        return Err(self.loss(&name, at + record.start as u64, reason));
                    }
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
        entry: &FooterEntry,
    ) -> Result<(), StorageError> {
        let index = entry.index;
        let offset = u64::from(entry.offset);
        if let Some(next) = self.next_index.filter(|next| *next != index) {
            let name = segment.name();
            if index < next {
                let reason = format!("entry {index} comes after entry {}", next - 1);
                return Err(self.loss(&name, offset, reason));
            }
            self.gaps.push((next, index, name, offset));
        }
        let run = self.state.table.segments.last();
        if run.is_some_and(|run| run.last_index().is_some_and(|last| last + 1 != index)) {
            let reason = "indexes jump inside a segment".to_owned();
            return Err(self.loss(&segment.name(), offset, reason));
        }
        self.state.table.apply(TableChange::Entry {
            index,
            offset: entry.offset,
            length: entry.length,
        });
        self.state.terms.push(index, entry.term);
        self.next_index = Some(index + 1);
        self.entries += 1;
        Ok(())
    }

    fn search_beyond(&mut self, segment: &SegmentFile, content: &[u8], from: u64) -> Option<u64> {
        let mut end = None;
        let mut at = from + format::ALIGN_BYTES;
        while at < content.len() as u64 {
            let batch = &content[at as usize..];
            if let Some(header) = format::decode_header(segment.crc_seed, segment.epoch, batch, at)
            {
                self.mark = self.mark.max(Some(header.mark));
                end = Some(at + format::batch_bytes(u64::from(header.body_bytes)));
            }
            at += format::ALIGN_BYTES;
        }
        // The header that failed only in its records counts too: its mark was written with it.
        let batch = content.get(from as usize..).unwrap_or_default();
        if let Some(header) = format::decode_header(segment.crc_seed, segment.epoch, batch, from) {
            self.mark = self.mark.max(Some(header.mark));
        }
        end
    }
}

/// The seal of a segment that has a trailer; none where anything of them fails its check, and then a scan tells what is there.
fn read_seal(segment: &SegmentFile) -> io::Result<Option<(BatchHeader, Footer)>> {
    let (seed, epoch) = (segment.crc_seed, segment.epoch);
    let Some(trailer_at) = segment.bytes.checked_sub(TRAILER_BYTES) else {
        return Ok(None);
    };
    let trailer = read_up_to(&*segment.file, trailer_at, TRAILER_BYTES as usize)?;
    let seal_at = footer::decode_trailer(seed, epoch, &trailer)
        .filter(|seal_at| (DATA_START..trailer_at).contains(seal_at));
    let Some(seal_at) = seal_at else {
        return Ok(None);
    };
    let bytes = read_up_to(&*segment.file, seal_at, (trailer_at - seal_at) as usize)?;
    let found = format::decode_batch(seed, epoch, &bytes, seal_at)
        .filter(|(seal, _)| seal.kind == BatchKind::Seal);
    let Some((seal, records)) = found else {
        return Ok(None);
    };
    let footer = records
        .iter()
        .find(|record| record.kind == RecordKind::Footer)
        .and_then(|record| Footer::decode(&bytes[record.payload_range()]));
    Ok(footer.map(|footer| (seal, footer)))
}

/// Whether a footer tells just what was found.
pub(crate) fn is_footer_of(found: &Footer, record: &FoundRecord, bytes: &[u8]) -> bool {
    let payload = &bytes[record.payload_range()];
    if record.kind == RecordKind::Footer {
        return payload == &found.encode()[..];
    }
    let offsets = found.places.iter().map(|(offset, _)| *offset);
    let expected = format::encode_first_footer(found.first_index, offsets);
    // Of no entries, it names whatever index was there before.
    let same_first = found.places.is_empty() || payload.get(..8) == expected.get(..8);
    same_first && payload.get(8..) == expected.get(8..)
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
