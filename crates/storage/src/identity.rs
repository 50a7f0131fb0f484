//! Whose folder this is: so that no node ever opens another's bytes, and no two processes open one node's.

use std::io;

use crate::disk::{Disk, DiskLock, read_up_to};
use crate::error::StorageError;
use crate::header::{self, HEADER_BYTES, Magic};

const FILE: &str = "identity";
const NEW_FILE: &str = "identity.new";
const MAGIC: Magic = Magic(b"TRIDENT\n");

/// Cluster and node; every file of the folder carries both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The cluster, made once at bootstrap.
    pub cluster_id: u128,
    /// The node inside the cluster; never used again once its disk is gone.
    pub node_id: u64,
}

impl Identity {
    pub(crate) fn must_be(self, found: Self) -> Result<(), StorageError> {
        if self == found {
            return Ok(());
        }
        Err(StorageError::ForeignFolder {
            cluster_id: self.cluster_id,
            node_id: self.node_id,
            found_cluster_id: found.cluster_id,
            found_node_id: found.node_id,
        })
    }
}

/// Takes the folder for this process. An empty folder becomes `owner`'s; one that is another's, or that lost its identity
/// while it still holds other files, is refused.
pub fn open(disk: &dyn Disk, owner: Identity) -> Result<DiskLock, StorageError> {
    open_as(disk, owner, 0).map(|(lock, _)| lock)
}

/// As [`open`]; an empty folder gets this disk id. Answers the id that the folder has: it tells a node whose disk was lost
/// from one that was only away. 0 for a folder that was made without one.
pub fn open_as(
    disk: &dyn Disk,
    owner: Identity,
    fresh_disk_id: u128,
) -> Result<(DiskLock, u128), StorageError> {
    let lock = disk.lock().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => StorageError::Locked,
        _ => StorageError::io("lock", "lock", error),
    })?;
    let disk_id = match read_whole(disk)? {
        Some((found, disk_id)) => {
            owner.must_be(found)?;
            disk_id
        }
        None => {
            create(disk, owner, fresh_disk_id)?;
            fresh_disk_id
        }
    };
    Ok((lock, disk_id))
}

/// Who owns the folder; `None` when it is new.
pub fn read(disk: &dyn Disk) -> Result<Option<Identity>, StorageError> {
    Ok(read_whole(disk)?.map(|(owner, _)| owner))
}

fn read_whole(disk: &dyn Disk) -> Result<Option<(Identity, u128)>, StorageError> {
    let names = disk.list().map_err(|e| StorageError::io("list", ".", e))?;
    if !names.iter().any(|name| name == FILE) {
        // Only the identity's own unfinished copy may precede it: it is the first file of a folder.
        return match names.iter().find(|name| *name != NEW_FILE) {
            None => Ok(None),
            Some(other) => Err(StorageError::damaged(
                FILE,
                0,
                format!("missing, though the folder holds `{other}`"),
            )),
        };
    }
    let file = disk
        .open(FILE)
        .map_err(|e| StorageError::io("open", FILE, e))?;
    let bytes =
        read_up_to(&*file, 0, HEADER_BYTES).map_err(|e| StorageError::io("read", FILE, e))?;
    let (found, extra) = header::decode(MAGIC, FILE, &bytes)?;
    let mut disk_id = [0; 16];
    disk_id.copy_from_slice(&extra[..16]);
    Ok(Some((found, u128::from_le_bytes(disk_id))))
}

fn create(disk: &dyn Disk, owner: Identity, disk_id: u128) -> Result<(), StorageError> {
    let write = || -> io::Result<()> {
        if disk.list()?.iter().any(|name| name == NEW_FILE) {
            disk.remove(NEW_FILE)?;
        }
        let file = disk.create(NEW_FILE)?;
        file.write_at(&header::encode(MAGIC, owner, &disk_id.to_le_bytes()), 0)?;
        file.sync_data()?;
        disk.rename(NEW_FILE, FILE)?;
        disk.sync_dir()
    };
    write().map_err(|e| StorageError::io("create", FILE, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimDisk;

    const OWNER: Identity = Identity {
        cluster_id: 7,
        node_id: 1,
    };

    #[test]
    fn a_new_folder_becomes_its_first_owners_and_nobody_elses() {
        let disk = SimDisk::new(1);
        drop(open(&disk, OWNER).unwrap());
        assert_eq!(read(&disk).unwrap(), Some(OWNER));
        drop(open(&disk, OWNER).unwrap());
        for other in [
            Identity {
                cluster_id: 8,
                ..OWNER
            },
            Identity {
                node_id: 2,
                ..OWNER
            },
        ] {
            assert!(matches!(
                open(&disk, other),
                Err(StorageError::ForeignFolder { .. })
            ));
        }
    }

    #[test]
    fn a_folder_keeps_the_disk_id_that_it_was_made_with() {
        let disk = SimDisk::new(1);
        let open = |fresh| open_as(&disk, OWNER, fresh).unwrap().1;
        assert_eq!(open(77), 77);
        assert_eq!(open(78), 77);
        let older = SimDisk::new(2);
        drop(super::open(&older, OWNER).unwrap());
        assert_eq!(open_as(&older, OWNER, 79).unwrap().1, 0);
    }

    #[test]
    fn two_holders_are_refused() {
        let disk = SimDisk::new(1);
        let held = open(&disk, OWNER).unwrap();
        assert!(matches!(open(&disk, OWNER), Err(StorageError::Locked)));
        drop(held);
        open(&disk, OWNER).unwrap();
    }

    #[test]
    fn a_lost_identity_is_not_made_anew_over_old_bytes() {
        let disk = SimDisk::new(1);
        drop(open(&disk, OWNER).unwrap());
        disk.create("log-0000000000000001").unwrap();
        disk.remove(FILE).unwrap();
        assert!(open(&disk, OWNER).unwrap_err().is_data_loss());
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let disk = SimDisk::new(1);
        drop(open(&disk, OWNER).unwrap());
        for offset in 0..HEADER_BYTES as u64 {
            assert!(disk.flip(FILE, offset, 0x40));
            assert!(open(&disk, OWNER).is_err(), "a flip at {offset} passed");
            assert!(disk.flip(FILE, offset, 0x40));
        }
        open(&disk, OWNER).unwrap();
    }
}
