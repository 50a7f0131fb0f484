//! What can be asked of the state machine. The log holds nothing else.
//!
//! An [`Entry`] is applied so: clocks move by its stamps, then each command in order, then what
//! fell due (at most [`crate::limits::EXPIRIES_PER_ENTRY_MAX`] timers, oldest first). So an ack in
//! the same entry as its expiry wins. An entry without commands is a tick. A queue hands out what
//! is ready after every command and every timer that touched it.
//!
//! Precisely:
//!
//! * Every leased or delayed message is a timer of its own, so is every session in its grace. Due
//!   at the same time: leases by queue and offset, then delays by queue and offset, then sessions.
//!   A session's timer counts each message that it takes back (one if there is none); a session that
//!   holds more than the count allows goes on with the next entry.
//!   After them, as far as the count allows, parked dead letters move whose target is there (or is
//!   no longer set: they are dropped), by source queue and offset.
//! * Touched queues hand out in the order of their ids. A queue has its consumers in a line:
//!   those that are connected and hold less than their prefetch. Whoever becomes able to take
//!   messages goes to its end. The first in line gets up to [`crate::limits::ROUND_ROBIN_QUANTUM`]
//!   messages, and goes to the end if it can take more; who is alone in line gets all in one go.
//! * A grant holds neighbours from one publish (or one dead letter) with equal delivery counts.
//! * Last, [`crate::Event::Ready`] for each queue that is not paused, by id.

use alloc::{string::String, vec::Vec};

use crate::id::{
    BootId, DiskId, Fence, LeaseTime, NodeId, Offset, Owner, ProducerId, QueueId, SessionId,
    WallTime,
};
use crate::settings::{QueueChanges, QueueSettings};

/// One entry of the log: a batch of commands and the proposer's clocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The proposer's clocks.
    pub stamps: Stamps,
    /// Done in this order; each one whole or not at all, independent of its neighbours.
    pub commands: Vec<Command>,
}

/// The proposer's clocks. Apply moves each clock to the larger of its value and the stamp; lease
/// time by at most [`crate::limits::LEASE_STEP_MS_MAX`] per entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamps {
    /// Lease time.
    pub lease_now: LeaseTime,
    /// Wall time.
    pub wall_now: WallTime,
}

/// A command. Answers: [`crate::Outcome`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// First command of a cluster.
    Bootstrap(Bootstrap),
    /// Raises the state machine's version.
    SetVersion(SetVersion),
    /// Makes a namespace.
    CreateNamespace(CreateNamespace),
    /// Removes an empty namespace.
    DeleteNamespace(DeleteNamespace),
    /// Makes a queue.
    CreateQueue(CreateQueue),
    /// Changes a queue's settings.
    UpdateQueue(UpdateQueue),
    /// Removes a queue with all its messages.
    DeleteQueue(DeleteQueue),
    /// Removes a queue's ready messages.
    PurgeQueue(PurgeQueue),
    /// Opens or re-opens a producer.
    OpenProducer(OpenProducer),
    /// Stores messages.
    Publish(Publish),
    /// Leases messages once.
    Receive(Receive),
    /// Attaches a consumer, or moves it here.
    AttachConsumer(AttachConsumer),
    /// Changes a consumer's prefetch.
    SetPrefetch(SetPrefetch),
    /// Ends a consumer's connection.
    DetachConsumer(DetachConsumer),
    /// Ends or prolongs leases.
    Settle(Settle),
    /// A node's process started.
    NodeBooted(NodeBooted),
    /// A node's process is gone, as the leader sees it.
    SessionsLost(SessionsLost),
    /// A node id is taken, for one disk and for ever.
    AdmitNode(AdmitNode),
    /// A node was removed; its id is never used again.
    RetireNode(RetireNode),
}

/// Fixes what a cluster can never change. Done once; again with the same values is
/// [`crate::Outcome::Done`], with others `AlreadyBootstrapped`. Until it is done, every other
/// command is rejected with `NotBootstrapped`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// Identity of the cluster.
    pub cluster_id: u128,
    /// Seed of every hash in the state (retry jitter, digests).
    pub hash_seed: u64,
}

