//! The first sector of every file: what it is, in which version, and whose.

use crate::disk::{DiskFile, read_up_to};
use crate::error::StorageError;
use crate::identity::Identity;

/// Length of the header, one sector; what follows starts here.
pub(crate) const HEADER_BYTES: usize = 512;
/// Bytes of the header that each kind of file uses as it likes.
pub(crate) const EXTRA_BYTES: usize = 64;
/// Format version of all files. One number for all: they are read and written by one software.
pub(crate) const FORMAT_VERSION: u32 = 1;

const CRC_AT: usize = 12;
const EXTRA_AT: usize = 40;

/// Eight letters that say what a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Magic(pub(crate) &'static [u8; 8]);

pub(crate) fn encode(magic: Magic, owner: Identity, extra: &[u8]) -> [u8; HEADER_BYTES] {
    assert!(
        extra.len() <= EXTRA_BYTES,
        "the header's extra part has room for {EXTRA_BYTES} bytes"
    );
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(magic.0);
    bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[16..32].copy_from_slice(&owner.cluster_id.to_le_bytes());
    bytes[32..40].copy_from_slice(&owner.node_id.to_le_bytes());
    bytes[EXTRA_AT..EXTRA_AT + extra.len()].copy_from_slice(extra);
    let crc = crc32c::crc32c(&bytes);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Checks a header and returns the owner that it names and its extra part.
pub(crate) fn decode(
    magic: Magic,
    file: &str,
    bytes: &[u8],
) -> Result<(Identity, [u8; EXTRA_BYTES]), StorageError> {
    if bytes.len() < HEADER_BYTES {
        return Err(StorageError::damaged(file, 0, "shorter than its header"));
    }
    let mut checked = [0; HEADER_BYTES];
    checked.copy_from_slice(&bytes[..HEADER_BYTES]);
    let crc = u32_at(&checked, CRC_AT);
    checked[CRC_AT..CRC_AT + 4].fill(0);
    if crc32c::crc32c(&checked) != crc {
        return Err(StorageError::damaged(file, 0, "its header fails the check"));
    }
    if &checked[..8] != magic.0 {
        return Err(StorageError::damaged(
            file,
            0,
            "its header is that of another kind of file",
        ));
    }
    let version = u32_at(&checked, 8);
    if version > FORMAT_VERSION {
        return Err(StorageError::NewerFormat {
            file: file.to_owned(),
            found: version,
            known: FORMAT_VERSION,
        });
    }
    let mut cluster = [0; 16];
    cluster.copy_from_slice(&checked[16..32]);
    let owner = Identity {
        cluster_id: u128::from_le_bytes(cluster),
        node_id: u64_at(&checked, 32),
    };
    let mut extra = [0; EXTRA_BYTES];
    extra.copy_from_slice(&checked[EXTRA_AT..EXTRA_AT + EXTRA_BYTES]);
    Ok((owner, extra))
}

/// Reads and checks the header of an open file that must be `owner`'s.
pub(crate) fn read(
    magic: Magic,
    owner: Identity,
    name: &str,
    file: &dyn DiskFile,
) -> Result<[u8; EXTRA_BYTES], StorageError> {
    let bytes = read_up_to(file, 0, HEADER_BYTES)
        .map_err(|e| StorageError::io("read the header of", name, e))?;
    let (found, extra) = decode(magic, name, &bytes)?;
    owner.must_be(found)?;
    Ok(extra)
}

/// Four bytes as a number; `at` is within `bytes` by the layout of the caller.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut part = [0; 4];
    part.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(part)
}

/// Eight bytes as a number; `at` is within `bytes` by the layout of the caller.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut part = [0; 8];
    part.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(part)
}
