//! What a queue remembers of settled messages, and what it says to receipts that are not current.

use crate::id::{Fence, LeaseTime, Offset};
use crate::limits::{SETTLED_BUCKET_MS, SETTLED_MEMORY_MS};
use crate::outcome::SettleStatus;
use crate::queue::Queue;
use crate::row::SettledRow;
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
        let known = self.settled.first_in((bucket, Offset(0))..);
        if known.is_none_or(|((other, _), _)| *other != bucket) {
            let forget = (forgotten_at(bucket), Memory::Settled(self.id, bucket));
            shared.memory.insert(forget);
        }
        let same = |offset: Offset, row: &SettledRow| {
            diagonal(offset, row.first_fence) == diagonal(first, first_fence)
        };
        let mut total = count;
        let next = (bucket, first.plus(count));
        if self.settled.get(&next).is_some_and(|row| same(next.1, row))
            && let Some(row) = self.settled.remove(&next)
        {
            total = total.saturating_add(row.count);
        }
        let before = self
            .settled
            .last_in((bucket, Offset(0))..(bucket, first))
            .filter(|((_, at), row)| at.plus(row.count) == first && same(*at, row))
            .map(|(key, _)| *key);
        match before.and_then(|key| self.settled.get_mut(&key)) {
            Some(row) => row.count = row.count.saturating_add(total),
            None => {
                let row = SettledRow {
                    count: total,
                    first_fence,
                };
                self.settled.insert((bucket, first), row);
            }
        }
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
        if let Some((first, count)) = self.ready.at_or_after(from) {
            see(first, count, SettleStatus::LeaseLost);
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
        self.each_settled_at_or_after(from, now, |first, row| {
            let status = if diagonal(first, row.first_fence) == claimed {
                SettleStatus::AlreadySettled
            } else {
                SettleStatus::LeaseLost
            };
            see(first, row.count, status);
        });
        (status, end)
    }

    /// The lease range that holds `from`, or the next one.
    pub(crate) fn leased_at_or_after(&self, from: Offset) -> Option<(Offset, u64)> {
        let holding = self.leases.last_in(..=from);
        let holding = holding.filter(|(first, row)| first.plus(u64::from(row.count)) > from);
        let found = holding.or_else(|| self.leases.first_in(from..));
        found.map(|(first, row)| (*first, u64::from(row.count)))
    }

    /// In every bucket that is not due to be forgotten: the range that holds `from`, or the next.
    fn each_settled_at_or_after(
        &self,
        from: Offset,
        now: LeaseTime,
        mut each: impl FnMut(Offset, &SettledRow),
    ) {
        let mut bucket = 0;
        while let Some(((found, _), _)) = self.settled.first_in((bucket, Offset(0))..) {
            let found = *found;
            if forgotten_at(found) > now {
                let first_bucket_key = (found, Offset(0));
                if let Some(((_, first), row)) =
                    self.settled.last_in(first_bucket_key..=(found, from))
                    && first.plus(row.count) > from
                {
                    each(*first, row);
                } else if let Some(((other, first), row)) = self.settled.first_in((found, from)..)
                    && *other == found
                {
                    each(*first, row);
                }
            }
            let Some(next) = found.checked_add(1) else {
                return;
            };
            bucket = next;
        }
    }

    /// Removes up to `max` rows of a bucket; true when nothing of it is left.
    pub(crate) fn forget_settled(&mut self, bucket: u64, max: usize) -> (usize, bool) {
        let all = (bucket, Offset(0))..=(bucket, Offset(u64::MAX));
        for done in 0..max {
            let Some(key) = self.settled.first_in(all.clone()).map(|(key, _)| *key) else {
                return (done, true);
            };
            self.settled.remove(&key);
        }
        (max, self.settled.first_in(all).is_none())
    }
}
