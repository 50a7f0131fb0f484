//! Reading entries back: from the cache, else from their segments, each one checked.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::Record;
use super::format::{self, RECORD_HEADER_BYTES, RecordKind};
use super::segment::{Place, SegmentFile};
use super::shared::Shared;
use super::state::State;
use crate::disk::read_up_to;
use crate::error::StorageError;

/// Most bytes that one read takes from a segment, unless a single entry is larger.
pub(super) const READ_BYTES_MAX: u64 = 1 << 20;

/// Most entries that are read together with one that is wanted.
const ENTRIES_AHEAD_MAX: u64 = 1_024;

pub(crate) fn read_range(
    shared: &Shared,
    range: Range<u64>,
    max_bytes: usize,
) -> Result<Vec<Record>, StorageError> {
    let mut found = Found {
        records: Vec::new(),
        room: max_bytes,
    };
    let mut next = range.start;
    while next < range.end && !found.is_full() {
        let stretch = {
            let state = shared.lock();
            if !state.holds(next) {
                break;
            }
            found.take_cached(&state, &mut next, range.end);
            if next >= range.end || found.is_full() || !state.holds(next) {
                break;
            }
            Stretch::plan(&state, next, range.end, found.room)
                .ok_or(StorageError::NoSuchEntry { index: next })?
        };
        for record in stretch.read()? {
            next = record.index + 1;
            found.push(record);
        }
    }
    Ok(found.records)
}

pub(crate) fn read_body(shared: &Shared, index: u64) -> Result<Bytes, StorageError> {
    let mut found = read_body_and_next(shared, index, 0)?;
    let (_, payload) = found.pop().ok_or(StorageError::NoSuchEntry { index })?;
    Ok(payload)
}

pub(crate) fn read_body_and_next(
    shared: &Shared,
    index: u64,
    bytes_max: usize,
) -> Result<Vec<(u64, Bytes)>, StorageError> {
    let stretch = {
        let state = shared.lock();
        if let Some(record) = state.cache.get(index) {
            return Ok(vec![(index, record.payload.clone())]);
        }
        Stretch::of_bodies(&state, index, bytes_max)
    };
    let stretch = stretch.ok_or(StorageError::NoSuchEntry { index })?;
    let records = stretch.read()?.into_iter();
    Ok(records
        .map(|record| (record.index, record.payload))
        .collect())
}

struct Found {
    records: Vec<Record>,
    room: usize,
}

impl Found {
    fn is_full(&self) -> bool {
        self.room == 0 && !self.records.is_empty()
    }

    /// Adds the entry if it fits; the first one always does.
    fn push(&mut self, record: Record) {
        if self.is_full() {
            return;
        }
        if record.payload.len() > self.room && !self.records.is_empty() {
            self.room = 0;
            return;
        }
        self.room = self.room.saturating_sub(record.payload.len());
        self.records.push(record);
    }

    fn take_cached(&mut self, state: &State, next: &mut u64, end: u64) {
        while *next < end && !self.is_full() && state.holds(*next) {
            let Some(record) = state.cache.get(*next) else {
                return;
            };
            self.push(record.clone());
            *next += 1;
        }
    }
}

/// Entries that lie one after the other in one segment.
pub(super) struct Stretch {
    segment: Arc<SegmentFile>,
    /// Index, offset and length of each.
    entries: Vec<(u64, u32, u32)>,
}

impl Stretch {
    pub(super) fn of(index: u64, place: Place) -> Self {
        Self {
            segment: place.segment,
            entries: vec![(index, place.offset, place.length)],
        }
    }

    /// Whether an entry lies behind these in the same file, so near that one read of so many bytes takes all.
    pub(super) fn takes(&self, place: &Place, bytes_max: u64) -> bool {
        let (Some((_, start, _)), Some((_, last, length))) =
            (self.entries.first(), self.entries.last())
        else {
            return false;
        };
        // Behind a gap it costs less to read by itself.
        let gap_max = 64 << 10;
        let end = u64::from(last + length);
        let offset = u64::from(place.offset);
        Arc::ptr_eq(&self.segment, &place.segment)
            && (end..=end + gap_max).contains(&offset)
            && offset + u64::from(place.length) - u64::from(*start) <= bytes_max
    }

    pub(super) fn add(&mut self, index: u64, place: Place) {
        self.entries.push((index, place.offset, place.length));
    }

    /// A body and, in a segment of the log, those behind it: as far as they may be served and fit one read.
    fn of_bodies(state: &State, index: u64, bytes_max: usize) -> Option<Self> {
        let mut stretch = Self::of(index, state.locate_body(index)?);
        let mut runs = state.table.segments.iter().rev();
        let run = runs.find(|run| Arc::ptr_eq(&run.segment, &stretch.segment));
        for next in index + 1..index + ENTRIES_AHEAD_MAX {
            let place = run.and_then(|run| run.locate(next));
            let Some(place) = place.filter(|_| state.may_serve_body(next)) else {
                break;
            };
            if !stretch.takes(&place, bytes_max as u64) {
                break;
            }
            stretch.add(next, place);
        }
        Some(stretch)
    }

    fn plan(state: &State, first: u64, end: u64, room: usize) -> Option<Self> {
        let place = state.table.locate(first)?;
        let start = u64::from(place.offset);
        let mut payload = u64::from(place.length);
        let mut stretch = Self::of(first, place);
        // A record's header must not make an entry that fits look too large.
        let payload_max = (room as u64).saturating_add(RECORD_HEADER_BYTES as u64 * 4096);
        let end = end.min(state.cache.first_index().unwrap_or(u64::MAX));
        for index in first + 1..end {
            let Some(next) = state
                .holds(index)
                .then(|| state.table.locate(index))
                .flatten()
            else {
                break;
            };
            payload += u64::from(next.length);
            let span =
                u64::from(next.offset) + u64::from(next.length) - start.min(u64::from(next.offset));
            let same_file =
                next.segment.epoch == stretch.segment.epoch && u64::from(next.offset) > start;
            if !same_file || span > READ_BYTES_MAX || payload > payload_max {
                break;
            }
            stretch.entries.push((index, next.offset, next.length));
        }
        Some(stretch)
    }

    pub(super) fn read(&self) -> Result<Vec<Record>, StorageError> {
        let name = self.segment.name();
        let (Some((_, start, _)), Some((_, offset, length))) =
            (self.entries.first(), self.entries.last())
        else {
            return Ok(Vec::new());
        };
        let span = (offset - start) as usize + *length as usize;
        let bytes = read_up_to(&*self.segment.file, u64::from(*start), span)
            .map_err(|e| StorageError::io("read", &name, e))?;
        let bytes = Bytes::from(bytes);
        let mut records = Vec::with_capacity(self.entries.len());
        for (index, offset, length) in &self.entries {
            let at = (offset - start) as usize;
            records.push(self.check(&bytes, at, *index, *length).ok_or_else(|| {
                StorageError::DataLoss {
                    file: name.clone(),
                    offset: u64::from(*offset),
                    first_index: Some(*index),
                    last_index: Some(*index),
                    reason: "an entry fails its check when it is read back".to_owned(),
                }
            })?);
        }
        Ok(records)
    }

    fn check(&self, bytes: &Bytes, at: usize, index: u64, length: u32) -> Option<Record> {
        let found = format::decode_record(self.segment.crc_seed, self.segment.epoch, bytes, at)?;
        let fits = found.kind == RecordKind::Entry
            && found.index == index
            && found.length == length as usize;
        fits.then(|| Record {
            group: found.group,
            term: found.term,
            index: found.index,
            payload: bytes.slice(found.payload_range()),
        })
    }
}
