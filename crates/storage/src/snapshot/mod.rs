//! The snapshot file: what Raft trusts. One framed, checked file with a manifest; the two newest are kept.
//!
//! It is written under another name, synced, read back whole, and only then renamed. Every frame carries its number and a
//! CRC-32C seeded with the owner; the last frame tells how many rows there are. A file that fails is reported and the next
//! older one is used.

mod frames;
mod writer;

use std::cmp::Reverse;
use std::sync::Arc;

use bytes::Bytes;

use self::frames::Frames;
pub use self::writer::SnapshotWriter;
use crate::disk::{Disk, DiskFile};
use crate::error::StorageError;
use crate::header::{self, HEADER_BYTES, Magic, u32_at, u64_at};
use crate::identity::Identity;

const MAGIC: Magic = Magic(b"TRSNAPS\n");
const PREFIX: &str = "snapshot-";
const NEW_PREFIX: &str = "new-snapshot-";
/// How many files are kept.
pub const KEPT: usize = 2;
/// Rows are gathered to frames of about this size.
const FRAME_BYTES: usize = 256 << 10;
/// A longer frame is damage, not data: one row may be large, but not this large.
const FRAME_BYTES_MAX: usize = 256 << 20;
const FRAME_HEADER_BYTES: usize = 20;
const MANIFEST_BYTES: usize = 24;

const KIND_MANIFEST: u32 = 1;
const KIND_ROWS: u32 = 2;
const KIND_END: u32 = 3;

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Raft group, 0 for now.
    pub group: u32,
    /// Newest entry that the rows include.
    pub last_index: u64,
    /// Its term.
    pub last_term: u64,
    /// Version of the state machine that wrote the rows.
    pub machine_version: u32,
    /// Whatever else the caller must know, such as the membership.
    pub meta: Bytes,
}

/// The name of a snapshot file, which tells its place in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotName {
    /// Newest entry that the rows include.
    pub last_index: u64,
    /// Its term.
    pub last_term: u64,
    /// Raft group.
    pub group: u32,
}

impl SnapshotName {
    /// The file's name inside the folder.
    pub fn file_name(&self) -> String {
        format!(
            "{PREFIX}{:08x}-{:016x}-{:016x}",
            self.group, self.last_index, self.last_term
        )
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(PREFIX)?.split('-');
        let mut number = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits)?;
            u64::from_str_radix(part, 16).ok()
        };
        let found = Self {
            group: number(8)? as u32,
            last_index: number(16)?,
            last_term: number(16)?,
        };
        (found.file_name() == name).then_some(found)
    }
}

/// Writes a whole snapshot file; see [`SnapshotWriter`].
pub fn write(
    disk: &dyn Disk,
    owner: Identity,
    manifest: &Manifest,
    rows: impl Iterator<Item = (Vec<u8>, Vec<u8>)>,
) -> Result<SnapshotName, StorageError> {
    let mut writer = SnapshotWriter::create(disk, owner, manifest)?;
    for (key, value) in rows {
        writer.push(&key, &value)?;
    }
    writer.finish()
}

/// The snapshot files of a group, newest first, unchecked.
pub fn list(disk: &dyn Disk, group: u32) -> Result<Vec<SnapshotName>, StorageError> {
    let names = disk.list().map_err(|e| StorageError::io("list", ".", e))?;
    let mut found: Vec<_> = names
        .iter()
        .filter_map(|name| SnapshotName::parse(name))
        .filter(|name| name.group == group)
        .collect();
    found.sort_unstable_by_key(|name| Reverse(*name));
    Ok(found)
}

/// Opens a snapshot file and verifies all of it.
///
/// # Errors
/// `DataLoss` where any byte fails its check.
pub fn open(
    disk: &dyn Disk,
    owner: Identity,
    name: &SnapshotName,
) -> Result<Snapshot, StorageError> {
    let file_name = name.file_name();
    let file = disk
        .open(&file_name)
        .map_err(|e| StorageError::io("open", &file_name, e))?;
    let snapshot = Snapshot::verified(file, owner, &file_name)?;
    let manifest = &snapshot.manifest;
    if (manifest.group, manifest.last_index, manifest.last_term)
        != (name.group, name.last_index, name.last_term)
    {
        return Err(StorageError::damaged(
            &file_name,
            HEADER_BYTES as u64,
            "its manifest names another snapshot",
        ));
    }
    Ok(snapshot)
}

