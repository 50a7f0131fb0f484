//! The newest entries in memory: readable before they are on disk, and without a read afterwards.

use std::collections::VecDeque;

use super::Record;

/// A run of consecutive entries that ends with the log's last one.
pub(crate) struct Cache {
    records: VecDeque<Cached>,
    bytes: usize,
    bytes_max: usize,
}

struct Cached {
    record: Record,
    /// Number of the append that brought it: an index can be appended again after a truncation.
    append: u64,
}

impl Cache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            records: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    pub(crate) fn push(&mut self, record: Record, append: u64) {
        if self
            .records
            .back()
            .is_some_and(|last| last.record.index + 1 != record.index)
        {
            self.clear();
        }
        self.bytes += cost(&record);
        self.records.push_back(Cached { record, append });
    }

    pub(crate) fn truncate(&mut self, from: u64) {
        while self
            .records
            .back()
            .is_some_and(|last| last.record.index >= from)
        {
            if let Some(last) = self.records.pop_back() {
                self.bytes -= cost(&last.record);
            }
        }
    }

    /// Forgets the oldest entries beyond the budget, but never one whose append is not durable yet.
    pub(crate) fn evict(&mut self, durable_append: u64) {
        while self.bytes > self.bytes_max
            && self
                .records
                .front()
                .is_some_and(|first| first.append <= durable_append)
        {
            if let Some(first) = self.records.pop_front() {
                self.bytes -= cost(&first.record);
            }
        }
        // A burst must not leave a large ring behind for ever.
        if self.records.capacity() > 1024 && self.records.len() < self.records.capacity() / 8 {
            self.records.shrink_to(self.records.len() * 2);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.records.clear();
        self.bytes = 0;
    }

    pub(crate) fn get(&self, index: u64) -> Option<&Record> {
        let first = self.records.front()?.record.index;
        let at = usize::try_from(index.checked_sub(first)?).ok()?;
        self.records.get(at).map(|cached| &cached.record)
    }

    pub(crate) fn first_index(&self) -> Option<u64> {
        Some(self.records.front()?.record.index)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn cost(record: &Record) -> usize {
    record.payload.len() + size_of::<Cached>()
}
