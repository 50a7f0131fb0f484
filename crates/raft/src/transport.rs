//! The seam to the network: messages of `ticketrail.peer.v1`, one call each.

use std::time::Duration;

use futures::future::BoxFuture;
use ticketrail_core::NodeId;
use ticketrail_proto::peer;

/// What one replica asks of another.
#[derive(Clone, Debug, PartialEq)]
pub enum PeerRequest {
    /// A vote.
    Vote(peer::VoteRequest),
    /// Whether a vote would be granted.
    PreVote(peer::PreVoteRequest),
    /// To append entries, or none as a heartbeat.
    AppendEntries(peer::AppendEntriesRequest),
    /// To become the leader.
    TransferLeader(peer::TransferLeaderRequest),
    /// A read index.
    ReadIndex(peer::ReadIndexRequest),
    /// To fetch a snapshot from the sender, and how far that is.
    OfferSnapshot(peer::OfferSnapshotRequest),
    /// To open a snapshot for reading.
    OpenSnapshot(peer::OpenSnapshotRequest),
    /// A piece of it.
    ReadSnapshot(peer::ReadSnapshotRequest),
    /// To close it.
    CloseSnapshot(peer::CloseSnapshotRequest),
}

impl PeerRequest {
    /// Who speaks to whom.
    #[must_use]
    pub fn header(&self) -> Option<&peer::Header> {
        match self {
            Self::Vote(request) => request.header.as_ref(),
            Self::PreVote(request) => request.header.as_ref(),
            Self::AppendEntries(request) => request.header.as_ref(),
            Self::TransferLeader(request) => request.header.as_ref(),
            Self::ReadIndex(request) => request.header.as_ref(),
            Self::OfferSnapshot(request) => request.header.as_ref(),
            Self::OpenSnapshot(request) => request.header.as_ref(),
            Self::ReadSnapshot(request) => request.header.as_ref(),
            Self::CloseSnapshot(request) => request.header.as_ref(),
        }
    }
}

/// The answer, of the same kind as its request.
#[derive(Clone, Debug, PartialEq)]
pub enum PeerResponse {
    /// To [`PeerRequest::Vote`].
    Vote(peer::VoteResponse),
    /// To [`PeerRequest::PreVote`].
    PreVote(peer::PreVoteResponse),
    /// To [`PeerRequest::AppendEntries`].
    AppendEntries(peer::AppendEntriesResponse),
    /// To [`PeerRequest::TransferLeader`].
    TransferLeader(peer::TransferLeaderResponse),
    /// To [`PeerRequest::ReadIndex`].
    ReadIndex(peer::ReadIndexResponse),
    /// To [`PeerRequest::OfferSnapshot`].
    OfferSnapshot(peer::OfferSnapshotResponse),
    /// To [`PeerRequest::OpenSnapshot`].
    OpenSnapshot(peer::OpenSnapshotResponse),
    /// To [`PeerRequest::ReadSnapshot`].
    ReadSnapshot(peer::ReadSnapshotResponse),
    /// To [`PeerRequest::CloseSnapshot`].
    CloseSnapshot(peer::CloseSnapshotResponse),
}

impl PeerResponse {
    /// Who speaks to whom.
    #[must_use]
    pub fn header(&self) -> Option<&peer::Header> {
        match self {
            Self::Vote(response) => response.header.as_ref(),
            Self::PreVote(response) => response.header.as_ref(),
            Self::AppendEntries(response) => response.header.as_ref(),
            Self::TransferLeader(response) => response.header.as_ref(),
            Self::ReadIndex(response) => response.header.as_ref(),
            Self::OfferSnapshot(response) => response.header.as_ref(),
            Self::OpenSnapshot(response) => response.header.as_ref(),
            Self::ReadSnapshot(response) => response.header.as_ref(),
            Self::CloseSnapshot(response) => response.header.as_ref(),
        }
    }
}

/// Carries a request to another node and its answer back.
///
/// Calls are pipelined: many run at once to the same target. A transport keeps the order of
/// AppendEntries to one target as the calls were made (the message is handed over before the
/// returned future is first polled, or at its first poll). Nothing breaks when it does not: the
/// receiver refuses what does not follow its log, and the leader sends again.
pub trait Transport: Send + Sync + 'static {
    /// Sends `request` to `target` and waits at most `timeout` for the answer.
    fn call(
        &self,
        target: NodeId,
        request: PeerRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<PeerResponse, TransportError>>;
}

/// Why a call brought no answer. Whether the request arrived is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No connection: the next call is better made after a pause.
    #[error("node {target} cannot be reached: {reason}")]
    Unreachable {
        /// The node.
        target: NodeId,
        /// What the network said.
        reason: String,
    },
    /// No answer in time.
    #[error("node {target} did not answer in time")]
    TimedOut {
        /// The node.
        target: NodeId,
    },
    /// The other side refused, or what it said makes no sense.
    #[error("node {target} refused: {reason}")]
    Refused {
        /// The node.
        target: NodeId,
        /// What it said.
        reason: String,
    },
}
