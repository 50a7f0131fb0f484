//! Segment files: how they are made, which entries they hold, and when they may be used again.

use std::io;
use std::sync::{Arc, Mutex};

use super::{bodies, format};
use crate::disk::{Disk, DiskFile};
use crate::error::StorageError;
use crate::header::{self, HEADER_BYTES, Magic};
use crate::identity::Identity;

pub(crate) const MAGIC: Magic = Magic(b"TRLOGSG\n");
const LIVE_PREFIX: &str = "log-";
const SPARE_PREFIX: &str = "spare-";
const NEW_PREFIX: &str = "log-new-";
/// Where the first batch of a segment starts.
pub(crate) const DATA_START: u64 = HEADER_BYTES as u64;
/// A fresh segment is written and synced in pieces, so that the log's own syncs never wait for 64 MiB.
const PREWRITE_BYTES: usize = 1 << 20;

pub(crate) fn live_name(epoch: u64) -> String {
    format!("{LIVE_PREFIX}{epoch:016x}")
}

fn spare_name(epoch: u64) -> String {
    format!("{SPARE_PREFIX}{epoch:016x}")
}

/// What the names in a folder say about segments, in order of epoch.
#[derive(Default)]
pub(crate) struct SegmentNames {
    pub(crate) live: Vec<u64>,
    pub(crate) spare: Vec<u64>,
    pub(crate) unfinished: Vec<String>,
}

impl SegmentNames {
    pub(crate) fn of(names: &[String]) -> Self {
        let mut found = Self::default();
        for name in names {
            if name.starts_with(NEW_PREFIX) {
                found.unfinished.push(name.clone());
            } else if let Some(epoch) = epoch_of(name, LIVE_PREFIX) {
                found.live.push(epoch);
            } else if let Some(epoch) = epoch_of(name, SPARE_PREFIX) {
                found.spare.push(epoch);
            }
        }
        found.live.sort_unstable();
        found.spare.sort_unstable();
        found
    }

    pub(crate) fn newest_epoch(&self) -> u64 {
        self.live
            .last()
            .copied()
            .max(self.spare.last().copied())
            .unwrap_or(0)
    }
}