/// Opens a file that came from elsewhere, under whatever name, and verifies all of it. `owner`: who wrote it.
///
/// # Errors
/// `DataLoss` where any byte fails its check.
pub fn open_foreign(
    disk: &dyn Disk,
    owner: Identity,
    file_name: &str,
) -> Result<Snapshot, StorageError> {
    let file = disk
        .open(file_name)
        .map_err(|e| StorageError::io("open", file_name, e))?;
    Snapshot::verified(file, owner, file_name)
}

/// The newest file that passes its check, and why newer ones did not.
///
/// # Errors
/// Only where the folder cannot be listed.
pub fn newest_good(
    disk: &dyn Disk,
    owner: Identity,
    group: u32,
) -> Result<(Option<Snapshot>, Vec<StorageError>), StorageError> {
    let mut refused = Vec::new();
    for name in list(disk, group)? {
        match open(disk, owner, &name) {
            Ok(snapshot) => return Ok((Some(snapshot), refused)),
            Err(error) => refused.push(error),
        }
    }
    Ok((None, refused))
}

/// An open snapshot file that passed its check.
pub struct Snapshot {
    file: Arc<dyn DiskFile>,
    owner: Identity,
    file_name: String,
    manifest: Manifest,
    row_count: u64,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("manifest", &self.manifest)
            .field("row_count", &self.row_count)
            .finish()
    }
}

impl Snapshot {
    /// What the snapshot is of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// How many rows there are.
    pub fn row_count(&self) -> u64 {
        self.row_count
    }

    /// Visits every row in the order in which they were written.
    ///
    /// # Errors
    /// `DataLoss` if the file was damaged since it was opened: what was visited must be dropped then.
    pub fn for_each_row(&self, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StorageError> {
        let mut frames = Frames::new(&*self.file, self.owner, &self.file_name);
        let mut rows = 0;
        while let Some((kind, payload)) = frames.next()? {
            if kind == KIND_ROWS {
                rows += frames.rows_of(&payload, visit)?;
            }
        }
        if rows == self.row_count {
            Ok(())
        } else {
            Err(frames.damaged("has another number of rows than before"))
        }
    }

    fn verified(
        file: Arc<dyn DiskFile>,
        owner: Identity,
        file_name: &str,
    ) -> Result<Self, StorageError> {
        header::read(MAGIC, owner, file_name, &*file)?;
        let mut frames = Frames::new(&*file, owner, file_name);
        let Some((KIND_MANIFEST, manifest)) = frames.next()? else {
            return Err(frames.damaged("has no manifest"));
        };
        let manifest = decode_manifest(&manifest)
            .ok_or_else(|| frames.damaged("has a manifest that does not fit"))?;
        let mut rows = 0;
        let row_count = loop {
            match frames.next()? {
                Some((KIND_ROWS, payload)) => rows += frames.rows_of(&payload, &mut |_, _| {})?,
                Some((KIND_END, payload)) if payload.len() == 8 => break u64_at(&payload, 0),
                Some(_) => return Err(frames.damaged("has a frame of an unknown kind")),
                None => return Err(frames.damaged("has no end")),
            }
        };
        if rows != row_count || frames.next()?.is_some() {
            return Err(frames.damaged("has rows that its end does not count"));
        }
        Ok(Self {
            owner,
            file_name: file_name.to_owned(),
            manifest,
            row_count,
            file: file.clone(),
        })
    }
}

fn encode_manifest(manifest: &Manifest) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MANIFEST_BYTES + manifest.meta.len());
    bytes.extend_from_slice(&manifest.group.to_le_bytes());
    bytes.extend_from_slice(&manifest.machine_version.to_le_bytes());
    bytes.extend_from_slice(&manifest.last_index.to_le_bytes());
    bytes.extend_from_slice(&manifest.last_term.to_le_bytes());
    bytes.extend_from_slice(&manifest.meta);
    bytes
}

fn decode_manifest(bytes: &[u8]) -> Option<Manifest> {
    let meta = bytes.get(MANIFEST_BYTES..)?;
    Some(Manifest {
        group: u32_at(bytes, 0),
        machine_version: u32_at(bytes, 4),
        last_index: u64_at(bytes, 8),
        last_term: u64_at(bytes, 16),
        meta: Bytes::copy_from_slice(meta),
    })
}

#[cfg(test)]
mod tests;
