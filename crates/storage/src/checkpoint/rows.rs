//! How rows are told from damage: every value carries a CRC-32C over key and value, and the meta carries the number of rows and
//! the sum of their checksums, so that a row which is missing, or is an older one, is noticed too.

use bytes::Bytes;

use super::CheckpointError;
use crate::header::{u32_at, u64_at};

const CRC_BYTES: usize = 4;
const META_HEADER_BYTES: usize = 20;

/// What all rows together must add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) rows: u64,
    sum: u64,
}

impl Tally {
    /// Counts a stored row in.
    pub(crate) fn add(&mut self, key: &[u8], stored: &[u8]) {
        self.rows = self.rows.wrapping_add(1);
        self.sum = self.sum.wrapping_add(weight(key, stored));
    }

    /// Counts a stored row out.
    pub(crate) fn remove(&mut self, key: &[u8], stored: &[u8]) {
        self.rows = self.rows.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(weight(key, stored));
    }
}

/// Two independent checksums, so that two wrong rows do not cancel out.
fn weight(key: &[u8], stored: &[u8]) -> u64 {
    let low = crc32c::crc32c_append(crc32c::crc32c(key), stored);
    let high = crc32c::crc32c_append(crc32c::crc32c_append(0x5bd1_e995, stored), key);
    u64::from(high) << 32 | u64::from(low)
}

/// The value as it is stored.
pub(crate) fn seal(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(CRC_BYTES + value.len());
    stored.extend_from_slice(&crc(key, value).to_le_bytes());
    stored.extend_from_slice(value);
    stored
}

/// The value that was stored, if it is whole.
pub(crate) fn unseal<'a>(key: &[u8], stored: &'a [u8]) -> Result<&'a [u8], CheckpointError> {
    let value = stored
        .get(CRC_BYTES..)
        .filter(|value| crc(key, value) == u32_at(stored, 0));
    value.ok_or_else(|| {
        CheckpointError::damaged(format!("the row of key {key:02x?} fails its check"))
    })
}

fn crc(key: &[u8], value: &[u8]) -> u32 {
    let seed = crc32c::crc32c(&(key.len() as u32).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(seed, key), value)
}

/// The meta as it is stored.
pub(crate) fn seal_meta(tally: Tally, meta: &[u8]) -> Vec<u8> {
    let mut stored = vec![0; META_HEADER_BYTES];
    stored[4..12].copy_from_slice(&tally.rows.to_le_bytes());
    stored[12..20].copy_from_slice(&tally.sum.to_le_bytes());
    stored.extend_from_slice(meta);
    let crc = crc32c::crc32c(&stored[4..]);
    stored[..4].copy_from_slice(&crc.to_le_bytes());
    stored
}

/// Tally and meta that were stored, if they are whole.
pub(crate) fn unseal_meta(stored: &[u8]) -> Result<(Tally, Bytes), CheckpointError> {
    if stored.len() < META_HEADER_BYTES || crc32c::crc32c(&stored[4..]) != u32_at(stored, 0) {
        return Err(CheckpointError::damaged("its meta fails its check"));
    }
    let tally = Tally {
        rows: u64_at(stored, 4),
        sum: u64_at(stored, 12),
    };
    Ok((tally, Bytes::copy_from_slice(&stored[META_HEADER_BYTES..])))
}

/// The tally in a stored meta; empty where nothing was ever written.
pub(crate) fn tally_of(meta: Option<&[u8]>) -> Result<Tally, CheckpointError> {
    meta.map_or(Ok(Tally::default()), |stored| Ok(unseal_meta(stored)?.0))
}

/// Compares what was read with what the meta promises.
pub(crate) fn check_tally(meta: Option<&[u8]>, read: Tally) -> Result<(), CheckpointError> {
    let promised = tally_of(meta)?;
    if promised == read {
        return Ok(());
    }
    Err(CheckpointError::damaged(format!(
        "{} rows were read, {} are expected, or some are not of the last write",
        read.rows, promised.rows
    )))
}
