//! What must be there: nothing that had been durable may be missing, and every entry behind the purge point is held.

use super::scan::{Scan, Scanned};
use crate::error::StorageError;
use crate::log::format::{Position, Standing};
use crate::log::segment::DATA_START;

impl Scan<'_> {
    pub(super) fn loss(&self, file: &str, offset: u64, reason: String) -> StorageError {
        StorageError::DataLoss {
            file: file.to_owned(),
            offset,
            first_index: self.next_index.or(Some(0)),
            last_index: None,
            reason,
        }
    }

    /// Nothing that was durable may be missing.
    pub(super) fn check_ends(&self) -> Result<(), StorageError> {
        let newest_used = self
            .scanned
            .iter()
            .rfind(|scanned| scanned.batches > 0 || scanned.beyond.is_some());
        let Some(newest_used) = newest_used.map(|scanned| scanned.segment.epoch) else {
            return Ok(());
        };
        for scanned in &self.scanned {
            let epoch = scanned.segment.epoch;
            let end = Position {
                epoch,
                offset: scanned.end,
            };
            let name = scanned.segment.name();
            if epoch < newest_used && !scanned.sealed {
                return Err(self.loss_at(
                    scanned,
                    &name,
                    "the segment ends early, though a later one is in use",
                ));
            }
            if self
                .mark
                .is_some_and(|mark| mark.epoch == epoch && mark > end)
            {
                return Err(self.loss_at(scanned, &name, "bytes that had been synced are damaged"));
            }
        }
        Ok(())
    }

    fn loss_at(&self, scanned: &Scanned, name: &str, reason: &str) -> StorageError {
        let run = self
            .state
            .table
            .segments
            .iter()
            .find(|run| run.segment.epoch == scanned.segment.epoch);
        let earlier = self
            .state
            .table
            .segments
            .iter()
            .rev()
            .filter(|run| run.segment.epoch < scanned.segment.epoch);
        let last_good = run
            .and_then(|run| run.last_index())
            .or_else(|| earlier.filter_map(|run| run.last_index()).next());
        let later = self
            .state
            .table
            .segments
            .iter()
            .filter(|run| run.segment.epoch > scanned.segment.epoch);
        let next_good = later
            .filter(|run| !run.places.is_empty())
            .map(|run| run.first_index)
            .next();
        StorageError::DataLoss {
            file: name.to_owned(),
            offset: scanned.end,
            first_index: Some(last_good.map_or(0, |last| last + 1)),
            last_index: next_good.and_then(|next| next.checked_sub(1)),
            reason: reason.to_owned(),
        }
    }

    /// Every entry behind the purge point must be there.
    pub(super) fn check_continuity(&self, standing: &Standing) -> Result<(), StorageError> {
        let Some(start) = standing.start_index else {
            return Ok(());
        };
        for (missing_from, next, file, offset) in &self.gaps {
            if *next > start {
                let reason = format!("entries {missing_from} to {} are missing", next - 1);
                return Err(StorageError::DataLoss {
                    file: file.clone(),
                    offset: *offset,
                    first_index: Some(*missing_from),
                    last_index: Some(next - 1),
                    reason,
                });
            }
        }
        let held = self
            .state
            .table
            .segments
            .iter()
            .filter(|run| run.last_index().is_some_and(|last| last >= start));
        let first = held
            .map(|run| (run.first_index.max(start), run.segment.name()))
            .min();
        if let Some((first, file)) = first.filter(|(first, _)| *first > start) {
            return Err(StorageError::DataLoss {
                file,
                offset: DATA_START,
                first_index: Some(start),
                last_index: Some(first - 1),
                reason: "the segment that held these entries is missing".to_owned(),
            });
        }
        Ok(())
    }
}
