//! The server half of the transport: what peers ask of this node.

use std::sync::Arc;

use openraft::errors::RaftError;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use ticketrail_core::NodeId;
use ticketrail_proto::peer::{self, read_index_response};

use crate::codec;
use crate::error::{PeerRefusal, ReadError};
use crate::node::Node;
use crate::seam::Runtime;
use crate::transfer::on_offer;
use crate::transport::{PeerRequest, PeerResponse};
use crate::types::{Types, Vote};

/// Answers a peer. The request is in openraft's queue after the first poll, so appends that are
/// polled in order are taken in order.
pub(crate) async fn handle<R: Runtime>(
    node: Arc<Node<R>>,
    request: PeerRequest,
) -> Result<PeerResponse, PeerRefusal> {
    let sender = check_sender(&node, request.header())?;
    let header = node.letterhead.to(sender);
    match request {
        PeerRequest::Vote(request) => {
            let (vote, last) = (request.vote, request.last_log_id);
            let mut ask = vote_request(sender, vote, last)?;
            ask.leadership_transfer = request.leadership_transfer;
            let answer = node
                .raft
                .vote(ask)
                .await
                .map_err(|_| PeerRefusal::Stopped)?;
            Ok(PeerResponse::Vote(peer::VoteResponse {
                header,
                vote: Some(codec::vote_to_peer(&answer.vote)),
                granted: answer.vote_granted,
                last_log_id: answer.last_log_id.map(codec::id_to_peer),
            }))
        }
        PeerRequest::PreVote(request) => {
            let ask = vote_request(sender, request.vote, request.last_log_id)?;
            let answer: VoteResponse<Types<R>> = node
                .raft
                .pre_vote(ask)
                .await
                .map_err(|_| PeerRefusal::Stopped)?;
            Ok(PeerResponse::PreVote(peer::PreVoteResponse {
                header,
                vote: Some(codec::vote_to_peer(&answer.vote)),
                granted: answer.vote_granted,
                last_log_id: answer.last_log_id.map(codec::id_to_peer),
            }))
        }
        PeerRequest::AppendEntries(request) => {
            let agreed = request.agreed_digest.and_then(codec::digest_from_peer);
            let request = append_request(sender, request)?;
            let answer = node.raft.append_entries(request).await.map_err(stopped)?;
            let from_leader = !matches!(answer, AppendEntriesResponse::HigherVote(_));
            if let Some(agreed) = agreed.filter(|_| from_leader) {
                node.shared.compared(node.shared.digests.expect(agreed));
            }
            Ok(PeerResponse::AppendEntries(append_response(
                &node, header, answer,
            )))
        }
        PeerRequest::TransferLeader(request) => {
            let from = sent_vote(sender, request.from_leader)?;
            let last = request.last_log_id.map(codec::id_from_peer);
            let request = TransferLeaderRequest::new(from, request.to_node_id, last);
            match node.raft.handle_transfer_leader(request).await {
                Ok(Ok(())) => Ok(PeerResponse::TransferLeader(peer::TransferLeaderResponse {
                    header,
                })),
                Ok(Err(error)) => Err(PeerRefusal::Malformed(error.to_string())),
                Err(_) => Err(PeerRefusal::Stopped),
            }
        }
        PeerRequest::ReadIndex(_) => {
            let result = match node.leader_read_index().await {
                Ok(index) => {
                    node.shared.commits.read(sender, index);
                    read_index_response::Result::Index(index)
                }
                Err(ReadError::Stopped) => return Err(PeerRefusal::Stopped),
                Err(error) => read_index_response::Result::Refused(peer::NotProposed {
                    reason: error.to_string(),
                    ..Default::default()
                }),
            };
            Ok(PeerResponse::ReadIndex(peer::ReadIndexResponse {
                header,
                result: Some(result),
            }))
        }
        request @ (PeerRequest::OfferSnapshot(_)
        | PeerRequest::OpenSnapshot(_)
        | PeerRequest::ReadSnapshot(_)
        | PeerRequest::CloseSnapshot(_)) => handle_transfer(node, sender, request).await,
    }
}

