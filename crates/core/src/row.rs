//! The state as rows: what a checkpoint and a snapshot file hold.
//!
//! Rows are values with typed keys and no bytes; how they look on disk is the business of the
//! store's own records. Whatever is not here is derived from these rows when they are read back
//! (timers, rings' order, live counts of runs), so nothing is stored twice and can disagree.
//!
//! [`crate::State::rows`] gives all, [`crate::State::drain_changes`] the net difference since it
//! was last asked, [`crate::State::restore`] reads them back.

use alloc::{string::String, vec::Vec};

use crate::id::{
    DiskId, Fence, LeaseTime, MessageId, NodeId, Offset, Owner, ProducerId, QueueId, SessionId,
    WallTime,
};
use crate::message::{BodyRef, Death, DeathReason};
use crate::settings::QueueSettings;

/// Which row. The order is that of [`crate::State::rows`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowKey {
    /// The one row of the cluster as a whole: [`Row::Meta`].
    Meta,
    /// A namespace, by name: [`Row::Namespace`].
    Namespace(String),
    /// A producer: [`Row::Producer`].
    Producer(ProducerId),
    /// What a producer stored last, in chunks: sequence `s` is in chunk
    /// `(s - 1) / PRODUCER_CHUNK`: [`Row::ProducerChunk`].
    ProducerChunk(ProducerId, u64),
    /// A queue: [`Row::Queue`].
    Queue(QueueId),
    /// A consumer's session: [`Row::Session`].
    Session(SessionId),
    /// Neighbouring messages from one publish, by first offset: [`Row::Run`]. Read, but no longer
    /// written: [`RowKey::Runs`] took its place.
    Run(QueueId, Offset),
    /// Neighbouring ready messages, by first offset: [`Row::Ready`]. Read, but no longer written:
    /// [`RowKey::ReadySpans`] took its place.
    Ready(QueueId, Offset),
    /// Neighbouring leased messages, by first offset: [`Row::Lease`].
    Lease(QueueId, Offset),
    /// How often neighbouring messages that are not in flight were granted before, if they were, by
    /// first offset: [`Row::Returned`]. Read, but no longer written.
    Returned(QueueId, Offset),
    /// Neighbouring messages delayed to the same time, by first offset: [`Row::Delayed`]. Read, but no
    /// longer written.
    Delayed(QueueId, Offset),
    /// A parked dead letter: [`Row::Parked`].
    Parked(QueueId, Offset),
    /// A dead letter's history: [`Row::Deaths`].
    Deaths(QueueId, Offset),
    /// Settled messages still remembered, by bucket of lease time and first offset:
    /// [`Row::Settled`]. Read, but no longer written.
    Settled(QueueId, u64, Offset),
    /// A receive attempt still remembered, in the order of their answers: [`Row::Attempt`].
    Attempt(QueueId, u64),
    /// Neighbouring messages from several publishes, by first offset: [`Row::Runs`].
    Runs(QueueId, Offset),
    /// A node id that was ever taken: [`Row::Node`].
    Node(NodeId),
    /// Ready messages, by the first offset of a block of [`crate::limits::SPAN_BLOCK`]:
    /// [`Row::Spans`]; the same holds for the kinds that follow. The value is 0.
    ReadySpans(QueueId, Offset),
    /// How often messages that are not in flight were granted before, if they were.
    ReturnedSpans(QueueId, Offset),
    /// When delayed messages are ready again, in ms of lease time.
    DelayedSpans(QueueId, Offset),
    /// Settled messages still remembered, by bucket of lease time too. The value is what their fences
    /// are beyond their offsets, modulo 2^64.
    SettledSpans(QueueId, u64, Offset),
}

