//! What queues have in common: clocks, sessions, timers, bodies, and the events of an entry.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use crate::event::Event;
use crate::id::{LeaseTime, Offset, QueueId, SessionId, WallTime};
use crate::limits;
use crate::live::LiveBodies;
use crate::message::BodyRef;
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

/// How many live messages, of how many bytes, refer to each bucket of log indexes; and, while a survey
/// runs, which messages moved.
#[derive(Default)]
pub(crate) struct Bodies {
    buckets: BTreeMap<u64, LiveBodies>,
    /// Bodies of messages that moved from queue to queue since the survey began; none without one.
    moved: Option<Vec<BodyRef>>,
}

impl Bodies {
    pub(crate) fn add(&mut self, index: u64, messages: u64, bytes: u64) {
        let bucket = index / limits::BODY_BUCKET_INDEXES;
        let live = self.buckets.entry(bucket).or_default();
        live.messages = live.messages.saturating_add(messages);
        live.bytes = live.bytes.saturating_add(bytes);
    }

    pub(crate) fn sub(&mut self, index: u64, messages: u64, bytes: u64) {
        let bucket = index / limits::BODY_BUCKET_INDEXES;
        if let Some(live) = self.buckets.get_mut(&bucket) {
            live.messages = live.messages.saturating_sub(messages);
            live.bytes = live.bytes.saturating_sub(bytes);
            if live.messages == 0 {
                self.buckets.remove(&bucket);
            }
        }
    }

    /// Live messages in at most so many buckets of an index range, and where to go on.
    pub(crate) fn live_in(
        &self,
        first_index: u64,
        last_index: u64,
        buckets_max: usize,
    ) -> (LiveBodies, Option<u64>) {
        let mut sum = LiveBodies::default();
        if first_index > last_index {
            return (sum, None);
        }
        let first = first_index / limits::BODY_BUCKET_INDEXES;
        let last = last_index / limits::BODY_BUCKET_INDEXES;
        let mut buckets = self.buckets.range(first..=last);
        for (_, live) in buckets.by_ref().take(buckets_max) {
            sum.messages = sum.messages.saturating_add(live.messages);
            sum.bytes = sum.bytes.saturating_add(live.bytes);
        }
        let next = buckets.next();
        let next = next.map(|(bucket, _)| bucket.saturating_mul(limits::BODY_BUCKET_INDEXES));
        (sum, next)
    }

    /// From now on, notes what moves.
    pub(crate) fn watch_moves(&mut self) {
        self.moved = Some(Vec::new());
    }

    /// A message moves from queue to queue.
    pub(crate) fn note_move(&mut self, body: BodyRef) {
        if let Some(moved) = &mut self.moved {
            moved.push(body);
            if moved.len() > limits::SURVEY_MOVES_MAX {
                self.moved = None;
            }
        }
    }

    /// What moved; none if it was not watched all the time.
    pub(crate) fn take_moves(&mut self) -> Option<Vec<BodyRef>> {
        self.moved.take()
    }

    pub(crate) fn any_live(&self, first_index: u64, last_index: u64) -> bool {
        let first = first_index / limits::BODY_BUCKET_INDEXES;
        let last = last_index / limits::BODY_BUCKET_INDEXES;
        first_index <= last_index && self.buckets.range(first..=last).next().is_some()
    }

    /// Where the live ones are, first and last index of each run of buckets, ascending.
    pub(crate) fn live_runs(&self) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for bucket in self.buckets.keys() {
            let first = bucket.saturating_mul(limits::BODY_BUCKET_INDEXES);
            let last = first.saturating_add(limits::BODY_BUCKET_INDEXES - 1);
            match runs.last_mut() {
                Some((_, end)) if *end != u64::MAX && *end + 1 == first => *end = last,
                _ => runs.push((first, last)),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_live_as_long_as_a_message_refers_to_them() {
        let mut bodies = Bodies::default();
        bodies.add(100, 3, 30);
        bodies.add(101, 1, 5);
        assert!(bodies.any_live(90, 110));
        assert!(!bodies.any_live(0, 63));
        assert!(!bodies.any_live(110, 90));
        let live = LiveBodies {
            messages: 4,
            bytes: 35,
        };
        assert_eq!(bodies.live_in(0, u64::MAX, usize::MAX), (live, None));
        bodies.sub(100, 3, 30);
        assert!(bodies.any_live(64, 127));
        bodies.sub(101, 1, 5);
        assert!(!bodies.any_live(0, u64::MAX));
        assert!(bodies.live_runs().is_empty());
    }

    #[test]
    fn live_bodies_are_counted_a_few_buckets_at_a_time() {
        let mut bodies = Bodies::default();
        for index in [5, 64, 700] {
            bodies.add(index, 1, 10);
        }
        let of = |messages| LiveBodies {
            messages,
            bytes: 10 * messages,
        };
        assert_eq!(bodies.live_in(0, 1_000, 2), (of(2), Some(640)));
        assert_eq!(bodies.live_in(640, 1_000, 2), (of(1), None));
        assert_eq!(bodies.live_in(0, 100, 2), (of(2), None));
    }

    #[test]
    fn neighbouring_buckets_are_one_run() {
        let mut bodies = Bodies::default();
        for index in [5, 64, 100, 700, u64::MAX] {
            bodies.add(index, 1, 1);
        }
        let last = (u64::MAX - 63, u64::MAX);
        assert_eq!(bodies.live_runs(), [(0, 127), (640, 703), last]);
    }
}
