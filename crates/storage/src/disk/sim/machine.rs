//! The two views of a simulated disk, what is on its way from one to the other, and what a crash makes of it.

use std::collections::BTreeMap;
use std::io;

use super::{Fault, OpKind, SECTOR_BYTES, SplitMix, StopPoint};

#[derive(Clone)]
pub(super) struct Inner {
    pub(super) files: BTreeMap<u64, FileState>,
    pub(super) names: BTreeMap<String, u64>,
    pub(super) durable_names: BTreeMap<String, u64>,
    pub(super) unsynced: Vec<Pending>,
    pub(super) next_file: u64,
    pub(super) ops: u64,
    pub(super) stop: Option<StopPoint>,
    pub(super) stopped: bool,
    pub(super) capacity_bytes: Option<u64>,
    pub(super) faults: Vec<Fault>,
    pub(super) lies_of: Option<String>,
    pub(super) generation: u64,
    pub(super) locked: bool,
    pub(super) rng: SplitMix,
}

#[derive(Clone, Default)]
pub(super) struct FileState {
    pub(super) memory: Vec<u8>,
    pub(super) durable: Vec<u8>,
}

#[derive(Clone)]
pub(super) enum Pending {
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
    pub(super) fn begin(&mut self, kind: OpKind, name: &str) -> io::Result<Charge> {
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

    pub(super) fn name_of(&self, file: u64) -> String {
        self.names
            .iter()
            .find(|(_, id)| **id == file)
            .map(|(name, _)| name.clone())
            .unwrap_or_default()
    }

    pub(super) fn check_room(&self, file: u64, end: u64) -> io::Result<()> {
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

    pub(super) fn sync_file(&mut self, file: u64) {
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

    pub(super) fn sync_names(&mut self) {
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

    pub(super) fn crash(&mut self, rng: &mut SplitMix) {
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

    pub(super) fn restart(&mut self) {
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

pub(super) fn write_into(view: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let end = offset as usize + bytes.len();
    if view.len() < end {
        view.resize(end, 0);
    }
    view[offset as usize..end].copy_from_slice(bytes);
}
