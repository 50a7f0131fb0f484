//! A disk in memory, from a seed: what was written is seen at once, but only what was synced survives a crash.
//!
//! Every change is one *operation*. Operations that are not synced wait in one ordered queue; [`SimDisk::crash`] keeps a
//! seeded prefix of it, with the operation at the cut torn between sectors, or (every third crash) any subset of the sectors
//! of later writes, as a drive with a reordering cache would. [`SimDisk::stop_at`] stops the machine before or after the n-th
//! operation, so that a test can visit every crash point there is.

mod machine;
mod rng;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

pub(crate) use self::machine::Charge;
use self::machine::{FileState, Inner, Pending, write_into};
pub use self::rng::SplitMix;
use super::{Disk, DiskFile, DiskLock};

/// What a drive writes whole or not at all, in bytes.
pub const SECTOR_BYTES: usize = 512;

/// Kinds of operations that a fault can hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpKind {
    /// Reading from a file.
    Read,
    /// Writing to a file, or setting its length.
    Write,
    /// Syncing a file or the folder.
    Sync,
    /// Creating, renaming or removing a name.
    Name,
}

/// A rule by which operations fail.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Which operations.
    pub kind: OpKind,
    /// Only files whose name starts so; empty for all. A folder sync has the name "".
    pub name_prefix: String,
    /// How many matching operations pass before the first failure.
    pub skip: u64,
    /// How many fail after that.
    pub count: u64,
    /// Raw OS error, such as `libc::EIO` or `libc::ENOSPC`.
    pub os_error: i32,
}

/// Where the machine stops. Operations are counted from 0, reads not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopPoint {
    /// The operation of this number does not happen, nor does any later one.
    Before(u64),
    /// The operation of this number happens but nobody hears of it, and no later one happens.
    After(u64),
}

/// A handle to a simulated disk; clones share the disk.
#[derive(Clone)]
pub struct SimDisk {
    inner: Arc<Mutex<Inner>>,
}

impl SimDisk {
    /// An empty disk. The seed drives what a crash without a seed of its own keeps.
    pub fn new(seed: u64) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                files: BTreeMap::new(),
                names: BTreeMap::new(),
                durable_names: BTreeMap::new(),
                unsynced: Vec::new(),
                next_file: 0,
                ops: 0,
                stop: None,
                stopped: false,
                capacity_bytes: None,
                faults: Vec::new(),
                lies_of: None,
                generation: 0,
                locked: false,
                rng: SplitMix(seed),
            })),
        }
    }

    fn lock_inner(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .expect("no method of the simulated disk panics while it holds the lock")
    }

    /// The machine loses power and starts again: of what was not synced, only a seeded part is left. Open files, locks,
    /// stop points and faults are gone.
    pub fn crash(&self, seed: u64) {
        self.lock_inner()
            .crash(&mut SplitMix(seed ^ 0x9e37_79b9_7f4a_7c15));
    }

    /// As [`SimDisk::crash`], with the disk's own seeded generator.
    pub fn crash_next(&self) {
        let mut inner = self.lock_inner();
        let seed = inner.rng.next();
        inner.crash(&mut SplitMix(seed));
    }

    /// The process dies but the machine goes on: everything written stays, synced or not.
    pub fn kill(&self) {
        let mut inner = self.lock_inner();
        inner.restart();
    }

    /// A second, independent disk in the same state.
    pub fn fork(&self) -> Self {
        Self {
            inner: Arc::new(Mutex::new(self.lock_inner().clone())),
        }
    }

    /// Stops the machine at this point; until [`SimDisk::crash`] or [`SimDisk::kill`] every operation fails from there on.
    pub fn stop_at(&self, point: StopPoint) {
        self.lock_inner().stop = Some(point);
    }

    /// Whether the stop point was reached.
    pub fn stopped(&self) -> bool {
        self.lock_inner().stopped
    }

    /// Operations so far, reads not among them.
    pub fn ops(&self) -> u64 {
        self.lock_inner().ops
    }

    /// Operations that wait for a sync.
    pub fn unsynced_ops(&self) -> usize {
        self.lock_inner().unsynced.len()
    }

    /// Adds a rule by which operations fail.
    pub fn add_fault(&self, fault: Fault) {
        self.lock_inner().faults.push(fault);
    }

    /// A planted bug: syncs of files whose name starts so are answered and do nothing; it outlives crashes.
    pub fn lie_about(&self, name_prefix: &str) {
        self.lock_inner().lies_of = Some(name_prefix.to_owned());
    }

    /// Removes all rules.
    pub fn clear_faults(&self) {
        self.lock_inner().faults.clear();
    }

    /// Bounds the bytes of all files together; writes beyond it fail with `ENOSPC`. `None`: no bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock_inner().capacity_bytes = bytes;
    }

    /// Bytes of all files together.
    pub fn used_bytes(&self) -> u64 {
        let inner = self.lock_inner();
        let files = inner.names.values().filter_map(|id| inner.files.get(id));
        files.map(|file| file.memory.len() as u64).sum()
    }

    /// Flips the bits of `mask` in one byte, on the medium and in memory. Returns false beyond the end of the file.
    pub fn flip(&self, name: &str, offset: u64, mask: u8) -> bool {
        let mut inner = self.lock_inner();
        let Some(file) = inner.names.get(name).copied() else {
            return false;
        };
        let Some(state) = inner.files.get_mut(&file) else {
            return false;
        };
        let mut hit = false;
        for view in [&mut state.memory, &mut state.durable] {
            if let Some(byte) = view.get_mut(offset as usize) {
                *byte ^= mask;
                hit = true;
            }
        }
        hit
    }

    /// The bytes of a file as a process sees them.
    pub fn bytes_of(&self, name: &str) -> Option<Vec<u8>> {
        let inner = self.lock_inner();
        let file = inner.names.get(name)?;
        Some(inner.files.get(file)?.memory.clone())
    }

    /// Counts one operation of something that is not a file of this disk but shares its crash points.
    pub(crate) fn charge(&self, kind: OpKind, name: &str) -> io::Result<Charge> {
        self.lock_inner().begin(kind, name)
    }
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file `{name}`"))
}

