use std::collections::{BTreeMap, VecDeque};

use ticketrail_core::{Fence, Offset};

use crate::limits;

/// Neighbouring deliveries of one stream: delivery `first_id + k` is the lease of `first_offset + k`
/// under `first_fence + k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Delivery id of the first.
    pub(crate) first_id: u64,
    /// How many.
    pub(crate) count: u64,
    /// Its offset.
    pub(crate) first_offset: Offset,
    /// Its fencing number.
    pub(crate) first_fence: Fence,
}

impl Run {
    fn last_id(&self) -> u64 {
        self.first_id + self.count - 1
    }

    /// The part with ids in `first..=last`, which must overlap.
    fn part(&self, first: u64, last: u64) -> Self {
        let first_id = first.max(self.first_id);
        let skipped = first_id - self.first_id;
        Self {
            first_id,
            count: last.min(self.last_id()) - first_id + 1,
            first_offset: self.first_offset.plus(skipped),
            first_fence: Fence(self.first_fence.0 + skipped),
        }
    }
}

/// What a consume stream has sent: which lease each delivery id means. Unsettled deliveries are all
/// known; of settled ones a bounded number, so that a repeated settlement gets its exact answer.
#[derive(Debug, Default)]
pub(crate) struct Held {
    last_id: u64,
    unsettled: BTreeMap<u64, Run>,
    /// Deliveries in them.
    unsettled_count: u64,
    settled: VecDeque<Run>,
}

impl Held {
    /// The id of the next delivery.
    pub(crate) fn next_id(&self) -> u64 {
        self.last_id + 1
    }

    /// How many deliveries are unsettled.
    pub(crate) fn unsettled(&self) -> u64 {
        self.unsettled_count
    }

    /// Notes the next delivery; its id.
    pub(crate) fn sent(&mut self, offset: Offset, fence: Fence) -> u64 {
        self.last_id += 1;
        self.unsettled_count += 1;
        if let Some(mut last) = self.unsettled.last_entry() {
            let run = last.get_mut();
            if run.last_id() + 1 == self.last_id
                && run.first_offset.plus(run.count) == offset
                && run.first_fence.0 + run.count == fence.0
            {
                run.count += 1;
                return self.last_id;
            }
        }
        let run = Run {
            first_id: self.last_id,
            count: 1,
            first_offset: offset,
            first_fence: fence,
        };
        self.unsettled.insert(run.first_id, run);
        // The broker never has more than a prefetch out; what is beyond was settled by receipt, on
        // another call, of which this stream is not told.
        if self.unsettled.len() > limits::UNSETTLED_RUNS_MAX
            && let Some((_, oldest)) = self.unsettled.pop_first()
        {
            self.unsettled_count -= oldest.count;
            self.remember(oldest);
        }
        self.last_id
    }

    /// The leases of the deliveries `first..=last`, in the order of their ids; `None` when one was
    /// never sent. Ids that were settled too long ago to be remembered are left out. `settle`: the
    /// unsettled ones are settled from now on.
    pub(crate) fn leases(&mut self, first: u64, last: u64, settle: bool) -> Option<Vec<Run>> {
        if first == 0 || last < first || last > self.last_id {
            return None;
        }
        let mut found = if settle {
            self.take(first, last)
        } else {
            self.look(first, last)
        };
        let fresh = found.len();
        if found.iter().map(|run| run.count).sum::<u64>() < last - first + 1 {
            let settled = self.settled.iter();
            let settled = settled.filter(|run| run.first_id <= last && run.last_id() >= first);
            found.extend(settled.map(|run| run.part(first, last)));
        }
        if settle {
            found[..fresh].iter().for_each(|run| self.remember(*run));
        }
        found.sort_unstable_by_key(|run| run.first_id);
        Some(found)
    }

    /// Deliveries whose leases ended without a settlement; their ids.
    pub(crate) fn lost(&mut self, first_offset: Offset, count: u32) -> Vec<u64> {
        let end = first_offset.plus(u64::from(count));
        let mut ids = Vec::new();
        for run in self.unsettled.values() {
            let run_end = run.first_offset.plus(run.count);
            let from = first_offset.max(run.first_offset);
            let upto = end.min(run_end);
            if from < upto {
                let id = |offset: Offset| run.first_id + (offset.0 - run.first_offset.0);
                ids.extend(id(from)..id(upto));
            }
        }
        for &id in &ids {
            self.take(id, id)
                .into_iter()
                .for_each(|run| self.remember(run));
        }
        ids
    }

