//! What each message of a queue is: its id, its bytes' place, its time and size.
//!
//! Messages of one publish are a *run*; neighbouring runs are packed into *chunks* of a few hundred
//! bytes. A chunk is a row of the store, and stays as it is until the last of its messages has left,
//! so that a backlog costs a few bytes a publish and taking messages off it writes nothing.

mod chunk;

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::id::Offset;
use crate::row::{RunRow, RunSeries};
use crate::tracked::Tracked;

pub(crate) use chunk::Chunk;

/// Messages of one publish that are all in a range, told by [`Runs::each_in`].
pub(crate) struct Part {
    /// Log index of the publish.
    pub(crate) index: u64,
    pub(crate) messages: u64,
    /// Bytes of these.
    pub(crate) bytes: u64,
}

/// See the top of the file.
#[derive(Default)]
pub(crate) struct Runs {
    pub(crate) chunks: Tracked<Offset, Box<Chunk>>,
}

impl Runs {
    /// Adds a run at `at`, which is the queue's next offset.
    pub(crate) fn append(&mut self, at: Offset, run: RunRow) {
        let last = self.chunks.last_unmarked(..);
        let open =
            last.filter(|(first, chunk)| !chunk.is_closed() && first.plus(chunk.messages) == at);
        let Some((first, chunk)) = open else {
            self.chunks.insert(at, Box::new(Chunk::new(run)));
            return;
        };
        let first = *first;
        if !chunk.joins(&run) {
            if chunk.is_full() {
                chunk.close();
                self.chunks.insert(at, Box::new(Chunk::new(run)));
            } else {
                chunk.push(run);
            }
        }
        self.chunks.mark(&first);
    }

    /// The run that holds this offset, and where it begins.
    pub(crate) fn at(&self, at: Offset) -> Option<(Offset, RunRow)> {
        let (first, chunk) = self.chunks.last_in(..=at)?;
        if at >= first.plus(chunk.messages) {
            return None;
        }
        let mut all = chunk.series(*first);
        let (first, series) = all.find(|(first, series)| at < first.plus(series.messages()))?;
        let into = at.0.saturating_sub(first.0);
        let count = u64::from(series.first.count);
        let k = into.checked_div(count)?;
        let start = first.plus(k.saturating_mul(count));
        Some((start, series.run(crate::queue::low32(k))))
    }

    /// Tells the publishes of `first..end` in pieces. False if some offset is in no run.
    pub(crate) fn each_in(&self, first: Offset, end: Offset, mut each: impl FnMut(Part)) -> bool {
        let mut at = first;
        while at < end {
            let Some((start, chunk)) = self.chunks.last_in(..=at) else {
                return false;
            };
            let stop = end.min(start.plus(chunk.messages));
            if stop <= at {
                return false;
            }
            each_part(chunk, *start, at, stop, &mut each);
            at = stop;
        }
        true
    }

    /// Tells the runs that hold `first..end`, each with where it begins, until `each` says no.
    pub(crate) fn each_run_in(
        &self,
        first: Offset,
        end: Offset,
        mut each: impl FnMut(Offset, RunRow) -> bool,
    ) {
        let mut at = first;
        while at < end {
            let Some((start, chunk)) = self.chunks.last_in(..=at) else {
                return;
            };
            let stop = end.min(start.plus(chunk.messages));
            if stop <= at || !each_run(chunk, *start, at, stop, &mut each) {
                return;
            }
            at = stop;
        }
    }

