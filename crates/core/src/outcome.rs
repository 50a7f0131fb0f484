//! What the state machine answers.

use alloc::{string::String, vec::Vec};

use crate::command::PurgeRest;
use crate::id::{MessageId, NodeId, Offset, ProducerId, QueueId};
use crate::message::Grant;

/// Answer to one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, nothing to tell.
    Done,
    /// Not done; nothing changed.
    Rejected(Rejection),
    /// A queue as it is after the command.
    Queue {
        /// Its incarnation.
        id: QueueId,
        /// Counts changes of settings, from 1.
        revision: u64,
        /// Made by this command.
        created: bool,
    },
    /// A queue was removed.
    Deleted {
        /// Messages that went with it.
        messages: u64,
    },
    /// Messages were removed.
    Purged {
        /// How many.
        messages: u64,
        /// What is left over; none if that was all.
        rest: Option<PurgeRest>,
    },
    /// A producer is open.
    Producer {
        /// Its id.
        id: ProducerId,
        /// Its epoch, from 1.
        epoch: u32,
        /// The last sequence stored, 0 at first.
        last_sequence: u64,
    },
    /// Messages were stored, or not. Every item is in exactly one of the two.
    Published {
        /// Ranges of accepted items, ascending.
        accepted: Vec<AcceptedRange>,
        /// Refused items, ascending. For an atomic publish: if this is not empty, `accepted` is.
        refused: Vec<RefusedItem>,
    },
    /// Messages were leased; may be empty.
    Received {
        /// In queue order.
        grants: Vec<Grant>,
    },
    /// A consumer is attached.
    Attached {
        /// The queue's incarnation.
        queue: QueueId,
        /// Known before: it came back or moved.
        resumed: bool,
        /// What it already held when it came back, in queue order; events do not repeat it.
        held: Vec<Grant>,
    },
    /// Leases were settled, but for these.
    Settled {
        /// What was not OK, in request order.
        exceptions: Vec<SettleException>,
    },
}

/// Items of a publish that were accepted alike: item `first_item + k` has id
/// `first_message_id + k` (0 for all of them where the id is no longer remembered).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedRange {
    /// First item.
    pub first_item: u32,
    /// How many.
    pub count: u32,
    /// Id of the first, or 0.
    pub first_message_id: MessageId,
    /// Queues that each was put in: 1, or 0 where it reached none. For duplicates 0.
    pub queues: u32,
    /// These were stored before.
    pub duplicate: bool,
}

/// One item of a publish that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedItem {
    /// Which.
    pub item: u32,
    /// Why.
    pub rejection: Rejection,
}

/// Leases of one range of a settle that were not OK, neighbours with one status together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettleException {
    /// Place of the range in the command.
    pub range: u32,
    /// First offset.
    pub first_offset: Offset,
    /// How many.
    pub count: u32,
    /// What.
    pub status: SettleStatus,
}

/// Why a settle was not OK. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SettleStatus {
    /// Settled before, under the same fence.
    AlreadySettled,
    /// The lease ended; someone else may hold or have settled the message.
    LeaseLost,
    /// No such queue or message.
    NotFound,
    /// The range or kind is out of bounds.
    Invalid,
}

/// Why a command was not done. A value, with what a caller needs to act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The cluster has no `Bootstrap` yet.
    NotBootstrapped,
    /// Bootstrapped with other values.
    AlreadyBootstrapped,
    /// The state machine is at this version already.
    VersionTooLow {
        /// Where it is.
        current: u32,
    },
    /// A field is out of bounds.
    InvalidField {
        /// The field, as in the command (`prefetch`, `settings.lease_ms`).
        field: &'static str,
        /// What it must be.
        must: &'static str,
    },
    /// A name is empty, too long, reserved, or holds control characters.
    InvalidName {
        /// The field (`namespace`, `queue`, `name`).
        field: &'static str,
        /// What a name must be.
        must: &'static str,
    },
    /// No such namespace.
    NamespaceNotFound {
        /// Its name.
        namespace: String,
    },
    /// It still has queues.
    NamespaceNotEmpty {
        /// How many.
        queues: u64,
    },
    /// No such queue.
    QueueNotFound {
        /// Its namespace.
        namespace: String,
        /// Its name.
        queue: String,
    },
    /// There with other settings.
    QueueExists {
        /// Names of the settings that differ, as in [`crate::QueueSettings`].
        differs: Vec<&'static str>,
    },
    /// It still has messages.
    QueueNotEmpty {
        /// How many, in any state.
        messages: u64,
    },
    /// The queue changed meanwhile.
    RevisionMismatch {
        /// Where it is.
        current: u64,
    },
    /// A mandatory message reached no queue.
    Unroutable {
        /// Its key.
        routing_key: String,
    },
    /// A newer epoch of this producer was opened.
    ProducerFenced {
        /// The newest epoch.
        current_epoch: u32,
    },
    /// Never opened, or forgotten.
    UnknownProducer,
    /// That sequence was stored with other content.
    SequenceReused {
        /// Which.
        sequence: u64,
    },
    /// A gap before that sequence.
    OutOfSequence {
        /// What must come next.
        expected: u64,
    },
    /// Not refused for itself: another item of the atomic publish was.
    BatchRefused,
    /// A cap of the cluster is reached.
    TooMany {
        /// Of what (`producers`, `queues`, `namespaces`, `sessions`, `nodes`).
        what: &'static str,
        /// The cap.
        limit: u64,
    },
    /// No such session, or served by another connection now.
    SessionNotFound,
    /// The node id belongs to another disk, or to a node that was removed.
    NodeIdUsed {
        /// Which.
        node: NodeId,
        /// It was removed.
        retired: bool,
    },
}
