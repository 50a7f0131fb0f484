//! Reading a backup: nothing is given out that was not checked.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{Disk, DiskFile, OsDisk, read_up_to};
use crate::header::{self, HEADER_BYTES, u32_at, u64_at};
use crate::identity::Identity;
use crate::snapshot::{self, Snapshot};

use super::manifest::Seal;
use super::{
    BODIES, BODIES_MAGIC, BODY_BYTES_MAX, BackupError, BackupManifest, MANIFEST, PIECE_BYTES,
    RECORD_HEADER_BYTES, STATE, record_crc,
};

/// A backup that came to its end.
pub struct Backup {
    disk: Arc<dyn Disk>,
    manifest: BackupManifest,
}

impl Backup {
    /// Opens the backup in a folder and checks that its files are there, with their lengths.
    ///
    /// # Errors
    /// `Unfinished` where there is no manifest; else see [`BackupError`].
    pub fn open_in(folder: &Path) -> Result<Self, BackupError> {
        // A folder that is not there must not be made.
        if !folder.is_dir() {
            return Err(BackupError::Unfinished);
        }
        let disk = OsDisk::new(folder).map_err(BackupError::io("open the folder", "."))?;
        Self::open(Arc::new(disk))
    }

    pub(super) fn open(disk: Arc<dyn Disk>) -> Result<Self, BackupError> {
        let names = disk.list().map_err(BackupError::io("list", "."))?;
        let is_there = |name: &str| names.iter().any(|found| found == name);
        if !is_there(MANIFEST) {
            return Err(BackupError::Unfinished);
        }
        for file in [STATE, BODIES] {
            if !is_there(file) {
                return Err(BackupError::Missing { file });
            }
        }
        let file = disk.open(MANIFEST);
        let read = file.and_then(|file| read_up_to(&*file, 0, HEADER_BYTES));
        let bytes = read.map_err(BackupError::io("read", MANIFEST))?;
        let backup = Self::of(disk, BackupManifest::decode(&bytes)?);
        backup.file(STATE, backup.manifest.state)?;
        backup.file(BODIES, backup.manifest.bodies)?;
        Ok(backup)
    }

    pub(super) fn of(disk: Arc<dyn Disk>, manifest: BackupManifest) -> Self {
        Self { disk, manifest }
    }

    /// What it is of.
    pub fn manifest(&self) -> &BackupManifest {
        &self.manifest
    }

    /// The rows of the state, all checked.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub fn state(&self) -> Result<Snapshot, BackupError> {
        let BackupManifest { owner, last, .. } = self.manifest;
        let opened = snapshot::open_foreign(&*self.disk, owner, STATE);
        let state = opened.map_err(BackupError::of(STATE))?;
        let found = state.manifest();
        if (found.last_index, found.last_term) != (last.index, last.term) {
            return Err(BackupError::NotTheManifests {
                file: STATE,
                what: format!("ends at entry {}, not {}", found.last_index, last.index),
            });
        }
        self.check_whole(STATE, self.manifest.state)?;
        Ok(state)
    }

    /// The bodies, to be read from the first to the last.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub fn bodies(&self) -> Result<BackupBodies, BackupError> {
        let file = self.file(BODIES, self.manifest.bodies)?;
        let read = read_up_to(&*file, 0, HEADER_BYTES);
        let head = read.map_err(BackupError::io("read", BODIES))?;
        let owner = self.manifest.owner;
        let decoded = header::decode(BODIES_MAGIC, BODIES, &head);
        let (found, _) = decoded.map_err(BackupError::of(BODIES))?;
        owner.must_be(found).map_err(BackupError::of(BODIES))?;
        let mut seal = Seal::default();
        seal.add(&head);
        Ok(BackupBodies {
            file,
            manifest: self.manifest,
            owner,
            seal,
            piece: Bytes::new(),
            count: 0,
            last: None,
        })
    }

    fn file(&self, name: &'static str, seal: Seal) -> Result<Arc<dyn DiskFile>, BackupError> {
        let file = self.disk.open(name);
        let file = file.map_err(BackupError::io("open", name))?;
        let bytes = file.len().map_err(BackupError::io("read", name))?;
        if bytes != seal.bytes {
            return Err(BackupError::NotTheManifests {
                file: name,
                what: format!("has {bytes} bytes, not {}", seal.bytes),
            });
        }
        Ok(file)
    }

    fn check_whole(&self, name: &'static str, seal: Seal) -> Result<(), BackupError> {
        let file = self.file(name, seal)?;
        let mut found = Seal::default();
        while found.bytes < seal.bytes {
            let read = read_up_to(&*file, found.bytes, PIECE_BYTES);
            let piece = read.map_err(BackupError::io("read", name))?;
            if piece.is_empty() {
                break;
            }
            found.add(&piece);
        }
        must_be(name, found, seal)
    }
}

