//! A node's data folder on a small file system of its own, which a test can fill to the last byte.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const IMAGE: &str = "disk.img";
const BALLAST: &str = "ballast";

/// A file system in a file, mounted for as long as this lives.
#[derive(Debug)]
pub struct SmallDisk {
    mounted: PathBuf,
}

impl SmallDisk {
    /// Whether this machine lets us mount one; where not, says why.
    ///
    /// # Errors
    /// What is missing.
    pub fn is_possible() -> Result<(), String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        Self::mount(folder.path(), 8 << 20).map(drop)
    }

    /// Makes one of so many bytes beside `data` in this folder, and mounts it there.
    ///
    /// # Errors
    /// Mounting needs root, loop devices and `mkfs.ext4`.
    pub fn mount(folder: &Path, bytes: u64) -> Result<Self, String> {
        let (image, mounted) = (folder.join(IMAGE), folder.join("data"));
        let prepared = fs::create_dir_all(&mounted)
            .and_then(|()| File::create(&image))
            .and_then(|file| file.set_len(bytes));
        prepared.map_err(|error| error.to_string())?;
        // No blocks are reserved for root, who is the one that runs this.
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-m", "0"])
            .arg(&image))?;
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(&mounted))?;
        Ok(Self { mounted })
    }

    /// Takes all room but so many bytes, whatever was taken before.
    ///
    /// # Errors
    /// Where the file system refuses otherwise than for being full.
    pub fn leave(&self, free: u64) -> io::Result<()> {
        let path = self.mounted.join(BALLAST);
        let file = File::options().create(true).append(true).open(path)?;
        let has = file.metadata()?.blocks() * 512;
        let there = has + self.free()?;
        let wanted = there.saturating_sub(free);
        if wanted < has {
            return file.set_len(wanted);
        }
        // The last pieces: what is free is counted in blocks that the file system needs itself.
        let mut step = wanted - has;
        let mut at = file.metadata()?.len();
        while step >= 4_096 {
            match allocate(&file, at, step) {
                Ok(()) => at += step,
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {}
                Err(error) => return Err(error),
            }
            step = (step / 2).min(self.free()?.saturating_sub(free));
        }
        Ok(())
    }

    /// Gives back what [`Self::leave`] took.
    ///
    /// # Errors
    /// Where nothing was taken.
    pub fn relieve(&self) -> io::Result<()> {
        fs::remove_file(self.mounted.join(BALLAST))
    }

    /// Bytes that can still be written.
    ///
    /// # Errors
    /// Where the file system is gone.
    pub fn free(&self) -> io::Result<u64> {
        ticketrail_storage::disk_space(&self.mounted).map(|space| space.free_bytes)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that was killed a moment ago may still hold it.
        if let Err(why) = run(Command::new("umount").arg("-l").arg(&self.mounted)) {
            eprintln!("{} stays mounted: {why}", self.mounted.display());
        }
    }
}

fn allocate(file: &File, at: u64, bytes: u64) -> io::Result<()> {
    let (at, bytes) = (at.cast_signed(), bytes.cast_signed());
    // SAFETY: the descriptor is the file's, which lives through the call; no pointers are passed.
    match unsafe { libc::fallocate(file.as_raw_fd(), 0, at, bytes) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let told = |output: Output| match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    };
    let output = command.output().map_err(|error| error.to_string())?;
    told(output).map_err(|why| format!("{command:?}: {why}"))
}
