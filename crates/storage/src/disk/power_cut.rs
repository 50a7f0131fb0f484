//! The real disk, with a power cut at every kill: what is written stays in this process's memory until the sync, and names
//! change on the real disk only when the folder is synced. So a SIGKILL loses what a power cut would lose.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use super::os::{OsDisk, read_full};
use super::{Disk, DiskFile, DiskLock};

const PAGE_BYTES: u64 = 4096;
/// Real name of a file whose name is not durable yet.
const HIDDEN_PREFIX: &str = ".unsynced-";

/// A folder of the operating system that forgets what was not synced when the process ends.
pub struct PowerCutDisk {
    os: OsDisk,
    names: Mutex<Names>,
}

struct Names {
    /// What the process sees.
    files: BTreeMap<String, Arc<CutFile>>,
    /// Changes of names that wait for a sync of the folder, in order.
    unsynced: Vec<Change>,
    next_hidden: u64,
}

enum Change {
    Create { hidden: String, name: String },
    Rename { from: String, to: String },
    Remove { name: String },
}

impl PowerCutDisk {
    /// Opens the folder as a machine that has just started would find it.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<Self> {
        let os = OsDisk::new(root)?;
        let mut files = BTreeMap::new();
        for name in os.list()? {
            if name.starts_with(HIDDEN_PREFIX) {
                fs::remove_file(os.root().join(&name))?;
                continue;
            }
            let file = os.open_options(&name, &mut File::options())?;
            files.insert(name, CutFile::new(file)?);
        }
        Ok(Self {
            os,
            names: Mutex::new(Names {
                files,
                unsynced: Vec::new(),
                next_hidden: 0,
            }),
        })
    }

    fn lock_names(&self) -> MutexGuard<'_, Names> {
        self.names
            .lock()
            .expect("nothing panics while it holds the names")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.os.root().join(name)
    }

    fn make_durable(&self, change: &Change) -> io::Result<()> {
        match change {
            Change::Create { hidden, name } => fs::rename(self.path(hidden), self.path(name)),
            Change::Rename { from, to } => fs::rename(self.path(from), self.path(to)),
            Change::Remove { name } => fs::remove_file(self.path(name)),
        }
    }
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file `{name}`"))
}

impl Disk for PowerCutDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut names = self.lock_names();
        if names.files.contains_key(name) {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("file `{name}` exists"),
            ));
        }
        let hidden = format!("{HIDDEN_PREFIX}{}", names.next_hidden);
        names.next_hidden += 1;
        let file = CutFile::new(
            self.os
                .open_options(&hidden, File::options().create_new(true))?,
        )?;
        names.files.insert(name.to_owned(), file.clone());
        names.unsynced.push(Change::Create {
            hidden,
            name: name.to_owned(),
        });
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.lock_names().files.get(name).cloned();
        Ok(file.ok_or_else(|| not_found(name))?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut names = self.lock_names();
        let file = names.files.remove(from).ok_or_else(|| not_found(from))?;
        names.files.insert(to.to_owned(), file);
        names.unsynced.push(Change::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
        });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut names = self.lock_names();
        names.files.remove(name).ok_or_else(|| not_found(name))?;
        names.unsynced.push(Change::Remove {
            name: name.to_owned(),
        });
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock_names().files.keys().cloned().collect())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut names = self.lock_names();
        for change in names.unsynced.drain(..) {
            self.make_durable(&change)?;
        }
        drop(names);
        self.os.sync_dir()
    }

    fn lock(&self) -> io::Result<DiskLock> {
        self.os.lock()
    }
}

struct CutFile {
    file: File,
    unsynced: Mutex<Unsynced>,
}

struct Unsynced {
    len: u64,
    /// Whole pages, as the process sees them, by number.
    pages: HashMap<u64, Box<[u8]>>,
}

