//! Which file holds which entry's payload, as it was at one moment.

use std::sync::Arc;

use super::BodySegment;
use crate::log::shared::Shared;

/// A file that holds payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// The log segment of this epoch.
    Log(u64),
    /// The body segment of this id.
    Bodies(u64),
}

/// Tells for every index which file [`crate::Log::read_body`] would read; later changes are not seen.
pub struct Holders {
    /// First and last index, and the epoch, growing.
    runs: Vec<(u64, u64, u64)>,
    /// Newest first.
    bodies: Vec<Arc<BodySegment>>,
}

impl Holders {
    pub(crate) fn of(shared: &Shared) -> Self {
        let state = shared.lock();
        let runs = state.table.segments.iter().filter_map(|run| {
            let first = run.first_index.max(state.body_floor());
            let last = run.last_index()?;
            (first <= last && state.may_serve_body(last)).then_some((
                first,
                last,
                run.segment.epoch,
            ))
        });
        let mut runs: Vec<_> = runs.collect();
        runs.sort_unstable();
        Self {
            runs,
            bodies: state.bodies.segments.iter().rev().cloned().collect(),
        }
    }

    /// The file that holds this entry's payload.
    pub fn holder(&self, index: u64) -> Option<Holder> {
        let after = self.runs.partition_point(|(first, _, _)| *first <= index);
        let run = after.checked_sub(1).and_then(|at| self.runs.get(at));
        if let Some((_, _, epoch)) = run.filter(|(_, last, _)| index <= *last) {
            return Some(Holder::Log(*epoch));
        }
        let mut bodies = self.bodies.iter();
        bodies
            .find(|segment| segment.holds(index))
            .map(|segment| Holder::Bodies(segment.id()))
    }
}
