//! Reading after a start what it took at its word, so that damage is told before somebody wants what is damaged.

use std::io;
use std::sync::Arc;

use super::footer::Footer;
use super::format::{self, BATCH_HEADER_BYTES, BatchHeader, BatchKind, FoundRecord, RecordKind};
use super::recovery::is_footer_of;
use super::segment::{DATA_START, SegmentFile};
use super::shared::Shared;
use crate::disk::read_up_to;
use crate::error::StorageError;

pub(crate) fn next_segment(shared: &Shared) -> Result<bool, StorageError> {
    let (epoch, segment) = {
        let state = shared.lock();
        let Some(epoch) = state.unchecked.last().copied() else {
            return Ok(false);
        };
        let mut runs = state.table.segments.iter();
        let run = runs.find(|run| run.segment.epoch == epoch);
        (epoch, run.map(|run| Arc::clone(&run.segment)))
    };
    // One that was recycled since is wanted by nobody any more.
    if let Some(segment) = segment {
        check(&segment).inspect_err(|error| {
            if error.is_data_loss() {
                shared.fail(&io::Error::other(error.to_string()));
            }
        })?;
    }
    // Only now: one that could not be read is still to be.
    shared.lock().unchecked.retain(|other| *other != epoch);
    Ok(true)
}

/// Reads a complete segment, a batch at a time.
fn check(segment: &SegmentFile) -> Result<(), StorageError> {
    let io = |error| StorageError::io("check", &segment.name(), error);
    let mut found: Option<Footer> = None;
    let mut at = DATA_START;
    loop {
        let Some((header, bytes, records)) = read_batch(segment, at).map_err(io)? else {
            return Err(damage(segment, at, found.as_ref()));
        };
        let footer = found.get_or_insert_with(|| Footer::new(header.sequence));
        for record in &records {
            match record.kind {
                RecordKind::Entry => footer.entry(&record.entry(at)),
                RecordKind::Truncate => footer.truncate(record.index),
                RecordKind::FirstFooter | RecordKind::Footer => {
                    if !is_footer_of(footer, record, &bytes) {
                        return Err(damage(segment, at, Some(footer)));
                    }
                }
            }
        }
        if header.kind == BatchKind::Seal {
            return Ok(());
        }
        at += format::batch_bytes(u64::from(header.body_bytes));
    }
}

type Batch = (BatchHeader, Vec<u8>, Vec<FoundRecord>);

fn read_batch(segment: &SegmentFile, at: u64) -> io::Result<Option<Batch>> {
    let (seed, epoch) = (segment.crc_seed, segment.epoch);
    let head = read_up_to(&*segment.file, at, BATCH_HEADER_BYTES)?;
    let Some(header) = format::decode_header(seed, epoch, &head, at) else {
        return Ok(None);
    };
    let length = BATCH_HEADER_BYTES + header.body_bytes as usize;
    let bytes = read_up_to(&*segment.file, at, length)?;
    let found = format::decode_batch(seed, epoch, &bytes, at);
    Ok(found.map(|(header, records)| (header, bytes, records)))
}

fn damage(segment: &SegmentFile, at: u64, found: Option<&Footer>) -> StorageError {
    StorageError::DataLoss {
        file: segment.name(),
        offset: at,
        first_index: found.and_then(Footer::next_index),
        last_index: None,
        reason: "a complete segment is damaged".to_owned(),
    }
}
