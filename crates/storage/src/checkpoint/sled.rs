//! The checkpoint in sled, the only place that names it.
//!
//! One tree, one writer, one flush per write, which is atomic; no background flusher (it aborts the process on an error), no
//! merge operators. Panics inside sled become errors.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::rows::{self, Tally};
use super::{Changes, CheckpointError, CheckpointStore};

/// Rows of a leaf, which is written whole when one of them changes. Against sled's 1,024: 100 queues of 100,000 that
/// change cost a third, 10,000 cost 1.3 times as much.
const LEAF_FANOUT: usize = 256;
/// sled's own default is 512 MiB.
const CACHE_BYTES: usize = 32 << 20;
const META_KEY: &[u8] = b"m";
/// Rows live under this prefix, so that no key of the caller can be the meta's.
const ROW_PREFIX: u8 = b'r';
/// How long an open waits for a lock that an earlier handle of this process has not let go.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(5);
/// Of one batch, of which sled makes a copy.
const BATCH_ROWS: usize = 4_096;

/// A folder kept by sled.
pub struct SledCheckpoint {
    db: Option<sled::Db<LEAF_FANOUT>>,
    /// A write began and has not come to its end.
    is_unfinished: bool,
}

impl SledCheckpoint {
    /// Opens or creates the folder.
    ///
    /// # Errors
    /// Whatever sled says, panics included: then set the folder aside and rebuild.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let config = sled::Config::new()
            .path(folder)
            .cache_capacity_bytes(CACHE_BYTES)
            .flush_every_ms(None);
        let db = open_when_free(&config)?;
        let checkpoint = Self {
            db: Some(db),
            is_unfinished: false,
        };
        checkpoint.load_meta()?;
        Ok(checkpoint)
    }

    fn db(&self) -> &sled::Db<LEAF_FANOUT> {
        self.db
            .as_ref()
            .expect("the database is only taken out by drop")
    }

    fn stored_meta(&self) -> Result<Option<sled::InlineArray>, CheckpointError> {
        guarded("read", || self.db().get(META_KEY))
    }

    /// Nothing of it is on disk before the next flush.
    fn apply(&self, batch: sled::Batch) -> Result<(), CheckpointError> {
        guarded("write", || self.db().apply_batch(batch))
    }

    /// All that was applied since the last flush, or nothing.
    fn flush(&self) -> Result<(), CheckpointError> {
        guarded("flush", || self.db().flush().map(|_| ()))
    }

    fn remove_some_rows(&self) -> Result<bool, CheckpointError> {
        let mut batch = sled::Batch::default();
        let mut found = 0;
        // Goes before the flush: what it holds of sled flushes as well when it is dropped.
        let mut iterator = self.db().scan_prefix([ROW_PREFIX]);
        while found < BATCH_ROWS
            && let Some((key, _)) = guarded("read", || iterator.next().transpose())?
        {
            batch.remove(key);
            found += 1;
        }
        drop(iterator);
        if found > 0 {
            self.apply(batch)?;
            self.flush()?;
        }
        Ok(found > 0)
    }
}

impl CheckpointStore for SledCheckpoint {
    fn load_meta(&self) -> Result<Option<Bytes>, CheckpointError> {
        self.stored_meta()?
            .map(|stored| Ok(rows::unseal_meta(&stored)?.1))
            .transpose()
    }

    fn for_each_row(&self, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), CheckpointError> {
        let meta = self.stored_meta()?;
        let mut tally = Tally::default();
        let mut iterator = self.db().scan_prefix([ROW_PREFIX]);
        // The visitor runs outside the guard: its panics are not the store's.
        while let Some((key, stored)) = guarded("read", || iterator.next().transpose())? {
            let key = key.get(1..).unwrap_or_default();
            tally.add(key, &stored);
            visit(key, rows::unseal(key, &stored)?);
        }
        rows::check_tally(meta.as_deref(), tally)
    }

    fn write(&mut self, changes: &Changes, meta: Bytes) -> Result<(), CheckpointError> {
        self.is_unfinished = true;
        let mut tally = rows::tally_of(self.stored_meta()?.as_deref())?;
        let mut batch = sled::Batch::default();
        for (count, (key, value)) in changes.iter().enumerate() {
            if count > 0 && count.is_multiple_of(BATCH_ROWS) {
                // If a later batch fails, what sled still flushes when it is closed fails its tally.
                batch.remove(META_KEY);
                self.apply(std::mem::take(&mut batch))?;
            }
            let stored_key = [&[ROW_PREFIX], key].concat();
            if let Some(old) = guarded("read", || self.db().get(&stored_key))? {
                tally.remove(key, &old);
            }
            match value {
                Some(value) => {
                    let stored = rows::seal(key, value);
                    tally.add(key, &stored);
                    batch.insert(stored_key, stored);
                }
                None => batch.remove(stored_key),
            }
        }
        batch.insert(META_KEY, rows::seal_meta(tally, &meta));
        self.apply(batch)?;
        self.flush()?;
        self.is_unfinished = false;
        Ok(())
    }

    fn clear(&mut self) -> Result<(), CheckpointError> {
        // The meta goes first: what is left after a crash in between fails its tally and is never taken for a state.
        self.is_unfinished = true;
        let mut batch = sled::Batch::default();
        batch.remove(META_KEY);
        self.apply(batch)?;
        self.flush()?;
        while self.remove_some_rows()? {}
        self.is_unfinished = false;
        Ok(())
    }
}

