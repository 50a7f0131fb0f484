//! Neighbouring runs, packed: each is told as its difference from the one that its predecessor lets
//! expect. Publishes of one entry mostly are what is expected and then cost nothing at all; a run
//! that shares nothing with its predecessor costs some 10 bytes.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::id::{MessageId, Offset, WallTime};
use crate::limits;
use crate::row::{RunRow, RunSeries};

/// What differs from the expected run; none: the expected run, so many times as follows.
mod differs {
    pub(super) const COUNT: u8 = 1;
    pub(super) const ID: u8 = 2;
    pub(super) const INDEX: u8 = 4;
    pub(super) const PLACE: u8 = 8;
    pub(super) const ITEM: u8 = 16;
    pub(super) const TIME: u8 = 32;
    pub(super) const BYTES: u8 = 64;
}

/// A run and what it lets expect of the next one.
#[derive(Clone, Copy, Default)]
struct Cursor {
    run: RunRow,
    /// Ids between the last message of a run and the first of the next.
    id_gap: u64,
    /// Places between the publish of a run and that of the next.
    place_gap: u32,
}

impl Cursor {
    fn expected(&self) -> RunRow {
        self.ahead(1)
    }

    /// The `n`-th run from here on, if each is the expected one.
    fn ahead(&self, n: u32) -> RunRow {
        let mut run = self.run;
        let id_step = self.id_step().wrapping_mul(u64::from(n));
        run.first_message_id.0 = run.first_message_id.0.wrapping_add(id_step);
        let place_step = self.place_step().wrapping_mul(n);
        run.body.position.place = run.body.position.place.wrapping_add(place_step);
        run
    }

    fn id_step(&self) -> u64 {
        u64::from(self.run.count).wrapping_add(self.id_gap)
    }

    fn place_step(&self) -> u32 {
        self.place_gap.wrapping_add(1)
    }

    /// Moves on to `next`, which is not the expected run, and writes how it differs.
    fn write(&mut self, next: RunRow, bytes: &mut Vec<u8>) {
        let before = self.run;
        let flags_at = bytes.len();
        bytes.push(0);
        let mut flags = 0;
        let mut tell = |flag: u8, value: u64| {
            flags |= flag;
            put_varint(bytes, value);
        };
        if next.count != before.count {
            tell(differs::COUNT, u64::from(next.count));
        }
        let after = before.first_message_id.0;
        let after = after.wrapping_add(u64::from(before.count));
        let id_gap = next.first_message_id.0.wrapping_sub(after);
        if id_gap != self.id_gap {
            tell(differs::ID, zigzag(id_gap));
            self.id_gap = id_gap;
        }
        let (was, is) = (before.body.position, next.body.position);
        if is.index != was.index {
            tell(differs::INDEX, zigzag(is.index.wrapping_sub(was.index)));
            if is.place != 0 {
                tell(differs::PLACE, u64::from(is.place));
            }
        } else {
            let place_gap = is.place.wrapping_sub(was.place).wrapping_sub(1);
            if place_gap != self.place_gap {
                tell(differs::PLACE, u64::from(place_gap));
                self.place_gap = place_gap;
            }
        }
        if next.body.item != before.body.item {
            tell(differs::ITEM, u64::from(next.body.item));
        }
        if next.published_at != before.published_at {
            let later = next.published_at.0.wrapping_sub(before.published_at.0);
            tell(differs::TIME, zigzag(later));
        }
        if next.bytes != before.bytes {
            tell(differs::BYTES, next.bytes);
        }
        if let Some(place) = bytes.get_mut(flags_at) {
            *place = flags;
        }
        self.run = next;
    }

