//! Offsets that have a value, neighbours of equal value as one.

use crate::id::Offset;
use crate::packed::{Blocks, Value};
use crate::row::{Piece, Span};

/// Disjoint ranges of offsets, coalesced where they have the same value.
pub(crate) struct Spans<V> {
    pub(crate) blocks: Blocks<V>,
    len: u64,
}

impl<V> Default for Spans<V> {
    fn default() -> Self {
        Self {
            blocks: Blocks::default(),
            len: 0,
        }
    }
}

impl<V: Value> Spans<V> {
    /// How many offsets.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// All spans, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Offset, Span<V>)> {
        self.blocks.iter()
    }

    /// The first span.
    pub(crate) fn first(&self) -> Option<(Offset, Span<V>)> {
        self.blocks.from(Offset(0))
    }

    /// The span that begins at `at`.
    pub(crate) fn begins(&self, at: Offset) -> Option<Span<V>> {
        self.blocks.get(at)
    }

    /// The span that holds `at`, from there on, or else the next one.
    pub(crate) fn at_or_after(&self, at: Offset) -> Option<(Offset, Span<V>)> {
        if let Some((first, span)) = self.blocks.upto(at) {
            let count = first.plus(span.count).0.saturating_sub(at.0);
            if count > 0 {
                let value = span.value;
                return Some((at, Span { count, value }));
            }
        }
        self.blocks.from(at)
    }

    pub(crate) fn get(&self, at: Offset) -> Option<V> {
        let (first, span) = self.at_or_after(at)?;
        (first == at).then_some(span.value)
    }

    /// Where the span begins that ends right before `at`, if it has this value.
    pub(crate) fn ends_before(&self, at: Offset, value: V) -> Option<Offset> {
        let (first, _) = self.touching(at, value)?;
        Some(first)
    }

    fn touching(&self, at: Offset, value: V) -> Option<(Offset, Span<V>)> {
        let before = Offset(at.0.checked_sub(1)?);
        let (first, span) = self.blocks.upto(before)?;
        (first.plus(span.count) == at && span.value == value).then_some((first, span))
    }

    /// Whether a span of this value begins at `at`.
    pub(crate) fn begins_at(&self, at: Offset, value: V) -> bool {
        self.begins(at).is_some_and(|span| span.value == value)
    }

    /// Adds offsets of which none is in it.
    pub(crate) fn insert(&mut self, first: Offset, count: u64, value: V) {
        self.len = self.len.saturating_add(count);
        let (mut start, mut total) = (first, count);
        let end = first.plus(count);
        if self.begins_at(end, value)
            && let Some(after) = self.blocks.remove(end)
        {
            total = total.saturating_add(after.count);
        }
        if let Some((before, span)) = self.touching(first, value) {
            (start, total) = (before, span.count.saturating_add(total));
        }
        let count = total;
        self.blocks.insert(start, Span { count, value });
    }

    /// Removes those of `first..end` that are in it.
    pub(crate) fn remove(&mut self, first: Offset, end: Offset) {
        while let Some((at, span)) = self.at_or_after(first)
            && at < end
        {
            let value = span.value;
            let stop = at.plus(span.count);
            let gone = stop.min(end).0.saturating_sub(at.0);
            self.len = self.len.saturating_sub(gone);
            if self.blocks.remove(at).is_none()
                && let Some((start, _)) = self.blocks.upto(at)
            {
                let count = at.0.saturating_sub(start.0);
                self.blocks.insert(start, Span { count, value });
            }
            if stop > end {
                let count = stop.0.saturating_sub(end.0);
                self.blocks.insert(end, Span { count, value });
            }
        }
    }

    /// Puts in a stored row. False if it cannot be.
    pub(crate) fn load(&mut self, start: Offset, row: &[Piece]) -> bool {
        let loaded = self.blocks.load(start, row);
        let len = loaded.and_then(|offsets| self.len.checked_add(offsets));
        self.len = len.unwrap_or(self.len);
        len.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    fn told(spans: &Spans<u32>) -> Vec<(u64, u64, u32)> {
        let all = spans.iter();
        all.map(|(at, span)| (at.0, span.count, span.value))
            .collect()
    }

    #[test]
    fn equal_neighbours_are_one() {
        let mut spans = Spans::default();
        spans.insert(Offset(0), 3, 1);
        spans.insert(Offset(5), 2, 1);
        spans.insert(Offset(3), 2, 1);
        spans.insert(Offset(7), 1, 2);
        assert_eq!(told(&spans), vec![(0, 7, 1), (7, 1, 2)]);
        assert_eq!(spans.len(), 8);
        assert_eq!(
            (spans.get(Offset(6)), spans.get(Offset(8))),
            (Some(1), None)
        );
    }

    #[test]
    fn what_is_removed_may_be_in_the_middle_or_several() {
        let mut spans = Spans::default();
        spans.insert(Offset(0), 10, 1);
        spans.remove(Offset(3), Offset(5));
        assert_eq!(told(&spans), vec![(0, 3, 1), (5, 5, 1)]);
        spans.insert(Offset(3), 1, 2);
        spans.remove(Offset(2), Offset(6));
        assert_eq!(told(&spans), vec![(0, 2, 1), (6, 4, 1)]);
        let (at, span) = spans.at_or_after(Offset(3)).unwrap();
        assert_eq!((at, span.count), (Offset(6), 4));
        assert_eq!(spans.len(), 6);
        spans.remove(Offset(0), Offset(99));
        assert_eq!((told(&spans), spans.len()), (vec![], 0));
    }
}
