//! What the log's bytes look like.
//!
//! A segment is a header sector followed by batches, each starting on a sector:
//!
//! ```text
//! batch  = magic crc kind body_bytes epoch offset sequence mark(epoch offset) committed purged(index term) start vote_seq count
//! record = crc payload_bytes kind group epoch term index payload
//! ```
//!
//! Every checksum is a CRC-32C seeded with cluster, node and segment epoch, over every other byte of the header or record: bytes
//! that a recycled segment still holds from its earlier life, or that came from another node, never pass. A batch header also names
//! its own place and the position that the last completed sync had reached: the *mark* by which recovery tells a torn tail from damage.

use bytes::Bytes;

use super::footer::FooterEntry;
use super::{LogPosition, Record};
use crate::header::{u32_at, u64_at};
use crate::identity::Identity;

/// Batches start on multiples of this, so that no write shares a sector with an earlier one.
pub(crate) const ALIGN_BYTES: u64 = 512;
/// Length of a batch header.
pub(crate) const BATCH_HEADER_BYTES: usize = 112;
/// Length of a record without its payload.
pub(crate) const RECORD_HEADER_BYTES: usize = 40;

const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"TRB1");
const NONE: u64 = u64::MAX;

/// A place in the log's files, in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) epoch: u64,
    pub(crate) offset: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BatchKind {
    /// Records, or only a change of what the header says.
    Data,
    /// Written after idleness, for its mark.
    Marker,
    /// The index footer, the last batch of a segment.
    Seal,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) kind: BatchKind,
    pub(crate) body_bytes: u32,
    pub(crate) position: Position,
    pub(crate) sequence: u64,
    pub(crate) mark: Position,
    pub(crate) record_count: u32,
    pub(crate) standing: Standing,
}

/// What every batch header repeats, so that no single batch must be kept for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Standing {
    pub(crate) committed: Option<u64>,
    pub(crate) purged: Option<LogPosition>,
    /// First index that the log must still hold; `None` when it holds none and nothing was purged.
    pub(crate) start_index: Option<u64>,
    pub(crate) vote_sequence: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    Entry,
    /// Everything from this index on is no longer in the log.
    Truncate,
    /// The segment's index as it was first written, without terms and lengths: offsets alone. Read, never written.
    FirstFooter,
    /// What the segment holds (see `footer`); only in a `Seal` batch.
    Footer,
}

/// A record as it lies in a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundRecord {
    pub(crate) kind: RecordKind,
    pub(crate) group: u32,
    pub(crate) term: u64,
    pub(crate) index: u64,
    /// Where the record starts in the bytes that were parsed.
    pub(crate) start: usize,
    /// Its whole length.
    pub(crate) length: usize,
}

impl FoundRecord {
    /// As the footer of a segment tells it, at whose offset `base` the bytes begin that were parsed.
    pub(crate) fn entry(&self, base: u64) -> FooterEntry {
        FooterEntry {
            index: self.index,
            term: self.term,
            offset: (base + self.start as u64) as u32,
            length: self.length as u32,
        }
    }

    pub(crate) fn payload_range(&self) -> std::ops::Range<usize> {
        self.start + RECORD_HEADER_BYTES..self.start + self.length
    }
}

/// Seed of every checksum in a segment.
pub(crate) fn seed(owner: Identity, epoch: u64) -> u32 {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&owner.cluster_id.to_le_bytes());
    bytes[16..24].copy_from_slice(&owner.node_id.to_le_bytes());
    bytes[24..].copy_from_slice(&epoch.to_le_bytes());
    crc32c::crc32c(&bytes)
}

pub(crate) fn align_up(bytes: u64) -> u64 {
    bytes.div_ceil(ALIGN_BYTES) * ALIGN_BYTES
}

/// Bytes that a batch with such a body takes in a segment.
pub(crate) fn batch_bytes(body_bytes: u64) -> u64 {
    align_up(BATCH_HEADER_BYTES as u64 + body_bytes)
}

/// Bytes that the seal of a segment with a footer of so many bytes takes.
pub(crate) fn seal_bytes(footer_bytes: usize) -> u64 {
    batch_bytes((RECORD_HEADER_BYTES + footer_bytes) as u64)
}

