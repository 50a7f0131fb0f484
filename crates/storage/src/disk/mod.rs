//! The seam between everything that must survive a crash and the thing that it survives on.
//!
//! One [`Disk`] is one folder with flat names. [`OsDisk`] is the real one; [`sim::SimDisk`] is a seeded one in memory which
//! can crash, fail and lie; `PowerCutDisk` (feature `power-cut`) is the real one that forgets what was not synced.

mod os;
#[cfg(feature = "power-cut")]
mod power_cut;
pub mod sim;
mod space;

use std::io;
use std::sync::Arc;

pub use os::OsDisk;
#[cfg(feature = "power-cut")]
pub use power_cut::PowerCutDisk;
pub use space::{DiskSpace, disk_space, is_full};

/// A folder of files. Names are plain file names; nothing from a user ever becomes one.
pub trait Disk: Send + Sync + 'static {
    /// Creates an empty file; fails with `AlreadyExists` when the name is taken. Durable after [`Disk::sync_dir`].
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames, replacing what `to` names. Durable after [`Disk::sync_dir`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. Durable after [`Disk::sync_dir`].
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Names of all files, sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// Takes the folder for this process; `WouldBlock` when another holds it.
    fn lock(&self) -> io::Result<DiskLock>;
    /// Bytes that can still be written to files of this folder; `None` where that is not known.
    fn free_bytes(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }
}

/// An open file. All methods may be called from several threads.
pub trait DiskFile: Send + Sync {
    /// Reads until `buf` is full or the file ends; returns how many bytes were read.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes`, growing the file where needed. Durable after [`DiskFile::sync_data`].
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes what was written, and the length, durable (fdatasync).
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts or grows (with zeros) the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file holds no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Holds a folder until it is dropped.
pub struct DiskLock {
    _holder: Box<dyn Send + Sync>,
}

impl DiskLock {
    pub(crate) fn new(holder: impl Send + Sync + 'static) -> Self {
        Self {
            _holder: Box::new(holder),
        }
    }
}

impl std::fmt::Debug for DiskLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DiskLock")
    }
}

/// Reads exactly `len` bytes, or fewer where the file ends.
pub(crate) fn read_up_to(file: &dyn DiskFile, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let read = file.read_at(&mut bytes, offset)?;
    bytes.truncate(read);
    Ok(bytes)
}
