//! Frame after frame of a snapshot file, each checked.

use super::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES};
use crate::disk::{DiskFile, read_up_to};
use crate::error::StorageError;
use crate::header::{HEADER_BYTES, u32_at, u64_at};
use crate::identity::Identity;

/// Reads frame after frame, each checked.
pub(super) struct Frames<'a> {
    file: &'a dyn DiskFile,
    crc_seed: u32,
    file_name: &'a str,
    offset: u64,
    frame: u64,
}

impl<'a> Frames<'a> {
    pub(super) fn new(file: &'a dyn DiskFile, owner: Identity, file_name: &'a str) -> Self {
        Self {
            file,
            crc_seed: crc_seed(owner),
            file_name,
            offset: HEADER_BYTES as u64,
            frame: 0,
        }
    }

    pub(super) fn damaged(&self, reason: &str) -> StorageError {
        StorageError::damaged(self.file_name, self.offset, reason)
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, StorageError> {
        read_up_to(self.file, offset, length)
            .map_err(|e| StorageError::io("read", self.file_name, e))
    }

    pub(super) fn next(&mut self) -> Result<Option<(u32, Vec<u8>)>, StorageError> {
        let head = self.read(self.offset, FRAME_HEADER_BYTES)?;
        if head.is_empty() {
            return Ok(None);
        }
        if head.len() < FRAME_HEADER_BYTES {
            return Err(self.damaged("ends inside a frame"));
        }
        let length = u32_at(&head, 4) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(self.damaged("has a frame that is too long"));
        }
        let payload = self.read(self.offset + FRAME_HEADER_BYTES as u64, length)?;
        let crc = crc32c::crc32c_append(crc32c::crc32c_append(self.crc_seed, &head[4..]), &payload);
        if payload.len() != length || crc != u32_at(&head, 0) || u64_at(&head, 12) != self.frame {
            return Err(self.damaged("has a frame that fails its check"));
        }
        self.offset += (FRAME_HEADER_BYTES + length) as u64;
        self.frame += 1;
        Ok(Some((u32_at(&head, 8), payload)))
    }

    pub(super) fn rows_of(
        &self,
        payload: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<u64, StorageError> {
        let mut rows = 0;
        let mut rest = payload;
        while !rest.is_empty() {
            let lengths = rest
                .get(..8)
                .map(|head| (u32_at(head, 0) as usize, u32_at(head, 4) as usize));
            let (key, value) =
                lengths.ok_or_else(|| self.damaged("has a row that does not fit its frame"))?;
            let row = rest
                .get(8..8 + key + value)
                .ok_or_else(|| self.damaged("has a row that does not fit its frame"))?;
            visit(&row[..key], &row[key..]);
            rows += 1;
            rest = &rest[8 + key + value..];
        }
        Ok(rows)
    }
}

pub(super) fn crc_seed(owner: Identity) -> u32 {
    crc32c::crc32c_append(owner.node_id as u32, &owner.cluster_id.to_le_bytes())
}