    /// Moves on to the run that was written with these flags.
    fn read(&mut self, flags: u8, bytes: &mut &[u8]) -> Option<()> {
        let before = self.run;
        let mut next = before;
        let mut value = |flag: u8| match flags & flag {
            0 => Some(None),
            _ => varint(bytes).map(Some),
        };
        if let Some(count) = value(differs::COUNT)? {
            next.count = count as u32;
        }
        if let Some(gap) = value(differs::ID)? {
            self.id_gap = unzigzag(gap);
        }
        let step = u64::from(before.count).wrapping_add(self.id_gap);
        next.first_message_id = MessageId(before.first_message_id.0.wrapping_add(step));
        let position = &mut next.body.position;
        if let Some(further) = value(differs::INDEX)? {
            position.index = position.index.wrapping_add(unzigzag(further));
            position.place = value(differs::PLACE)?.unwrap_or(0) as u32;
        } else {
            if let Some(gap) = value(differs::PLACE)? {
                self.place_gap = gap as u32;
            }
            position.place = position.place.wrapping_add(self.place_step());
        }
        if let Some(item) = value(differs::ITEM)? {
            next.body.item = item as u32;
        }
        if let Some(later) = value(differs::TIME)? {
            let time = before.published_at.0.wrapping_add(unzigzag(later));
            next.published_at = WallTime(time);
        }
        if let Some(bytes) = value(differs::BYTES)? {
            next.bytes = bytes;
        }
        self.run = next;
        Some(())
    }
}

/// The last run of a chunk that still grows, not packed yet.
struct Tail {
    run: RunRow,
    /// The run before it.
    cursor: Cursor,
    /// Where the bytes end with a repetition, and of how many.
    repeats: Option<(usize, u32)>,
}

/// Runs that follow each other without a gap in the queue's offsets.
pub(crate) struct Chunk {
    bytes: Vec<u8>,
    pub(super) messages: u64,
    /// Messages that are still in the queue.
    pub(super) live: u64,
    tail: Option<Box<Tail>>,
}

impl Chunk {
    pub(super) fn new(run: RunRow) -> Self {
        let tail = Tail {
            run,
            cursor: Cursor::default(),
            repeats: None,
        };
        Self {
            bytes: Vec::new(),
            messages: u64::from(run.count),
            live: u64::from(run.count),
            tail: Some(Box::new(tail)),
        }
    }

    /// It takes no more runs.
    pub(super) fn is_closed(&self) -> bool {
        self.tail.is_none()
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= limits::RUN_CHUNK_BYTES
    }

    #[cfg(test)]
    pub(super) fn packed_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Lets the last run grow by `next`, if `next` goes on exactly where it stops.
    pub(super) fn joins(&mut self, next: &RunRow) -> bool {
        // A run's bytes are shared evenly among its messages: one that lost some must not grow.
        if self.live != self.messages {
            return false;
        }
        let Some(tail) = &mut self.tail else {
            return false;
        };
        let last = &mut tail.run;
        let goes_on = last.body.position == next.body.position
            && last.body.item.checked_add(last.count) == Some(next.body.item)
            && last.first_message_id.0.checked_add(u64::from(last.count))
                == Some(next.first_message_id.0)
            && last.published_at == next.published_at;
        let count = last.count.checked_add(next.count);
        let bytes = last.bytes.checked_add(next.bytes);
        let (Some(count), Some(bytes), true) = (count, bytes, goes_on) else {
            return false;
        };
        (last.count, last.bytes) = (count, bytes);
        self.grow(u64::from(next.count));
        true
    }

    fn grow(&mut self, messages: u64) {
        self.messages = self.messages.saturating_add(messages);
        self.live = self.live.saturating_add(messages);
    }

    /// Adds a run behind the last one; not to be called once it is closed.
    pub(super) fn push(&mut self, run: RunRow) {
        self.pack_tail();
        if let Some(tail) = &mut self.tail {
            tail.run = run;
        }
        self.grow(u64::from(run.count));
    }

    fn pack_tail(&mut self) {
        let Some(tail) = &mut self.tail else {
            return;
        };
        if tail.run == tail.cursor.expected() && !self.bytes.is_empty() {
            return self.repeat(1);
        }
        tail.repeats = None;
        tail.cursor.write(tail.run, &mut self.bytes);
    }

    /// Packs the expected run `n` times.
    fn repeat(&mut self, n: u32) {
        let Some(tail) = &mut self.tail else {
            return;
        };
        let (at, before) = tail.repeats.unwrap_or((self.bytes.len(), 0));
        let Some(times) = before.checked_add(n) else {
            tail.repeats = None;
            return self.repeat(n);
        };
        self.bytes.truncate(at);
        self.bytes.push(0);
        put_varint(&mut self.bytes, u64::from(times));
        tail.repeats = Some((at, times));
        tail.cursor.run = tail.cursor.ahead(n);
    }

