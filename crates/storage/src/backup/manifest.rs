//! The manifest's bytes: one header sector.

use crate::header::{self, EXTRA_BYTES, HEADER_BYTES, u32_at, u64_at};
use crate::identity::Identity;
use crate::log::LogPosition;

use super::{BackupError, MANIFEST, MANIFEST_MAGIC};

/// What a backup is of, and what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupManifest {
    /// The cluster, and the node that the copy was made on.
    pub owner: Identity,
    /// Everything up to this entry is in it, and nothing after.
    pub last: LogPosition,
    /// When it was finished, UTC, milliseconds since 1970.
    pub taken_at_ms: u64,
    /// Log entries whose bodies are in it.
    pub body_count: u64,
    pub(super) state: Seal,
    pub(super) bodies: Seal,
}

/// Length and check of a whole file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seal {
    pub(super) bytes: u64,
    pub(super) crc32c: u32,
}

impl Seal {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
    }
}

impl BackupManifest {
    /// Bytes of all files of the backup.
    pub fn file_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + self.state.bytes + self.bodies.bytes
    }

    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut extra = [0; EXTRA_BYTES];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            extra[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&self.last.index.to_le_bytes());
        put(&self.last.term.to_le_bytes());
        put(&self.taken_at_ms.to_le_bytes());
        put(&self.body_count.to_le_bytes());
        put(&self.state.bytes.to_le_bytes());
        put(&self.bodies.bytes.to_le_bytes());
        put(&self.state.crc32c.to_le_bytes());
        put(&self.bodies.crc32c.to_le_bytes());
        header::encode(MANIFEST_MAGIC, self.owner, &extra)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BackupError> {
        let decoded = header::decode(MANIFEST_MAGIC, MANIFEST, bytes);
        let (owner, extra) = decoded.map_err(BackupError::of(MANIFEST))?;
        Ok(Self {
            owner,
            last: LogPosition {
                index: u64_at(&extra, 0),
                term: u64_at(&extra, 8),
            },
            taken_at_ms: u64_at(&extra, 16),
            body_count: u64_at(&extra, 24),
            state: Seal {
                bytes: u64_at(&extra, 32),
                crc32c: u32_at(&extra, 48),
            },
            bodies: Seal {
                bytes: u64_at(&extra, 40),
                crc32c: u32_at(&extra, 52),
            },
        })
    }
}
