//! The bytes of a body segment: how its end is written, and what a start accepts.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::{BodySegment, Incoming, MAGIC, NEW_PREFIX, PREFIX, seed};
use crate::disk::{Disk, DiskFile, read_up_to};
use crate::error::StorageError;
use crate::header::{self, HEADER_BYTES, u32_at, u64_at};
use crate::identity::Identity;
use crate::log::format::{self, RECORD_HEADER_BYTES, RecordKind};
use crate::log::segment::SegmentFile;

/// Length of the end of a file.
pub(super) const TRAILER_BYTES: usize = 16;
/// Length of one place in the footer.
const PLACE_BYTES: usize = 12;
const TRAILER_MAGIC: u32 = u32::from_le_bytes(*b"TRBE");

/// What the names in a folder say about body segments.
#[derive(Default)]
pub(crate) struct BodyNames {
    /// By growing id.
    pub(crate) finished: Vec<u64>,
    /// Likewise.
    pub(crate) incoming: Vec<Incoming>,
    pub(crate) unfinished: Vec<String>,
}

impl BodyNames {
    pub(crate) fn of(names: &[String]) -> Self {
        let mut found = Self::default();
        for name in names {
            if name.starts_with(NEW_PREFIX) {
                found.unfinished.push(name.clone());
            } else if let Some(incoming) = Incoming::of_name(name) {
                found.incoming.push(incoming);
            } else if let Some(id) = id_of(name) {
                found.finished.push(id);
            }
        }
        found.finished.sort_unstable();
        found.incoming.sort_unstable();
        found
    }
}

fn id_of(name: &str) -> Option<u64> {
    let digits = name
        .strip_prefix(PREFIX)
        .filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// The footer's payload; `offsets` has one more, the end of the last record.
pub(super) fn encode_footer(indexes: &[u64], offsets: &[u32]) -> Bytes {
    let mut bytes = Vec::with_capacity(indexes.len() * PLACE_BYTES);
    for (index, offset) in indexes.iter().zip(offsets) {
        bytes.extend_from_slice(&index.to_le_bytes());
        bytes.extend_from_slice(&offset.to_le_bytes());
    }
    bytes.into()
}

pub(super) fn encode_trailer(crc_seed: u32, footer_at: u32, file_bytes: u32) -> [u8; 16] {
    let mut bytes = [0; TRAILER_BYTES];
    bytes[4..8].copy_from_slice(&footer_at.to_le_bytes());
    bytes[8..12].copy_from_slice(&file_bytes.to_le_bytes());
    bytes[12..16].copy_from_slice(&TRAILER_MAGIC.to_le_bytes());
    let crc = crc32c::crc32c_append(crc_seed, &bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Opens a finished body segment: header, footer and trailer are checked, records when they are read.
///
/// # Errors
/// `DataLoss` where one of them is damaged: the file had been whole when it got its name.
pub(crate) fn open(
    disk: &dyn Disk,
    owner: Identity,
    id: u64,
    name: &str,
) -> Result<BodySegment, StorageError> {
    let io = |error: io::Error| StorageError::io("read", name, error);
    let file = disk.open(name).map_err(io)?;
    let extra = header::read(MAGIC, owner, name, &*file)?;
    if u64_at(&extra, 0) != id {
        let reason = "its header names another body segment";
        return Err(StorageError::damaged(name, 0, reason));
    }
    let bytes = file.len().map_err(io)?;
    let footer_at = read_trailer(&*file, name, seed(owner, id), bytes)?;
    let footer_bytes = (bytes - u64::from(footer_at)) as usize - TRAILER_BYTES;
    let footer = read_up_to(&*file, u64::from(footer_at), footer_bytes).map_err(io)?;
    let places = decode_footer(seed(owner, id), id, &footer, footer_at);
    let (indexes, offsets) = places.ok_or_else(|| {
        let reason = "its footer fails the check";
        StorageError::damaged(name, u64::from(footer_at), reason)
    })?;
    Ok(BodySegment {
        file: SegmentFile::of_bodies(owner, id, bytes, file),
        indexes,
        offsets,
    })
}

/// Where the footer starts.
fn read_trailer(
    file: &dyn DiskFile,
    name: &str,
    crc_seed: u32,
    bytes: u64,
) -> Result<u32, StorageError> {
    let damaged = |at, reason: &str| StorageError::damaged(name, at, reason);
    let least = (HEADER_BYTES + RECORD_HEADER_BYTES + TRAILER_BYTES) as u64;
    if bytes < least {
        return Err(damaged(bytes, "ends early"));
    }
    let at = bytes - TRAILER_BYTES as u64;
    let trailer = read_up_to(file, at, TRAILER_BYTES)
        .map_err(|error| StorageError::io("read", name, error))?;
    let footer_at = trailer.get(4..8).map_or(0, |bytes| u32_at(bytes, 0));
    let fits = trailer.len() == TRAILER_BYTES
        && u64::from(u32_at(&trailer, 8)) == bytes
        && u64::from(footer_at) <= at
        && trailer == encode_trailer(crc_seed, footer_at, u32_at(&trailer, 8));
    fits.then_some(footer_at)
        .ok_or_else(|| damaged(at, "its end is damaged or gone"))
}

fn decode_footer(
    crc_seed: u32,
    id: u64,
    bytes: &[u8],
    footer_at: u32,
) -> Option<(Vec<u64>, Vec<u32>)> {
    let record = format::decode_record(crc_seed, id, bytes, 0)?;
    let payload = bytes.get(record.payload_range())?;
    if record.kind != RecordKind::Footer
        || record.length != bytes.len()
        || !payload.len().is_multiple_of(PLACE_BYTES)
    {
        return None;
    }
    let places = payload.chunks_exact(PLACE_BYTES);
    let indexes: Vec<u64> = places.clone().map(|place| u64_at(place, 0)).collect();
    let mut offsets: Vec<u32> = places.map(|place| u32_at(place, 8)).collect();
    offsets.push(footer_at);
    let fits = !indexes.is_empty()
        && indexes.is_sorted_by(|a, b| a < b)
        && offsets.first() == Some(&(HEADER_BYTES as u32))
        && offsets.is_sorted_by(|a, b| a < b);
    fits.then_some((indexes, offsets))
}

/// An empty file with its header.
pub(super) fn create(
    disk: &dyn Disk,
    owner: Identity,
    id: u64,
    name: &str,
) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.create(name)?;
    file.write_at(&header::encode(MAGIC, owner, &id.to_le_bytes()), 0)?;
    Ok(file)
}
