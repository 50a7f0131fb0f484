//! A node's folders on a real disk, and the thread that writes its log.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use ticketrail_core::DiskId;
use ticketrail_storage::{
    Disk, DiskLock, Identity, Log, LogConfig, OsDisk, Recovery, StorageError, identity,
};

use crate::error::StartError;
use crate::replica::Storage;
use crate::restore::SledFolder;

/// A file whose presence in a data folder says that a restore of it did not come to its end.
pub(crate) const UNFINISHED: &str = "restore-unfinished";

/// The folders `log` (with identity and vote), `snapshots` and `checkpoint` under a node's data
/// directory. Held until closed.
pub struct Folders {
    log: Log,
    writer: JoinHandle<io::Result<()>>,
    disk_id: DiskId,
    _held: DiskLock,
}

impl Folders {
    /// Opens the folders, makes them where they are not, and starts the log's writer.
    ///
    /// # Errors
    /// When another process holds them, they are another node's, or synced bytes are damaged.
    pub fn open(
        root: &Path,
        cluster_id: u128,
        node_id: u64,
    ) -> Result<(Self, Storage, Recovery), StartError> {
        Self::open_with(root, LogConfig::new(cluster_id, node_id))
    }

    /// As [`Folders::open`], with settings for the log.
    ///
    /// # Errors
    /// As [`Folders::open`].
    pub fn open_with(
        root: &Path,
        config: LogConfig,
    ) -> Result<(Self, Storage, Recovery), StartError> {
        let real = |folder: &Path| Ok(Arc::new(OsDisk::new(folder)?) as Arc<dyn Disk>);
        Self::open_on(root, config, DiskId(0), &real)
    }

    /// As [`Folders::open_with`], on the disks that `disk_of` gives for the folders of log and
    /// snapshots: the seam for disks that fail. The checkpoint is only ever sled's. Folders that are
    /// made here get the disk id `fresh`.
    ///
    /// # Errors
    /// As [`Folders::open`].
    pub fn open_on(
        root: &Path,
        config: LogConfig,
        fresh: DiskId,
        disk_of: &dyn Fn(&Path) -> io::Result<Arc<dyn Disk>>,
    ) -> Result<(Self, Storage, Recovery), StartError> {
        if root.join(UNFINISHED).exists() {
            return Err(StartError::UnfinishedRestore(root.display().to_string()));
        }
        Self::open_unfinished(root, config, fresh, disk_of)
    }

    /// As [`Folders::open_on`], also while the folder is being restored.
    pub(crate) fn open_unfinished(
        root: &Path,
        config: LogConfig,
        fresh: DiskId,
        disk_of: &dyn Fn(&Path) -> io::Result<Arc<dyn Disk>>,
    ) -> Result<(Self, Storage, Recovery), StartError> {
        let owner = Identity {
            cluster_id: config.cluster_id,
            node_id: config.node_id,
        };
        let open = |folder: &str| {
            disk_of(&root.join(folder)).map_err(|source| StartError::Io {
                doing: "opening a folder",
                source,
            })
        };
        let (disk, snapshots) = (open("log")?, open("snapshots")?);
        let (held, disk_id) = identity::open_as(&*disk, owner, fresh.0)?;
        let (log, writer, recovery) = Log::open(disk, config)?;
        let writer = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|source| StartError::Io {
                doing: "starting the log's writer",
                source,
            })?;
        let storage = Storage {
            log: log.clone(),
            checkpoint: Box::new(SledFolder::new(&root.join("checkpoint"))),
            snapshots,
        };
        Ok((
            Self {
                log,
                writer,
                disk_id: DiskId(disk_id),
                _held: held,
            },
            storage,
            recovery,
        ))
    }

    /// The id of the disk, made with the folders.
    #[must_use]
    pub fn disk_id(&self) -> DiskId {
        self.disk_id
    }

    /// Lets the log's writer drain and ends it. Blocks; after the replica's shutdown.
    ///
    /// # Errors
    /// When the log had failed.
    pub fn close(self) -> Result<(), StorageError> {
        self.log.close();
        match self.writer.join() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(StorageError::Stopped {
                reason: error.to_string(),
            }),
            Err(_) => Err(StorageError::Stopped {
                reason: "its writer panicked".to_owned(),
            }),
        }
    }
}