fn epoch_of(name: &str, prefix: &str) -> Option<u64> {
    let digits = name
        .strip_prefix(prefix)
        .filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// An open segment. Whoever reads holds a clone, which keeps the file from being used again meanwhile.
pub(crate) struct SegmentFile {
    kind: Kind,
    pub(crate) epoch: u64,
    pub(crate) crc_seed: u32,
    pub(crate) bytes: u64,
    pub(crate) file: Arc<dyn DiskFile>,
}

/// What a file of records is for.
#[derive(Clone, Copy)]
enum Kind {
    Log,
    Bodies,
}

impl SegmentFile {
    pub(crate) fn new(
        owner: Identity,
        epoch: u64,
        bytes: u64,
        file: Arc<dyn DiskFile>,
    ) -> Arc<Self> {
        Arc::new(Self {
            kind: Kind::Log,
            epoch,
            crc_seed: format::seed(owner, epoch),
            bytes,
            file,
        })
    }

    /// A body segment: the same records under another name and seed.
    pub(crate) fn of_bodies(
        owner: Identity,
        id: u64,
        bytes: u64,
        file: Arc<dyn DiskFile>,
    ) -> Arc<Self> {
        Arc::new(Self {
            kind: Kind::Bodies,
            epoch: id,
            crc_seed: bodies::seed(owner, id),
            bytes,
            file,
        })
    }

    pub(crate) fn name(&self) -> String {
        match self.kind {
            Kind::Log => live_name(self.epoch),
            Kind::Bodies => bodies::name(self.epoch),
        }
    }
}

/// Makes segments ready for writing, from spare files where there are any.
pub(crate) struct SegmentMaker {
    disk: Arc<dyn Disk>,
    owner: Identity,
    segment_bytes: u64,
    next_epoch: u64,
    spares: Arc<Spares>,
    /// So much is left free on the disk by a file that is made anew.
    leaves_bytes: u64,
}

impl SegmentMaker {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        owner: Identity,
        segment_bytes: u64,
        next_epoch: u64,
        spares: Arc<Spares>,
    ) -> Self {
        Self {
            disk,
            owner,
            segment_bytes,
            next_epoch,
            spares,
            leaves_bytes: 0,
        }
    }

    /// From now on a file is made anew only where as much again stays free. For whoever tries again and
    /// again on a full disk: what it writes and removes is missed by others meanwhile.
    pub(crate) fn leave_room(&mut self) {
        self.leaves_bytes = self.segment_bytes;
    }

    /// A segment with no batch in it, durable with its header and name.
    pub(crate) fn make(&mut self) -> io::Result<Arc<SegmentFile>> {
        let epoch = self.next_epoch;
        self.next_epoch += 1;
        let header = header::encode(MAGIC, self.owner, &epoch.to_le_bytes());
        let (from, file) = match self.take_spare()? {
            Some(spare) => spare,
            None => self.create(epoch)?,
        };
        file.write_at(&header, 0)?;
        file.sync_data()?;
        self.disk.rename(&from, &live_name(epoch))?;
        self.disk.sync_dir()?;
        Ok(SegmentFile::new(
            self.owner,
            epoch,
            self.segment_bytes,
            file,
        ))
    }

    fn take_spare(&self) -> io::Result<Option<(String, Arc<dyn DiskFile>)>> {
        while let Some(epoch) = self.spares.take() {
            let name = spare_name(epoch);
            let file = self.disk.open(&name)?;
            if file.len()? == self.segment_bytes {
                return Ok(Some((name, file)));
            }
            self.disk.remove(&name)?;
        }
        Ok(None)
    }

    fn create(&self, epoch: u64) -> io::Result<(String, Arc<dyn DiskFile>)> {
        let name = format!("{NEW_PREFIX}{epoch:016x}");
        let needed = self.segment_bytes + self.leaves_bytes;
        if self.leaves_bytes > 0 && self.disk.free_bytes()?.is_some_and(|free| free < needed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = self.disk.create(&name)?;
        match self.prewrite(&*file) {
            Ok(()) => Ok((name, file)),
            Err(error) => {
                // What a full disk has taken of it would be missed elsewhere. Failing too, it is removed at the next start.
                let _ = self.disk.remove(&name);
                Err(error)
            }
        }
    }

    fn prewrite(&self, file: &dyn DiskFile) -> io::Result<()> {
        let zeros = vec![0; PREWRITE_BYTES.min(self.segment_bytes as usize)];
        let mut at = 0;
        while at < self.segment_bytes {
            let part = zeros.len().min((self.segment_bytes - at) as usize);
            file.write_at(&zeros[..part], at)?;
            at += part as u64;
            if at.is_multiple_of(4 * PREWRITE_BYTES as u64) {
                file.sync_data()?;
            }
        }
        Ok(())
    }
}

/// Segment files that hold nothing any more and wait to be used again.
pub(crate) struct Spares {
    epochs: Mutex<Vec<u64>>,
    count_max: usize,
}

impl Spares {
    pub(crate) fn new(epochs: Vec<u64>, count_max: usize) -> Arc<Self> {
        Arc::new(Self {
            epochs: Mutex::new(epochs),
            count_max,
        })
    }

    fn take(&self) -> Option<u64> {
        self.lock().pop()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u64>> {
        self.epochs
            .lock()
            .expect("nothing panics while it holds the list of spares")
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Turns freed segments into spares, or removes them where there are enough or somebody still reads.
    pub(crate) fn retire(
        &self,
        disk: &dyn Disk,
        freed: Vec<Arc<SegmentFile>>,
    ) -> Result<(), StorageError> {
        let mut spare = Vec::new();
        for segment in freed {
            let (name, epoch) = (segment.name(), segment.epoch);
            if Arc::strong_count(&segment) > 1 || self.count() + spare.len() >= self.count_max {
                disk.remove(&name)
                    .map_err(|e| StorageError::io("remove", &name, e))?;
            } else {
                disk.rename(&name, &spare_name(epoch))
                    .map_err(|e| StorageError::io("retire", &name, e))?;
                spare.push(epoch);
            }
        }
        // Only a durable new name makes the bytes free: a header written over under the old name would look like damage.
        disk.sync_dir()
            .map_err(|e| StorageError::io("sync", ".", e))?;
        self.lock().extend(spare);
        Ok(())
    }
}

/// The entries of one segment: consecutive indexes, each with its place.
pub(crate) struct SegmentIndex {
    pub(crate) segment: Arc<SegmentFile>,
    pub(crate) first_index: u64,
    /// Offset and whole length of each entry's record.
    pub(crate) places: Vec<(u32, u32)>,
    /// The sum of their lengths.
    pub(crate) entry_bytes: u64,
    pub(crate) sealed: bool,
    /// Oldest segment that a truncation recorded in this one has cut. This one must outlive it: without the truncation
    /// its records would be back after the next start.
    cuts_into_epoch: Option<u64>,
}

impl SegmentIndex {
    fn new(segment: Arc<SegmentFile>) -> Self {
        Self {
            segment,
            first_index: 0,
            places: Vec::new(),
            entry_bytes: 0,
            sealed: false,
            cuts_into_epoch: None,
        }
    }

    pub(crate) fn last_index(&self) -> Option<u64> {
        Some(self.first_index + (self.places.len() as u64).checked_sub(1)?)
    }

    pub(crate) fn locate(&self, index: u64) -> Option<Place> {
        let at = usize::try_from(index.checked_sub(self.first_index)?).ok()?;
        let (offset, length) = self.places.get(at).copied()?;
        Some(Place {
            segment: self.segment.clone(),
            offset,
            length,
        })
    }
}

/// All segments in the order in which they were written, as far as the disk has them.
#[derive(Default)]
pub(crate) struct SegmentTable {
    pub(crate) segments: Vec<SegmentIndex>,
}

/// Where an entry lies.
pub(crate) struct Place {
    pub(crate) segment: Arc<SegmentFile>,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

impl Place {
    pub(crate) fn payload_bytes(&self) -> usize {
        (self.length as usize).saturating_sub(format::RECORD_HEADER_BYTES)
    }
}

/// One change of the table, in the order of the log's bytes.
pub(crate) enum TableChange {
    Segment(Arc<SegmentFile>),
    Entry {
        index: u64,
        offset: u32,
        length: u32,
    },
    Truncate {
        from: u64,
    },
    Seal,
}

impl SegmentTable {
    pub(crate) fn apply(&mut self, change: TableChange) {
        match change {
            TableChange::Segment(segment) => self.segments.push(SegmentIndex::new(segment)),
            TableChange::Entry {
                index,
                offset,
                length,
            } => {
                let Some(current) = self.segments.last_mut() else {
                    return;
                };
                if current.places.is_empty() {
                    current.first_index = index;
                }
                debug_assert_eq!(current.first_index + current.places.len() as u64, index);
                current.places.push((offset, length));
                current.entry_bytes += u64::from(length);
            }
            TableChange::Truncate { from } => self.truncate(from),
            TableChange::Seal => {
                if let Some(current) = self.segments.last_mut() {
                    current.sealed = true;
                    current.places.shrink_to_fit();
                }
            }
        }
    }

    fn truncate(&mut self, from: u64) {
        let mut cut_epoch = None;
        let current_epoch = self.segments.last().map(|current| current.segment.epoch);
        for index in &mut self.segments {
            if index.last_index().is_some_and(|last| last >= from) {
                let kept = from.saturating_sub(index.first_index) as usize;
                let cut = index.places.drain(kept.min(index.places.len())..);
                index.entry_bytes -= cut.map(|(_, length)| u64::from(length)).sum::<u64>();
                if Some(index.segment.epoch) != current_epoch {
                    cut_epoch = cut_epoch.or(Some(index.segment.epoch));
                }
            }
        }
        if let (Some(cut), Some(current)) = (cut_epoch, self.segments.last_mut()) {
            current.cuts_into_epoch = Some(
                current
                    .cuts_into_epoch
                    .map_or(cut, |earlier| earlier.min(cut)),
            );
        }
    }

    /// Where the newest record of this index lies.
    pub(crate) fn locate(&self, index: u64) -> Option<Place> {
        // Newest first: recent entries are asked for most, and an index is never in two runs at once.
        self.segments.iter().rev().find_map(|run| run.locate(index))
    }

    pub(crate) fn last_index(&self) -> Option<u64> {
        self.segments
            .iter()
            .rev()
            .find_map(SegmentIndex::last_index)
    }

    /// Takes out what the log no longer needs and `is_live` does not want.
    pub(crate) fn take_dead(
        &mut self,
        durable_purged: Option<u64>,
        mut is_live: impl FnMut(u64, u64) -> bool,
    ) -> Vec<Arc<SegmentFile>> {
        let mut freed = Vec::new();
        // Those freed by this very call pin as well: their removal is not durable yet.
        let epochs: Vec<u64> = self.segments.iter().map(|run| run.segment.epoch).collect();
        let newest = self.segments.len().saturating_sub(1);
        let mut position = 0;
        self.segments.retain(|run| {
            let purged = run
                .last_index()
                .is_none_or(|last| durable_purged.is_some_and(|purged| last <= purged));
            let pinned = run.cuts_into_epoch.is_some_and(|cut| {
                epochs
                    .iter()
                    .any(|epoch| (cut..run.segment.epoch).contains(epoch))
            });
            let is_newest = position == newest;
            position += 1;
            let keep = is_newest
                || !run.sealed
                || !purged
                || pinned
                || run
                    .last_index()
                    .is_some_and(|last| is_live(run.first_index, last));
            if !keep {
                freed.push(run.segment.clone());
            }
            keep
        });
        freed
    }
}
