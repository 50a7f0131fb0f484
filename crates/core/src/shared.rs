//! What queues have in common: clocks, sessions, timers, bodies, and the events of an entry.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use crate::event::Event;
use crate::id::{LeaseTime, Offset, QueueId, SessionId, WallTime};
use crate::limits;
use crate::row::RowKey;
use crate::session::Session;
use crate::tracked::Tracked;

/// What falls due by lease time. Due at once: in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The leases of the range that begins here end.
    Lease(QueueId, Offset),
    /// A delayed message is ready.
    Delay(QueueId, Offset),
    /// A session without connection ends.
    Grace(SessionId),
}

/// What is forgotten by lease time. Nobody sees it happen, since whoever asks compares times; so
/// it needs no ticks and is done when an entry comes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Memory {
    /// A bucket of settled messages.
    Settled(QueueId, u64),
    /// A receive attempt.
    Attempt(QueueId, u64),
}

/// See the top of the file.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) lease_now: LeaseTime,
    pub(crate) wall_now: WallTime,
    pub(crate) hash_seed: u64,
    pub(crate) sessions: Tracked<SessionId, Session>,
    /// Exact: an entry goes with its cause.
    pub(crate) timers: BTreeSet<(LeaseTime, Timer)>,
    /// Exact too.
    pub(crate) memory: BTreeSet<(LeaseTime, Memory)>,
    pub(crate) bodies: Bodies,
    /// Of the entry being applied.
    pub(crate) events: Vec<Event>,
    /// Queues that may have to hand out messages after the present command or timer.
    pub(crate) to_hand_out: Touched,
    /// Queues changed by the present entry.
    pub(crate) touched: Touched,
    /// Queues changed since rows were last drained.
    pub(crate) dirty: BTreeSet<QueueId>,
    /// Stored rows whose owner is gone since.
    pub(crate) gone: Vec<RowKey>,
    /// The first broken invariant; the node stops at the end of the entry.
    pub(crate) broken: Option<String>,
}

impl Shared {
    /// Notes that a queue is about to change.
    pub(crate) fn touch(&mut self, queue: QueueId) {
        self.to_hand_out.note(queue);
        self.touched.note(queue);
    }

    /// Notes a broken invariant. Code goes on as if nothing happened; the entry is never answered.
    pub(crate) fn halt(&mut self, reason: &str) {
        if self.broken.is_none() {
            self.broken = Some(String::from(reason));
        }
    }
}

/// Queues to look at once, in the order of their ids; noting one that was just noted is cheap.
#[derive(Default)]
pub(crate) struct Touched {
    ids: Vec<QueueId>,
}

impl Touched {
    fn note(&mut self, queue: QueueId) {
        if self.ids.last() != Some(&queue) {
            self.ids.push(queue);
        }
    }

    /// All of them, to be given back with [`Touched::reuse`]. It is empty now.
    pub(crate) fn take(&mut self) -> Vec<QueueId> {
        let mut ids = core::mem::take(&mut self.ids);
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Keeps the memory of a list that was taken, for the next ones.
    pub(crate) fn reuse(&mut self, mut ids: Vec<QueueId>) {
        if self.ids.is_empty() {
            ids.clear();
            self.ids = ids;
        }
    }
}

/// How many live messages refer to each bucket of log indexes.
#[derive(Default)]
pub(crate) struct Bodies {
    buckets: BTreeMap<u64, u64>,
}

impl Bodies {
    pub(crate) fn add(&mut self, index: u64, messages: u64) {
        let live = self
            .buckets
            .entry(index / limits::BODY_BUCKET_INDEXES)
            .or_insert(0);
        *live = live.saturating_add(messages);
    }

    pub(crate) fn sub(&mut self, index: u64, messages: u64) {
        let bucket = index / limits::BODY_BUCKET_INDEXES;
        if let Some(live) = self.buckets.get_mut(&bucket) {
            *live = live.saturating_sub(messages);
            if *live == 0 {
                self.buckets.remove(&bucket);
            }
        }
    }

    pub(crate) fn any_live(&self, first_index: u64, last_index: u64) -> bool {
        let first = first_index / limits::BODY_BUCKET_INDEXES;
        let last = last_index / limits::BODY_BUCKET_INDEXES;
        first_index <= last_index && self.buckets.range(first..=last).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_live_as_long_as_a_message_refers_to_them() {
        let mut bodies = Bodies::default();
        bodies.add(100, 3);
        bodies.add(101, 1);
        assert!(bodies.any_live(90, 110));
        assert!(!bodies.any_live(0, 63));
        assert!(!bodies.any_live(110, 90));
        bodies.sub(100, 3);
        assert!(bodies.any_live(64, 127));
        bodies.sub(101, 1);
        assert!(!bodies.any_live(0, u64::MAX));
    }
}
