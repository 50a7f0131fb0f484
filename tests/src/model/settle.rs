//! Settling: each lease of each range on its own.

use ticketrail_core::command::{Settle, SettleKind, SettleRange};
use ticketrail_core::outcome::{Outcome, SettleException, SettleStatus};
use ticketrail_core::{DeathReason, Fence, LeaseTime, Offset, QueueId, SessionId, limits};

use super::state::{Model, Queue, Settled, Standing};
use super::{Answer, normal::invalid};

impl Model {
    pub(super) fn settle(&mut self, c: &Settle) -> Answer {
        if c.ranges.is_empty() || c.ranges.len() > limits::SETTLE_RANGES_MAX {
            return Err(invalid("ranges"));
        }
        let mut exceptions = Vec::new();
        for (place, range) in (0..).zip(&c.ranges) {
            let mut except = |first_offset, count, status| {
                exceptions.push(SettleException {
                    range: place,
                    first_offset,
                    count,
                    status,
                });
            };
            if is_invalid(range) {
                except(range.first_offset, range.count, SettleStatus::Invalid);
                continue;
            }
            for k in 0..range.count {
                let offset = range.first_offset.plus(u64::from(k));
                if !self.was_used(range.queue, offset) {
                    // Nor were any of the offsets behind it.
                    except(offset, range.count - k, SettleStatus::NotFound);
                    break;
                }
                let fence = Fence(range.first_fence.0 + u64::from(k));
                if let Err(status) = self.settle_one(range.queue, offset, fence, range.kind) {
                    except(offset, 1, status);
                }
            }
        }
        Ok(Outcome::Settled { exceptions })
    }

    /// Drops what would not be recalled anyway.
    pub(super) fn forget_settled(&mut self) {
        let now = self.lease_now;
        for queue in self.queues.values_mut() {
            queue
                .settled
                .retain(|settled| is_remembered(settled.at, now));
        }
    }

    fn was_used(&self, queue: QueueId, offset: Offset) -> bool {
        let queue = self.queues.get(&queue);
        queue.is_some_and(|queue| offset.0 < queue.next_offset)
    }

    fn settle_one(
        &mut self,
        id: QueueId,
        offset: Offset,
        fence: Fence,
        kind: SettleKind,
    ) -> Result<(), SettleStatus> {
        let now = self.lease_now;
        let queue = self.queue_mut(id);
        let Some(holder) = current_lease(queue, offset, fence) else {
            return Err(status_of_stale(queue, offset, fence, now));
        };
        match kind {
            SettleKind::Ack => {
                queue.take(offset);
                queue.tally.acknowledged += 1;
                remember(queue, offset, fence, now);
            }
            SettleKind::Nack { delay_ms } => self.fail(id, offset, delay_ms, Some(fence)),
            SettleKind::Reject => self.give_up(id, offset, DeathReason::Rejected, Some(fence)),
            SettleKind::Release => {
                let message = queue.message_mut(offset);
                message.standing = Standing::Ready;
                message.deliveries -= 1;
                queue.became_ready = true;
            }
            SettleKind::Extend { lease_ms } => {
                queue.message_mut(offset).standing = Standing::Leased {
                    fence,
                    deadline: now.plus_ms(lease_ms),
                    holder,
                };
            }
        }
        self.line_up(holder);
        Ok(())
    }
}

fn is_invalid(range: &SettleRange) -> bool {
    let runs_over = |first: u64| first.checked_add(u64::from(range.count)).is_none();
    let bad_kind = match range.kind {
        SettleKind::Nack { delay_ms } => delay_ms.is_some_and(|ms| ms > limits::DELAY_MS_MAX),
        SettleKind::Extend { lease_ms } => !(1..=limits::LEASE_MS_MAX).contains(&lease_ms),
        SettleKind::Ack | SettleKind::Reject | SettleKind::Release => false,
    };
    range.count == 0
        || runs_over(range.first_offset.0)
        || runs_over(range.first_fence.0)
        || bad_kind
}

/// Who holds this lease (nobody's session after a receive), if it is current.
fn current_lease(queue: &Queue, offset: Offset, wanted: Fence) -> Option<Option<SessionId>> {
    match queue.message(offset)?.standing {
        Standing::Leased { fence, holder, .. } if fence == wanted => Some(holder),
        _ => None,
    }
}

fn status_of_stale(queue: &Queue, offset: Offset, fence: Fence, now: LeaseTime) -> SettleStatus {
    let remembered = |s: &&Settled| s.offset == offset && is_remembered(s.at, now);
    let mut memory = queue.settled.iter().filter(remembered);
    if memory.clone().any(|s| s.fence == fence) {
        SettleStatus::AlreadySettled
    } else if queue.message(offset).is_some() || memory.next().is_some() {
        SettleStatus::LeaseLost
    } else {
        SettleStatus::NotFound
    }
}

/// Settled messages are forgotten by buckets: the one of `at` goes when its last moment is as old
/// as the memory reaches.
fn is_remembered(at: LeaseTime, now: LeaseTime) -> bool {
    let bucket_ends = (at.0 / limits::SETTLED_BUCKET_MS + 1) * limits::SETTLED_BUCKET_MS;
    now.0 < bucket_ends + limits::SETTLED_MEMORY_MS
}

pub(super) fn remember(queue: &mut Queue, offset: Offset, fence: Fence, at: LeaseTime) {
    queue.settled.push(Settled { offset, fence, at });
}
