//! The snapshot file: what Raft trusts. One framed, checked file with a manifest; the two newest are kept.
//!
//! It is written under another name, synced, read back whole, and only then renamed. Every frame carries its number and a
//! CRC-32C seeded with the owner; the last frame tells how many rows there are. A file that fails is reported and the next
//! older one is used.

use std::cmp::Reverse;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{Disk, DiskFile, read_up_to};
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

/// Writes one snapshot file, row by row.
pub struct SnapshotWriter<'a> {
    disk: &'a dyn Disk,
    owner: Identity,
    name: SnapshotName,
    new_name: String,
    file: Arc<dyn DiskFile>,
    offset: u64,
    frame: u64,
    rows: Vec<u8>,
    row_count: u64,
}

impl<'a> SnapshotWriter<'a> {
    /// Starts a file. Nothing is visible before [`SnapshotWriter::finish`].
    pub fn create(
        disk: &'a dyn Disk,
        owner: Identity,
        manifest: &Manifest,
    ) -> Result<Self, StorageError> {
        let name = SnapshotName {
            group: manifest.group,
            last_index: manifest.last_index,
            last_term: manifest.last_term,
        };
        let new_name = format!("{NEW_PREFIX}{:08x}", manifest.group);
        let create = || -> io::Result<Arc<dyn DiskFile>> {
            if disk.list()?.contains(&new_name) {
                disk.remove(&new_name)?;
            }
            let file = disk.create(&new_name)?;
            file.write_at(&header::encode(MAGIC, owner, &[]), 0)?;
            Ok(file)
        };
        let file = create().map_err(|e| StorageError::io("create", &new_name, e))?;
        let offset = HEADER_BYTES as u64;
        let mut writer = Self {
            disk,
            owner,
            name,
            new_name,
            file,
            offset,
            frame: 0,
            rows: Vec::new(),
            row_count: 0,
        };
        writer.write_frame(KIND_MANIFEST, &encode_manifest(manifest))?;
        Ok(writer)
    }

