//! openraft's client side of the network over [`Transport`].

use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, Snapshot};
use ticketrail_core::NodeId;
use ticketrail_proto::peer;

use crate::applied::Shared;
use crate::codec;
use crate::commits::hold_commits;
use crate::config::{FRAMES_IN_FLIGHT_MAX, GROUP, ReplicaConfig};
use crate::machine::SnapshotFile;
use crate::seam::Runtime;
use crate::transfer::Offering;
use crate::transport::{PeerRequest, PeerResponse, Transport, TransportError};
use crate::types::{CommittedLeaderId, PeerAddress, Types, Vote};

type Failure<R> = RPCError<Types<R>>;
type Appended<'s, R> = BoxStream<'s, Result<StreamAppendResult<Types<R>>, Failure<R>>>;

/// What every message of this node starts with.
#[derive(Clone)]
pub(crate) struct Letterhead {
    cluster_id: u128,
    node_id: NodeId,
    boot_id: u64,
}

impl Letterhead {
    pub(crate) fn new(config: &ReplicaConfig) -> Self {
        Self {
            cluster_id: config.cluster_id,
            node_id: config.node_id,
            boot_id: config.boot_id.0,
        }
    }

    pub(crate) fn to(&self, target: NodeId) -> Option<peer::Header> {
        Some(peer::Header {
            cluster_id: self.cluster_id.to_be_bytes().to_vec().into(),
            sender_node_id: self.node_id.0,
            target_node_id: target.0,
            group_id: GROUP,
            boot_id: self.boot_id,
        })
    }

    /// Whether a message with this header is of this cluster and group, from `sender` to us.
    pub(crate) fn accepts(&self, header: Option<&peer::Header>, sender: NodeId) -> bool {
        header.is_some_and(|header| {
            header.cluster_id.as_ref() == self.cluster_id.to_be_bytes()
                && header.sender_node_id == sender.0
                && header.target_node_id == self.node_id.0
                && header.group_id == GROUP
        })
    }
}

/// Makes a client per peer and purpose; all share the one transport.
pub(crate) struct Network<R> {
    pub(crate) letterhead: Letterhead,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) append_timeout: Duration,
    pub(crate) offering: Arc<Offering>,
    pub(crate) runtime: PhantomData<fn() -> R>,
}

impl<R: Runtime> RaftNetworkFactory<Types<R>> for Network<R> {
    type Network = PeerClient<R>;

    async fn new_client(&mut self, target: u64, _: &PeerAddress) -> PeerClient<R> {
        PeerClient {
            target: NodeId(target),
            line: Line {
                letterhead: self.letterhead.clone(),
                transport: self.transport.clone(),
                shared: self.offering.shared.clone(),
                append_timeout: self.append_timeout,
            },
            offering: self.offering.clone(),
            runtime: PhantomData,
        }
    }
}

/// Speaks to one peer.
pub(crate) struct PeerClient<R> {
    target: NodeId,
    line: Line,
    offering: Arc<Offering>,
    runtime: PhantomData<fn() -> R>,
}

/// What a call needs; apart from the client, which openraft borrows for a whole stream.
#[derive(Clone)]
struct Line {
    letterhead: Letterhead,
    transport: Arc<dyn Transport>,
    shared: Arc<Shared>,
    append_timeout: Duration,
}

impl Line {
    async fn call<R: Runtime>(
        &self,
        target: NodeId,
        kind: RPCTypes,
        request: PeerRequest,
        timeout: Duration,
    ) -> Result<PeerResponse, Failure<R>> {
        let call = self.transport.call(target, request, timeout);
        let response = match R::timeout(timeout, call).await {
            Ok(result) => result,
            Err(_) => Err(TransportError::TimedOut { target }),
        };
        let response = response.map_err(|error| match error {
            TransportError::TimedOut { .. } => RPCError::Timeout(Timeout {
                action: kind,
                id: self.letterhead.node_id.0,
                target: target.0,
                timeout,
            }),
            error => RPCError::Unreachable(Unreachable::new(&error)),
        })?;
        if !self.letterhead.accepts(response.header(), target) {
            return Err(nonsense("an answer from somebody else"));
        }
        Ok(response)
    }