impl Drop for SledCheckpoint {
    fn drop(&mut self) {
        // sled flushes when its last handle goes, and may panic there on a broken disk; everything that matters was flushed.
        let db = self.db.take();
        let close = move || drop(catch_unwind(AssertUnwindSafe(move || drop(db))));
        if !self.is_unfinished {
            return close();
        }
        // After a flush that failed, this one may wait for ever: not here. The folder stays locked then, which the next open tells.
        let waiting = thread::Builder::new().name("sled-closing".to_owned());
        drop(waiting.spawn(close));
    }
}

/// A handle dropped a moment ago may still hold sled's lock: its thread is not joined.
fn open_when_free(config: &sled::Config) -> Result<sled::Db<LEAF_FANOUT>, CheckpointError> {
    let deadline = Instant::now() + LOCK_WAIT_MAX;
    loop {
        match guarded("open", || config.open::<LEAF_FANOUT>()) {
            Err(CheckpointError::Io { source, .. })
                if source.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline =>
            {
                thread::sleep(LOCK_POLL);
            }
            opened => return opened,
        }
    }
}

fn guarded<T>(
    operation: &'static str,
    act: impl FnOnce() -> io::Result<T>,
) -> Result<T, CheckpointError> {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(CheckpointError::Io { operation, source }),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(CheckpointError::Panicked {
                operation,
                message: text.unwrap_or_else(|| "no message".to_owned()),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{conformance, set_aside};

    #[test]
    fn it_conforms() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        conformance::run(|| Box::new(SledCheckpoint::open(&path).unwrap()));
    }

    /// 1,000 were run once: 4,012 damaged folders, none served a wrong row, none ended the process.
    const FLIPS_PER_FILE: usize = 10;

    /// The files of a closed checkpoint.
    fn files(folder: &Path) -> Vec<std::path::PathBuf> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(files(&path));
            } else {
                found.push(path);
            }
        }
        found.sort();
        found
    }

    fn filled(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut checkpoint = SledCheckpoint::open(path).unwrap();
        let rows = (1..200_u8).map(|key| (vec![key], vec![key; 50]));
        let changes = rows.clone().map(|(key, value)| (key, Some(value)));
        checkpoint
            .write(&changes.collect(), Bytes::from_static(b"meta"))
            .unwrap();
        rows.collect()
    }

    type Content = (Option<Bytes>, Vec<(Vec<u8>, Vec<u8>)>);

    /// Everything that can be read, or that it cannot.
    fn read_all(path: &Path) -> Result<Content, CheckpointError> {
        let checkpoint = SledCheckpoint::open(path)?;
        let mut rows = Vec::new();
        checkpoint.for_each_row(&mut |key, value| rows.push((key.to_vec(), value.to_vec())))?;
        Ok((checkpoint.load_meta()?, rows))
    }

    #[test]
    fn a_folder_that_is_garbage_cut_or_flipped_is_an_error_or_empty_never_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        let rows = filled(&path);
        let originals: Vec<_> = files(&path)
            .into_iter()
            .map(|file| (file.clone(), std::fs::read(&file).unwrap()))
            .collect();
        let (mut errors, mut unharmed, mut empty) = (0, 0, 0);
        for (file, bytes) in &originals {
            let damages = [
                vec![0xa5; bytes.len()],
                bytes[..bytes.len() / 2].to_vec(),
                Vec::new(),
            ];
            let flips = (0..FLIPS_PER_FILE).map(|at| {
                let mut flipped = bytes.clone();
                let position = at * bytes.len() / FLIPS_PER_FILE;
                if let Some(byte) = flipped.get_mut(position) {
                    *byte ^= 1 << (at % 8);
                }
                flipped
            });
            let damages = damages.into_iter().chain(flips);
            for damage in damages.filter(|damage| damage != bytes) {
                std::fs::write(file, damage).unwrap();
                match read_all(&path) {
                    Err(_) => errors += 1,
                    Ok((None, found)) => {
                        assert!(found.is_empty());
                        empty += 1;
                    }
                    Ok((Some(meta), found)) => {
                        assert_eq!((meta, found), (Bytes::from_static(b"meta"), rows.clone()));
                        unharmed += 1;
                    }
                }
                std::fs::remove_dir_all(&path).unwrap();
                for (file, bytes) in &originals {
                    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                    std::fs::write(file, bytes).unwrap();
                }
            }
        }
        println!("{errors} refused, {empty} empty, {unharmed} unharmed");
        assert!(errors > 0);
        assert_eq!(read_all(&path).unwrap().1, rows);
    }

    #[test]
    fn a_part_of_a_write_is_not_there_before_its_flush_and_never_taken_for_a_state() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        let rows = filled(&path);
        let checkpoint = SledCheckpoint::open(&path).unwrap();
        let mut batch = sled::Batch::default();
        batch.insert([ROW_PREFIX, 1], rows::seal(&[1], b"new"));
        batch.remove(META_KEY);
        checkpoint.apply(batch).unwrap();
        let killed = folder.path().join("killed");
        for file in files(&path) {
            let copy = killed.join(file.strip_prefix(&path).unwrap());
            std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
            std::fs::copy(file, copy).unwrap();
        }
        let whole = (Some(Bytes::from_static(b"meta")), rows);
        assert_eq!(read_all(&killed).unwrap(), whole);
        drop(checkpoint);
        let read = read_all(&path);
        assert!(
            matches!(read, Err(CheckpointError::Damaged { .. })),
            "{read:?}"
        );
    }

    #[test]
    fn a_folder_set_aside_leaves_room_for_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        for _ in 0..6 {
            filled(&path);
            assert!(set_aside(&path).unwrap().exists());
            assert!(!path.exists());
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4);
    }
}
