//! Spans by their first offset, packed: those that begin among the same [`limits::SPAN_BLOCK`] offsets
//! are one block, and a block is one row of the store. So a queue that was broken up into single
//! messages takes a few bytes and no row of its own for each of them.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use crate::id::{LeaseTime, Offset};
use crate::limits;
use crate::row::{Piece, Span};
use crate::tracked::Tracked;

/// What a span's messages have in common, as rows tell it.
pub(crate) trait Value: Copy + PartialEq {
    fn word(self) -> u64;

    /// The value of a word; none if it has none.
    fn of(word: u64) -> Option<Self>;
}

impl Value for () {
    fn word(self) -> u64 {
        0
    }

    fn of(word: u64) -> Option<Self> {
        (word == 0).then_some(())
    }
}

impl Value for u32 {
    fn word(self) -> u64 {
        u64::from(self)
    }

    fn of(word: u64) -> Option<Self> {
        u32::try_from(word).ok()
    }
}

impl Value for u64 {
    fn word(self) -> u64 {
        self
    }

    fn of(word: u64) -> Option<Self> {
        Some(word)
    }
}

impl Value for LeaseTime {
    fn word(self) -> u64 {
        self.0
    }

    fn of(word: u64) -> Option<Self> {
        Some(Self(word))
    }
}

/// A span in its block; not a [`Piece`], since there may be millions of them.
#[derive(Clone, Copy)]
struct Packed<V> {
    count: u64,
    value: V,
    /// From the block's first offset to its own.
    at: u8,
}

/// The spans of a block, ascending; never none.
struct Block<V>(Vec<Packed<V>>);

/// See the top of the file. Offsets of its spans do not overlap.
pub(crate) struct Blocks<V>(Tracked<Offset, Box<Block<V>>>);

impl<V> Default for Blocks<V> {
    fn default() -> Self {
        Self(Tracked::default())
    }
}

const LAST: u8 = u8::MAX;
const _: () = assert!(limits::SPAN_BLOCK == LAST as u64 + 1);

/// The first offset of the block that `at` is in, and the place in it.
fn place(at: Offset) -> (Offset, u8) {
    (Offset(at.0 & !u64::from(LAST)), at.0 as u8)
}

impl<V: Value> Block<V> {
    fn find(&self, at: u8) -> Result<usize, usize> {
        self.0.binary_search_by_key(&at, |packed| packed.at)
    }

    /// The last span that begins at `at` or before.
    fn upto(&self, at: u8) -> Option<&Packed<V>> {
        let behind = self.find(at).map_or_else(|k| k, |k| k + 1);
        self.0.get(behind.checked_sub(1)?)
    }

    /// The first span that begins at `at` or behind.
    fn from(&self, at: u8) -> Option<&Packed<V>> {
        self.0.get(self.find(at).unwrap_or_else(|k| k))
    }
}

fn told<V: Value>(start: Offset, packed: &Packed<V>) -> (Offset, Span<V>) {
    let span = Span {
        count: packed.count,
        value: packed.value,
    };
    (start.plus(u64::from(packed.at)), span)
}

impl<V: Value> Blocks<V> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Offset, Span<V>)> {
        let blocks = self.0.iter();
        blocks.flat_map(|(start, block)| block.0.iter().map(|packed| told(*start, packed)))
    }

    /// The span that begins at `at`.
    pub(crate) fn get(&self, at: Offset) -> Option<Span<V>> {
        let (start, at) = place(at);
        let block = self.0.get(&start)?;
        let packed = block.0.get(block.find(at).ok()?)?;
        Some(told(start, packed).1)
    }

    /// The last span that begins at `at` or before.
    pub(crate) fn upto(&self, at: Offset) -> Option<(Offset, Span<V>)> {
        let (here, place) = place(at);
        let (start, block) = self.0.last_in(..=here)?;
        let place = if *start == here { place } else { LAST };
        if let Some(packed) = block.upto(place) {
            return Some(told(*start, packed));
        }
        let (start, block) = self.0.last_in(..here)?;
        Some(told(*start, block.0.last()?))
    }

    /// The first span that begins at `at` or behind.
    pub(crate) fn from(&self, at: Offset) -> Option<(Offset, Span<V>)> {
        let (here, place) = place(at);
        let (start, block) = self.0.first_in(here..)?;
        let place = if *start == here { place } else { 0 };
        if let Some(packed) = block.from(place) {
            return Some(told(*start, packed));
        }
        let behind = Offset(here.0.checked_add(limits::SPAN_BLOCK)?);
        let (start, block) = self.0.first_in(behind..)?;
        Some(told(*start, block.0.first()?))
    }

    /// Puts a span in, or another in the place of the one that begins there.
    pub(crate) fn insert(&mut self, at: Offset, span: Span<V>) {
        let (start, at) = place(at);
        let packed = Packed {
            count: span.count,
            value: span.value,
            at,
        };
        let Some(block) = self.0.get_mut(&start) else {
            // A block mostly stays alone in it: a queue has few spans.
            self.0.insert(start, Box::new(Block(vec![packed])));
            return;
        };
        match block.find(at) {
            Ok(k) => {
                if let Some(there) = block.0.get_mut(k) {
                    *there = packed;
                }
            }
            Err(k) => block.0.insert(k, packed),
        }
    }

    /// Takes out the span that begins at `at`.
    pub(crate) fn remove(&mut self, at: Offset) -> Option<Span<V>> {
        let span = self.get(at)?;
        let (start, at) = place(at);
        let block = self.0.get_mut(&start)?;
        let k = block.find(at).ok()?;
        block.0.remove(k);
        if block.0.is_empty() {
            self.0.remove(&start);
        }
        Some(span)
    }

    /// The blocks as rows.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (Offset, Vec<Piece>)> {
        let blocks = self.0.iter();
        blocks.map(|(start, block)| (*start, block.row()))
    }

    /// Keys of rows that were there at the last drain.
    pub(crate) fn stored_keys(&self) -> Vec<Offset> {
        self.0.stored_keys()
    }

    /// Calls `each` with every row that changed since the last time, and what it is now.
    pub(crate) fn drain_dirty(&mut self, mut each: impl FnMut(Offset, Option<Vec<Piece>>)) {
        self.0
            .drain_dirty(|start, block| each(*start, block.map(|block| block.row())));
    }

    /// Puts in a stored row, and tells how many offsets are in it. None if it cannot be.
    pub(crate) fn load(&mut self, start: Offset, row: &[Piece]) -> Option<u64> {
        let mut block = Vec::with_capacity(row.len());
        let (mut end, mut offsets) = (start.0, 0_u64);
        for piece in row {
            let first = start.0.checked_add(u64::from(piece.at))?;
            if first < end || piece.count == 0 {
                return None;
            }
            end = first.checked_add(piece.count)?;
            offsets = offsets.checked_add(piece.count)?;
            block.push(Packed {
                count: piece.count,
                value: V::of(piece.value)?,
                at: piece.at,
            });
        }
        let is_block = place(start).1 == 0 && !block.is_empty();
        (is_block && self.0.load(start, Box::new(Block(block)))).then_some(offsets)
    }
}

