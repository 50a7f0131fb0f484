//! From a grant to what a consumer gets.

use std::time::Duration;

use bytes::Bytes;
use ticketrail_core::{
    BodyRef, Death, Fence, Grant, LeaseTime, MessageId, Offset, Position, QueueId, WallTime,
};
use ticketrail_proto::error::Problem;
use tokio::time::Instant;

use crate::bodies::Bodies;

/// One leased message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The queue's incarnation.
    pub queue: QueueId,
    /// Its place there.
    pub offset: Offset,
    /// Fencing number of the lease; 0: nothing is leased (peek and release).
    pub fence: Fence,
    /// Its id.
    pub message_id: MessageId,
    /// How many times it was granted, this time included.
    pub delivery_count: u32,
    /// What is left of the lease, less what passed since this node applied the grant.
    pub lease_left: Duration,
    /// When it was published.
    pub published_at: WallTime,
    /// Commit position of its publish.
    pub position: Position,
    /// Death history, oldest first; empty but for dead letters.
    pub deaths: Vec<Death>,
    /// Sent before to the same session, which has come back.
    pub resent: bool,
    /// Key that it was published with.
    pub routing_key: String,
    /// The encoded `store.v1.StoredMessage`.
    pub message: Bytes,
}

/// When a grant was seen: replicated lease time, and this node's instant of seeing it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) lease_now: LeaseTime,
    pub(crate) at: Instant,
}

impl Seen {
    /// What is left until `deadline`.
    pub(crate) fn left(&self, deadline: LeaseTime) -> Duration {
        let granted = Duration::from_millis(deadline.0.saturating_sub(self.lease_now.0));
        granted.saturating_sub(self.at.elapsed())
    }

    /// Seen again at `lease_now`, if more replicated time has passed since than this node's clock
    /// knows of: a node that catches up applies in a moment what took the leader seconds.
    pub(crate) fn caught_up(self, lease_now: LeaseTime) -> Self {
        let passed = Duration::from_millis(lease_now.0.saturating_sub(self.lease_now.0));
        if passed <= self.at.elapsed() {
            return self;
        }
        let at = Instant::now();
        Self { lease_now, at }
    }
}

/// Bounds of one batch of deliveries.
pub(crate) const BATCH_MESSAGES_MAX: usize = 200;
pub(crate) const BATCH_BYTES_MAX: usize = 256 * 1024;

/// Takes messages off the front of `grant` into `batch` until the batch is full; whether the grant
/// is used up.
pub(crate) fn take(
    bodies: &Bodies,
    grant: &mut Grant,
    seen: Seen,
    resent: bool,
    batch: &mut Vec<Delivery>,
    batch_bytes: &mut usize,
) -> Result<bool, Problem> {
    let Some(entry) = bodies.entry(grant)? else {
        return Ok(true);
    };
    let lease_left = seen.left(grant.deadline);
    while grant.count > 0 {
        if batch.len() >= BATCH_MESSAGES_MAX || *batch_bytes >= BATCH_BYTES_MAX {
            return Ok(false);
        }
        let found = bodies.pick(&entry, grant.queue, grant.first_offset, grant.body)?;
        let Some(stored) = found else {
            advance(grant);
            continue;
        };
        *batch_bytes += stored.message.len();
        batch.push(Delivery {
            queue: grant.queue,
            offset: grant.first_offset,
            fence: grant.first_fence,
            message_id: grant.first_message_id,
            delivery_count: grant.delivery_count,
            lease_left,
            published_at: grant.published_at,
            position: grant.body.position,
            deaths: grant.deaths.clone(),
            resent,
            routing_key: stored.routing_key.to_owned(),
            message: stored.message.clone(),
        });
        advance(grant);
    }
    Ok(true)
}

/// All messages of some grants at once: for answers whose size is bounded by the request.
pub(crate) fn all(
    bodies: &Bodies,
    grants: Vec<Grant>,
    seen: Seen,
) -> Result<Vec<Delivery>, Problem> {
    let mut deliveries = Vec::new();
    for mut grant in grants {
        loop {
            let before = deliveries.len();
            let (mut batch, mut bytes) = (Vec::new(), 0);
            let done = take(bodies, &mut grant, seen, false, &mut batch, &mut bytes)?;
            deliveries.append(&mut batch);
            if done || deliveries.len() == before {
                break;
            }
        }
    }
    Ok(deliveries)
}

fn advance(grant: &mut Grant) {
    let BodyRef { position, item } = grant.body;
    grant.count -= 1;
    grant.first_offset = grant.first_offset.plus(1);
    if grant.first_fence != Fence(0) {
        grant.first_fence = Fence(grant.first_fence.0 + 1);
    }
    grant.first_message_id = MessageId(grant.first_message_id.0 + 1);
    grant.body = BodyRef {
        position,
        item: item + 1,
    };
}

/// Those runs of a grant's messages whose fences are wanted, each with what was said of it.
pub(crate) fn split<T: Copy + PartialEq>(
    mut grant: Grant,
    wanted: impl Fn(Fence) -> Option<T>,
) -> Vec<(Grant, T)> {
    let mut runs = Vec::new();
    while grant.count > 0 {
        let said = wanted(grant.first_fence);
        let mut run = Grant {
            count: 0,
            ..grant.clone()
        };
        while grant.count > 0 && wanted(grant.first_fence) == said {
            run.count += 1;
            advance(&mut grant);
        }
        runs.extend(said.map(|said| (run, said)));
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_split_by_what_is_wanted_of_it() {
        let grant = Grant {
            queue: QueueId(1),
            first_offset: Offset(10),
            count: 5,
            first_fence: Fence(100),
            first_message_id: MessageId(7),
            delivery_count: 1,
            deadline: LeaseTime(1),
            published_at: WallTime(1),
            body: BodyRef {
                position: Position { index: 3, place: 0 },
                item: 4,
            },
            deaths: Vec::new(),
        };
        let runs = split(grant, |fence| (fence.0 != 102).then_some(fence.0 > 103));
        let told: Vec<_> = runs
            .iter()
            .map(|(run, said)| (run.first_offset.0, run.count, run.body.item, *said))
            .collect();
        assert_eq!(
            told,
            [(10, 2, 4, false), (13, 1, 7, false), (14, 1, 8, true)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_of_a_lease_is_the_less_of_two_clocks() {
        let deadline = LeaseTime(31_000);
        let seen = Seen {
            lease_now: LeaseTime(1_000),
            at: Instant::now(),
        };
        let left = |lease_now| {
            seen.caught_up(LeaseTime(lease_now))
                .left(deadline)
                .as_secs()
        };
        assert_eq!((left(1_000), left(9_000)), (30, 22), "it catches up");
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!((left(1_000), left(9_000), left(13_000)), (20, 20, 18));
    }
}
