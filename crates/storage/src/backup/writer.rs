//! Writing a backup, piece by piece as it comes.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, OsDisk};
use crate::header;
use crate::identity::Identity;
use crate::log::LogPosition;

use super::manifest::Seal;
use super::{
    BODIES, BODIES_MAGIC, BODY_BYTES_MAX, Backup, BackupError, BackupManifest, MANIFEST,
    NEW_MANIFEST, PIECE_BYTES, STATE, record_head,
};

/// Writes one backup. Dropped unfinished, it leaves files without a manifest.
pub struct BackupWriter {
    disk: Arc<dyn Disk>,
    owner: Identity,
    last: LogPosition,
    state: Output,
    bodies: Output,
    body_count: u64,
    last_body: Option<u64>,
}

/// A file that grows.
struct Output {
    name: &'static str,
    file: Arc<dyn DiskFile>,
    seal: Seal,
    buffer: Vec<u8>,
}

impl BackupWriter {
    /// Starts a backup in a folder that is empty or not there yet. `owner`: the cluster, and the node that the copy is made on;
    /// `last`: the newest entry in it.
    ///
    /// # Errors
    /// `NotEmpty`; `Io`.
    pub fn create_in(
        folder: &Path,
        owner: Identity,
        last: LogPosition,
    ) -> Result<Self, BackupError> {
        let disk = OsDisk::new(folder).map_err(BackupError::io("make the folder", "."))?;
        let mut there = fs::read_dir(folder).map_err(BackupError::io("list", "."))?;
        match there.next() {
            None => Self::create(Arc::new(disk), owner, last),
            Some(_) => Err(BackupError::NotEmpty),
        }
    }

    pub(super) fn create(
        disk: Arc<dyn Disk>,
        owner: Identity,
        last: LogPosition,
    ) -> Result<Self, BackupError> {
        let (state, mut bodies) = (Output::new(&*disk, STATE)?, Output::new(&*disk, BODIES)?);
        bodies.push(&header::encode(BODIES_MAGIC, owner, &[]))?;
        Ok(Self {
            disk,
            owner,
            last,
            state,
            bodies,
            body_count: 0,
            last_body: None,
        })
    }

    /// The next bytes of the node's snapshot file.
    ///
    /// # Errors
    /// `Io`.
    pub fn push_state(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.state.push(bytes)
    }

    /// The payload of an entry; indexes grow.
    ///
    /// # Errors
    /// `Io`, also for an index that does not grow or lies beyond the last entry, or a payload that is too long.
    pub fn push_body(&mut self, index: u64, payload: &[u8]) -> Result<(), BackupError> {
        let grows = self.last_body.is_none_or(|last| last < index) && index <= self.last.index;
        if !grows || payload.len() > BODY_BYTES_MAX {
            let reason = format!("the body of entry {index} is too long, or out of order");
            let error = io::Error::new(io::ErrorKind::InvalidInput, reason);
            return Err(BackupError::io("write", BODIES)(error));
        }
        self.bodies.push(&record_head(self.owner, index, payload))?;
        self.bodies.push(payload)?;
        self.body_count += 1;
        self.last_body = Some(index);
        Ok(())
    }

    /// Syncs all, reads all of it back, and only then writes the manifest.
    ///
    /// # Errors
    /// `Io`; `Damaged` and its like where what is read back, or was pushed, is no copy: the folder is of no use then.
    pub fn finish(mut self, taken_at_ms: u64) -> Result<BackupManifest, BackupError> {
        self.state.sync()?;
        self.bodies.sync()?;
        let manifest = BackupManifest {
            owner: self.owner,
            last: self.last,
            taken_at_ms,
            body_count: self.body_count,
            state: self.state.seal,
            bodies: self.bodies.seal,
        };
        let written = Backup::of(self.disk.clone(), manifest);
        written.state()?;
        let mut bodies = written.bodies()?;
        while bodies.next()?.is_some() {}
        let seal = || -> io::Result<()> {
            let file = self.disk.create(NEW_MANIFEST)?;
            file.write_at(&manifest.encode(), 0)?;
            file.sync_data()?;
            self.disk.rename(NEW_MANIFEST, MANIFEST)?;
            self.disk.sync_dir()
        };
        seal().map_err(BackupError::io("write", MANIFEST))?;
        Ok(manifest)
    }
}

impl Output {
    fn new(disk: &dyn Disk, name: &'static str) -> Result<Self, BackupError> {
        let file = disk.create(name).map_err(BackupError::io("create", name))?;
        Ok(Self {
            name,
            file,
            seal: Seal::default(),
            buffer: Vec::new(),
        })
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE_BYTES {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), BackupError> {
        let written = self.file.write_at(&self.buffer, self.seal.bytes);
        written.map_err(BackupError::io("write", self.name))?;
        self.seal.add(&self.buffer);
        self.buffer.clear();
        Ok(())
    }

    fn sync(&mut self) -> Result<(), BackupError> {
        self.write()?;
        let synced = self.file.sync_data();
        synced.map_err(BackupError::io("sync", self.name))
    }
}
