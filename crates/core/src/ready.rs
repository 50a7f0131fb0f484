//! The ready messages of a queue as ranges of offsets.

use crate::id::Offset;
use crate::tracked::Tracked;

/// Disjoint, coalesced ranges (first offset -> count) and how many offsets they hold together.
#[derive(Default)]
pub(crate) struct Ready {
    pub(crate) ranges: Tracked<Offset, u64>,
    count: u64,
}

impl Ready {
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The first range.
    pub(crate) fn first(&self) -> Option<(Offset, u64)> {
        self.ranges.first().map(|(first, count)| (*first, *count))
    }

    /// The range that holds `at`, or else the next one, cut to begin at `at` or later.
    pub(crate) fn at_or_after(&self, at: Offset) -> Option<(Offset, u64)> {
        if let Some((first, count)) = self.ranges.last_in(..=at) {
            let end = first.plus(*count);
            if end > at {
                return Some((at, end.0.saturating_sub(at.0)));
            }
        }
        self.ranges
            .first_in(at..)
            .map(|(first, count)| (*first, *count))
    }

    /// Adds offsets of which none is in it.
    pub(crate) fn insert(&mut self, first: Offset, count: u64) {
        self.count = self.count.saturating_add(count);
        let mut total = count;
        if let Some(after) = self.ranges.remove(&first.plus(count)) {
            total = total.saturating_add(after);
        }
        let before = self
            .ranges
            .last_in(..first)
            .filter(|(start, count)| start.plus(**count) == first)
            .map(|(start, _)| *start);
        match before.and_then(|start| self.ranges.get_mut(&start)) {
            Some(count) => *count = count.saturating_add(total),
            None => {
                self.ranges.insert(first, total);
            }
        }
    }

    /// Removes the first `count` offsets of the first range, or all of it if it is shorter.
    pub(crate) fn take_front(&mut self, count: u64) {
        let Some((first, whole)) = self.first() else {
            return;
        };
        let taken = count.min(whole);
        self.ranges.remove(&first);
        if taken < whole {
            self.ranges.insert(first.plus(taken), whole - taken);
        }
        self.count = self.count.saturating_sub(taken);
    }

    /// Puts in a stored range. False if it cannot be.
    pub(crate) fn load(&mut self, first: Offset, count: u64) -> bool {
        self.count = self.count.saturating_add(count);
        count > 0 && self.ranges.load(first, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    fn ranges(ready: &Ready) -> Vec<(u64, u64)> {
        ready.ranges.iter().map(|(k, v)| (k.0, *v)).collect()
    }

    #[test]
    fn neighbours_coalesce_on_both_sides() {
        let mut ready = Ready::default();
        ready.insert(Offset(0), 3);
        ready.insert(Offset(5), 2);
        ready.insert(Offset(10), 1);
        assert_eq!(ranges(&ready), vec![(0, 3), (5, 2), (10, 1)]);
        ready.insert(Offset(3), 2);
        assert_eq!(ranges(&ready), vec![(0, 7), (10, 1)]);
        assert_eq!(ready.count(), 8);
        assert_eq!(ready.at_or_after(Offset(4)), Some((Offset(4), 3)));
        assert_eq!(ready.at_or_after(Offset(7)), Some((Offset(10), 1)));
        ready.take_front(4);
        assert_eq!(ranges(&ready), vec![(4, 3), (10, 1)]);
        ready.take_front(99);
        assert_eq!((ranges(&ready), ready.count()), (vec![(10, 1)], 1));
    }
}
