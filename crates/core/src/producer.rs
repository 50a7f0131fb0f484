//! An idempotent producer: its epochs, and what it stored last.

use alloc::vec::Vec;

use crate::id::{MessageId, ProducerId, WallTime};
use crate::limits;
use crate::row::{ProducerRow, Remembered};
use crate::tracked::Tracked;

/// The stored part and its chunks.
pub(crate) struct Producer {
    pub(crate) row: ProducerRow,
    /// Sequence `s` is entry `(s - 1) % PRODUCER_CHUNK` of chunk `(s - 1) / PRODUCER_CHUNK`.
    pub(crate) chunks: Tracked<u64, Vec<Remembered>>,
}

/// Last use as it is stored.
pub(crate) fn use_step(now: WallTime) -> WallTime {
    WallTime(now.0 - now.0 % limits::PRODUCER_USE_STEP_MS)
}

/// When a producer used then is forgotten.
pub(crate) fn forgotten_at(used_at: WallTime) -> WallTime {
    let step = used_at.0.saturating_add(limits::PRODUCER_USE_STEP_MS);
    WallTime(step.saturating_add(limits::PRODUCER_IDLE_MS))
}

/// How many stored messages each of `producers` may remember.
pub(crate) fn window(producers: usize) -> u64 {
    let fair = limits::PRODUCER_WINDOWS_TOTAL / producers.max(1);
    fair.clamp(limits::PRODUCER_WINDOW_MIN, limits::PRODUCER_WINDOW_MAX) as u64
}

fn place(sequence: u64) -> (u64, usize) {
    let from_0 = sequence.saturating_sub(1);
    let chunk = from_0 / limits::PRODUCER_CHUNK;
    (chunk, (from_0 % limits::PRODUCER_CHUNK) as usize)
}

impl Producer {
    pub(crate) fn new(row: ProducerRow) -> Self {
        Self {
            row,
            chunks: Tracked::default(),
        }
    }

    /// The epoch that a request with this id opened, if that is still known. The producer's own
    /// id opened the first.
    pub(crate) fn opened_by(&self, fresh_id: ProducerId) -> Option<u32> {
        let found = self.row.openers.iter().find(|(id, _)| *id == fresh_id);
        found.map(|(_, epoch)| *epoch)
    }

    /// Notes who opened the present epoch.
    pub(crate) fn note_opener(&mut self, fresh_id: ProducerId) {
        self.row.openers.push((fresh_id, self.row.epoch));
        if self.row.openers.len() > limits::PRODUCER_OPENERS_MAX {
            self.row.openers.remove(0);
        }
    }

    pub(crate) fn remembered(&self, sequence: u64) -> Option<Remembered> {
        if sequence < self.row.first_remembered {
            return None;
        }
        let (chunk, entry) = place(sequence);
        self.chunks.get(&chunk)?.get(entry).copied()
    }

    /// Stores the next messages in sequence.
    pub(crate) fn store(&mut self, digests: &[u64], first_id: MessageId) {
        let mut rest = digests;
        let mut id = first_id.0;
        while !rest.is_empty() {
            let (chunk, entry) = place(self.row.last_sequence.saturating_add(1));
            let room = (limits::PRODUCER_CHUNK as usize).saturating_sub(entry);
            let (fitting, later) = rest.split_at(room.min(rest.len()));
            let remembered = fitting.iter().zip(0_u64..).map(|(digest, k)| Remembered {
                digest: *digest,
                message_id: MessageId(id.saturating_add(k)),
            });
            match self.chunks.get_mut(&chunk) {
                Some(entries) => entries.extend(remembered),
                None => {
                    self.chunks.insert(chunk, remembered.collect());
                }
            }
            let count = fitting.len() as u64;
            self.row.last_sequence = self.row.last_sequence.saturating_add(count);
            id = id.saturating_add(count);
            rest = later;
        }
    }

    /// Keeps the last `window` stored messages and what is in a row with them.
    pub(crate) fn trim(&mut self, window: u64) {
        let next = self.row.last_sequence.saturating_add(1);
        let first = next.saturating_sub(window).max(1);
        self.row.first_remembered = self.row.first_remembered.max(first);
        let (oldest, _) = place(self.row.first_remembered);
        while let Some((chunk, _)) = self.chunks.first()
            && *chunk < oldest
        {
            let chunk = *chunk;
            self.chunks.remove(&chunk);
        }
    }
}