    /// A member told its newest digest.
    fn compare(&self, member: NodeId, digest: Option<peer::Digest>) {
        let Some(digest) = digest.and_then(codec::digest_from_peer) else {
            return;
        };
        let (shared, this_node) = (&self.shared, self.letterhead.node_id);
        let voters = || shared.voters();
        shared.compared(shared.digests.heard(member, digest, this_node, voters));
    }

    fn append<R: Runtime>(
        &self,
        target: NodeId,
        request: AppendEntriesRequest<Types<R>>,
    ) -> impl Future<Output = Result<AppendEntriesResponse<Types<R>>, Failure<R>>> + Send + use<R>
    {
        let line = self.clone();
        let request = PeerRequest::AppendEntries(peer::AppendEntriesRequest {
            header: self.letterhead.to(target),
            vote: Some(codec::vote_to_peer(&request.vote)),
            prev_log_id: request.prev_log_id.map(codec::id_to_peer),
            entries: request
                .entries
                .into_iter()
                .map(codec::entry_to_peer)
                .collect(),
            leader_commit: request.leader_commit.map(codec::id_to_peer),
            digest: self.shared.digests.newest().map(codec::digest_to_peer),
            agreed_digest: self.shared.digests.agreed().map(codec::digest_to_peer),
            ..Default::default()
        });
        async move {
            let timeout = line.append_timeout;
            let kind = RPCTypes::AppendEntries;
            let sent = line.shared.answered.now();
            match line.call::<R>(target, kind, request, timeout).await? {
                PeerResponse::AppendEntries(response) => {
                    line.compare(target, response.digest);
                    // A peer of an earlier release does not say.
                    let polls = response.polls.unwrap_or(true);
                    line.shared.commits.polls(target, polls);
                    if response.outcome() != peer::AppendOutcome::HigherVote {
                        line.shared.answered.note(target, sent);
                    }
                    append_response(response)
                }
                _ => Err(nonsense("an answer of another kind")),
            }
        }
    }
}

fn nonsense<R: Runtime>(what: &str) -> Failure<R> {
    let error = io::Error::new(io::ErrorKind::InvalidData, what);
    RPCError::Network(NetworkError::new(&error))
}

fn append_response<R: Runtime>(
    response: peer::AppendEntriesResponse,
) -> Result<AppendEntriesResponse<Types<R>>, Failure<R>> {
    use peer::AppendOutcome as Outcome;
    match response.outcome() {
        Outcome::Success => Ok(AppendEntriesResponse::Success),
        Outcome::PartialSuccess => Ok(AppendEntriesResponse::PartialSuccess(
            response.matched.map(codec::id_from_peer),
        )),
        Outcome::Conflict => Ok(AppendEntriesResponse::Conflict),
        Outcome::HigherVote => codec::vote_from_peer(response.vote)
            .map(AppendEntriesResponse::HigherVote)
            .ok_or_else(|| nonsense("a higher vote is missing")),
        Outcome::Unspecified => Err(nonsense("an append without outcome")),
    }
}

impl<R: Runtime> PeerClient<R> {
    async fn call(
        &self,
        kind: RPCTypes,
        request: PeerRequest,
        option: &RPCOption,
    ) -> Result<PeerResponse, Failure<R>> {
        self.line
            .call::<R>(self.target, kind, request, option.soft_ttl())
            .await
    }
}

fn vote_response<R: Runtime>(
    vote: Option<peer::Vote>,
    last: Option<peer::LogId>,
    granted: bool,
) -> Result<VoteResponse<Types<R>>, Failure<R>> {
    let vote = codec::vote_from_peer(vote).ok_or_else(|| nonsense("a vote is missing"))?;
    Ok(VoteResponse::new(
        vote,
        last.map(codec::id_from_peer),
        granted,
    ))
}

