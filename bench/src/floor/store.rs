use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Result;

const BYTES: usize = 64 << 20;

/// A file that has all its blocks, so that a write changes nothing but their content.
pub(super) struct Store {
    file: File,
    at: u64,
}

impl Store {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let mut file = File::create(path)?;
        file.write_all(&vec![0; BYTES])?;
        file.sync_all()?;
        Ok(Self { file, at: 0 })
    }

    /// Returns when it is on the disk.
    pub(super) fn append(&mut self, batch: &[u8]) -> Result<()> {
        let bytes = batch.len() as u64;
        if self.at + bytes > BYTES as u64 {
            self.at = 0;
        }
        self.file.write_all_at(batch, self.at)?;
        self.file.sync_data()?;
        // Whole blocks, as a log does that must not write a block twice.
        self.at += bytes.next_multiple_of(4096);
        Ok(())
    }
}