impl CutFile {
    fn new(file: File) -> io::Result<Arc<Self>> {
        let len = file.metadata()?.len();
        Ok(Arc::new(Self {
            file,
            unsynced: Mutex::new(Unsynced {
                len,
                pages: HashMap::new(),
            }),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Unsynced> {
        self.unsynced
            .lock()
            .expect("nothing panics while it holds the unsynced pages")
    }

    fn load_page(&self, number: u64) -> io::Result<Box<[u8]>> {
        let mut page = vec![0; PAGE_BYTES as usize].into_boxed_slice();
        read_full(&self.file, &mut page, number * PAGE_BYTES)?;
        Ok(page)
    }
}

/// The parts of a range that lie in one page each: page number, start in the page, start in the range, length.
fn page_parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let position = offset + at as u64;
        let in_page = (position % PAGE_BYTES) as usize;
        let part = (PAGE_BYTES as usize - in_page).min(length - at);
        let item = (part > 0).then_some((position / PAGE_BYTES, in_page, at, part));
        at += part;
        item
    })
}

impl DiskFile for CutFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let unsynced = self.lock();
        let length = buf
            .len()
            .min(usize::try_from(unsynced.len.saturating_sub(offset)).unwrap_or(usize::MAX));
        let buf = &mut buf[..length];
        let read = read_full(&self.file, buf, offset)?;
        buf[read..].fill(0);
        if !unsynced.pages.is_empty() {
            for (number, in_page, at, part) in page_parts(offset, length) {
                if let Some(page) = unsynced.pages.get(&number) {
                    buf[at..at + part].copy_from_slice(&page[in_page..in_page + part]);
                }
            }
        }
        Ok(length)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut unsynced = self.lock();
        for (number, in_page, at, part) in page_parts(offset, bytes.len()) {
            let page = match unsynced.pages.entry(number) {
                std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::hash_map::Entry::Vacant(entry) => {
                    entry.insert(self.load_page(number)?)
                }
            };
            page[in_page..in_page + part].copy_from_slice(&bytes[at..at + part]);
        }
        unsynced.len = unsynced.len.max(offset + bytes.len() as u64);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut unsynced = self.lock();
        let len = unsynced.len;
        for (number, page) in unsynced.pages.drain() {
            let start = number * PAGE_BYTES;
            let part = PAGE_BYTES.min(len.saturating_sub(start)) as usize;
            self.file.write_all_at(&page[..part], start)?;
        }
        if self.file.metadata()?.len() != len {
            self.file.set_len(len)?;
        }
        self.file.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut unsynced = self.lock();
        if len < unsynced.len {
            unsynced.pages.retain(|number, _| number * PAGE_BYTES < len);
            if !len.is_multiple_of(PAGE_BYTES) {
                let number = len / PAGE_BYTES;
                let mut page = match unsynced.pages.remove(&number) {
                    Some(page) => page,
                    None => self.load_page(number)?,
                };
                page[(len % PAGE_BYTES) as usize..].fill(0);
                unsynced.pages.insert(number, page);
            }
        }
        unsynced.len = len;
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_synced_is_there_after_a_kill() {
        let folder = tempfile::tempdir().unwrap();
        let disk = PowerCutDisk::new(folder.path()).unwrap();
        let kept = disk.create("kept").unwrap();
        kept.write_at(&[1; 10_000], 0).unwrap();
        kept.sync_data().unwrap();
        kept.write_at(&[2; 5_000], 2_000).unwrap();
        let mut seen = vec![0; 10_000];
        assert_eq!(kept.read_at(&mut seen, 0).unwrap(), 10_000);
        assert_eq!(
            (seen[1_999], seen[2_000], seen[6_999], seen[7_000]),
            (1, 2, 2, 1)
        );
        disk.sync_dir().unwrap();
        disk.create("lost").unwrap().sync_data().unwrap();
        disk.rename("kept", "renamed").unwrap();
        assert_eq!(disk.list().unwrap(), ["lost", "renamed"]);
        drop(disk);

        let disk = PowerCutDisk::new(folder.path()).unwrap();
        assert_eq!(disk.list().unwrap(), ["kept"]);
        let mut seen = vec![0; 20_000];
        assert_eq!(
            disk.open("kept").unwrap().read_at(&mut seen, 0).unwrap(),
            10_000
        );
        assert!(seen[..10_000].iter().all(|byte| *byte == 1));
        disk.rename("kept", "renamed").unwrap();
        disk.sync_dir().unwrap();
        drop(disk);
        assert_eq!(
            PowerCutDisk::new(folder.path()).unwrap().list().unwrap(),
            ["renamed"]
        );
    }
}
