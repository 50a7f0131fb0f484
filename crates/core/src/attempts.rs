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
        let leases = grants.iter().map(|grant| AttemptRange {
            first_offset: grant.first_offset,
            count: grant.count,
            first_fence: grant.first_fence,
        });
        let attempt = AttemptRow {
            id: id.clone(),
            answered_at: shared.lease_now,
            leases: leases.collect(),
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
                    grants.extend(self.part_of_lease(first, lease, at, end));
                }
                at = first.plus(u64::from(lease.count));
            }
        }
        grants
    }

    /// Those of a lease range's messages that are in `from..end`, as a grant.
    fn part_of_lease(
        &self,
        first: Offset,
        lease: &LeaseRow,
        from: Offset,
        end: Offset,
    ) -> Option<Grant> {
        let from = from.max(first);
        let end = end.min(first.plus(u64::from(lease.count)));
        let skip = from.0.saturating_sub(first.0);
        let part = LeaseRow {
            count: low32(end.0.saturating_sub(from.0)),
            first_fence: Fence(lease.first_fence.0.saturating_add(skip)),
            ..*lease
        };
        self.grant(from, &part)
    }
}
