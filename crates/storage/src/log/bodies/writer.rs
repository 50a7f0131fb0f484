//! Writing body segments: nothing can be read before all of it is on disk.

use std::io;
use std::sync::Arc;

use super::file::{self, TRAILER_BYTES, encode_footer, encode_trailer};
use super::{BodySegment, Incoming, name, new_name, seed};
use crate::disk::DiskFile;
use crate::error::StorageError;
use crate::header::HEADER_BYTES;
use crate::identity::Identity;
use crate::log::format::{self, RECORD_HEADER_BYTES, RecordKind};
use crate::log::segment::SegmentFile;
use crate::log::shared::Shared;

/// Written in pieces of about this size.
const WRITE_BYTES: usize = 256 << 10;
/// Synced in pieces, so that the log's own syncs do not wait behind a whole file.
const SYNC_BYTES: u64 = 4 << 20;

/// Writes payloads of entries to body segments, as many files as it takes. Dropped unfinished, it leaves nothing behind.
pub struct BodyWriter {
    shared: Arc<Shared>,
    owner: Identity,
    segment_bytes: u64,
    current: Option<Current>,
    written: Vec<Written>,
    last_index: Option<u64>,
    bytes: u64,
    /// Names that were given, in vain unless all were.
    named: Vec<String>,
    finished: bool,
}

/// A file that is complete and synced, but has no name yet.
struct Written {
    id: u64,
    file: Arc<dyn DiskFile>,
    bytes: u64,
    indexes: Vec<u64>,
    offsets: Vec<u32>,
}

/// The file that is written to.
struct Current {
    id: u64,
    crc_seed: u32,
    file: Arc<dyn DiskFile>,
    indexes: Vec<u64>,
    offsets: Vec<u32>,
    buffer: Vec<u8>,
    /// Where the buffer goes.
    at: u64,
    synced_to: u64,
}

impl BodyWriter {
    pub(crate) fn new(shared: Arc<Shared>, owner: Identity, segment_bytes: u64) -> Self {
        Self {
            shared,
            owner,
            segment_bytes,
            current: None,
            written: Vec::new(),
            last_index: None,
            bytes: 0,
            named: Vec::new(),
            finished: false,
        }
    }

    /// Adds the payload of an entry; indexes grow.
    ///
    /// # Errors
    /// `Io`, also for an index that does not grow or a payload that fits no segment. The writer is to be dropped then.
    pub fn push(&mut self, index: u64, payload: &[u8]) -> Result<(), StorageError> {
        let grows = self.last_index.is_none_or(|last| last < index);
        if !grows || payload.len() as u64 > self.segment_bytes {
            let reason = if grows {
                format!("the body of entry {index} has more bytes than a segment")
            } else {
                format!("the body of entry {index} does not come in the order of indexes")
            };
            let error = io::Error::new(io::ErrorKind::InvalidInput, reason);
            return Err(StorageError::io("write", "body-", error));
        }
        let length = (RECORD_HEADER_BYTES + payload.len()) as u64;
        if self
            .current
            .as_ref()
            .is_some_and(|current| current.end() + length > self.segment_bytes)
        {
            self.complete()?;
        }
        if self.current.is_none() {
            self.current = Some(self.start()?);
        }
        if let Some(current) = &mut self.current {
            let id = current.id;
            current
                .push(index, payload)
                .map_err(|error| StorageError::io("write", &new_name(id), error))?;
        }
        self.last_index = Some(index);
        self.bytes += length;
        Ok(())
    }

    /// Bytes of the records pushed so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Syncs, names and shows what was pushed: it is readable, and survives a crash, when this returns. Tells the ids of the files.
    ///
    /// # Errors
    /// `Io`; nothing is shown then, and whatever a start may find of it is whole.
    pub fn finish(mut self) -> Result<Vec<u64>, StorageError> {
        let ids = self.complete_as(name)?;
        let segments: Vec<BodySegment> = self
            .written
            .drain(..)
            .map(|written| BodySegment {
                file: SegmentFile::of_bodies(self.owner, written.id, written.bytes, written.file),
                indexes: written.indexes,
                offsets: written.offsets,
            })
            .collect();
        let mut state = self.shared.lock();
        for segment in segments {
            state.bodies.add(segment);
        }
        drop(state);
        Ok(ids)
    }

