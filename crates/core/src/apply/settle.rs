//! `Settle`.

use alloc::vec::Vec;

use super::{Answer, check};
use crate::command::{Settle, SettleKind, SettleRange};
use crate::id::{Offset, QueueId};
use crate::limits;
use crate::message::DeathReason;
use crate::outcome::{Outcome, SettleException, SettleStatus};
use crate::queue::low32;
use crate::settled::diagonal;
use crate::state::State;

impl State {
    pub(super) fn settle(&mut self, command: &Settle) -> Answer {
        check(
            (1..=limits::SETTLE_RANGES_MAX).contains(&command.ranges.len()),
            "ranges",
            "be 1 to 10,000",
        )?;
        let mut exceptions = Vec::new();
        for (place, range) in command.ranges.iter().enumerate() {
            self.settle_range(low32(place as u64), range, &mut exceptions);
        }
        Ok(Outcome::Settled { exceptions })
    }

    fn settle_range(
        &mut self,
        place: u32,
        range: &SettleRange,
        exceptions: &mut Vec<SettleException>,
    ) {
        let mut except = |first_offset: Offset, count: u64, status: SettleStatus| {
            add_exception(
                exceptions,
                SettleException {
                    range: place,
                    first_offset,
                    count: low32(count),
                    status,
                },
            );
        };
        let count = u64::from(range.count);
        if !is_in_bounds(range) {
            return except(range.first_offset, count, SettleStatus::Invalid);
        }
        let end = range.first_offset.plus(count);
        let claimed = diagonal(range.first_offset, range.first_fence);
        let mut at = range.first_offset;
        while at < end {
            let Some(queue) = self.queues.get(&range.queue) else {
                return except(at, end.0.saturating_sub(at.0), SettleStatus::NotFound);
            };
            let holding = queue.leases.last_in(..=at).filter(|(first, lease)| {
                first.plus(u64::from(lease.count)) > at
                    && diagonal(**first, lease.first_fence) == claimed
            });
            let stop = match holding {
                Some((first, lease)) => {
                    let stop = end.min(first.plus(u64::from(lease.count)));
                    let count = low32(stop.0.saturating_sub(at.0));
                    let first = *first;
                    self.settle_leases(range.queue, first, at, count, range.kind);
                    stop
                }
                None => {
                    let now = self.shared.lease_now;
                    let (status, stop) = queue.status_of_stale(at, end, claimed, now);
                    except(at, stop.0.saturating_sub(at.0), status);
                    stop
                }
            };
            if stop <= at {
                return self.shared.halt("a settle does not come forward");
            }
            at = stop;
        }
    }

    /// Settles `count` current leases from `from` on, all in the range that begins at `start`.
    fn settle_leases(
        &mut self,
        id: QueueId,
        start: Offset,
        from: Offset,
        count: u32,
        kind: SettleKind,
    ) {
        let Some((queue, shared)) = self.change(id) else {
            return;
        };
        if let SettleKind::Extend { lease_ms } = kind {
            let deadline = shared.lease_now.plus_ms(lease_ms);
            return queue.extend_leases(start, from, count, deadline, shared);
        }
        let Some(lease) = queue.end_leases(start, from, count, shared) else {
            return;
        };
        let messages = u64::from(count);
        let given_up = match kind {
            SettleKind::Ack => {
                queue.forget(from, messages, shared);
                let acknowledged = &mut queue.counters.acknowledged;
                *acknowledged = acknowledged.saturating_add(messages);
                true
            }
            SettleKind::Nack { delay_ms } => self.fail(id, from, &lease, delay_ms),
            SettleKind::Reject => {
                for k in 0..messages {
                    let delivered = lease.delivery_count;
                    self.give_up(id, from.plus(k), delivered, DeathReason::Rejected);
                }
                true
            }
            SettleKind::Release => {
                let before = lease.delivery_count.saturating_sub(1);
                queue.put_back(from, messages, before, 0, shared);
                false
            }
            SettleKind::Extend { .. } => false,
        };
        if given_up && let Some((queue, shared)) = self.change(id) {
            queue.remember_settled(from, messages, lease.first_fence, shared);
        }
    }
}

fn is_in_bounds(range: &SettleRange) -> bool {
    let count = u64::from(range.count);
    let kind = match range.kind {
        SettleKind::Nack { delay_ms } => delay_ms.unwrap_or(0) <= limits::DELAY_MS_MAX,
        SettleKind::Extend { lease_ms } => (1..=limits::LEASE_MS_MAX).contains(&lease_ms),
        SettleKind::Ack | SettleKind::Reject | SettleKind::Release => true,
    };
    kind && count > 0
        && range.first_offset.0.checked_add(count).is_some()
        && range.first_fence.0.checked_add(count).is_some()
}

/// Adds an exception, together with its neighbour of the same range and status.
fn add_exception(exceptions: &mut Vec<SettleException>, next: SettleException) {
    if let Some(last) = exceptions.last_mut()
        && (last.range, last.status) == (next.range, next.status)
        && last.first_offset.plus(u64::from(last.count)) == next.first_offset
    {
        last.count = last.count.saturating_add(next.count);
        return;
    }
    exceptions.push(next);
}