    /// Adds a row.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        self.rows
            .extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.rows
            .extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.rows.extend_from_slice(key);
        self.rows.extend_from_slice(value);
        self.row_count += 1;
        if self.rows.len() >= FRAME_BYTES {
            self.write_rows()
        } else {
            Ok(())
        }
    }

    /// Syncs, reads everything back, gives the file its name, and removes all but the two newest.
    pub fn finish(mut self) -> Result<SnapshotName, StorageError> {
        if !self.rows.is_empty() {
            self.write_rows()?;
        }
        self.write_frame(KIND_END, &self.row_count.to_le_bytes())?;
        self.file
            .sync_data()
            .map_err(|e| StorageError::io("sync", &self.new_name, e))?;
        let written = Snapshot::verified(self.file.clone(), self.owner, &self.new_name)?;
        if written.row_count != self.row_count {
            return Err(StorageError::damaged(
                &self.new_name,
                0,
                "reads back with another number of rows",
            ));
        }
        let name = self.name.file_name();
        let publish = || -> io::Result<()> {
            self.disk.rename(&self.new_name, &name)?;
            self.disk.sync_dir()
        };
        publish().map_err(|e| StorageError::io("publish", &name, e))?;
        self.remove_old()?;
        Ok(self.name)
    }

    fn remove_old(&self) -> Result<(), StorageError> {
        let old: Vec<_> = list(self.disk, self.name.group)?.split_off_after(KEPT);
        for name in &old {
            let name = name.file_name();
            self.disk
                .remove(&name)
                .map_err(|e| StorageError::io("remove", &name, e))?;
        }
        if old.is_empty() {
            return Ok(());
        }
        self.disk
            .sync_dir()
            .map_err(|e| StorageError::io("sync", ".", e))
    }

    fn write_rows(&mut self) -> Result<(), StorageError> {
        let rows = std::mem::take(&mut self.rows);
        self.write_frame(KIND_ROWS, &rows)?;
        self.rows = rows;
        self.rows.clear();
        Ok(())
    }

    fn write_frame(&mut self, kind: u32, payload: &[u8]) -> Result<(), StorageError> {
        if payload.len() > FRAME_BYTES_MAX {
            let error = io::Error::new(
                io::ErrorKind::InvalidInput,
                "a row is too large for a snapshot",
            );
            return Err(StorageError::io("write", &self.new_name, error));
        }
        let mut bytes = vec![0; FRAME_HEADER_BYTES];
        bytes[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes[8..12].copy_from_slice(&kind.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.frame.to_le_bytes());
        bytes.extend_from_slice(payload);
        let crc = crc32c::crc32c_append(crc_seed(self.owner), &bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        self.file
            .write_at(&bytes, self.offset)
            .map_err(|e| StorageError::io("write", &self.new_name, e))?;
        self.offset += bytes.len() as u64;
        self.frame += 1;
        Ok(())
    }
}

trait SplitOffAfter {
    fn split_off_after(self, kept: usize) -> Self;
}

impl<T> SplitOffAfter for Vec<T> {
    fn split_off_after(mut self, kept: usize) -> Self {
        let at = kept.min(self.len());
        self.split_off(at)
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

/// Reads frame after frame, each checked.
struct Frames<'a> {
    file: &'a dyn DiskFile,
    crc_seed: u32,
    file_name: &'a str,
    offset: u64,
    frame: u64,
}

impl<'a> Frames<'a> {
    fn new(file: &'a dyn DiskFile, owner: Identity, file_name: &'a str) -> Self {
        Self {
            file,
            crc_seed: crc_seed(owner),
            file_name,
            offset: HEADER_BYTES as u64,
            frame: 0,
        }
    }

    fn damaged(&self, reason: &str) -> StorageError {
        StorageError::damaged(self.file_name, self.offset, reason)
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, StorageError> {
        read_up_to(self.file, offset, length)
            .map_err(|e| StorageError::io("read", self.file_name, e))
    }

    fn next(&mut self) -> Result<Option<(u32, Vec<u8>)>, StorageError> {
        let head = self.read(self.offset, FRAME_HEADER_BYTES)?;
        if head.is_empty() {
            return Ok(None);
        }
        if head.len() < FRAME_HEADER_BYTES {
            return Err(self.damaged("ends inside a frame"));
        }
        let length = u32_at(&head, 4) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(self.damaged("has a frame that is too long"));
        }
        let payload = self.read(self.offset + FRAME_HEADER_BYTES as u64, length)?;
        let crc = crc32c::crc32c_append(crc32c::crc32c_append(self.crc_seed, &head[4..]), &payload);
        if payload.len() != length || crc != u32_at(&head, 0) || u64_at(&head, 12) != self.frame {
            return Err(self.damaged("has a frame that fails its check"));
        }
        self.offset += (FRAME_HEADER_BYTES + length) as u64;
        self.frame += 1;
        Ok(Some((u32_at(&head, 8), payload)))
    }

    fn rows_of(
        &self,
        payload: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<u64, StorageError> {
        let mut rows = 0;
        let mut rest = payload;
        while !rest.is_empty() {
            let lengths = rest
                .get(..8)
                .map(|head| (u32_at(head, 0) as usize, u32_at(head, 4) as usize));
            let (key, value) =
                lengths.ok_or_else(|| self.damaged("has a row that does not fit its frame"))?;
            let row = rest
                .get(8..8 + key + value)
                .ok_or_else(|| self.damaged("has a row that does not fit its frame"))?;
            visit(&row[..key], &row[key..]);
            rows += 1;
            rest = &rest[8 + key + value..];
        }
        Ok(rows)
    }
}

fn crc_seed(owner: Identity) -> u32 {
    crc32c::crc32c_append(owner.node_id as u32, &owner.cluster_id.to_le_bytes())
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
mod tests {
    use super::*;
    use crate::disk::sim::{SimDisk, StopPoint};

    const OWNER: Identity = Identity {
        cluster_id: 7,
        node_id: 1,
    };

    fn manifest(last_index: u64) -> Manifest {
        let meta = Bytes::from(format!("members at {last_index}"));
        Manifest {
            group: 0,
            last_index,
            last_term: 3,
            machine_version: 1,
            meta,
        }
    }

    fn rows(last_index: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
        (0..20)
            .map(|row| {
                (
                    format!("key {row}").into_bytes(),
                    vec![(last_index + row) as u8; row as usize * 3],
                )
            })
            .collect()
    }

    fn write_one(disk: &SimDisk, last_index: u64) -> Result<SnapshotName, StorageError> {
        write(
            disk,
            OWNER,
            &manifest(last_index),
            rows(last_index).into_iter(),
        )
    }

    fn check(snapshot: &Snapshot) {
        let index = snapshot.manifest().last_index;
        assert_eq!(snapshot.manifest(), &manifest(index));
        let mut found = Vec::new();
        snapshot
            .for_each_row(&mut |key, value| found.push((key.to_vec(), value.to_vec())))
            .unwrap();
        assert_eq!(found, rows(index));
    }

    #[test]
    fn the_two_newest_are_kept() {
        let disk = SimDisk::new(1);
        for index in [10, 20, 30] {
            write_one(&disk, index).unwrap();
        }
        disk.crash(1);
        let indexes: Vec<_> = list(&disk, 0)
            .unwrap()
            .iter()
            .map(|name| name.last_index)
            .collect();
        assert_eq!(indexes, [30, 20]);
        let (newest, refused) = newest_good(&disk, OWNER, 0).unwrap();
        assert!(refused.is_empty());
        check(&newest.unwrap());
    }

    #[test]
    fn rows_beyond_one_frame_come_back() {
        let disk = SimDisk::new(1);
        let many = || (0..30_000_u32).map(|row| (row.to_be_bytes().to_vec(), vec![row as u8; 40]));
        let name = write(&disk, OWNER, &manifest(1), many()).unwrap();
        let snapshot = open(&disk, OWNER, &name).unwrap();
        let mut expected = many();
        snapshot
            .for_each_row(&mut |key, value| {
                assert_eq!(expected.next().unwrap(), (key.to_vec(), value.to_vec()))
            })
            .unwrap();
        assert_eq!(snapshot.row_count(), 30_000);
    }

    #[test]
    fn every_flipped_byte_sends_to_the_older_file() {
        let disk = SimDisk::new(1);
        write_one(&disk, 10).unwrap();
        let newest = write_one(&disk, 20).unwrap().file_name();
        for offset in 0..disk.bytes_of(&newest).unwrap().len() as u64 {
            assert!(disk.flip(&newest, offset, 0x04));
            let (found, refused) = newest_good(&disk, OWNER, 0).unwrap();
            assert_eq!(refused.len(), 1, "a flip at {offset} passed");
            assert_eq!(found.unwrap().manifest().last_index, 10);
            assert!(disk.flip(&newest, offset, 0x04));
        }
        check(&newest_good(&disk, OWNER, 0).unwrap().0.unwrap());
    }

    #[test]
    fn a_file_that_was_cut_short_is_refused() {
        let disk = SimDisk::new(1);
        let name = write_one(&disk, 20).unwrap();
        let length = disk.bytes_of(&name.file_name()).unwrap().len() as u64;
        for cut in 0..length {
            let cut_disk = disk.fork();
            cut_disk
                .open(&name.file_name())
                .unwrap()
                .set_len(cut)
                .unwrap();
            assert!(
                open(&cut_disk, OWNER, &name).is_err(),
                "{cut} of {length} bytes passed"
            );
        }
    }

    #[test]
    fn a_crash_at_any_point_leaves_the_older_or_the_newer_one() {
        let base = SimDisk::new(1);
        write_one(&base, 10).unwrap();
        write_one(&base, 20).unwrap();
        for stop in 0..30 {
            for seed in 0..20 {
                let disk = base.fork();
                disk.stop_at(StopPoint::After(base.ops() + stop));
                let written = write_one(&disk, 30).is_ok();
                disk.crash(seed);
                let (newest, refused) = newest_good(&disk, OWNER, 0).unwrap();
                assert!(refused.is_empty(), "{refused:?}");
                let newest = newest.unwrap();
                check(&newest);
                assert!(
                    newest.manifest().last_index == 30
                        || (!written && newest.manifest().last_index == 20)
                );
                write_one(&disk, 40).unwrap();
            }
        }
    }
}