async fn handle_transfer<R: Runtime>(
    node: Arc<Node<R>>,
    sender: NodeId,
    request: PeerRequest,
) -> Result<PeerResponse, PeerRefusal> {
    let malformed = |what: &str| PeerRefusal::Malformed(format!("`{what}` is missing"));
    let header = node.letterhead.to(sender);
    let serving = &node.transfers.serving;
    match request {
        PeerRequest::OfferSnapshot(request) => {
            let vote = sent_vote(sender, request.vote)?;
            let wanted = request
                .last_log_id
                .ok_or_else(|| malformed("last_log_id"))?;
            let answer = on_offer(&node, sender, vote, codec::id_from_peer(wanted))?;
            Ok(PeerResponse::OfferSnapshot(answer))
        }
        PeerRequest::OpenSnapshot(request) => {
            use peer::open_snapshot_response::Result::{Opened, Refused};
            let opened = serving.open(sender, request.last_index_min).await;
            let result = Some(opened.map_or_else(Refused, Opened));
            let response = peer::OpenSnapshotResponse { header, result };
            Ok(PeerResponse::OpenSnapshot(response))
        }
        PeerRequest::ReadSnapshot(request) => {
            use peer::read_snapshot_response::Result::Refused;
            let place = request.place.ok_or_else(|| malformed("place"))?;
            let read = serving.read::<R>(sender, request.snapshot_id, place);
            let result = Some(read.await.unwrap_or_else(Refused));
            let response = peer::ReadSnapshotResponse { header, result };
            Ok(PeerResponse::ReadSnapshot(response))
        }
        PeerRequest::CloseSnapshot(request) => {
            serving.close(sender, request.snapshot_id);
            let response = peer::CloseSnapshotResponse { header };
            Ok(PeerResponse::CloseSnapshot(response))
        }
        _ => Err(malformed("a snapshot's request")),
    }
}

fn stopped<R: Runtime>(_: RaftError<Types<R>>) -> PeerRefusal {
    PeerRefusal::Stopped
}

fn check_sender<R: Runtime>(
    node: &Node<R>,
    header: Option<&peer::Header>,
) -> Result<NodeId, PeerRefusal> {
    let sender = NodeId(header.map_or(0, |header| header.sender_node_id));
    if !node.letterhead.accepts(header, sender) {
        return Err(PeerRefusal::WrongTarget {
            node_id: node.config.node_id,
        });
    }
    // Anybody else of this cluster is heard: a leader, or a candidate that is needed, may have been
    // added by entries that this node has still to get.
    if sender == node.config.node_id || node.is_retired(sender) {
        return Err(PeerRefusal::UnknownSender { sender });
    }
    Ok(sender)
}

/// A vote that the sender may speak for: its own.
fn sent_vote(sender: NodeId, vote: Option<peer::Vote>) -> Result<Vote, PeerRefusal> {
    let vote = codec::vote_from_peer(vote)
        .ok_or_else(|| PeerRefusal::Malformed("`vote` is missing".to_owned()))?;
    if vote.leader_id().voted_for != sender.0 {
        return Err(PeerRefusal::UnknownSender { sender });
    }
    Ok(vote)
}

fn vote_request<R: Runtime>(
    sender: NodeId,
    vote: Option<peer::Vote>,
    last: Option<peer::LogId>,
) -> Result<VoteRequest<Types<R>>, PeerRefusal> {
    Ok(VoteRequest::new(
        sent_vote(sender, vote)?,
        last.map(codec::id_from_peer),
    ))
}

fn append_request<R: Runtime>(
    sender: NodeId,
    request: peer::AppendEntriesRequest,
) -> Result<AppendEntriesRequest<Types<R>>, PeerRefusal> {
    let malformed = |what: &str| PeerRefusal::Malformed(what.to_owned());
    let vote = sent_vote(sender, request.vote)?;
    if !vote.is_committed() {
        return Err(malformed("`vote` is not a leader's"));
    }
    let prev_log_id = request.prev_log_id.map(codec::id_from_peer);
    let mut entries = Vec::with_capacity(request.entries.len());
    let first = prev_log_id.map_or(0, |id| id.index + 1);
    for (index, entry) in (first..).zip(request.entries) {
        let entry = codec::entry_from_peer(entry).map_err(|error| malformed(&error.to_string()))?;
        if entry.log_id.index != index {
            return Err(malformed("`entries` has a gap"));
        }
        entries.push(entry);
    }
    let leader_commit = request.leader_commit.map(codec::id_from_peer);
    Ok(AppendEntriesRequest {
        vote,
        prev_log_id,
        entries,
        leader_commit,
    })
}

fn append_response<R: Runtime>(
    node: &Node<R>,
    header: Option<peer::Header>,
    answer: AppendEntriesResponse<Types<R>>,
) -> peer::AppendEntriesResponse {
    use peer::AppendOutcome as Outcome;
    let mut response = peer::AppendEntriesResponse {
        header,
        digest: node.shared.digests.newest().map(codec::digest_to_peer),
        polls: Some(node.shared.polls()),
        ..Default::default()
    };
    if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
        node.shared.note_leader_contact();
    }
    match answer {
        AppendEntriesResponse::Success => response.set_outcome(Outcome::Success),
        AppendEntriesResponse::PartialSuccess(matched) => {
            response.set_outcome(Outcome::PartialSuccess);
            response.matched = matched.map(codec::id_to_peer);
        }
        AppendEntriesResponse::Conflict => response.set_outcome(Outcome::Conflict),
        AppendEntriesResponse::HigherVote(vote) => {
            response.set_outcome(Outcome::HigherVote);
            response.vote = Some(codec::vote_to_peer(&vote));
        }
    }
    response
}
