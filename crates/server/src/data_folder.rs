//! What the data folder of this node takes of its disk, as the file system says.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use ticketrail_storage::{DiskSpace, disk_space};

/// Folders within folders that are looked into.
const DEPTH_MAX: usize = 4;
/// Size of a block in `Metadata::blocks`, whatever the file system's own is.
const BLOCK_BYTES: u64 = 512;

/// The data folder at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DataFolder {
    /// The file system that it is on.
    pub(crate) space: DiskSpace,
    /// The folders in it, by name.
    pub(crate) folders: Vec<Folder>,
}

impl DataFolder {
    /// Looks at all files. May block for as long as the disk does.
    pub(crate) fn look(root: &Path) -> io::Result<Self> {
        Ok(Self {
            space: disk_space(root)?,
            folders: folders(root),
        })
    }

    /// Bytes that the files of a folder take; 0 where there is none of that name.
    pub(crate) fn used(&self, name: &str) -> u64 {
        let found = self.folders.iter().find(|folder| folder.name == name);
        found.map_or(0, |folder| folder.used_bytes)
    }
}

/// A folder in the data folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    pub(crate) name: String,
    pub(crate) used_bytes: u64,
    /// Since something in it was last written.
    pub(crate) newest_age: Option<Duration>,
}

/// The folders in a folder. Files that come and go meanwhile may be missed.
fn folders(root: &Path) -> Vec<Folder> {
    let Ok(found) = fs::read_dir(root) else {
        return Vec::new();
    };
    let mut folders: Vec<Folder> = found
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| {
            let mut seen = Seen::default();
            look_into(&entry.path(), DEPTH_MAX, &mut seen);
            Folder {
                name: entry.file_name().to_string_lossy().into_owned(),
                used_bytes: seen.bytes,
                newest_age: seen.newest.and_then(|newest| newest.elapsed().ok()),
            }
        })
        .collect();
    folders.sort_by(|a, b| a.name.cmp(&b.name));
    folders
}

#[derive(Default)]
struct Seen {
    bytes: u64,
    newest: Option<SystemTime>,
}

fn look_into(folder: &Path, depth: usize, seen: &mut Seen) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        seen.bytes += metadata.blocks() * BLOCK_BYTES;
        if metadata.is_dir() {
            if depth > 0 {
                look_into(&entry.path(), depth - 1, seen);
            }
        } else {
            seen.newest = seen.newest.max(metadata.modified().ok());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_tell_what_they_take() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("log/segments");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("1"), vec![1; 100_000]).unwrap();
        fs::write(root.path().join("lock"), "").unwrap();
        let found = folders(root.path());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].name, "log");
        assert!(found[0].used_bytes >= 100_000, "{found:?}");
        assert!(found[0].newest_age.is_some());
        assert_eq!(folders(&root.path().join("none")), []);
        let whole = DataFolder::look(root.path()).unwrap();
        assert_eq!(
            (whole.used("log"), whole.used("none")),
            (found[0].used_bytes, 0)
        );
        assert!(whole.space.free_bytes > 0);
    }
}
