//! What a client does with what it holds.

use ticketrail_broker::{Broker, Delivery, Haste, Problem, Settled};
use ticketrail_core::command::{SettleKind, SettleRange};
use tokio::time::Instant;

use super::{Client, Told};

/// Tokens that are kept to be tried again.
const OLD_MAX: usize = 32;

/// What a client holds, and what it held.
#[derive(Default)]
pub(super) struct Held {
    pub(super) now: Vec<Delivery>,
    old: Vec<SettleRange>,
}

impl Client {
    /// Settles what is held, most of it as done; now and then an old token, too.
    pub(super) async fn settle(&mut self, held: &mut Held) {
        let deliveries = std::mem::take(&mut held.now);
        let mut ranges = Vec::new();
        let mut kept = Vec::new();
        for delivery in &deliveries {
            let kind = self.kind();
            if matches!(kind, SettleKind::Ack | SettleKind::Reject) {
                self.history.settle_tried(delivery.message_id);
            }
            if matches!(kind, SettleKind::Extend { .. }) {
                kept.push(delivery.clone());
            }
            ranges.push(SettleRange {
                queue: delivery.queue,
                first_offset: delivery.offset,
                count: 1,
                first_fence: delivery.fence,
                kind,
            });
        }
        let fresh = ranges.len();
        if !held.old.is_empty() && self.dice.percent(10) {
            let place = self.dice.below(held.old.len() as u64) as usize;
            ranges.push(held.old[place].clone());
            self.history.count(|counts| counts.stale_settles += 1);
        }
        if ranges.is_empty() {
            return;
        }
        let settled = self.settle_ranges(ranges.clone()).await;
        held.now.extend(kept);
        held.old.extend(ranges.iter().take(fresh).cloned());
        let surplus = held.old.len().saturating_sub(OLD_MAX);
        held.old.drain(..surplus);
        let Some(settled) = settled else { return };
        for (place, (range, delivery)) in ranges.iter().zip(&deliveries).enumerate() {
            let refused = settled
                .exceptions
                .iter()
                .any(|exception| exception.range as usize == place);
            if range.kind == SettleKind::Ack && !refused {
                self.history
                    .acked(delivery.message_id, delivery.queue, delivery.fence);
            }
        }
    }

    /// Acknowledges it all.
    pub(super) async fn acknowledge(&mut self, deliveries: Vec<Delivery>) {
        let ack = |delivery: &Delivery| SettleRange {
            queue: delivery.queue,
            first_offset: delivery.offset,
            count: 1,
            first_fence: delivery.fence,
            kind: SettleKind::Ack,
        };
        let ranges: Vec<SettleRange> = deliveries.iter().map(ack).collect();
        if !ranges.is_empty() {
            self.settle_ranges(ranges).await;
        }
    }

    /// Repeats itself until it is known what became of it.
    async fn settle_ranges(&mut self, ranges: Vec<SettleRange>) -> Option<Settled> {
        for _ in 0..4 {
            let again = ranges.clone();
            let haste = match self.dice.percent(50) {
                true => Haste::WithOthers,
                false => Haste::Now,
            };
            let told = self
                .call(|broker, deadline| settle(broker, again, haste, deadline))
                .await;
            match told {
                Told::Done(settled) => {
                    self.history.confirmed_entry(settled.position.index);
                    return Some(settled);
                }
                Told::Refused(_) | Told::Unknown => self.pause(1, 100).await,
            }
        }
        None
    }

    fn kind(&mut self) -> SettleKind {
        match self.dice.below(100) {
            0..=7 => SettleKind::Nack {
                delay_ms: Some(self.dice.below(500)),
            },
            8..=12 => SettleKind::Release,
            13..=16 => SettleKind::Extend {
                lease_ms: self.dice.between(100, 6_000),
            },
            17..=18 => SettleKind::Reject,
            _ => SettleKind::Ack,
        }
    }
}

async fn settle(
    broker: Broker,
    ranges: Vec<SettleRange>,
    haste: Haste,
    deadline: Instant,
) -> Result<Settled, Problem> {
    broker.settle(ranges, haste, deadline).await
}
