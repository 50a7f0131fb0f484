//! Looking at a queue's messages without changing anything.

use alloc::vec::Vec;

use crate::id::{LeaseTime, Offset};
use crate::queue::Queue;
use crate::view::{MessageState, Peeked};

/// A message found: where, in what state, when that ends, and deliveries.
type Found = (Offset, MessageState, Option<LeaseTime>, u32);

impl Queue {
    pub(crate) fn peek(
        &self,
        only: Option<MessageState>,
        from: Offset,
        limit: usize,
    ) -> Vec<Peeked> {
        let mut peeked = Vec::new();
        let mut at = from;
        while peeked.len() < limit {
            let Some(found) = self.next_message(only, at) else {
                break;
            };
            peeked.extend(self.peeked(found));
            let Some(next) = found.0.0.checked_add(1) else {
                break;
            };
            at = Offset(next);
        }
        peeked
    }

    fn peeked(&self, (offset, state, due, delivery_count): Found) -> Option<Peeked> {
        let message = self.message(offset)?;
        Some(Peeked {
            offset,
            message_id: message.id,
            body: message.body,
            state,
            delivery_count,
            deaths: self.deaths.get(&offset).cloned().unwrap_or_default(),
            published_at: message.published_at,
            due,
        })
    }

    /// The first message at or after an offset, in any state or one.
    fn next_message(&self, only: Option<MessageState>, at: Offset) -> Option<Found> {
        let wanted = |state| only.is_none_or(|only| only == state);
        let delivered = |at: Offset| self.returned.get(at).unwrap_or(0);
        let ready = || {
            let (first, _) = self.ready.at_or_after(at)?;
            Some((first, MessageState::Ready, None, delivered(first)))
        };
        let delayed = || {
            let (first, span) = self.delayed.at_or_after(at)?;
            let due = Some(span.value);
            Some((first, MessageState::Delayed, due, delivered(first)))
        };
        let leased = || {
            let (first, _) = self.leased_at_or_after(at)?;
            let lease = self.leases.get(&first)?;
            let deadline = Some(lease.deadline);
            let found = first.max(at);
            Some((
                found,
                MessageState::InFlight,
                deadline,
                lease.delivery_count,
            ))
        };
        let parked = || {
            let (first, _) = self.parked.first_in(at..)?;
            Some((*first, MessageState::Parked, None, delivered(*first)))
        };
        let found: [Option<Found>; 4] = [
            wanted(MessageState::Ready).then(ready).flatten(),
            wanted(MessageState::Delayed).then(delayed).flatten(),
            wanted(MessageState::InFlight).then(leased).flatten(),
            wanted(MessageState::Parked).then(parked).flatten(),
        ];
        found.into_iter().flatten().min_by_key(|found| found.0)
    }
}
