//! Offsets that have a value, neighbours of equal value as one.

use crate::id::Offset;
use crate::row::Span;
use crate::tracked::Tracked;

/// Disjoint ranges of offsets, coalesced where they have the same value.
pub(crate) struct Spans<V> {
    pub(crate) spans: Tracked<Offset, Span<V>>,
    len: u64,
}

impl<V> Default for Spans<V> {
    fn default() -> Self {
        Self {
            spans: Tracked::default(),
            len: 0,
        }
    }
}

impl<V: Copy + PartialEq> Spans<V> {
    /// How many offsets.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The first span.
    pub(crate) fn first(&self) -> Option<(Offset, Span<V>)> {
        self.spans.first().map(|(first, span)| (*first, *span))
    }

    /// The span that holds `at`, from there on, or else the next one.
    pub(crate) fn at_or_after(&self, at: Offset) -> Option<(Offset, Span<V>)> {
        if let Some((first, span)) = self.spans.last_in(..=at) {
            let count = first.plus(span.count).0.saturating_sub(at.0);
            if count > 0 {
                let value = span.value;
                return Some((at, Span { count, value }));
            }
        }
        let next = self.spans.first_in(at..);
        next.map(|(first, span)| (*first, *span))
    }

    pub(crate) fn get(&self, at: Offset) -> Option<V> {
        let (first, span) = self.at_or_after(at)?;
        (first == at).then_some(span.value)
    }

    /// Where the span begins that ends right before `at`, if it has this value.
    pub(crate) fn ends_before(&self, at: Offset, value: V) -> Option<Offset> {
        let (first, span) = self.spans.last_in(..at)?;
        (first.plus(span.count) == at && span.value == value).then_some(*first)
    }

    /// Whether a span of this value begins at `at`.
    pub(crate) fn begins_at(&self, at: Offset, value: V) -> bool {
        self.spans.get(&at).is_some_and(|span| span.value == value)
    }

    /// Adds offsets of which none is in it.
    pub(crate) fn insert(&mut self, first: Offset, count: u64, value: V) {
        self.len = self.len.saturating_add(count);
        let mut total = count;
        let end = first.plus(count);
        if self.begins_at(end, value)
            && let Some(after) = self.spans.remove(&end)
        {
            total = total.saturating_add(after.count);
        }
        let before = self.ends_before(first, value);
        match before.and_then(|start| self.spans.get_mut(&start)) {
            Some(span) => span.count = span.count.saturating_add(total),
            None => {
                let count = total;
                self.spans.insert(first, Span { count, value });
            }
        }
    }

    /// Removes those of `first..end` that are in it.
    pub(crate) fn remove(&mut self, first: Offset, end: Offset) {
        while let Some((at, span)) = self.at_or_after(first)
            && at < end
        {
            let stop = at.plus(span.count);
            let gone = stop.min(end).0.saturating_sub(at.0);
            self.len = self.len.saturating_sub(gone);
            if self.spans.get(&at).is_some() {
                self.spans.remove(&at);
            } else if let Some(start) = self.spans.last_in(..at).map(|(start, _)| *start)
                && let Some(left) = self.spans.get_mut(&start)
            {
                left.count = at.0.saturating_sub(start.0);
            }
            if stop > end {
                let count = stop.0.saturating_sub(end.0);
                let value = span.value;
                self.spans.insert(end, Span { count, value });
            }
        }
    }

    /// Puts in a stored span. False if it cannot be.
    pub(crate) fn load(&mut self, first: Offset, span: Span<V>) -> bool {
        self.len = self.len.saturating_add(span.count);
        span.count > 0 && self.spans.load(first, span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    fn told(spans: &Spans<char>) -> Vec<(u64, u64, char)> {
        let all = spans.spans.iter();
        all.map(|(at, span)| (at.0, span.count, span.value))
            .collect()
    }

    #[test]
    fn equal_neighbours_are_one() {
        let mut spans = Spans::default();
        spans.insert(Offset(0), 3, 'a');
        spans.insert(Offset(5), 2, 'a');
        spans.insert(Offset(3), 2, 'a');
        spans.insert(Offset(7), 1, 'b');
        assert_eq!(told(&spans), vec![(0, 7, 'a'), (7, 1, 'b')]);
        assert_eq!(spans.len(), 8);
        assert_eq!(
            (spans.get(Offset(6)), spans.get(Offset(8))),
            (Some('a'), None)
        );
    }

    #[test]
    fn what_is_removed_may_be_in_the_middle_or_several() {
        let mut spans = Spans::default();
        spans.insert(Offset(0), 10, 'a');
        spans.remove(Offset(3), Offset(5));
        assert_eq!(told(&spans), vec![(0, 3, 'a'), (5, 5, 'a')]);
        spans.insert(Offset(3), 1, 'b');
        spans.remove(Offset(2), Offset(6));
        assert_eq!(told(&spans), vec![(0, 2, 'a'), (6, 4, 'a')]);
        let (at, span) = spans.at_or_after(Offset(3)).unwrap();
        assert_eq!((at, span.count), (Offset(6), 4));
        assert_eq!(spans.len(), 6);
        spans.remove(Offset(0), Offset(99));
        assert_eq!((told(&spans), spans.len()), (vec![], 0));
    }
}
