//! What a queue remembers of receive attempts, so that a lost answer can be asked for again.

use alloc::vec::Vec;

use crate::id::{Fence, LeaseTime, Offset};
use crate::limits::{ATTEMPT_MEMORY_MS, ATTEMPTS_MAX};
use crate::message::Grant;
use crate::queue::{Queue, low32};
use crate::row::{AttemptRange, AttemptRow, LeaseRow};
use crate::settled::diagonal;
use crate::shared::{Memory, Shared};

/// When an attempt is forgotten.
pub(crate) fn forgotten_at(attempt: &AttemptRow) -> LeaseTime {
    attempt.answered_at.plus_ms(ATTEMPT_MEMORY_MS)
}

impl Queue {
    /// The attempt, unless it was never made or is due to be forgotten.
    pub(crate) fn attempt(&self, id: &[u8], now: LeaseTime) -> Option<&AttemptRow> {
        let attempt = self.attempts.get(self.attempts_by_id.get(id)?)?;
        (forgotten_at(attempt) > now).then_some(attempt)
    }

    /// Remembers what an attempt was answered, and forgets the oldest beyond the cap.
    pub(crate) fn remember_attempt(&mut self, id: Vec<u8>, grants: &[Grant], shared: &mut Shared) {
        if let Some(number) = self.attempts_by_id.get(&id).copied() {
            self.forget_attempt(number, shared);
        }
        let mut leases: Vec<AttemptRange> = Vec::new();
        for grant in grants {
            add_range(&mut leases, grant);
        }
        let attempt = AttemptRow {
            id: id.clone(),
            answered_at: shared.lease_now,
            leases,
        };
        let number = self.next_attempt;
        self.next_attempt = number.saturating_add(1);
        let forget = (forgotten_at(&attempt), Memory::Attempt(self.id, number));
        shared.memory.insert(forget);
        self.attempts_by_id.insert(id, number);
        self.attempts.insert(number, attempt);
        while self.attempts.len() > ATTEMPTS_MAX
            && let Some((number, _)) = self.attempts.first()
        {
            self.forget_attempt(*number, shared);
        }
    }

    pub(crate) fn forget_attempt(&mut self, number: u64, shared: &mut Shared) {
        if let Some(attempt) = self.attempts.remove(&number) {
            let forget = (forgotten_at(&attempt), Memory::Attempt(self.id, number));
            shared.memory.remove(&forget);
            self.attempts_by_id.remove(&attempt.id);
        }
    }

    /// Those of an attempt's leases that are still held under the same fence.
    pub(crate) fn grants_of_attempt(&self, attempt: &AttemptRow) -> Vec<Grant> {
        let mut grants = Vec::new();
        for range in &attempt.leases {
            let end = range.first_offset.plus(u64::from(range.count));
            let mut at = range.first_offset;
            while let Some((first, _)) = self.leased_at_or_after(at) {
                if first >= end {
                    break;
                }
                let Some(lease) = self.leases.get(&first) else {
                    break;
                };
                if diagonal(first, lease.first_fence)
                    == diagonal(range.first_offset, range.first_fence)
                {
                    self.tell_part(first, lease, (at, end), &mut grants);
                }
                at = first.plus(u64::from(lease.count));
            }
        }
        grants
    }

    /// Those of a lease range's messages that are in `from..end`, as grants.
    fn tell_part(
        &self,
        first: Offset,
        lease: &LeaseRow,
        (from, end): (Offset, Offset),
        grants: &mut Vec<Grant>,
    ) {
        let from = from.max(first);
        let end = end.min(first.plus(u64::from(lease.count)));
        let skip = from.0.saturating_sub(first.0);
        let part = LeaseRow {
            count: low32(end.0.saturating_sub(from.0)),
            first_fence: Fence(lease.first_fence.0.saturating_add(skip)),
            ..*lease
        };
        self.tell(from, &part, grants);
    }
}

/// Adds a grant, together with those right before it.
fn add_range(ranges: &mut Vec<AttemptRange>, grant: &Grant) {
    let first = grant.first_offset;
    if let Some(last) = ranges.last_mut()
        && last.first_offset.plus(u64::from(last.count)) == first
        && diagonal(last.first_offset, last.first_fence) == diagonal(first, grant.first_fence)
        && let Some(count) = last.count.checked_add(grant.count)
    {
        last.count = count;
        return;
    }
    ranges.push(AttemptRange {
        first_offset: first,
        count: grant.count,
        first_fence: grant.first_fence,
    });
}