/// Sets the state machine's version. Never lower than it is (`VersionTooLow`), the same is `Done`; a version that
/// this program does not know stops the node before it is applied (see `State::apply`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetVersion {
    /// The new version, from 1.
    pub version: u32,
}

/// Makes a namespace. Is there already: `Done`. Bad name: `InvalidName`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateNamespace {
    /// Its name.
    pub namespace: String,
}

/// Removes a namespace. `NamespaceNotFound`; `NamespaceNotEmpty` while it has queues;
/// `InvalidField` for the default namespace. Producers of the namespace are forgotten with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteNamespace {
    /// Its name.
    pub namespace: String,
}

/// Makes a queue. Is there with the same settings: `Queue { created: false }`; with others:
/// `QueueExists` with the names of the settings that differ. Parked dead letters that wait for
/// this name move in at the end of the entry (and of the next ones, if there are many).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateQueue {
    /// Its namespace; must exist.
    pub namespace: String,
    /// Its name.
    pub queue: String,
    /// Its settings.
    pub settings: QueueSettings,
}

/// Changes settings. They hold from now on: running leases and delays keep their times, a message
/// over a lowered `max_deliveries` is given up at its next failure. Another dead-letter target
/// sets parked messages free: they move to it if it is there, or are dropped if there is none any
/// more. The revision grows if anything changed. Answer: `Queue`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateQueue {
    /// The queue's namespace.
    pub namespace: String,
    /// The queue's name.
    pub queue: String,
    /// What changes.
    pub changes: QueueChanges,
    /// When given, the revision that the queue must have, else `RevisionMismatch`.
    pub revision: Option<u64>,
}

/// Removes a queue. Consumers on it end, in the order of their ids; its messages are gone; answer:
/// `Deleted`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteQueue {
    /// The queue's namespace.
    pub namespace: String,
    /// The queue's name.
    pub queue: String,
    /// Refuse with `QueueNotEmpty` while any message is in it, in any state.
    pub if_empty: bool,
}

/// Removes ready messages, and delayed ones if asked; never what is in flight or parked. One command
/// removes at most [`crate::limits::PURGE_SPANS_MAX`] neighbourhoods and
/// [`crate::limits::PURGE_MESSAGES_MAX`] messages, the ready ones first, by their offsets: apply waits
/// for nobody long. Answer: `Purged` with the count, and what is left over for another command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PurgeQueue {
    /// The queue's namespace.
    pub namespace: String,
    /// The queue's name.
    pub queue: String,
    /// Also remove delayed messages.
    pub include_delayed: bool,
    /// What an earlier command left over; none: all that is there now.
    pub rest: Option<PurgeRest>,
}

/// Messages that a purge left over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PurgeRest {
    /// The incarnation of the queue. If the name is another's by now, nothing is left.
    pub queue: QueueId,
    /// The first offset that was not there yet when the purge began.
    pub below: Offset,
}

/// Opens a producer. Without a name: a new producer `fresh_id` at epoch 1. With a name that is
/// known in the namespace: the same id, epoch + 1, which fences the older one; with a name that is
/// not: as a new one. `TooManyProducers` at the cap. Asking again with a `fresh_id` that is
/// already a producer's answers as the first time (a retry), with the last sequence as it is now;
/// if that producer has another name or namespace: `InvalidField`. A `fresh_id` that already
/// *opened* an epoch of a named producer answers with that epoch again and raises nothing; the
/// last [`crate::limits::PRODUCER_OPENERS_MAX`] are known. Answer: `Producer`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenProducer {
    /// The producer's namespace; must exist.
    pub namespace: String,
    /// Its name, or none.
    pub name: Option<String>,
    /// Random, from the node that took the request.
    pub fresh_id: ProducerId,
}