fn must_be(file: &'static str, found: Seal, seal: Seal) -> Result<(), BackupError> {
    if found == seal {
        return Ok(());
    }
    let what = "has another checksum than the manifest tells of".to_owned();
    Err(BackupError::NotTheManifests { file, what })
}

/// The bodies of a backup. What it gave is good only when it came to its end without an error.
pub struct BackupBodies {
    file: Arc<dyn DiskFile>,
    manifest: BackupManifest,
    owner: Identity,
    /// Of what was read so far.
    seal: Seal,
    /// Read, and not given yet.
    piece: Bytes,
    count: u64,
    last: Option<u64>,
}

impl BackupBodies {
    /// Index and payload of the next entry; none at the end.
    ///
    /// # Errors
    /// See [`BackupError`].
    #[allow(clippy::should_implement_trait, reason = "it fails")]
    pub fn next(&mut self) -> Result<Option<(u64, Bytes)>, BackupError> {
        self.fill(RECORD_HEADER_BYTES)?;
        if self.piece.is_empty() {
            return self.end();
        }
        if self.piece.len() < RECORD_HEADER_BYTES {
            return Err(self.damaged("it ends inside a body"));
        }
        let length = u32_at(&self.piece, 4) as usize;
        if length > BODY_BYTES_MAX {
            return Err(self.damaged("a body is too long"));
        }
        let whole = RECORD_HEADER_BYTES + length;
        self.fill(whole)?;
        if self.piece.len() < whole {
            return Err(self.damaged("it ends inside a body"));
        }
        let head = self.piece.slice(..RECORD_HEADER_BYTES);
        let body = self.piece.slice(RECORD_HEADER_BYTES..whole);
        let index = u64_at(&head, 8);
        if record_crc(self.owner, &head, &body) != u32_at(&head, 0) {
            return Err(self.damaged("a body fails its check"));
        }
        if self.last.is_some_and(|last| last >= index) {
            return Err(self.damaged("a body is out of order"));
        }
        self.piece = self.piece.slice(whole..);
        self.count += 1;
        self.last = Some(index);
        Ok(Some((index, body)))
    }

    fn damaged(&self, reason: &str) -> BackupError {
        BackupError::damaged(BODIES, self.seal.bytes - self.piece.len() as u64, reason)
    }

    /// Reads on until there are so many bytes, or the file ends.
    fn fill(&mut self, wanted: usize) -> Result<(), BackupError> {
        if self.piece.len() >= wanted {
            return Ok(());
        }
        let missing = (wanted - self.piece.len()).max(PIECE_BYTES);
        let read = read_up_to(&*self.file, self.seal.bytes, missing);
        let more = read.map_err(BackupError::io("read", BODIES))?;
        self.seal.add(&more);
        let mut piece = Vec::with_capacity(self.piece.len() + more.len());
        piece.extend_from_slice(&self.piece);
        piece.extend_from_slice(&more);
        self.piece = piece.into();
        Ok(())
    }

    fn end(&self) -> Result<Option<(u64, Bytes)>, BackupError> {
        must_be(BODIES, self.seal, self.manifest.bodies)?;
        if self.count != self.manifest.body_count {
            return Err(self.damaged("it holds another number of bodies"));
        }
        Ok(None)
    }
}