/// The value of a row; which variant belongs to which key is told at [`RowKey`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// The cluster as a whole.
    Meta(MetaRow),
    /// A namespace: its being there is all there is to know.
    Namespace,
    /// A producer.
    Producer(ProducerRow),
    /// Up to [`crate::limits::PRODUCER_CHUNK`] stored messages, ascending by sequence.
    ProducerChunk(Vec<Remembered>),
    /// A queue. Boxed because it is much larger than its neighbours.
    Queue(alloc::boxed::Box<QueueRow>),
    /// A session.
    Session(SessionRow),
    /// Messages from one publish.
    Run(RunRow),
    /// How many messages from the key's offset on are ready.
    Ready(u64),
    /// Leased messages.
    Lease(LeaseRow),
    /// How many messages from the key's offset on, and their deliveries so far.
    Returned(Span<u32>),
    /// How many messages from the key's offset on, and when they are ready again.
    Delayed(Span<LeaseTime>),
    /// Why and since when it is parked.
    Parked(ParkedRow),
    /// History, oldest first.
    Deaths(Vec<Death>),
    /// Settled messages.
    Settled(SettledRow),
    /// A receive attempt.
    Attempt(AttemptRow),
    /// Messages from several publishes. Stays until the last of them has left.
    Runs(Vec<RunSeries>),
    /// A node id.
    Node(NodeRow),
    /// Spans that begin in one block, ascending, at least one. They do not overlap.
    Spans(Vec<Piece>),
}

/// A node id that was ever taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeRow {
    /// The disk that it belongs to.
    pub disk: DiskId,
    /// It was removed from the cluster.
    pub retired: bool,
}

/// The cluster as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetaRow {
    /// Log index up to which these rows hold.
    pub applied_index: u64,
    /// Replicated lease time.
    pub lease_now: LeaseTime,
    /// Replicated wall time.
    pub wall_now: WallTime,
    /// Running digest of everything answered so far.
    pub digest: u64,
    /// Version of the state machine; 0 before bootstrap.
    pub version: u32,
    /// Identity of the cluster and seed of its hashes; none before bootstrap.
    pub bootstrap: Option<(u128, u64)>,
    /// Incarnation that the next queue gets.
    pub next_queue: QueueId,
    /// Id that the next message gets.
    pub next_message_id: MessageId,
    /// Messages accepted that reached no queue.
    pub unroutable: u64,
}

/// An idempotent producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerRow {
    /// Its namespace.
    pub namespace: String,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Newest epoch.
    pub epoch: u32,
    /// Who opened the last epochs, oldest first: (fresh id of the request, epoch).
    pub openers: Vec<(ProducerId, u32)>,
    /// Last sequence stored.
    pub last_sequence: u64,
    /// First sequence whose digest and id are remembered; those before answer without id.
    pub first_remembered: u64,
    /// Last use, rounded down to [`crate::limits::PRODUCER_USE_STEP_MS`].
    pub used_at: WallTime,
}

/// One message that a producer stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Digest that it came with.
    pub digest: u64,
    /// Id that it got.
    pub message_id: MessageId,
}

/// A queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueRow {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Changes of settings, from 1.
    pub revision: u64,
    /// Its settings.
    pub settings: QueueSettings,
    /// What came and went.
    pub counters: Counters,
    /// Offset that the next message gets; so many messages arrived.
    pub next_offset: Offset,
    /// Fence that the next grant gets.
    pub next_fence: Fence,
    /// Turn that the next consumer in line gets.
    pub next_turn: u64,
    /// Number that the next remembered receive attempt gets.
    pub next_attempt: u64,
}

/// What came and went in a queue, ever. At every index: `published + dead_lettered_in` =
/// `acknowledged + dead_lettered_out + expired + dropped + purged` + what is in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Stored by publishes.
    pub published: u64,
    /// Their bytes.
    pub published_bytes: u64,
    /// Dead letters that other queues (or this one) sent here.
    pub dead_lettered_in: u64,
    /// Grants of messages, each delivery counted.
    pub granted: u64,
    /// Of these, grants of messages that had been granted before.
    pub redelivered: u64,
    /// Leases that ended because their time did or their session did, without release.
    pub leases_expired: u64,
    /// Acknowledged.
    pub acknowledged: u64,
    /// Given up and moved to the dead-letter target.
    pub dead_lettered_out: u64,
    /// Removed by a time to live (none yet).
    pub expired: u64,
    /// Given up with no dead-letter target set.
    pub dropped: u64,
    /// Removed by purges.
    pub purged: u64,
}