/// Stores messages. Per message, in this order: an idempotent producer's check (see
/// [`ProducerSequence`]), then routing on the default exchange: key = name of a queue of the
/// namespace, else `Unroutable` if the run is `mandatory`, and without that flag the message is
/// accepted, counted as unroutable, gets an id, and is kept nowhere.
///
/// `atomic`: one refusal refuses all, and the answer names each refused message; duplicates count
/// as accepted; what is not wrong in itself is `BatchRefused`, and a message behind one that is
/// only unroutable is not called out of sequence for that. Otherwise each message stands alone. A
/// refused message consumes no sequence and no id. Answer: `Published`. Zero or too many messages:
/// `InvalidField`. No namespace: `NamespaceNotFound`. A publish of which anything is accepted
/// counts as use of its producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Namespace of producer and queues.
    pub namespace: String,
    /// The idempotent producer, or none.
    pub producer: Option<ProducerSequence>,
    /// All or nothing.
    pub atomic: bool,
    /// The messages, neighbours with the same routing together.
    pub runs: Vec<PublishRun>,
}

/// An idempotent producer's claim: message `k` of the publish has sequence `first_sequence + k`
/// and digest `digests[k]` (as many digests as messages, else `InvalidField`).
///
/// Order of checks per message: producer of that namespace unknown and sequence not 1:
/// `UnknownProducer` — unknown and sequence 1 too, since ids are handed out by `OpenProducer` and a
/// forgotten one is not new; older epoch: `ProducerFenced`; epoch never opened: `InvalidField`;
/// sequence 0: `InvalidField`; next in sequence: accept; seen before and same digest: accepted as
/// duplicate with the first id; seen before and other digest: `SequenceReused`; seen before but no
/// longer remembered: duplicate without id (0); a gap: `OutOfSequence` with the expected sequence.
/// A new epoch goes on with the sequence where the old one stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerSequence {
    /// The producer.
    pub id: ProducerId,
    /// The epoch that it was opened with.
    pub epoch: u32,
    /// Sequence of the first message, from 1.
    pub first_sequence: u64,
    /// Digest of each message: its routing, headers, properties and body.
    pub digests: Vec<u64>,
}

/// Neighbouring messages with the same routing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishRun {
    /// Routing key: on the default exchange the queue's name.
    pub routing_key: String,
    /// How many messages, at least 1.
    pub count: u32,
    /// Their stored bytes together, for the counters.
    pub bytes: u64,
    /// Refuse what reaches no queue.
    pub mandatory: bool,
}

/// Leases up to `max_messages` ready messages at once, in order, to nobody's session. An `attempt`
/// that was answered with messages within [`crate::limits::ATTEMPT_MEMORY_MS`] is answered with
/// those of them whose leases are still held under the same fence (with their present deadlines)
/// and leases nothing new; an answer without messages is not remembered. `lease_ms` 0 shows
/// messages and leases nothing (delivery count as if granted, fence 0), and is not remembered: a
/// repeated attempt shows what is ready then. A paused queue gives nothing. Answer: `Received`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receive {
    /// The queue's namespace.
    pub namespace: String,
    /// The queue's name.
    pub queue: String,
    /// 1..=[`crate::limits::RECEIVE_MESSAGES_MAX`].
    pub max_messages: u32,
    /// `None` = the queue's.
    pub lease_ms: Option<u64>,
    /// 1..=[`crate::limits::ATTEMPT_ID_BYTES_MAX`] bytes, made by the client.
    pub attempt: Vec<u8>,
}

/// Attaches a consumer to a queue, or, for a session that is known, moves it to `owner` with its
/// leases and takes over `prefetch` and `lease_ms`; `InvalidField` if a known session is on
/// another queue, `SessionNotFound` if a later connection of the same process has it already.
/// Answer: `Attached` with what it holds; [`crate::Event::SessionMoved`] if the owner is another
/// one now. From now on the queue hands it ready messages while it holds fewer than `prefetch`, in
/// turn with the queue's other consumers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachConsumer {
    /// The queue's namespace.
    pub namespace: String,
    /// The queue's name.
    pub queue: String,
    /// The session.
    pub session: SessionId,
    /// Who serves it.
    pub owner: Owner,
    /// Most unsettled deliveries, 1..=[`crate::limits::PREFETCH_MAX`].
    pub prefetch: u32,
    /// 1..=[`crate::limits::LEASE_MS_MAX`]; `None` = the queue's.
    pub lease_ms: Option<u64>,
}

