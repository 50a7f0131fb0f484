//! openraft's type parameters, chosen once. Only the runtime stays open, for the simulator.

use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use openraft::vote::leader_id_std;
use openraft::{AsyncRuntime, EntryPayload, OptionalSend, RaftTypeConfig};
use ticketrail_core::Outcome;

/// The type configuration on runtime `R`.
pub(crate) struct Types<R>(PhantomData<fn() -> R>);

/// One leader per term: a committed leader is its term.
pub(crate) type CommittedLeaderId = leader_id_std::CommittedLeaderId<u64>;
/// Term and candidate.
pub(crate) type LeaderId = leader_id_std::LeaderId<u64, u64>;
/// Name of a log entry.
pub(crate) type LogId = openraft::LogId<CommittedLeaderId>;
/// A vote.
pub(crate) type Vote = openraft::Vote<LeaderId>;
/// Who belongs to the cluster.
pub(crate) type Membership = openraft::Membership<u64, PeerAddress>;
/// A membership and the entry that made it so.
pub(crate) type StoredMembership = openraft::StoredMembership<CommittedLeaderId, u64, PeerAddress>;
/// An entry of the log.
pub(crate) type Entry = openraft::Entry<CommittedLeaderId, EntryPayload<Payload, u64, PeerAddress>>;
/// What a snapshot covers.
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeaderId, u64, PeerAddress>;

/// Makes a log id.
#[must_use]
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

/// Term of a log id.
#[must_use]
pub(crate) fn term_of(id: &LogId) -> u64 {
    *id.leader_id
}

/// An encoded `ticketrail.store.v1.Entry`: encoded once by the proposer, and the same bytes in the
/// log of every node, on the wire and in apply.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Payload(pub Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What apply answers to the proposer of an entry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    /// One per command; none for a blank or a membership.
    pub outcomes: Arc<[Outcome]>,
}

/// Where a node listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerAddress {
    /// For other nodes.
    pub peer: String,
    /// For clients.
    pub client: String,
}

impl<R: AsyncRuntime> RaftTypeConfig for Types<R> {
    type D = Payload;
    type R = Answer;
    type NodeId = u64;
    type Node = PeerAddress;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = EntryPayload<Payload, u64, PeerAddress>;
    type Entry = Entry;
    type AsyncRuntime = R;
    type Responder<T>
        = openraft::impls::OneshotResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::AnyError;
}

// Derived impls would ask the same of `R`.
impl<R> fmt::Debug for Types<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Types")
    }
}

impl<R> Clone for Types<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Types<R> {}

impl<R> Default for Types<R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<R> PartialEq for Types<R> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<R> Eq for Types<R> {}

impl<R> PartialOrd for Types<R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<R> Ord for Types<R> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}
