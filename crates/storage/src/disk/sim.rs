//! A disk in memory, from a seed: what was written is seen at once, but only what was synced survives a crash.
//!
//! Every change is one *operation*. Operations that are not synced wait in one ordered queue; [`SimDisk::crash`] keeps a
//! seeded prefix of it, with the operation at the cut torn between sectors, or (every third crash) any subset of the sectors
//! of later writes, as a drive with a reordering cache would. [`SimDisk::stop_at`] stops the machine before or after the n-th
//! operation, so that a test can visit every crash point there is.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

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

#[derive(Clone)]
struct Inner {
    files: BTreeMap<u64, FileState>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    unsynced: Vec<Pending>,
    next_file: u64,
    ops: u64,
    stop: Option<StopPoint>,
    stopped: bool,
    capacity_bytes: Option<u64>,
    faults: Vec<Fault>,
    generation: u64,
    locked: bool,
    rng: SplitMix,
}

#[derive(Clone, Default)]
struct FileState {
    memory: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Clone)]
enum Pending {
    Write {
        file: u64,
        offset: u64,
        bytes: Vec<u8>,
    },
    SetLen {
        file: u64,
        len: u64,
    },
    Create {
        file: u64,
        name: String,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        name: String,
    },
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

    /// Removes all rules.
    pub fn clear_faults(&self) {
        self.lock_inner().faults.clear();
    }

    /// Bounds the bytes of all files together; writes beyond it fail with `ENOSPC`. `None`: no bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock_inner().capacity_bytes = bytes;
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

/// What became of an operation that was let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Charge {
    /// It happens and is reported.
    Happens,
    /// It happens, and then the machine stops: nobody hears of it.
    HappensUnheard,
}

impl Charge {
    pub(crate) fn answer(self) -> io::Result<()> {
        match self {
            Self::Happens => Ok(()),
            Self::HappensUnheard => Err(stopped_error()),
        }
    }
}

fn stopped_error() -> io::Error {
    io::Error::other("the simulated machine stopped")
}

impl Inner {
    fn begin(&mut self, kind: OpKind, name: &str) -> io::Result<Charge> {
        if self.stopped {
            return Err(stopped_error());
        }
        let mut unheard = false;
        if kind != OpKind::Read {
            let number = self.ops;
            match self.stop {
                Some(StopPoint::Before(stop)) if number >= stop => {
                    self.stopped = true;
                    return Err(stopped_error());
                }
                Some(StopPoint::After(stop)) if number >= stop => {
                    self.stopped = true;
                    unheard = true;
                }
                _ => {}
            }
            self.ops += 1;
        }
        self.check_faults(kind, name)?;
        Ok(if unheard {
            Charge::HappensUnheard
        } else {
            Charge::Happens
        })
    }

    fn check_faults(&mut self, kind: OpKind, name: &str) -> io::Result<()> {
        for fault in &mut self.faults {
            if fault.kind != kind || !name.starts_with(&fault.name_prefix) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if fault.count > 0 {
                fault.count -= 1;
                return Err(io::Error::from_raw_os_error(fault.os_error));
            }
        }
        Ok(())
    }

    fn name_of(&self, file: u64) -> String {
        self.names
            .iter()
            .find(|(_, id)| **id == file)
            .map(|(name, _)| name.clone())
            .unwrap_or_default()
    }

    fn check_room(&self, file: u64, end: u64) -> io::Result<()> {
        let Some(capacity) = self.capacity_bytes else {
            return Ok(());
        };
        let others: u64 = self
            .names
            .values()
            .filter(|id| **id != file)
            .filter_map(|id| self.files.get(id))
            .map(|state| state.memory.len() as u64)
            .sum();
        if others + end > capacity {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        Ok(())
    }

    fn sync_file(&mut self, file: u64) {
        let pending = std::mem::take(&mut self.unsynced);
        for op in pending {
            match &op {
                Pending::Write { file: id, .. } | Pending::SetLen { file: id, .. }
                    if *id == file =>
                {
                    self.make_durable(&op)
                }
                _ => self.unsynced.push(op),
            }
        }
    }

    fn sync_names(&mut self) {
        let pending = std::mem::take(&mut self.unsynced);
        for op in pending {
            match &op {
                Pending::Create { .. } | Pending::Rename { .. } | Pending::Remove { .. } => {
                    self.make_durable(&op)
                }
                _ => self.unsynced.push(op),
            }
        }
    }

    fn make_durable(&mut self, op: &Pending) {
        match op {
            Pending::Write {
                file,
                offset,
                bytes,
            } => {
                if let Some(state) = self.files.get_mut(file) {
                    write_into(&mut state.durable, *offset, bytes);
                }
            }
            Pending::SetLen { file, len } => {
                if let Some(state) = self.files.get_mut(file) {
                    state.durable.resize(*len as usize, 0);
                }
            }
            Pending::Create { file, name } => {
                self.durable_names.insert(name.clone(), *file);
            }
            Pending::Rename { from, to } => {
                if let Some(file) = self.durable_names.remove(from) {
                    self.durable_names.insert(to.clone(), file);
                }
            }
            Pending::Remove { name } => {
                self.durable_names.remove(name);
            }
        }
    }

    fn crash(&mut self, rng: &mut SplitMix) {
        let pending = std::mem::take(&mut self.unsynced);
        let keep = rng.below(pending.len() as u64 + 1) as usize;
        let reorder = rng.below(3) == 0;
        for (position, op) in pending.into_iter().enumerate() {
            match (&op, position.cmp(&keep)) {
                (_, std::cmp::Ordering::Less) => self.make_durable(&op),
                (
                    Pending::Write {
                        file,
                        offset,
                        bytes,
                    },
                    order,
                ) if order.is_eq() || reorder => {
                    for (start, sector) in sectors(*offset, bytes) {
                        if rng.below(2) == 0 {
                            let part = Pending::Write {
                                file: *file,
                                offset: start,
                                bytes: sector.to_vec(),
                            };
                            self.make_durable(&part);
                        }
                    }
                }
                _ => {}
            }
        }
        for state in self.files.values_mut() {
            state.memory = state.durable.clone();
        }
        self.names = self.durable_names.clone();
        let kept: std::collections::BTreeSet<u64> = self.names.values().copied().collect();
        self.files.retain(|id, _| kept.contains(id));
        self.restart();
    }

    fn restart(&mut self) {
        self.stop = None;
        self.stopped = false;
        self.faults.clear();
        self.locked = false;
        self.generation += 1;
    }
}

fn sectors(offset: u64, bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let mut parts = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        let position = offset + start as u64;
        let to_boundary = SECTOR_BYTES - (position as usize % SECTOR_BYTES);
        let end = (start + to_boundary).min(bytes.len());
        parts.push((position, &bytes[start..end]));
        start = end;
    }
    parts
}

fn write_into(view: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let end = offset as usize + bytes.len();
    if view.len() < end {
        view.resize(end, 0);
    }
    view[offset as usize..end].copy_from_slice(bytes);
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
        let name = if inner.faults.is_empty() {
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
        inner.sync_file(self.file);
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

/// A small seeded generator (splitmix64): enough for faults, and the same on every machine.
#[derive(Debug, Clone)]
pub struct SplitMix(pub u64);

impl SplitMix {
    /// The next 64 bits.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }
}
