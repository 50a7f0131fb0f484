//! Body segments: what is kept of entries that Raft no longer needs, or what came from a peer with a snapshot.
//!
//! A body segment is written once, whole, under another name, and renamed when it is on disk. It holds the payloads of entries by
//! growing index, with gaps, in the log's record format, then a footer record with the place of each, then a trailer:
//!
//! ```text
//! file    = header sector (its id), record *, footer record, trailer
//! footer  = index offset index offset ...
//! trailer = crc footer_offset file_bytes magic
//! ```
//!
//! A start reads header, footer and trailer, so it costs the same for a terabyte of bodies as for their index; a record is checked
//! when it is read. The same index may lie in several body segments, after a crash between a rewrite and the removal of the old
//! file, or after a transfer: the newest file wins, and a log segment that still holds the entry wins over all of them. What came
//! with a snapshot waits until that is installed (see `incoming`).

mod file;
mod holders;
mod incoming;
mod read;
mod writer;

use std::sync::Arc;

pub(crate) use file::{BodyNames, open};
pub use holders::{Holder, Holders};
pub use incoming::AdoptedBodies;
pub(crate) use incoming::{Incoming, adopt, discard};
pub(crate) use read::read_bodies;
pub use writer::BodyWriter;

use super::format;
use super::segment::{Place, SegmentFile};
use crate::header::Magic;
use crate::identity::Identity;

const MAGIC: Magic = Magic(b"TRBODYS\n");
const PREFIX: &str = "body-";
const NEW_PREFIX: &str = "body-new-";

/// One body segment on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodySegmentInfo {
    /// Number of the file, growing, never used twice while the process runs.
    pub id: u64,
    /// First and last index in it; there are gaps between.
    pub first_index: u64,
    /// See `first_index`.
    pub last_index: u64,
    /// How many entries it holds.
    pub entries: u64,
    /// Size of the file.
    pub bytes: u64,
}

pub(crate) fn name(id: u64) -> String {
    format!("{PREFIX}{id:016x}")
}

fn new_name(id: u64) -> String {
    format!("{NEW_PREFIX}{id:016x}")
}

/// Another one than a log segment's of the same number.
pub(crate) fn seed(owner: Identity, id: u64) -> u32 {
    crc32c::crc32c_append(format::seed(owner, id), MAGIC.0)
}

/// A finished body segment and the place of everything in it.
pub(crate) struct BodySegment {
    pub(crate) file: Arc<SegmentFile>,
    /// Growing.
    pub(crate) indexes: Vec<u64>,
    /// Where the record of each starts, and where the last one ends.
    pub(crate) offsets: Vec<u32>,
}

impl BodySegment {
    pub(crate) fn id(&self) -> u64 {
        self.file.epoch
    }

    fn first_index(&self) -> u64 {
        self.indexes.first().copied().unwrap_or(0)
    }

    fn last_index(&self) -> u64 {
        self.indexes.last().copied().unwrap_or(0)
    }

    fn holds(&self, index: u64) -> bool {
        index >= self.first_index()
            && index <= self.last_index()
            && self.indexes.binary_search(&index).is_ok()
    }

    fn place(&self, index: u64) -> Option<Place> {
        if index < self.first_index() || index > self.last_index() {
            return None;
        }
        self.place_at(self.indexes.binary_search(&index).ok()?)
    }

    /// The place of the `nth` entry.
    pub(crate) fn place_at(&self, nth: usize) -> Option<Place> {
        let (start, end) = (self.offsets.get(nth)?, self.offsets.get(nth + 1)?);
        Some(Place {
            segment: self.file.clone(),
            offset: *start,
            length: end - start,
        })
    }

    fn info(&self) -> BodySegmentInfo {
        BodySegmentInfo {
            id: self.id(),
            first_index: self.first_index(),
            last_index: self.last_index(),
            entries: self.indexes.len() as u64,
            bytes: self.file.bytes,
        }
    }
}

/// All finished body segments, by growing id.
#[derive(Default)]
pub(crate) struct BodyTable {
    pub(crate) segments: Vec<Arc<BodySegment>>,
}

impl BodyTable {
    pub(crate) fn add(&mut self, segment: BodySegment) {
        let at = self
            .segments
            .partition_point(|known| known.id() < segment.id());
        self.segments.insert(at, Arc::new(segment));
    }

    /// Where the newest copy of this entry's payload lies.
    pub(crate) fn locate(&self, index: u64) -> Option<Place> {
        let mut newest_first = self.segments.iter().rev();
        newest_first.find_map(|segment| segment.place(index))
    }

    pub(crate) fn info(&self) -> Vec<BodySegmentInfo> {
        self.segments.iter().map(|segment| segment.info()).collect()
    }

    /// Takes out those with these ids.
    pub(crate) fn take(&mut self, ids: &[u64]) -> Vec<Arc<BodySegment>> {
        let (gone, kept) = std::mem::take(&mut self.segments)
            .into_iter()
            .partition(|segment| ids.contains(&segment.id()));
        self.segments = kept;
        gone
    }
}