    fn look(&self, first: u64, last: u64) -> Vec<Run> {
        let before = self
            .unsettled
            .range(..first)
            .next_back()
            .map(|(_, run)| run);
        let inside = self.unsettled.range(first..=last).map(|(_, run)| run);
        before
            .into_iter()
            .chain(inside)
            .filter(|run| run.first_id <= last && run.last_id() >= first)
            .map(|run| run.part(first, last))
            .collect()
    }

    fn take(&mut self, first: u64, last: u64) -> Vec<Run> {
        let parts = self.look(first, last);
        for part in &parts {
            let key = self
                .unsettled
                .range(..=part.first_id)
                .next_back()
                .map(|(key, _)| *key);
            let Some(run) = key.and_then(|key| self.unsettled.remove(&key)) else {
                continue;
            };
            self.unsettled_count -= part.count;
            if run.first_id < part.first_id {
                let rest = run.part(run.first_id, part.first_id - 1);
                self.unsettled.insert(rest.first_id, rest);
            }
            if run.last_id() > part.last_id() {
                let rest = run.part(part.last_id() + 1, run.last_id());
                self.unsettled.insert(rest.first_id, rest);
            }
        }
        parts
    }

    fn remember(&mut self, run: Run) {
        match self.settled.back_mut() {
            Some(last)
                if last.last_id() + 1 == run.first_id
                    && last.first_offset.plus(last.count) == run.first_offset
                    && last.first_fence.0 + last.count == run.first_fence.0 =>
            {
                last.count += run.count;
            }
            _ => self.settled.push_back(run),
        }
        if self.settled.len() > limits::SETTLED_RUNS_REMEMBERED {
            self.settled.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first_id: u64, count: u64, offset: u64, fence: u64) -> Run {
        Run {
            first_id,
            count,
            first_offset: Offset(offset),
            first_fence: Fence(fence),
        }
    }

    /// Ids 1..=5 are offsets 10..=14 under fences 100..=104; 6..=7 are 20..=21 under 105..=106.
    fn held() -> Held {
        let mut held = Held::default();
        for k in 0..5 {
            assert_eq!(held.sent(Offset(10 + k), Fence(100 + k)), 1 + k);
        }
        held.sent(Offset(20), Fence(105));
        held.sent(Offset(21), Fence(106));
        held
    }

    #[test]
    fn neighbours_are_one_run() {
        let held = held();
        assert_eq!(held.unsettled.len(), 2);
        assert_eq!((held.unsettled(), held.next_id()), (7, 8));
    }

    #[test]
    fn ids_become_leases_and_rest_stays_unsettled() {
        let mut held = held();
        assert_eq!(held.leases(2, 3, true), Some(vec![run(2, 2, 11, 101)]));
        assert_eq!(held.unsettled(), 5);
        let all = held.leases(1, 7, false).unwrap();
        assert_eq!(
            all,
            [
                run(1, 1, 10, 100),
                run(2, 2, 11, 101),
                run(4, 2, 13, 103),
                run(6, 2, 20, 105)
            ]
        );
        assert_eq!(held.unsettled(), 5, "looking settles nothing");
        assert_eq!(held.leases(1, 7, true), Some(all));
        assert_eq!(held.unsettled(), 0);
    }

    #[test]
    fn ids_that_were_never_sent_are_none() {
        let mut held = held();
        for (first, last) in [(0, 0), (0, 1), (8, 8), (7, 8), (3, 2)] {
            assert_eq!(held.leases(first, last, true), None, "{first}..={last}");
        }
    }

    #[test]
    fn a_repeated_ack_finds_the_same_lease() {
        let mut held = held();
        let once = held.leases(4, 6, true);
        assert_eq!(held.leases(4, 6, true), once);
    }

    #[test]
    fn lost_leases_are_named_by_id_once() {
        let mut held = held();
        assert_eq!(held.lost(Offset(13), 8), [4, 5, 6]);
        assert_eq!(held.unsettled(), 4);
        assert_eq!(held.lost(Offset(13), 8), Vec::<u64>::new());
        assert_eq!(held.leases(4, 4, true), Some(vec![run(4, 1, 13, 103)]));
    }

    #[test]
    fn what_is_remembered_of_settled_runs_is_bounded() {
        let mut held = Held::default();
        for k in 0..10_000 {
            // No two are neighbours.
            held.sent(Offset(2 * k), Fence(k + 1));
        }
        let counted: u64 = held.unsettled.values().map(|run| run.count).sum();
        assert_eq!(held.unsettled(), counted);
        for id in 1..=10_000 {
            assert_eq!(held.leases(id, id, true).unwrap().len(), 1);
        }
        assert_eq!(held.settled.len(), limits::SETTLED_RUNS_REMEMBERED);
        assert_eq!(held.leases(1, 1, true), Some(vec![]));
    }
}