impl<R: Runtime> RaftNetworkV2<Types<R>> for PeerClient<R> {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types<R>>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<R>>, Failure<R>> {
        self.line.append(self.target, request).await
    }

    /// Many at a time, answered in order. After the first that is not a success nothing more is
    /// read: openraft starts again where the peer's log ends.
    ///
    /// A conflict counts only for the first of a stream. For a later one the entry before it was
    /// just acknowledged: it overtook its predecessor on the way, and openraft, told of the success
    /// and then of the conflict, would take that for a log that went back (a panic in its debug builds).
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _: RPCOption,
    ) -> BoxFuture<'s, Result<Appended<'s, R>, Failure<R>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types<R>>> + OptionalSend + Unpin + 'static,
    {
        let (target, line) = (self.target, self.line.clone());
        let input = hold_commits(input, self.line.shared.commits.clone(), target);
        let calls = input.enumerate().map(move |(place, request)| {
            let prev = request.prev_log_id;
            let last = request.entries.last().map(|entry| entry.log_id).or(prev);
            let call = line.append(target, request);
            async move {
                match call.await? {
                    AppendEntriesResponse::Conflict if prev.is_none() => {
                        Err(nonsense("a conflict before the first entry"))
                    }
                    AppendEntriesResponse::Conflict if place > 0 => {
                        Err(nonsense("an append overtook the one before it"))
                    }
                    response => Ok((response.into_stream_result(prev, last), last)),
                }
            }
        });
        let answers = stream::unfold(
            Some(calls.buffered(FRAMES_IN_FLIGHT_MAX)),
            |calls| async move {
                let mut calls = calls?;
                Some(match calls.next().await? {
                    Ok((result, last)) => {
                        let whole = matches!(&result, Ok(matched) if *matched == last);
                        (Ok(result), whole.then_some(calls))
                    }
                    Err(error) => (Err(error), None),
                })
            },
        );
        let answers: Appended<'s, R> = Box::pin(answers);
        Box::pin(async move { Ok(answers) })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, Failure<R>> {
        let request = PeerRequest::Vote(peer::VoteRequest {
            header: self.line.letterhead.to(self.target),
            vote: Some(codec::vote_to_peer(&request.vote)),
            last_log_id: request.last_log_id.map(codec::id_to_peer),
            leadership_transfer: request.leadership_transfer,
        });
        match self.call(RPCTypes::Vote, request, &option).await? {
            PeerResponse::Vote(answer) => {
                vote_response(answer.vote, answer.last_log_id, answer.granted)
            }
            _ => Err(nonsense("an answer of another kind")),
        }
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, Failure<R>> {
        let request = PeerRequest::PreVote(peer::PreVoteRequest {
            header: self.line.letterhead.to(self.target),
            vote: Some(codec::vote_to_peer(&request.vote)),
            last_log_id: request.last_log_id.map(codec::id_to_peer),
        });
        match self.call(RPCTypes::Vote, request, &option).await? {
            PeerResponse::PreVote(answer) => {
                vote_response(answer.vote, answer.last_log_id, answer.granted)
            }
            _ => Err(nonsense("an answer of another kind")),
        }
    }

    /// The peer fetches one by itself (see `transfer`).
    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<CommittedLeaderId, u64, PeerAddress, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types<R>>, StreamingError<Types<R>>> {
        self.offering
            .run::<R>(self.target, vote, &snapshot.meta, cancel)
            .await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types<R>>, Failure<R>> {
        let request = PeerRequest::TransferLeader(peer::TransferLeaderRequest {
            header: self.line.letterhead.to(self.target),
            from_leader: Some(codec::vote_to_peer(request.from_leader())),
            to_node_id: *request.to_node_id(),
            last_log_id: request.last_log_id().copied().map(codec::id_to_peer),
        });
        match self
            .call(RPCTypes::TransferLeader, request, &option)
            .await?
        {
            PeerResponse::TransferLeader(_) => Ok(Ok(())),
            _ => Err(nonsense("an answer of another kind")),
        }
    }
}