impl Disk for SimDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.lock_inner();
        if inner.names.contains_key(name) {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("file `{name}` exists"),
            ));
        }
        let charge = inner.begin(OpKind::Name, name)?;
        let file = inner.next_file;
        inner.next_file += 1;
        inner.files.insert(file, FileState::default());
        inner.names.insert(name.to_owned(), file);
        inner.unsynced.push(Pending::Create {
            file,
            name: name.to_owned(),
        });
        charge.answer()?;
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            file,
            generation: inner.generation,
        }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.lock_inner();
        inner.begin(OpKind::Read, name)?;
        let file = *inner.names.get(name).ok_or_else(|| not_found(name))?;
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            file,
            generation: inner.generation,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.lock_inner();
        if !inner.names.contains_key(from) {
            return Err(not_found(from));
        }
        let charge = inner.begin(OpKind::Name, from)?;
        if let Some(file) = inner.names.remove(from) {
            inner.names.insert(to.to_owned(), file);
        }
        inner.unsynced.push(Pending::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
        });
        charge.answer()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.lock_inner();
        if !inner.names.contains_key(name) {
            return Err(not_found(name));
        }
        let charge = inner.begin(OpKind::Name, name)?;
        inner.names.remove(name);
        inner.unsynced.push(Pending::Remove {
            name: name.to_owned(),
        });
        charge.answer()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut inner = self.lock_inner();
        inner.begin(OpKind::Read, "")?;
        Ok(inner.names.keys().cloned().collect())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut inner = self.lock_inner();
        let charge = inner.begin(OpKind::Sync, "")?;
        inner.sync_names();
        charge.answer()
    }

    fn lock(&self) -> io::Result<DiskLock> {
        let mut inner = self.lock_inner();
        if inner.locked {
            return Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                "the simulated folder is held",
            ));
        }
        inner.locked = true;
        Ok(DiskLock::new(SimLock {
            disk: self.clone(),
            generation: inner.generation,
        }))
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        let used = self.used_bytes();
        let capacity = self.lock_inner().capacity_bytes;
        Ok(capacity.map(|capacity| capacity.saturating_sub(used)))
    }
}

struct SimLock {
    disk: SimDisk,
    generation: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut inner = self.disk.lock_inner();
        // A lock of a process that a crash ended must not free the lock of the one started after it.
        if inner.generation == self.generation {
            inner.locked = false;
        }
    }
}

struct SimFile {
    disk: SimDisk,
    file: u64,
    generation: u64,
}

impl SimFile {
    fn begin(&self, kind: OpKind) -> io::Result<(MutexGuard<'_, Inner>, Charge)> {
        let mut inner = self.disk.lock_inner();
        if inner.generation != self.generation {
            return Err(io::Error::other(
                "this file was opened by a process that has ended",
            ));
        }
        let name = if inner.faults.is_empty() && inner.lies_of.is_none() {
            String::new()
        } else {
            inner.name_of(self.file)
        };
        let charge = inner.begin(kind, &name)?;
        Ok((inner, charge))
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let (inner, _) = self.begin(OpKind::Read)?;
        let memory = &inner
            .files
            .get(&self.file)
            .ok_or_else(|| not_found("(removed)"))?
            .memory;
        let start = (offset as usize).min(memory.len());
        let read = buf.len().min(memory.len() - start);
        buf[..read].copy_from_slice(&memory[start..start + read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (mut inner, charge) = self.begin(OpKind::Write)?;
        let end = offset + bytes.len() as u64;
        let grows = inner
            .files
            .get(&self.file)
            .is_some_and(|state| (state.memory.len() as u64) < end);
        if grows {
            inner.check_room(self.file, end)?;
        }
        let state = inner
            .files
            .get_mut(&self.file)
            .ok_or_else(|| not_found("(removed)"))?;
        write_into(&mut state.memory, offset, bytes);
        inner.unsynced.push(Pending::Write {
            file: self.file,
            offset,
            bytes: bytes.to_vec(),
        });
        charge.answer()
    }

    fn sync_data(&self) -> io::Result<()> {
        let (mut inner, charge) = self.begin(OpKind::Sync)?;
        let name = inner.name_of(self.file);
        let lie = (inner.lies_of.as_deref()).is_some_and(|prefix| name.starts_with(prefix));
        if !lie {
            inner.sync_file(self.file);
        }
        charge.answer()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut inner, charge) = self.begin(OpKind::Write)?;
        inner.check_room(self.file, len)?;
        let state = inner
            .files
            .get_mut(&self.file)
            .ok_or_else(|| not_found("(removed)"))?;
        state.memory.resize(len as usize, 0);
        inner.unsynced.push(Pending::SetLen {
            file: self.file,
            len,
        });
        charge.answer()
    }

    fn len(&self) -> io::Result<u64> {
        let (inner, _) = self.begin(OpKind::Read)?;
        Ok(inner
            .files
            .get(&self.file)
            .ok_or_else(|| not_found("(removed)"))?
            .memory
            .len() as u64)
    }
}