impl<V: Value> Block<V> {
    fn row(&self) -> Vec<Piece> {
        let pieces = self.0.iter().map(|packed| Piece {
            at: packed.at,
            count: packed.count,
            value: packed.value.word(),
        });
        pieces.collect()
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use super::*;

    fn span(count: u64, value: u32) -> Span<u32> {
        Span { count, value }
    }

    /// Against a plain map, whatever comes and goes.
    #[test]
    fn it_is_an_ordered_map() {
        let (mut blocks, mut plain) = (Blocks::default(), BTreeMap::new());
        let mut dice = 7_u64;
        let mut roll = |below: u64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (dice >> 33) % below
        };
        for step in 0..20_000_u32 {
            // Close together, with a gap of several blocks in between.
            let at = roll(700) + 3_000 * roll(2);
            let at = Offset(at);
            if roll(2) == 0 {
                blocks.insert(at, span(1, step));
                plain.insert(at, span(1, step));
            } else {
                assert_eq!(blocks.remove(at), plain.remove(&at));
            }
            let at = Offset(roll(4_200));
            let of = |found: Option<(&Offset, &Span<u32>)>| found.map(|(at, span)| (*at, *span));
            assert_eq!(blocks.get(at), plain.get(&at).copied());
            assert_eq!(blocks.upto(at), of(plain.range(..=at).next_back()));
            assert_eq!(blocks.from(at), of(plain.range(at..).next()));
        }
        let plain: Vec<_> = plain.into_iter().collect();
        assert!(blocks.iter().eq(plain));
    }

    #[test]
    fn a_row_holds_the_spans_of_a_block_and_changes_with_any_of_them() {
        let mut blocks = Blocks::default();
        for at in [0, 2, 255, 256] {
            blocks.insert(Offset(at), span(1, 9));
        }
        let mut rows = vec![];
        blocks.drain_dirty(|start, row| rows.push((start.0, row.map(|row| row.len()))));
        assert_eq!(rows, vec![(0, Some(3)), (256, Some(1))]);
        blocks.remove(Offset(2));
        blocks.remove(Offset(256));
        rows.clear();
        blocks.drain_dirty(|start, row| rows.push((start.0, row.map(|row| row.len()))));
        assert_eq!(rows, vec![(0, Some(2)), (256, None)]);
        assert_eq!(blocks.stored_keys(), vec![Offset(0)]);
        let mut again = Blocks::<u32>::default();
        for (start, row) in blocks.rows() {
            assert_eq!(again.load(start, &row), Some(2));
        }
        assert!(again.iter().eq(blocks.iter()));
    }

    #[test]
    fn a_row_that_cannot_be_is_refused() {
        let piece = |at, count, value| Piece { at, count, value };
        let load = |start: u64, row: &[Piece]| Blocks::<u32>::default().load(Offset(start), row);
        assert_eq!(load(256, &[piece(0, 2, 1), piece(2, 1, 1)]), Some(3));
        assert_eq!(load(255, &[piece(0, 2, 1)]), None);
        assert_eq!(load(256, &[]), None);
        assert_eq!(load(256, &[piece(0, 0, 1)]), None);
        assert_eq!(load(256, &[piece(0, 2, 1), piece(1, 1, 1)]), None);
        assert_eq!(load(256, &[piece(0, 1, 1 << 32)]), None);
        assert_eq!(load(u64::MAX - 255, &[piece(255, 1, 1)]), None);
        let mut twice = Blocks::<()>::default();
        assert_eq!(twice.load(Offset(0), &[piece(0, 1, 0)]), Some(1));
        assert_eq!(twice.load(Offset(0), &[piece(0, 1, 0)]), None);
    }
}