/// Changes a consumer's prefetch; below what it holds, it gets nothing until it settled enough; 0
/// stops deliveries (used to drain). Not attached with this owner, or in its grace:
/// `SessionNotFound`. Answer: `Done`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetPrefetch {
    /// The session.
    pub session: SessionId,
    /// Who serves it.
    pub owner: Owner,
    /// 0..=[`crate::limits::PREFETCH_MAX`].
    pub prefetch: u32,
}

/// A consumer's connection ended. `release`: the session ends, what it held goes back at once and
/// without penalty. Otherwise it gets nothing more and has [`crate::limits::SESSION_GRACE_MS`] to
/// attach again, after which the session ends and what it holds goes back as failed. Owner does
/// not match: `SessionNotFound`, nothing changes. In its grace already: it goes on as it was,
/// unless `release` ends it. Answer: `Done`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetachConsumer {
    /// The session.
    pub session: SessionId,
    /// Who served it.
    pub owner: Owner,
    /// Give back without penalty.
    pub release: bool,
}

/// Settles leases, each range on its own. Answer: `Settled` with what was not OK. No range or too
/// many: `InvalidField`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settle {
    /// The ranges, in this order.
    pub ranges: Vec<SettleRange>,
}

/// Neighbouring leases with the same fate: `k`-th is `first_offset + k` with `first_fence + k`.
/// Queue gone or offset never used: `NotFound`. Lease current: done. Settled for good (ack,
/// reject, or an ordinary give-up through this very fence's nack) under this fence within
/// [`crate::limits::SETTLED_MEMORY_MS`]: `AlreadySettled`; any other fence of a message that
/// exists or is still remembered: `LeaseLost`; no longer remembered: `NotFound`. So is at once what
/// left without a settle: given up by expiry, purged. A parked message was settled by what parked
/// it. Memory is kept in steps of [`crate::limits::SETTLED_BUCKET_MS`] and lasts from the end of
/// the step, so never less than promised. Bounds of range or kind not held: `Invalid`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettleRange {
    /// The queue's incarnation.
    pub queue: QueueId,
    /// The first offset.
    pub first_offset: Offset,
    /// How many, at least 1; a range of 0 or past the largest offset or fence is `Invalid`.
    pub count: u32,
    /// The first fence.
    pub first_fence: Fence,
    /// What happens to them.
    pub kind: SettleKind,
}

/// How a lease ends or goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleKind {
    /// Done: the message is removed.
    Ack,
    /// Failed: ready again at its old place after `delay_ms` (`None` = the queue's backoff, else
    /// at once), or given up if that was the last delivery allowed.
    Nack {
        /// 0..=[`crate::limits::DELAY_MS_MAX`].
        delay_ms: Option<u64>,
    },
    /// Given up now.
    Reject,
    /// Back to its old place at once; this delivery does not count.
    Release,
    /// The lease ends `lease_ms` from now instead (never earlier than now); 1..=max.
    Extend {
        /// 1..=[`crate::limits::LEASE_MS_MAX`].
        lease_ms: u64,
    },
}

/// A node's process started: sessions of that node's other boots lose their connection (grace
/// starts, as in [`DetachConsumer`]). Answer: `Done`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeBooted {
    /// The node.
    pub node: NodeId,
    /// Its new boot.
    pub boot: BootId,
}

/// The leader lost sight of a node's process: its sessions lose their connection (grace starts).
/// Answer: `Done`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionsLost {
    /// The node.
    pub node: NodeId,
    /// The boot that is gone.
    pub boot: BootId,
}

/// Takes a node id for a disk, before the node has any part in the cluster: what a node has voted
/// and acknowledged is on its disk, so the same id on another disk would break both promises. Known
/// with this disk: `Done`. Known with another, or retired: `NodeIdUsed`. Id 0: `InvalidField`. As
/// many ids as may be remembered: `TooMany`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmitNode {
    /// The id.
    pub node: NodeId,
    /// The disk.
    pub disk: DiskId,
}

/// Ends the use of a node id, known before or not: all its sessions lose their connection (grace
/// starts), and it is never admitted again. Answer: `Done`. Id 0: `InvalidField`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetireNode {
    /// The id.
    pub node: NodeId,
}