    /// Forgets the messages `first..end`, and tells what they were as [`Runs::each_in`] does.
    pub(crate) fn forget(
        &mut self,
        first: Offset,
        end: Offset,
        mut each: impl FnMut(Part),
    ) -> Result<(), &'static str> {
        let mut at = first;
        while at < end {
            let Some((start, chunk)) = self.chunks.last_unmarked(..=at) else {
                return Err("a message has no run");
            };
            let start = *start;
            let stop = end.min(start.plus(chunk.messages));
            let messages = stop.0.saturating_sub(at.0);
            if messages == 0 {
                return Err("a message has no run");
            }
            let Some(live) = chunk.live.checked_sub(messages) else {
                return Err("a message left its run twice");
            };
            chunk.live = live;
            each_part(chunk, start, at, stop, &mut each);
            if live == 0 {
                self.chunks.remove(&start);
            }
            at = stop;
        }
        Ok(())
    }

    #[cfg(test)]
    /// All runs, in the order of their offsets; some of their messages may have left.
    pub(crate) fn series(&self) -> impl Iterator<Item = (Offset, RunSeries)> {
        let chunks = self.chunks.iter();
        chunks.flat_map(|(first, chunk)| chunk.series(*first))
    }

    /// Puts in a stored chunk; the queue's next offset is `next`. False if it cannot be.
    pub(crate) fn load(&mut self, first: Offset, stored: &[RunSeries], next: Offset) -> bool {
        let Some(mut chunk) = Chunk::restored(stored) else {
            return false;
        };
        match first.0.checked_add(chunk.messages) {
            Some(end) if end == next.0 => {}
            Some(end) if end < next.0 => chunk.close(),
            _ => return false,
        }
        self.chunks.load(first, Box::new(chunk))
    }

    /// After old rows were appended: nothing counts as live, and only what reaches the queue's next
    /// offset can grow.
    pub(crate) fn settle_old(&mut self, next: Offset) {
        let firsts: Vec<Offset> = self.chunks.keys().copied().collect();
        for first in firsts {
            if let Some(chunk) = self.chunks.get_unmarked(&first) {
                chunk.live = 0;
                if first.plus(chunk.messages) != next {
                    chunk.close();
                }
            }
        }
    }

    /// Counts stored messages `first..end` as live and tells what they are. False if there are none.
    pub(crate) fn revive(&mut self, first: Offset, end: Offset, each: impl FnMut(Part)) -> bool {
        let mut at = first;
        while at < end {
            let Some((start, chunk)) = self.chunks.last_unmarked(..=at) else {
                return false;
            };
            let stop = end.min(start.plus(chunk.messages));
            let messages = stop.0.saturating_sub(at.0);
            chunk.live = chunk.live.saturating_add(messages);
            if messages == 0 || chunk.live > chunk.messages {
                return false;
            }
            at = stop;
        }
        first < end && self.each_in(first, end, each)
    }

    /// Every chunk has live messages.
    pub(crate) fn all_live(&self) -> bool {
        self.chunks.values().all(|chunk| chunk.live > 0)
    }
}

/// A chunk as it is stored.
pub(crate) fn stored(first: Offset, chunk: &Chunk) -> Vec<RunSeries> {
    chunk.series(first).map(|(_, series)| series).collect()
}

/// Tells the runs of the chunk that begins at `start` as far as they are in `from..to`.
fn each_part(chunk: &Chunk, start: Offset, from: Offset, to: Offset, each: &mut impl FnMut(Part)) {
    for (first, series) in chunk.series(start) {
        let end = first.plus(series.messages());
        if end <= from {
            continue;
        }
        if first >= to {
            return;
        }
        let skip = from.max(first).0.saturating_sub(first.0);
        let upto = to.min(end).0.saturating_sub(first.0);
        each(Part {
            index: series.first.body.position.index,
            messages: upto.saturating_sub(skip),
            bytes: series
                .bytes_before(upto)
                .saturating_sub(series.bytes_before(skip)),
        });
    }
}

/// Tells the single runs of the chunk that begins at `start` that are in `from..to`. False if `each`
/// said no.
fn each_run(
    chunk: &Chunk,
    start: Offset,
    from: Offset,
    to: Offset,
    each: &mut impl FnMut(Offset, RunRow) -> bool,
) -> bool {
    for (first, series) in chunk.series(start) {
        if first.plus(series.messages()) <= from {
            continue;
        }
        let count = u64::from(series.first.count).max(1);
        let skip = from.max(first).0.saturating_sub(first.0) / count;
        for k in skip..u64::from(series.runs) {
            let begins = first.plus(k.saturating_mul(count));
            if begins >= to {
                return true;
            }
            if !each(begins, series.run(crate::queue::low32(k))) {
                return false;
            }
        }
    }
    true
}

#[cfg(test)]
mod tests;
