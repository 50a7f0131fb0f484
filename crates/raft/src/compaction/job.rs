//! One job: from the chosen files to their bodies in new ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ticketrail_core::{BodyRef, LiveRun, SurveyCursor};
use ticketrail_proto::stored::{Items, keep_bodies};
use ticketrail_storage::{BodyWriter, Holder, Holders, Log, StorageError};

use super::{Around, SURVEY_STEPS, SURVEYS_PER_STEP};
use crate::applied::Shared;

/// Bytes that are read or written in one step of the worker; with one every 50 ms, 40 MiB each second.
const BYTES_PER_STEP: u64 = 2 << 20;

/// What became of a step.
pub(super) enum Progress {
    /// There is more to do.
    Goes,
    /// The state was replaced, or too much moved: it must begin anew.
    Overtaken,
    /// The chosen files are gone, but for those that are `left`.
    Done {
        moved: u64,
        freed: u64,
        left: Vec<Holder>,
    },
}

/// Why a job cannot go on.
#[derive(Debug)]
pub(super) struct JobError {
    reason: String,
    /// The file that is to blame, if one is.
    pub(super) holder: Option<Holder>,
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl From<StorageError> for JobError {
    fn from(error: StorageError) -> Self {
        Self {
            reason: error.to_string(),
            holder: None,
        }
    }
}

/// See the module.
pub(super) struct Job {
    chosen: BTreeSet<Holder>,
    holders: Holders,
    wanted: BTreeMap<u64, Vec<Items>>,
    stage: Stage,
    moved: u64,
}

enum Stage {
    /// Asking the state what is live in the chosen files.
    Collecting(SurveyCursor),
    /// For a durable checkpoint that goes so far.
    Waiting(u64),
    Moving(Box<BodyWriter>),
    /// For those who read a checkpoint: what died since is not in the new files, which are read before the
    /// old ones.
    Holding(Box<BodyWriter>),
    Freeing,
}

impl Job {
    pub(super) fn new(cursor: SurveyCursor, chosen: BTreeSet<Holder>, log: &Log) -> Self {
        Self {
            chosen,
            holders: log.holders(),
            wanted: BTreeMap::new(),
            stage: Stage::Collecting(cursor),
            moved: 0,
        }
    }

    pub(super) fn step(
        &mut self,
        shared: &Shared,
        log: &Log,
        around: Around,
    ) -> Result<Progress, JobError> {
        match &mut self.stage {
            Stage::Collecting(at) => {
                let at = *at;
                Ok(self.collect(shared, at))
            }
            Stage::Waiting(index) => {
                if around.checkpoint_index >= Some(*index) {
                    self.stage = Stage::Moving(Box::new(log.body_writer()?));
                }
                Ok(Progress::Goes)
            }
            Stage::Moving(_) => self.go_on_moving(log),
            Stage::Holding(_) if around.is_held => Ok(Progress::Goes),
            Stage::Holding(_) => self.finish(),
            Stage::Freeing if around.is_held => Ok(Progress::Goes),
            Stage::Freeing => self.free(log),
        }
    }

    fn collect(&mut self, shared: &Shared, mut at: SurveyCursor) -> Progress {
        let (chosen, holders, wanted) = (&self.chosen, &self.holders, &mut self.wanted);
        let mut want = |body: BodyRef, count| {
            let index = body.position.index;
            let holder = holders.holder(index);
            if holder.is_some_and(|holder| chosen.contains(&holder)) {
                wanted.entry(index).or_default().push(Items {
                    place: body.position.place,
                    first_item: body.item,
                    count,
                });
            }
        };
        for _ in 0..SURVEYS_PER_STEP {
            let mut applied = shared.lock();
            let mut tell = |run: LiveRun| want(run.body, run.count);
            if let Some(next) = applied.state.survey(at, SURVEY_STEPS, &mut tell) {
                at = next;
                continue;
            }
            let moved = applied.state.end_survey();
            let index = applied.state.applied_index();
            drop(applied);
            let Some(moved) = moved else {
                return Progress::Overtaken;
            };
            for body in moved {
                want(body, 1);
            }
            self.wanted.values_mut().for_each(normalise);
            self.stage = Stage::Waiting(index);
            return Progress::Goes;
        }
        self.stage = Stage::Collecting(at);
        Progress::Goes
    }

