//! Which message bodies are still wanted: for those who store them. No part of the state: nothing here
//! is in rows or digests, and no answer depends on it.
//!
//! A survey tells every live message of a state that goes on changing between its calls. Messages only
//! ever leave (a body once dead stays dead), so what it tells is at least what is live at its end, but
//! for messages that move between queues behind its back: those are noted while it runs, see
//! [`State::end_survey`].

use crate::id::{Offset, QueueId};
use crate::message::BodyRef;
use crate::queue::{Queue, low32, share};
use crate::row::RunRow;
use crate::state::State;

/// How much is live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveBodies {
    /// Messages.
    pub messages: u64,
    /// Their bytes, as their publishers stated them.
    pub bytes: u64,
}

/// Neighbouring messages of one publish that are all live: items `body.item` and on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveRun {
    /// Bytes of the first.
    pub body: BodyRef,
    /// How many, at least 1.
    pub count: u32,
    /// Their bytes together.
    pub bytes: u64,
}

/// Where a survey goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SurveyCursor {
    queue: QueueId,
    offset: Offset,
}

impl State {
    /// Begins a survey; the one before, if it has not ended, is cut off.
    pub fn begin_survey(&mut self) -> SurveyCursor {
        self.shared.bodies.watch_moves();
        SurveyCursor::default()
    }

    /// Tells the live messages from `from` on, in at most `steps` steps (a run or a queue each).
    /// Answers where to go on, or none when that was all.
    pub fn survey(
        &self,
        from: SurveyCursor,
        steps: usize,
        tell: &mut dyn FnMut(LiveRun),
    ) -> Option<SurveyCursor> {
        let mut at = from;
        let mut left = steps.max(1);
        for (id, queue) in self.queues.range(from.queue..) {
            if *id != at.queue {
                at = SurveyCursor {
                    queue: *id,
                    offset: Offset(0),
                };
            }
            while let Some((first, count)) = queue.state_range(at.offset) {
                let end = first.plus(count);
                at.offset = first;
                queue.runs.each_run_in(first, end, |begins, run| {
                    if left == 0 {
                        return false;
                    }
                    left -= 1;
                    let (from, to) = (
                        first.max(begins),
                        end.min(begins.plus(u64::from(run.count))),
                    );
                    tell(live_part(&run, begins, from, to));
                    at.offset = to;
                    true
                });
                if left == 0 {
                    return Some(at);
                }
                // Without a run the messages would be told again and again; a broken state ends the node.
                at.offset = at.offset.max(end);
            }
            if left == 0 {
                return Some(at);
            }
            left -= 1;
        }
        None
    }

    /// Ends a survey and tells the messages that moved from one queue to another since it began: they
    /// may be live, too. None if the survey must be made anew: too many moved, or the state was
    /// replaced.
    pub fn end_survey(&mut self) -> Option<alloc::vec::Vec<BodyRef>> {
        self.shared.bodies.take_moves()
    }

    /// How much is live in the log entries `first_index..=last_index`, to whole buckets of
    /// [`crate::limits::BODY_BUCKET_INDEXES`]; in at most `buckets_max` of them, so that nobody waits
    /// long, and the first index that is left.
    #[must_use]
    pub fn live_in(
        &self,
        first_index: u64,
        last_index: u64,
        buckets_max: usize,
    ) -> (LiveBodies, Option<u64>) {
        let bodies = &self.shared.bodies;
        bodies.live_in(first_index, last_index, buckets_max)
    }

    /// Whether the message at an offset of a queue is still in it.
    #[must_use]
    pub fn is_live(&self, queue: QueueId, offset: Offset) -> bool {
        let queue = self.queues.get(&queue);
        queue.is_some_and(|queue| {
            queue
                .state_range(offset)
                .is_some_and(|(at, _)| at == offset)
        })
    }
}

/// The messages `from..to` of a run that begins at `begins`.
fn live_part(run: &RunRow, begins: Offset, from: Offset, to: Offset) -> LiveRun {
    let k = from.0.saturating_sub(begins.0);
    let count = low32(to.0.saturating_sub(from.0)).max(1);
    LiveRun {
        body: BodyRef {
            position: run.body.position,
            item: run.body.item.saturating_add(low32(k)),
        },
        count,
        bytes: share(run.bytes, u64::from(count), u64::from(run.count)),
    }
}

impl Queue {
    /// The first messages in any state at or after an offset: neighbours in the same state.
    fn state_range(&self, at: Offset) -> Option<(Offset, u64)> {
        let leased = || {
            let (first, _) = self.leased_at_or_after(at)?;
            let lease = self.leases.get(&first)?;
            let end = first.plus(u64::from(lease.count));
            let first = first.max(at);
            Some((first, end.0.saturating_sub(first.0)))
        };
        let single = |offset: &Offset| (*offset, 1);
        let ready = self.ready.at_or_after(at);
        let ready = ready.map(|(first, span)| (first, span.count));
        let delayed = self.delayed.at_or_after(at);
        let delayed = delayed.map(|(first, span)| (first, span.count));
        let parked = self.parked.first_in(at..).map(|(offset, _)| single(offset));
        let found = [ready, leased(), delayed, parked];
        found
            .into_iter()
            .flatten()
            .min_by_key(|(offset, _)| *offset)
    }
}

#[cfg(test)]
mod tests {
    use crate::limits;
    use crate::message::BodyRef;
    use crate::shared::Bodies;

    #[test]
    fn a_survey_that_misses_moves_says_so() {
        let body = BodyRef {
            position: crate::id::Position { index: 1, place: 0 },
            item: 0,
        };
        let mut bodies = Bodies::default();
        bodies.note_move(body);
        assert_eq!(bodies.take_moves(), None);
        bodies.watch_moves();
        for _ in 0..limits::SURVEY_MOVES_MAX {
            bodies.note_move(body);
        }
        assert_eq!(
            bodies.take_moves().map(|moved| moved.len()),
            Some(limits::SURVEY_MOVES_MAX)
        );
        bodies.watch_moves();
        for _ in 0..=limits::SURVEY_MOVES_MAX {
            bodies.note_move(body);
        }
        assert_eq!(bodies.take_moves(), None);
    }
}
