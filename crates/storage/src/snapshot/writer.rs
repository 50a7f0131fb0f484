//! Writing a snapshot file.

use std::io;
use std::sync::Arc;

use super::frames::crc_seed;
use super::{
    FRAME_BYTES, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, KEPT, KIND_END, KIND_MANIFEST, KIND_ROWS,
    MAGIC, Manifest, NEW_PREFIX, Snapshot, SnapshotName, encode_manifest, list,
};
use crate::disk::{Disk, DiskFile};
use crate::error::StorageError;
use crate::header::{self, HEADER_BYTES};
use crate::identity::Identity;

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
        let old: Vec<_> = list(self.disk, self.name.group)?
            .into_iter()
            .skip(KEPT)
            .collect();
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
