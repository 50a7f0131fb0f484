//! The snapshot files of a replica: the two newest are kept.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use ticketrail_storage::snapshot::{self, Manifest, Snapshot, SnapshotName, SnapshotWriter};
use ticketrail_storage::{Disk, DiskFile, Identity, Log};

use crate::codec;
use crate::config::GROUP;
use crate::machine::StateAndRows;
use crate::rows::Reading;
use crate::types::{LogId, SnapshotMeta, term_of};

/// Name of the file that a peer's snapshot comes in.
const INCOMING: &str = "incoming-snapshot";

/// A file whose presence says that the state on this node's disk is wrong.
const WRONG: &str = "state-is-wrong";

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

    /// Its bytes as they are.
    pub(crate) fn raw(&self) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(&self.name.file_name())
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
    /// Taken while a file is written: unfinished ones share a name.
    writing: Mutex<()>,
}

impl Shelf {
    /// Finds the files that are whole; what is not is named in the log and passed over. What a peer had
    /// begun to send is removed: a fetch goes on within a process only.
    pub(crate) fn open(disk: Arc<dyn Disk>, owner: Identity) -> io::Result<Self> {
        remove_incoming(&*disk)?;
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
            writing: Mutex::new(()),
        })
    }

    fn files(&self) -> MutexGuard<'_, Vec<Shelved>> {
        self.files.lock().expect("no panic under this lock")
    }

    /// A file for what a peer sends; one at a time.
    pub(crate) fn incoming(&self) -> io::Result<Incoming> {
        self.drop_incoming()?;
        Ok(Incoming {
            disk: self.disk.clone(),
            file: self.disk.create(INCOMING)?,
            bytes: 0,
        })
    }

    /// Removes what a peer has sent, if there is any.
    pub(crate) fn drop_incoming(&self) -> io::Result<()> {
        remove_incoming(&*self.disk)
    }

    /// Writes down, durably, that the state on this node's disk is wrong.
    pub(crate) fn mark_wrong(&self) -> io::Result<()> {
        if !self.is_marked_wrong()? {
            self.disk.create(WRONG)?.sync_data()?;
        }
        self.disk.sync_dir()
    }

    /// Whether it was.
    pub(crate) fn is_marked_wrong(&self) -> io::Result<bool> {
        Ok(self.disk.list()?.iter().any(|name| name == WRONG))
    }

    /// The state is another one now.
    pub(crate) fn unmark(&self) -> io::Result<()> {
        self.disk.remove(WRONG)?;
        self.disk.sync_dir()
    }

    /// Whether the file is one of this folder's, or was.
    pub(crate) fn is_of(&self, file: &Shelved) -> bool {
        Arc::ptr_eq(&self.disk, &file.disk)
    }

    /// Removes all files: their state was proved wrong.
    pub(crate) fn discard(&self) -> io::Result<()> {
        let _writing = self.writing.lock().expect("no panic under this lock");
        for name in snapshot::list(&*self.disk, GROUP)? {
            self.disk.remove(&name.file_name())?;
        }
        self.disk.sync_dir()?;
        self.files().clear();
        Ok(())
    }

    /// Removes what was fetched of a snapshot that is not to be installed: the file first, durably so,
    /// as a start would install it, then the bodies that wait for it. `last_index`: where it ends, if
    /// none do.
    pub(crate) fn discard_fetched(&self, log: &Log, last_index: Option<u64>) -> io::Result<()> {
        for last_index in [last_index, log.bodies_wait_for()].into_iter().flatten() {
            self.remove(last_index)?;
        }
        log.discard_bodies().map_err(io::Error::other)?;
        self.drop_incoming()
    }

    /// As the folder tells: a file that could not be synced or read is on no list.
    fn remove(&self, last_index: u64) -> io::Result<()> {
        let _writing = self.writing.lock().expect("no panic under this lock");
        let names = snapshot::list(&*self.disk, GROUP)?.into_iter();
        for name in names.filter(|name| name.last_index == last_index) {
            self.disk.remove(&name.file_name())?;
        }
        self.disk.sync_dir()?;
        self.files()
            .retain(|file| file.last_index() != Some(last_index));
        Ok(())
    }

    /// The newest that covers nothing beyond this entry.
    pub(crate) fn newest_upto(&self, last: Option<LogId>) -> Option<Shelved> {
        let files = self.files();
        let within = |file: &&Shelved| file.meta.last_log_id <= last;
        files.iter().find(within).cloned()
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
        let _writing = self.writing.lock().expect("no panic under this lock");
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
        // As the folder keeps them: the newest two, by name.
        files.retain(|file| file.name != shelved.name);
        files.push(shelved.clone());
        files.sort_unstable_by_key(|file| std::cmp::Reverse(file.name));
        files.truncate(snapshot::KEPT);
        Ok(shelved)
    }
}