/// A record by itself, as body segments hold it: of group 0 and no term.
pub(crate) fn write_record(
    bytes: &mut Vec<u8>,
    crc_seed: u32,
    epoch: u64,
    kind: RecordKind,
    index: u64,
    payload: &[u8],
) {
    let head = RecordHead {
        group: 0,
        term: 0,
        index,
    };
    append(bytes, crc_seed, epoch, kind, head, payload);
}

struct RecordHead {
    group: u32,
    term: u64,
    index: u64,
}

fn append(
    bytes: &mut Vec<u8>,
    crc_seed: u32,
    epoch: u64,
    kind: RecordKind,
    of: RecordHead,
    payload: &[u8],
) {
    let mut head = [0; RECORD_HEADER_BYTES];
    head[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    head[8..12].copy_from_slice(&(record_kind_code(kind)).to_le_bytes());
    head[12..16].copy_from_slice(&of.group.to_le_bytes());
    head[16..24].copy_from_slice(&epoch.to_le_bytes());
    head[24..32].copy_from_slice(&of.term.to_le_bytes());
    head[32..40].copy_from_slice(&of.index.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc_seed, &head[4..]), payload);
    head[..4].copy_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(payload);
}

/// Builds one batch in a reused buffer.
#[derive(Default)]
pub(crate) struct BatchBuilder {
    bytes: Vec<u8>,
    record_count: u32,
}

impl BatchBuilder {
    pub(crate) fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    pub(crate) fn body_bytes(&self) -> u64 {
        self.bytes.len().saturating_sub(BATCH_HEADER_BYTES) as u64
    }

    /// Adds a record; returns its place relative to the start of the batch.
    pub(crate) fn push(
        &mut self,
        crc_seed: u32,
        epoch: u64,
        kind: RecordKind,
        record: &Record,
    ) -> usize {
        if self.bytes.is_empty() {
            self.bytes.resize(BATCH_HEADER_BYTES, 0);
        }
        let start = self.bytes.len();
        let head = RecordHead {
            group: record.group,
            term: record.term,
            index: record.index,
        };
        let bytes = &mut self.bytes;
        append(bytes, crc_seed, epoch, kind, head, &record.payload);
        self.record_count += 1;
        start
    }

    /// Completes the batch and empties the builder into `write`; `header` gets its counts here.
    pub(crate) fn finish<T>(
        &mut self,
        crc_seed: u32,
        mut header: BatchHeader,
        write: impl FnOnce(&[u8]) -> T,
    ) -> T {
        if self.bytes.is_empty() {
            self.bytes.resize(BATCH_HEADER_BYTES, 0);
        }
        header.body_bytes = self.body_bytes() as u32;
        header.record_count = self.record_count;
        let head = encode_header(crc_seed, &header);
        self.bytes[..BATCH_HEADER_BYTES].copy_from_slice(&head);
        self.bytes
            .resize(align_up(self.bytes.len() as u64) as usize, 0);
        let result = write(&self.bytes);
        self.bytes.clear();
        self.record_count = 0;
        result
    }
}