    /// Packs the last run too and takes no more.
    pub(super) fn close(&mut self) {
        self.pack_tail();
        self.tail = None;
        self.bytes.shrink_to_fit();
    }

    /// Adds stored runs. False if they are none.
    pub(super) fn load(&mut self, series: &RunSeries) -> bool {
        let Some(last) = series.runs.checked_sub(1) else {
            return false;
        };
        let run = series.first;
        let messages = u64::from(run.count).checked_mul(u64::from(series.runs));
        let messages = messages.and_then(|more| self.messages.checked_add(more));
        if run.count == 0 || messages.is_none() {
            return false;
        }
        for k in 0..=last.min(1) {
            self.push(series.run(k));
        }
        if last > 1 {
            self.pack_tail();
            if last > 2 {
                self.repeat(last - 2);
            }
            if let Some(tail) = &mut self.tail {
                tail.run = series.run(last);
            }
            self.grow(u64::from(run.count) * u64::from(last - 1));
        }
        true
    }

    /// A chunk of stored runs, still growing, with nothing live. None if they are no runs.
    pub(super) fn restored(stored: &[RunSeries]) -> Option<Self> {
        let (first, others) = stored.split_first()?;
        let mut chunk = Self::new(first.first);
        if first.runs == 0 || first.first.count == 0 {
            return None;
        }
        if first.runs > 1 {
            let rest = RunSeries {
                first: first.run(1),
                runs: first.runs - 1,
                ..*first
            };
            if !chunk.load(&rest) {
                return None;
            }
        }
        if !others.iter().all(|series| chunk.load(series)) {
            return None;
        }
        chunk.live = 0;
        Some(chunk)
    }

    /// The runs, in order, with the offset of each series' first message.
    pub(super) fn series(&self, first: Offset) -> Unpacking<'_> {
        Unpacking {
            bytes: &self.bytes,
            cursor: Cursor::default(),
            tail: self.tail.as_ref().map(|tail| tail.run),
            next: first,
        }
    }
}

/// Reads a chunk.
pub(crate) struct Unpacking<'a> {
    bytes: &'a [u8],
    cursor: Cursor,
    tail: Option<RunRow>,
    next: Offset,
}

impl Iterator for Unpacking<'_> {
    type Item = (Offset, RunSeries);

    fn next(&mut self) -> Option<Self::Item> {
        let series = match self.bytes.split_first() {
            None => RunSeries::one(self.tail.take()?),
            Some((flags, rest)) => {
                self.bytes = rest;
                self.packed(*flags)?
            }
        };
        let first = self.next;
        self.next = first.plus(series.messages());
        Some((first, series))
    }
}

impl Unpacking<'_> {
    /// The run that begins with these flags, and its repetitions.
    fn packed(&mut self, flags: u8) -> Option<RunSeries> {
        let mut runs = 0;
        let mut first = self.cursor.expected();
        if flags == 0 {
            runs = varint(&mut self.bytes)? as u32;
        } else {
            self.cursor.read(flags, &mut self.bytes)?;
            first = self.cursor.run;
            if let Some((0, rest)) = self.bytes.split_first() {
                self.bytes = rest;
                runs = varint(&mut self.bytes)? as u32;
            }
        }
        self.cursor.run = self.cursor.ahead(runs);
        let runs = if flags == 0 {
            runs
        } else {
            runs.checked_add(1)?
        };
        if runs == 1 {
            return Some(RunSeries::one(first));
        }
        Some(RunSeries {
            first,
            runs,
            id_step: self.cursor.id_step(),
            place_step: self.cursor.place_step(),
        })
    }
}

/// Small for differences that are small in either direction.
fn zigzag(difference: u64) -> u64 {
    let signed = difference as i64;
    ((signed << 1) ^ (signed >> 63)) as u64
}

fn unzigzag(value: u64) -> u64 {
    (value >> 1) ^ (value & 1).wrapping_neg()
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