    /// Syncs what was pushed, and names it after the snapshot that it came with: it survives a crash when this returns, and is not
    /// read before [`crate::Log::adopt_bodies`]. `last_index` is the snapshot's last entry.
    ///
    /// # Errors
    /// `Io`; [`crate::Log::discard_bodies`] removes what may be left then.
    pub fn finish_for_snapshot(mut self, last_index: u64) -> Result<(), StorageError> {
        let incoming = |id| Incoming {
            snapshot: last_index,
            id,
        };
        let ids = self.complete_as(|id| incoming(id).name())?;
        self.shared
            .lock()
            .incoming
            .extend(ids.into_iter().map(incoming));
        Ok(())
    }

    /// Syncs what was pushed, and gives it names, durably so. Tells the ids.
    fn complete_as(&mut self, name: impl Fn(u64) -> String) -> Result<Vec<u64>, StorageError> {
        self.complete()?;
        let disk = self.shared.disk.clone();
        let ids: Vec<u64> = self.written.iter().map(|written| written.id).collect();
        for id in &ids {
            let name = name(*id);
            disk.rename(&new_name(*id), &name)
                .map_err(|error| StorageError::io("name", &name, error))?;
            self.named.push(name);
        }
        if !ids.is_empty() {
            disk.sync_dir()
                .map_err(|error| StorageError::io("sync", ".", error))?;
        }
        self.finished = true;
        Ok(ids)
    }

    fn start(&self) -> Result<Current, StorageError> {
        let id = self.shared.next_body_id();
        let file = file::create(&*self.shared.disk, self.owner, id, &new_name(id))
            .map_err(|error| StorageError::io("create", &new_name(id), error))?;
        Ok(Current {
            id,
            crc_seed: seed(self.owner, id),
            file,
            indexes: Vec::new(),
            offsets: Vec::new(),
            buffer: Vec::new(),
            at: HEADER_BYTES as u64,
            synced_to: 0,
        })
    }

    fn complete(&mut self) -> Result<(), StorageError> {
        let Some(current) = self.current.take() else {
            return Ok(());
        };
        let id = current.id;
        // Kept first, so that a failure does not leave the file behind.
        self.written.push(Written {
            id,
            file: current.file.clone(),
            bytes: 0,
            indexes: Vec::new(),
            offsets: Vec::new(),
        });
        let complete = current
            .complete()
            .map_err(|error| StorageError::io("complete", &new_name(id), error))?;
        if let Some(last) = self.written.last_mut() {
            *last = complete;
        }
        Ok(())
    }
}

impl Drop for BodyWriter {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let written = self.written.iter().map(|written| written.id);
        let current = self.current.take().map(|current| current.id);
        let unnamed = written.skip(self.named.len()).chain(current).map(new_name);
        for name in std::mem::take(&mut self.named).into_iter().chain(unnamed) {
            // A start removes what cannot be removed now.
            let _ = self.shared.disk.remove(&name);
        }
    }
}

impl Current {
    fn end(&self) -> u64 {
        self.at + self.buffer.len() as u64
    }

    fn push(&mut self, index: u64, payload: &[u8]) -> io::Result<()> {
        self.indexes.push(index);
        self.offsets.push(self.end() as u32);
        format::write_record(
            &mut self.buffer,
            self.crc_seed,
            self.id,
            RecordKind::Entry,
            index,
            payload,
        );
        if self.buffer.len() >= WRITE_BYTES {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_at(&self.buffer, self.at)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        if self.at - self.synced_to >= SYNC_BYTES {
            self.file.sync_data()?;
            self.synced_to = self.at;
        }
        Ok(())
    }

    fn complete(mut self) -> io::Result<Written> {
        let footer_at = self.end() as u32;
        self.offsets.push(footer_at);
        let footer = encode_footer(&self.indexes, &self.offsets);
        let first = self.indexes.first().copied().unwrap_or(0);
        let kind = RecordKind::Footer;
        format::write_record(
            &mut self.buffer,
            self.crc_seed,
            self.id,
            kind,
            first,
            &footer,
        );
        let bytes = self.end() + TRAILER_BYTES as u64;
        let trailer = encode_trailer(self.crc_seed, footer_at, bytes as u32);
        self.buffer.extend_from_slice(&trailer);
        self.write()?;
        self.file.sync_data()?;
        self.indexes.shrink_to_fit();
        self.offsets.shrink_to_fit();
        Ok(Written {
            id: self.id,
            file: self.file,
            bytes,
            indexes: self.indexes,
            offsets: self.offsets,
        })
    }
}
