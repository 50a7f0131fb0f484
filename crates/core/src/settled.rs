//! What a queue remembers of settled messages, and what it says to receipts that are not current.

use crate::id::{Fence, LeaseTime, Offset};
use crate::limits::{SETTLED_BUCKET_MS, SETTLED_MEMORY_MS};
use crate::outcome::SettleStatus;
use crate::queue::Queue;
use crate::shared::{Memory, Shared};

/// When a bucket is forgotten: [`SETTLED_MEMORY_MS`] after its end.
pub(crate) fn forgotten_at(bucket: u64) -> LeaseTime {
    let end = bucket.saturating_add(1).saturating_mul(SETTLED_BUCKET_MS);
    LeaseTime(end).plus_ms(SETTLED_MEMORY_MS)
}

/// What offset and fence of neighbours have in common.
pub(crate) fn diagonal(offset: Offset, fence: Fence) -> u64 {
    fence.0.wrapping_sub(offset.0)
}

impl Queue {
    /// Remembers messages settled for good under `first_fence + k`.
    pub(crate) fn remember_settled(
        &mut self,
        first: Offset,
        count: u64,
        first_fence: Fence,
        shared: &mut Shared,
    ) {
        let bucket = shared.lease_now.0 / SETTLED_BUCKET_MS;
        let settled = self.settled.entry(bucket).or_default();
        if settled.len() == 0 {
            let forget = (forgotten_at(bucket), Memory::Settled(self.id, bucket));
            shared.memory.insert(forget);
        }
        settled.insert(first, count, diagonal(first, first_fence));
    }

    /// What to say of messages `from..end` that are not leased under this diagonal: the status of
    /// the first, and the end of those that surely share it.
    pub(crate) fn status_of_stale(
        &self,
        from: Offset,
        end: Offset,
        claimed: u64,
        now: LeaseTime,
    ) -> (SettleStatus, Offset) {
        if from >= self.next_offset {
            return (SettleStatus::NotFound, end);
        }
        let mut status = SettleStatus::NotFound;
        let mut end = end.min(self.next_offset);
        let mut see = |first: Offset, count: u64, there: SettleStatus| {
            if first > from {
                end = end.min(first);
            } else {
                end = end.min(first.plus(count));
                status = there;
            }
        };
        if let Some((first, span)) = self.ready.at_or_after(from) {
            see(first, span.count, SettleStatus::LeaseLost);
        }
        if let Some((first, span)) = self.delayed.at_or_after(from) {
            see(first, span.count, SettleStatus::LeaseLost);
        }
        if let Some((first, _)) = self.parked.first_in(from..) {
            see(*first, 1, SettleStatus::LeaseLost);
        }
        if let Some((first, count)) = self.leased_at_or_after(from) {
            see(first, count, SettleStatus::LeaseLost);
        }
        // Last, since a parked message that was rejected is both there and settled.
        for (bucket, settled) in &self.settled {
            if forgotten_at(*bucket) > now
                && let Some((first, span)) = settled.at_or_after(from)
            {
                let status = if span.value == claimed {
                    SettleStatus::AlreadySettled
                } else {
                    SettleStatus::LeaseLost
                };
                see(first, span.count, status);
            }
        }
        (status, end)
    }

    /// The lease range that holds `from`, or the next one.
    pub(crate) fn leased_at_or_after(&self, from: Offset) -> Option<(Offset, u64)> {
        let holding = self.leases.last_in(..=from);
        let holding = holding.filter(|(first, row)| first.plus(u64::from(row.count)) > from);
        let found = holding.or_else(|| self.leases.first_in(from..));
        found.map(|(first, row)| (*first, u64::from(row.count)))
    }

    /// Removes up to `max` spans of a bucket; how many, and whether nothing of it is left.
    pub(crate) fn forget_settled(&mut self, bucket: u64, max: usize) -> (usize, bool) {
        let Some(settled) = self.settled.get_mut(&bucket) else {
            return (0, true);
        };
        for done in 0..max {
            let Some((first, span)) = settled.first() else {
                return (done, true);
            };
            settled.remove(first, first.plus(span.count));
        }
        (max, settled.len() == 0)
    }
}