    fn go_on_moving(&mut self, log: &Log) -> Result<Progress, JobError> {
        let Stage::Moving(writer) = &mut self.stage else {
            return Ok(Progress::Goes);
        };
        let mut bytes = 0;
        while bytes < BYTES_PER_STEP {
            let Some((index, items)) = self.wanted.pop_first() else {
                return Ok(self.moved_all());
            };
            let blame = |reason: String| JobError {
                reason: format!("entry {index}: {reason}"),
                holder: self.holders.holder(index),
            };
            let payload = match log.read_body(index) {
                Ok(payload) => payload,
                // All of its file died since, and was recycled.
                Err(StorageError::NoSuchEntry { .. }) => continue,
                Err(error) => return Err(blame(error.to_string())),
            };
            bytes += payload.len() as u64;
            let kept = keep_bodies(payload, &items).map_err(|error| blame(error.to_string()))?;
            bytes += kept.len() as u64;
            writer.push(index, &kept)?;
        }
        Ok(Progress::Goes)
    }

    fn moved_all(&mut self) -> Progress {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Freeing) {
            Stage::Moving(writer) => Stage::Holding(writer),
            other => other,
        };
        Progress::Goes
    }

    fn finish(&mut self) -> Result<Progress, JobError> {
        if let Stage::Holding(writer) = std::mem::replace(&mut self.stage, Stage::Freeing) {
            self.moved = writer.bytes();
            writer.finish()?;
        }
        Ok(Progress::Goes)
    }

    /// What is wanted is in new files, durably so.
    fn free(&self, log: &Log) -> Result<Progress, JobError> {
        let before = self.bytes_of_chosen(log);
        let ranges: BTreeSet<(u64, u64)> = log
            .segments()
            .into_iter()
            .filter(|segment| self.chosen.contains(&Holder::Log(segment.epoch)))
            .filter_map(|segment| segment.indexes)
            .collect();
        log.recycle(|first, last| !ranges.contains(&(first, last)))?;
        let bodies: Vec<u64> = self.chosen.iter().filter_map(id_of).collect();
        if let Err(error) = log.remove_body_segments(&bodies) {
            // They are not read any more, and removed after the next start.
            tracing::warn!(%error, "an old body segment could not be removed");
        }
        let after = self.bytes_of_chosen(log);
        Ok(Progress::Done {
            moved: self.moved,
            freed: before.values().sum::<u64>() - after.values().sum::<u64>(),
            left: after.into_keys().collect(),
        })
    }

    fn bytes_of_chosen(&self, log: &Log) -> BTreeMap<Holder, u64> {
        let segments = log.segments().into_iter();
        let segments = segments.map(|segment| (Holder::Log(segment.epoch), segment.bytes));
        let bodies = log.body_segments().into_iter();
        let bodies = bodies.map(|bodies| (Holder::Bodies(bodies.id), bodies.bytes));
        let all = segments.chain(bodies);
        all.filter(|(holder, _)| self.chosen.contains(holder))
            .collect()
    }
}

fn id_of(holder: &Holder) -> Option<u64> {
    match holder {
        Holder::Bodies(id) => Some(*id),
        Holder::Log(_) => None,
    }
}

/// In ascending order, without overlap: a message that moved while the survey ran may be told twice.
pub(crate) fn normalise(items: &mut Vec<Items>) {
    items.sort_unstable();
    let mut merged: Vec<Items> = Vec::with_capacity(items.len());
    for next in items.drain(..) {
        let end = |items: &Items| u64::from(items.first_item) + u64::from(items.count);
        match merged.last_mut() {
            Some(last) if last.place == next.place && u64::from(next.first_item) <= end(last) => {
                let all = end(last).max(end(&next)) - u64::from(last.first_item);
                last.count = u32::try_from(all).unwrap_or(u32::MAX);
            }
            _ => merged.push(next),
        }
    }
    *items = merged;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_twice_is_kept_once() {
        let items = |place, first_item, count| Items {
            place,
            first_item,
            count,
        };
        let mut all = vec![
            items(2, 0, 1),
            items(1, 4, 2),
            items(1, 0, 3),
            items(1, 2, 1),
            items(1, 3, 1),
            items(1, 9, 1),
        ];
        normalise(&mut all);
        assert_eq!(all, [items(1, 0, 6), items(1, 9, 1), items(2, 0, 1)]);
    }
}