/// A consumer's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// The queue that it consumes.
    pub queue: QueueId,
    /// Who serves it, or last did.
    pub owner: Owner,
    /// Most unsettled deliveries.
    pub prefetch: u32,
    /// Lease that it asked for; `None` = the queue's.
    pub lease_ms: Option<u64>,
    /// Its place in line while it can take messages.
    pub turn: Option<u64>,
    /// When it ends unless it attaches again; `None` while it is connected.
    pub grace_until: Option<LeaseTime>,
}

/// Neighbouring messages of one queue from one publish: message `k` has `first_message_id + k`
/// and `body.item + k`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunRow {
    /// How many there were at first.
    pub count: u32,
    /// Id of the first.
    pub first_message_id: MessageId,
    /// Bytes of the first.
    pub body: BodyRef,
    /// When they were published.
    pub published_at: WallTime,
    /// Stored bytes of all `count` together.
    pub bytes: u64,
}

/// Runs that follow each other at equal steps: run `k` is [`RunSeries::run`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunSeries {
    /// The first of them.
    pub first: RunRow,
    /// How many runs, at least 1.
    pub runs: u32,
    /// From the first id of one to that of the next; 0 if there is but one.
    pub id_step: u64,
    /// From the publish of one to that of the next, in their entry; 0 if there is but one.
    pub place_step: u32,
}

impl RunSeries {
    /// A run alone.
    #[must_use]
    pub fn one(run: RunRow) -> Self {
        Self {
            first: run,
            runs: 1,
            id_step: 0,
            place_step: 0,
        }
    }

    /// The `k`-th run.
    #[must_use]
    pub fn run(&self, k: u32) -> RunRow {
        let mut run = self.first;
        let further = self.id_step.wrapping_mul(u64::from(k));
        run.first_message_id.0 = run.first_message_id.0.wrapping_add(further);
        let place = &mut run.body.position.place;
        *place = place.wrapping_add(self.place_step.wrapping_mul(k));
        run
    }

    /// Messages of all of them.
    #[must_use]
    pub fn messages(&self) -> u64 {
        u64::from(self.runs).saturating_mul(u64::from(self.first.count))
    }

    /// Bytes of the first `n` messages: each run's are shared evenly, and add up to all.
    #[must_use]
    pub fn bytes_before(&self, n: u64) -> u64 {
        let count = u64::from(self.first.count);
        let (Some(runs), Some(rest)) = (n.checked_div(count), n.checked_rem(count)) else {
            return 0;
        };
        let part = crate::queue::share(self.first.bytes, rest, count);
        self.first.bytes.saturating_mul(runs).saturating_add(part)
    }
}

/// Neighbouring messages that have something in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span<V> {
    /// How many, at least 1.
    pub count: u64,
    /// What they have in common.
    pub value: V,
}

/// A [`Span`] as a row of its block tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins, from the block's first offset on.
    pub at: u8,
    /// How many messages, at least 1; they may go on beyond the block.
    pub count: u64,
    /// What they have in common; which number that is depends on the row's key.
    pub value: u64,
}

/// Neighbouring messages under one lease: message `k` has `first_fence + k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRow {
    /// How many.
    pub count: u32,
    /// Fence of the first.
    pub first_fence: Fence,
    /// The holder; `None` for a receive.
    pub session: Option<SessionId>,
    /// When it ends.
    pub deadline: LeaseTime,
    /// Deliveries, this one included.
    pub delivery_count: u32,
}

/// A dead letter whose target is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParkedRow {
    /// Why it was given up.
    pub reason: DeathReason,
    /// When it was given up; becomes the death's time once it moves.
    pub at: WallTime,
}

/// Neighbouring messages that were settled under `first_fence + k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettledRow {
    /// How many.
    pub count: u64,
    /// Fence of the first.
    pub first_fence: Fence,
}

/// What a receive attempt was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRow {
    /// The client's id.
    pub id: Vec<u8>,
    /// When it was answered.
    pub answered_at: LeaseTime,
    /// The leases that it got.
    pub leases: Vec<AttemptRange>,
}

/// Neighbouring leases of a receive attempt: `k`-th has `first_fence + k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptRange {
    /// First offset.
    pub first_offset: Offset,
    /// How many.
    pub count: u32,
    /// First fence.
    pub first_fence: Fence,
}