fn remove_incoming(disk: &dyn Disk) -> io::Result<()> {
    match disk.list()?.iter().any(|name| name == INCOMING) {
        true => disk.remove(INCOMING),
        false => Ok(()),
    }
}

/// A snapshot file on its way from a peer, as it is on that peer's disk.
pub(crate) struct Incoming {
    disk: Arc<dyn Disk>,
    file: Arc<dyn DiskFile>,
    bytes: u64,
}

impl Incoming {
    /// So many bytes came.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next ones.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(bytes, self.bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Verifies all of it: the frames, as node `writer` made them, and that the rows are a state.
    pub(crate) fn check(self, shelf: &Shelf, writer: u64) -> io::Result<Checked> {
        let writer = Identity {
            node_id: writer,
            ..shelf.owner
        };
        let file = snapshot::open_foreign(&*self.disk, writer, INCOMING)?;
        let meta = codec::meta_from(&file.manifest().meta)?;
        let mut reading = Reading::default();
        file.for_each_row(&mut |key, value| reading.row(key, value))?;
        let state = reading.state()?;
        let broken = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
        if state
            .cluster_id()
            .is_some_and(|id| id != shelf.owner.cluster_id)
        {
            return Err(broken("the state is another cluster's"));
        }
        if meta
            .last_log_id
            .is_none_or(|id| id.index < state.applied_index())
        {
            return Err(broken("the state goes beyond its last entry"));
        }
        Ok(Checked { file, meta })
    }
}

/// A snapshot file from a peer that is whole.
pub(crate) struct Checked {
    file: Snapshot,
    meta: SnapshotMeta,
}

impl Checked {
    pub(crate) fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// Makes it a file of this node, durable.
    pub(crate) fn shelve(self, shelf: &Shelf) -> io::Result<Shelved> {
        let version = self.file.manifest().machine_version;
        let shelved = shelf.write(self.meta, version, |writer| {
            let mut pushed = Ok(());
            self.file.for_each_row(&mut |key, row| {
                if pushed.is_ok() {
                    pushed = writer.push(key, row);
                }
            })?;
            Ok(pushed?)
        })?;
        shelf.disk.remove(INCOMING)?;
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

#[cfg(test)]
mod tests {
    use ticketrail_storage::sim::SimDisk;

    use super::*;

    #[test]
    fn what_a_peer_had_begun_to_send_does_not_stay() {
        let disk = SimDisk::new(1);
        let owner = Identity {
            cluster_id: 7,
            node_id: 1,
        };
        let shelf = Shelf::open(Arc::new(disk.clone()), owner).unwrap();
        let begin = || shelf.incoming().unwrap().push(&[7; 1_000]).unwrap();
        begin();
        assert_eq!(disk.used_bytes(), 1_000);
        shelf.drop_incoming().unwrap();
        assert_eq!(disk.used_bytes(), 0);
        // Nor after a process that died meanwhile.
        begin();
        Shelf::open(Arc::new(disk.clone()), owner).unwrap();
        assert_eq!(disk.used_bytes(), 0);
    }
}
