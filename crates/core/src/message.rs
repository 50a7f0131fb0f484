//! How the state machine speaks of messages, whose bytes it never sees.

use alloc::{string::String, vec::Vec};

use crate::id::{Fence, LeaseTime, MessageId, Offset, Position, QueueId, WallTime};

/// Where a message's bytes are: item `item` of the `Publish` at `position`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BodyRef {
    /// Commit position of the publish.
    pub position: Position,
    /// Place in that publish, from 0.
    pub item: u32,
}

/// Neighbouring messages of one queue that were granted together: message `k` of them has
/// `first_offset + k`, `first_fence + k`, `first_message_id + k` and `body.item + k`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The queue's incarnation.
    pub queue: QueueId,
    /// Offset of the first.
    pub first_offset: Offset,
    /// How many, at least 1.
    pub count: u32,
    /// Fencing number of the first. 0 for all of them where the lease was 0 ms (peek and
    /// release): nothing is held and nothing can be settled.
    pub first_fence: Fence,
    /// Id of the first.
    pub first_message_id: MessageId,
    /// Bytes of the first.
    pub body: BodyRef,
    /// How many times these were granted, this time included.
    pub delivery_count: u32,
    /// When the lease ends unless extended.
    pub deadline: LeaseTime,
    /// When they were published.
    pub published_at: WallTime,
    /// Death history, oldest first; empty but for dead letters. A message with one is always
    /// granted alone (`count` 1).
    pub deaths: Vec<Death>,
}

/// Why a queue gave a message up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeathReason {
    /// A consumer rejected it.
    Rejected,
    /// It failed as often as the queue allows.
    MaxDeliveries,
}

/// One line of a dead letter's history: what happened in one queue for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// Name of the queue that gave it up.
    pub queue: String,
    /// Why.
    pub reason: DeathReason,
    /// How often, from 1.
    pub count: u64,
    /// The first time.
    pub first_time: WallTime,
    /// The last time.
    pub last_time: WallTime,
    /// Key that the message carried in that queue.
    pub routing_key: String,
}
