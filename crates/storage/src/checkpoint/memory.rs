//! A checkpoint in memory, with what is flushed and what is not told apart: for tests and for the simulator.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::rows::{self, Tally};
use super::{Changes, CheckpointError, CheckpointStore};
use crate::disk::sim::{OpKind, SimDisk};

/// Name under which the operations of a checkpoint are counted on a simulated disk.
const NAME: &str = "checkpoint";

/// Clones are further handles to the same store, as a process would find it after a restart.
#[derive(Clone, Default)]
pub struct MemoryCheckpoint {
    stored: Arc<Mutex<Stored>>,
    disk: Option<SimDisk>,
}

#[derive(Default)]
struct Stored {
    durable: Content,
    /// Written, not flushed.
    pending: Option<Content>,
}

#[derive(Clone, Default)]
struct Content {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    meta: Option<Vec<u8>>,
}

impl MemoryCheckpoint {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store whose writes and flushes are operations of that disk: they stop and fail with it.
    pub fn on(disk: &SimDisk) -> Self {
        Self {
            disk: Some(disk.clone()),
            ..Self::default()
        }
    }

    /// The machine loses power: a batch that was written and not flushed is there whole or not at all, as the seed says.
    pub fn crash(&self, seed: u64) {
        let mut stored = self.lock();
        if let Some(pending) = stored.pending.take()
            && seed.is_multiple_of(2)
        {
            stored.durable = pending;
        }
    }

    /// A second, independent store in the same state, on that disk.
    pub fn fork(&self, disk: &SimDisk) -> Self {
        let stored = self.lock();
        let copy = Stored {
            durable: stored.durable.clone(),
            pending: stored.pending.clone(),
        };
        Self {
            stored: Arc::new(Mutex::new(copy)),
            disk: Some(disk.clone()),
        }
    }

    /// Flips bits in a stored value (in the meta for `None`); false where there is no such byte.
    pub fn flip(&self, key: Option<&[u8]>, at: usize, mask: u8) -> bool {
        let mut stored = self.lock();
        let value = match key {
            Some(key) => stored.durable.rows.get_mut(key),
            None => stored.durable.meta.as_mut(),
        };
        let byte = value.and_then(|value| value.get_mut(at));
        byte.map(|byte| *byte ^= mask).is_some()
    }

    /// Loses a row without a trace, as a store that cannot be trusted might; false where there is none.
    pub fn lose_row(&self, key: &[u8]) -> bool {
        self.lock().durable.rows.remove(key).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Stored> {
        self.stored
            .lock()
            .expect("nothing panics while it holds the memory checkpoint")
    }

    /// Counts an operation and lets it happen.
    fn operate(&self, kind: OpKind, happen: impl FnOnce(&mut Stored)) -> io::Result<()> {
        let charge = self
            .disk
            .as_ref()
            .map(|disk| disk.charge(kind, NAME))
            .transpose()?;
        happen(&mut self.lock());
        charge.map_or(Ok(()), |charge| charge.answer())
    }

    fn replace(&mut self, content: Content) -> Result<(), CheckpointError> {
        self.operate(OpKind::Write, |stored| stored.pending = Some(content))
            .map_err(|source| CheckpointError::Io {
                operation: "write",
                source,
            })?;
        self.operate(OpKind::Sync, |stored| {
            if let Some(content) = stored.pending.take() {
                stored.durable = content;
            }
        })
        .map_err(|source| CheckpointError::Io {
            operation: "flush",
            source,
        })
    }

    fn content(&self) -> Content {
        let stored = self.lock();
        stored
            .pending
            .clone()
            .unwrap_or_else(|| stored.durable.clone())
    }
}

impl CheckpointStore for MemoryCheckpoint {
    fn load_meta(&self) -> Result<Option<Bytes>, CheckpointError> {
        self.content()
            .meta
            .map(|stored| Ok(rows::unseal_meta(&stored)?.1))
            .transpose()
    }

    fn for_each_row(&self, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), CheckpointError> {
        let content = self.content();
        let mut tally = Tally::default();
        for (key, stored) in &content.rows {
            tally.add(key, stored);
            visit(key, rows::unseal(key, stored)?);
        }
        rows::check_tally(content.meta.as_deref(), tally)
    }

    fn write(&mut self, changes: &Changes, meta: Bytes) -> Result<(), CheckpointError> {
        let mut content = self.content();
        let mut tally = rows::tally_of(content.meta.as_deref())?;
        for (key, value) in changes.iter() {
            let stored = value.map(|value| rows::seal(key, value));
            if let Some(old) = content.rows.remove(key) {
                tally.remove(key, &old);
            }
            if let Some(stored) = stored {
                tally.add(key, &stored);
                content.rows.insert(key.to_vec(), stored);
            }
        }
        content.meta = Some(rows::seal_meta(tally, &meta));
        self.replace(content)
    }

    fn clear(&mut self) -> Result<(), CheckpointError> {
        self.replace(Content::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::conformance;

    #[test]
    fn it_conforms() {
        let store = MemoryCheckpoint::new();
        conformance::run(|| Box::new(store.clone()));
    }

    #[test]
    fn damage_and_lost_rows_are_noticed() {
        let mut store = MemoryCheckpoint::new();
        let rows: Changes = (0..10_u8)
            .map(|key| (vec![key + 1], Some(vec![key; 20])))
            .collect();
        store.write(&rows, Bytes::from_static(b"meta")).unwrap();
        let disk = SimDisk::new(1);
        let read = |store: &MemoryCheckpoint| {
            let meta = store.load_meta()?;
            store.for_each_row(&mut |_, _| {})?;
            Ok::<_, CheckpointError>(meta)
        };
        assert_eq!(read(&store).unwrap().unwrap(), "meta");
        for (key, _) in rows.iter() {
            for at in 0..24 {
                let damaged = store.fork(&disk);
                assert!(damaged.flip(Some(key), at, 1));
                assert!(matches!(
                    read(&damaged),
                    Err(CheckpointError::Damaged { .. })
                ));
            }
            let damaged = store.fork(&disk);
            assert!(damaged.lose_row(key));
            assert!(matches!(
                read(&damaged),
                Err(CheckpointError::Damaged { .. })
            ));
        }
        for at in 0..24 {
            let damaged = store.fork(&disk);
            assert!(damaged.flip(None, at, 0x80));
            assert!(matches!(
                read(&damaged),
                Err(CheckpointError::Damaged { .. })
            ));
        }
    }
}
