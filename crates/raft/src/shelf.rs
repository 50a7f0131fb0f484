//! The snapshot files of a replica: the two newest are kept.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use ticketrail_storage::snapshot::{self, Manifest, SnapshotName, SnapshotWriter};
use ticketrail_storage::{Disk, Identity};

use crate::codec;
use crate::config::GROUP;
use crate::machine::StateAndRows;
use crate::rows::Reading;
use crate::types::{SnapshotMeta, term_of};

/// A snapshot file, verified when it was written or found.
#[derive(Clone)]
pub(crate) struct Shelved {
    disk: Arc<dyn Disk>,
    owner: Identity,
    name: SnapshotName,
    meta: SnapshotMeta,
}

impl Shelved {
    pub(crate) fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// The last entry that it covers.
    pub(crate) fn last_index(&self) -> Option<u64> {
        self.meta.last_log_id.map(|id| id.index)
    }

    /// The state in it, and its rows.
    pub(crate) fn read(&self) -> io::Result<StateAndRows> {
        let file = snapshot::open(&*self.disk, self.owner, &self.name)?;
        let mut rows = Vec::new();
        let mut reading = Reading::default();
        file.for_each_row(&mut |key, value| {
            reading.row(key, value);
            rows.push((key.to_vec(), value.to_vec()));
        })?;
        Ok((reading.state()?, rows))
    }
}

/// The folder of snapshot files.
pub(crate) struct Shelf {
    disk: Arc<dyn Disk>,
    owner: Identity,
    /// Newest first, at most two.
    files: Mutex<Vec<Shelved>>,
}

impl Shelf {
    /// Finds the files that are whole; what is not is named in the log and passed over.
    pub(crate) fn open(disk: Arc<dyn Disk>, owner: Identity) -> io::Result<Self> {
        let mut files = Vec::new();
        for name in snapshot::list(&*disk, GROUP)? {
            let file = match snapshot::open(&*disk, owner, &name) {
                Ok(file) => file,
                Err(error) => {
                    tracing::error!(%error, "a snapshot file is passed over");
                    continue;
                }
            };
            let meta = codec::meta_from(&file.manifest().meta)?;
            files.push(Shelved {
                disk: disk.clone(),
                owner,
                name,
                meta,
            });
            if files.len() == snapshot::KEPT {
                break;
            }
        }
        Ok(Self {
            disk,
            owner,
            files: Mutex::new(files),
        })
    }

    fn files(&self) -> MutexGuard<'_, Vec<Shelved>> {
        self.files.lock().expect("no panic under this lock")
    }

    /// The newest.
    pub(crate) fn newest(&self) -> Option<Shelved> {
        self.files().first().cloned()
    }

    /// The one before it: what Raft's log may be purged to, so that a damaged newest file costs
    /// nothing.
    pub(crate) fn older(&self) -> Option<Shelved> {
        self.files().get(1).cloned()
    }

    /// Writes a file, synced and read back; `fill` pushes the rows.
    pub(crate) fn write(
        &self,
        meta: SnapshotMeta,
        machine_version: u32,
        fill: impl FnOnce(&mut SnapshotWriter<'_>) -> io::Result<()>,
    ) -> io::Result<Shelved> {
        let manifest = Manifest {
            group: GROUP,
            last_index: meta.last_log_id.map_or(0, |id| id.index),
            last_term: meta.last_log_id.map_or(0, |id| term_of(&id)),
            machine_version,
            meta: codec::meta_to(meta.last_log_id, &meta.last_membership),
        };
        let mut writer = SnapshotWriter::create(&*self.disk, self.owner, &manifest)?;
        fill(&mut writer)?;
        let name = writer.finish()?;
        let shelved = Shelved {
            disk: self.disk.clone(),
            owner: self.owner,
            name,
            meta,
        };
        let mut files = self.files();
        files.retain(|file| file.last_index() < shelved.last_index());
        files.insert(0, shelved.clone());
        files.truncate(snapshot::KEPT);
        Ok(shelved)
    }
}

/// Pushes rows that are in memory.
pub(crate) fn push_all(
    rows: &[(Vec<u8>, Vec<u8>)],
) -> impl FnOnce(&mut SnapshotWriter<'_>) -> io::Result<()> {
    |writer| {
        rows.iter()
            .try_for_each(|(key, row)| Ok(writer.push(key, row)?))
    }
}