fn encode_header(crc_seed: u32, header: &BatchHeader) -> [u8; BATCH_HEADER_BYTES] {
    let standing = &header.standing;
    let kind: u32 = match header.kind {
        BatchKind::Data => 0,
        BatchKind::Marker => 1,
        BatchKind::Seal => 2,
    };
    let mut bytes = [0; BATCH_HEADER_BYTES];
    bytes[..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
    bytes[8..12].copy_from_slice(&kind.to_le_bytes());
    bytes[12..16].copy_from_slice(&header.body_bytes.to_le_bytes());
    let numbers = [
        header.position.epoch,
        header.position.offset,
        header.sequence,
        header.mark.epoch,
        header.mark.offset,
        standing.committed.unwrap_or(NONE),
        standing.purged.map_or(NONE, |purged| purged.index),
        standing.purged.map_or(NONE, |purged| purged.term),
        standing.start_index.unwrap_or(NONE),
        standing.vote_sequence,
        u64::from(header.record_count),
    ];
    for (slot, number) in numbers.iter().enumerate() {
        bytes[16 + slot * 8..24 + slot * 8].copy_from_slice(&number.to_le_bytes());
    }
    let crc = crc32c::crc32c_append(crc_seed, &bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads the header of a batch that should lie at `at` of a segment and whose bytes these are; `None` unless it is whole, of this
/// epoch and at home there.
pub(crate) fn decode_header(
    crc_seed: u32,
    epoch: u64,
    batch: &[u8],
    at: u64,
) -> Option<BatchHeader> {
    let bytes = batch.get(..BATCH_HEADER_BYTES)?;
    if u32_at(bytes, 0) != BATCH_MAGIC
        || crc32c::crc32c_append(crc_seed, &bytes[8..]) != u32_at(bytes, 4)
    {
        return None;
    }
    let kind = match u32_at(bytes, 8) {
        0 => BatchKind::Data,
        1 => BatchKind::Marker,
        2 => BatchKind::Seal,
        _ => return None,
    };
    let number = |slot: usize| u64_at(bytes, 16 + slot * 8);
    let optional = |slot: usize| Some(number(slot)).filter(|number| *number != NONE);
    let header = BatchHeader {
        kind,
        body_bytes: u32_at(bytes, 12),
        position: Position {
            epoch: number(0),
            offset: number(1),
        },
        sequence: number(2),
        mark: Position {
            epoch: number(3),
            offset: number(4),
        },
        record_count: number(10) as u32,
        standing: Standing {
            committed: optional(5),
            purged: optional(6).map(|index| LogPosition {
                index,
                term: number(7),
            }),
            start_index: optional(8),
            vote_sequence: number(9),
        },
    };
    (header.position == Position { epoch, offset: at } && header.mark <= header.position)
        .then_some(header)
}

/// Whether the bytes at `at` begin like a batch of this segment's present life, whole or not.
pub(crate) fn looks_like_a_batch(epoch: u64, segment: &[u8], at: u64) -> bool {
    let head = segment.get(at as usize..at as usize + BATCH_HEADER_BYTES);
    head.is_some_and(|head| u32_at(head, 0) == BATCH_MAGIC && u64_at(head, 16) == epoch)
}

/// A whole batch that lies at `at` of a segment, and all its records; `None` if one of them is not good.
pub(crate) fn decode_batch(
    crc_seed: u32,
    epoch: u64,
    batch: &[u8],
    at: u64,
) -> Option<(BatchHeader, Vec<FoundRecord>)> {
    let header = decode_header(crc_seed, epoch, batch, at)?;
    let mut next = BATCH_HEADER_BYTES;
    let end = next + header.body_bytes as usize;
    let mut records = Vec::with_capacity(header.record_count.min(1 << 16) as usize);
    while next < end {
        let record = decode_record(crc_seed, epoch, batch.get(..end)?, next)?;
        next += record.length;
        records.push(record);
    }
    (records.len() == header.record_count as usize).then_some((header, records))
}

/// The record at `at`; `None` unless it is whole and of this epoch.
pub(crate) fn decode_record(
    crc_seed: u32,
    epoch: u64,
    bytes: &[u8],
    at: usize,
) -> Option<FoundRecord> {
    let head = bytes.get(at..at + RECORD_HEADER_BYTES)?;
    let length = RECORD_HEADER_BYTES + u32_at(head, 4) as usize;
    let whole = bytes.get(at..at + length)?;
    if crc32c::crc32c_append(crc_seed, &whole[4..]) != u32_at(whole, 0) || u64_at(head, 16) != epoch
    {
        return None;
    }
    Some(FoundRecord {
        kind: record_kind(u32_at(head, 8))?,
        group: u32_at(head, 12),
        term: u64_at(head, 24),
        index: u64_at(head, 32),
        start: at,
        length,
    })
}

fn record_kind_code(kind: RecordKind) -> u32 {
    match kind {
        RecordKind::Entry => 1,
        RecordKind::Truncate => 2,
        RecordKind::FirstFooter => 3,
        RecordKind::Footer => 4,
    }
}

fn record_kind(code: u32) -> Option<RecordKind> {
    match code {
        1 => Some(RecordKind::Entry),
        2 => Some(RecordKind::Truncate),
        3 => Some(RecordKind::FirstFooter),
        4 => Some(RecordKind::Footer),
        _ => None,
    }
}

/// The first footer's payload: the first index of the segment and where each of its entries starts.
pub(crate) fn encode_first_footer(first_index: u64, offsets: impl Iterator<Item = u32>) -> Bytes {
    let mut bytes = first_index.to_le_bytes().to_vec();
    for offset in offsets {
        bytes.extend_from_slice(&offset.to_le_bytes());
    }
    bytes.into()
}
