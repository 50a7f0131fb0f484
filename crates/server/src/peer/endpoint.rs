use std::pin::Pin;

use futures::Stream;
use futures::stream::{FuturesOrdered, StreamExt};
use ticketrail_broker::{Broker, Forward, Haste, LinkError};
use ticketrail_core::{BootId, NodeId};
use ticketrail_proto::error::{Problem, Reason};
use ticketrail_proto::peer;
use ticketrail_proto::peer::peer_service_server::PeerService;
use ticketrail_proto::peer::{
    AdmitRequest, AdmitResponse, AppendEntriesRequest, AppendEntriesResponse, ChangeMembersRequest,
    ChangeMembersResponse, ForwardRequest, ForwardResponse, Header, HelloRequest, HelloResponse,
    NotProposed, PreVoteRequest, PreVoteResponse, ReadIndexRequest, ReadIndexResponse, Taken,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse, forward_response,
};
use ticketrail_raft::{PeerRefusal, PeerRequest, PeerResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::peers::Peers;
use crate::limits;

/// The answering half: `ticketrail.peer.v1.PeerService`.
#[derive(Clone)]
pub(crate) struct PeerEndpoint {
    pub(super) peers: Peers,
    pub(super) broker: Broker,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl PeerEndpoint {
    /// For messages to this node.
    pub(crate) fn new(peers: Peers, broker: Broker) -> Self {
        Self { peers, broker }
    }

    /// Checks a message's header and notes its sender.
    pub(super) fn check(
        &self,
        header: Option<&Header>,
        wall_ms: u64,
    ) -> Result<(NodeId, BootId), Problem> {
        let checked = self.peers.me().check(header);
        match &checked {
            Ok((node, boot)) => self.peers.heard(*node, *boot, wall_ms),
            Err(problem) => tracing::warn!(%problem, ?header, "a peer message is refused"),
        }
        checked
    }

    async fn ask(&self, request: PeerRequest) -> Result<PeerResponse, Status> {
        self.check(request.header(), 0)?;
        self.peers.gate().check()?;
        let answer = self.broker.replica().handle(request).await;
        answer.map_err(|refusal| refused(&refusal).into_status())
    }

    async fn append(
        self,
        mut requests: Streaming<AppendEntriesRequest>,
        answers: mpsc::Sender<Result<AppendEntriesResponse, Status>>,
    ) {
        // Pushed, and so first polled, in the order in which they came: that is their order in Raft.
        let mut working = FuturesOrdered::new();
        let mut from = None;
        loop {
            let answer = tokio::select! {
                biased;
                Some(answer) = working.next() => answer,
                request = requests.message(), if working.len() < limits::PEER_WORK_MAX => {
                    let Ok(Some(request)) = request else { break };
                    match self.take_append(request) {
                        Ok((sender, answer)) => {
                            from = Some(sender);
                            working.push_back(answer);
                            continue;
                        }
                        Err(problem) => Err(problem.into_status()),
                    }
                }
                () = answers.closed() => break,
            };
            let failed = answer.is_err();
            if answers.send(answer).await.is_err() || failed {
                break;
            }
        }
        if let Some(sender) = from {
            self.entries_ended(sender).await;
        }
    }

    /// A stream of entries ended. If it was the leader's, and nobody listens at its address any more,
    /// its process is gone: the others need not wait for its lease to end.
    async fn entries_ended(&self, sender: NodeId) {
        let lead = *self.broker.leadership().borrow();
        if lead.leader == Some(sender) && self.peers.is_gone(sender).await {
            tracing::info!(leader = %sender, term = lead.term, "the leader's process is gone");
            self.broker.replica().succeed(sender, lead.term).await;
        }
    }

    fn take_append(
        &self,
        request: AppendEntriesRequest,
    ) -> Result<
        (
            NodeId,
            impl Future<Output = Result<AppendEntriesResponse, Status>> + use<>,
        ),
        Problem,
    > {
        let (sender, _) = self.check(request.header.as_ref(), request.wall_clock_ms)?;
        self.peers.gate().check()?;
        self.peers.heard_pressure(sender, request.pressure);
        let replica = self.broker.replica().clone();
        let peers = self.peers.clone();
        let answer = async move {
            match replica.handle(PeerRequest::AppendEntries(request)).await {
                Ok(PeerResponse::AppendEntries(mut answer)) => {
                    answer.wall_clock_ms = peers.wall_ms();
                    answer.pressure = peers.own_pressure();
                    Ok(answer)
                }
                Ok(_) => Err(mismatch()),
                Err(refusal) => Err(refused(&refusal).into_status()),
            }
        };
        Ok((sender, answer))
    }

    async fn take_forwards(
        self,
        mut requests: Streaming<ForwardRequest>,
        answers: mpsc::Sender<Result<ForwardResponse, Status>>,
    ) {
        while let Ok(Some(request)) = requests.message().await {
            let answer = self.take_forward(request).map_err(Problem::into_status);
            let failed = answer.is_err();
            if answers.send(answer).await.is_err() || failed {
                return;
            }
        }
    }

    fn take_forward(&self, request: ForwardRequest) -> Result<ForwardResponse, Problem> {
        let (sender, _) = self.check(request.header.as_ref(), 0)?;
        self.peers.gate().check()?;
        // A node that was removed has no say, also where it does not know yet.
        let taken = if self.peers.knows(sender) {
            self.broker.accept_forward(Forward {
                term: request.term,
                commands: request.commands,
                haste: match request.may_wait {
                    true => Haste::WithOthers,
                    false => Haste::Now,
                },
            })
        } else {
            Err(LinkError::NotTaken)
        };
        let result = match taken {
            Ok(()) => forward_response::Result::Taken(Taken {}),
            Err(LinkError::NotTaken | LinkError::Broken) => {
                forward_response::Result::NotProposed(NotProposed {
                    reason: Reason::NotLeader.as_str().to_owned(),
                    leader_node_id: 0,
                    retry_after_ms: 0,
                })
            }
        };
        Ok(ForwardResponse {
            header: Some(self.peers.me().header_to(sender)),
            request_id: request.request_id,
            result: Some(result),
        })
    }
}

/// What a peer is told that the replica refuses.
fn refused(refusal: &PeerRefusal) -> Problem {
    match refusal {
        PeerRefusal::WrongTarget { .. } | PeerRefusal::UnknownSender { .. } => {
            Problem::wrong_cluster(refusal)
        }
        PeerRefusal::Malformed(what) => Problem::invalid_field("request", format!("whole: {what}")),
        PeerRefusal::Stopped => {
            Problem::new(Reason::ShuttingDown, "this node stops").retry_after(limits::RETRY_AFTER)
        }
    }
}

fn mismatch() -> Status {
    tracing::error!("the replica answered a peer with another kind of message");
    Problem::new(Reason::Internal, "the answer does not fit the request").into_status()
}

macro_rules! ask {
    ($self:ident, $request:ident, $kind:ident) => {
        match $self.ask(PeerRequest::$kind($request.into_inner())).await? {
            PeerResponse::$kind(answer) => Ok(Response::new(answer)),
            _ => Err(mismatch()),
        }
    };
}

#[tonic::async_trait]
impl PeerService for PeerEndpoint {
    async fn vote(&self, request: Request<VoteRequest>) -> Result<Response<VoteResponse>, Status> {
        ask!(self, request, Vote)
    }

    async fn pre_vote(
        &self,
        request: Request<PreVoteRequest>,
    ) -> Result<Response<PreVoteResponse>, Status> {
        ask!(self, request, PreVote)
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderResponse>, Status> {
        ask!(self, request, TransferLeader)
    }

    async fn read_index(
        &self,
        request: Request<ReadIndexRequest>,
    ) -> Result<Response<ReadIndexResponse>, Status> {
        ask!(self, request, ReadIndex)
    }

    async fn hello(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloResponse>, Status> {
        Ok(Response::new(self.greet(request.get_ref())?))
    }

    async fn admit(
        &self,
        request: Request<AdmitRequest>,
    ) -> Result<Response<AdmitResponse>, Status> {
        Ok(Response::new(self.take_in(request.into_inner()).await?))
    }

    async fn change_members(
        &self,
        request: Request<ChangeMembersRequest>,
    ) -> Result<Response<ChangeMembersResponse>, Status> {
        Ok(Response::new(self.change(request.into_inner()).await?))
    }

    async fn offer_snapshot(
        &self,
        request: Request<peer::OfferSnapshotRequest>,
    ) -> Result<Response<peer::OfferSnapshotResponse>, Status> {
        ask!(self, request, OfferSnapshot)
    }

    async fn open_snapshot(
        &self,
        request: Request<peer::OpenSnapshotRequest>,
    ) -> Result<Response<peer::OpenSnapshotResponse>, Status> {
        ask!(self, request, OpenSnapshot)
    }

    async fn read_snapshot(
        &self,
        request: Request<peer::ReadSnapshotRequest>,
    ) -> Result<Response<peer::ReadSnapshotResponse>, Status> {
        ask!(self, request, ReadSnapshot)
    }

    async fn close_snapshot(
        &self,
        request: Request<peer::CloseSnapshotRequest>,
    ) -> Result<Response<peer::CloseSnapshotResponse>, Status> {
        ask!(self, request, CloseSnapshot)
    }

    type AppendEntriesStream = Answers<AppendEntriesResponse>;

    async fn append_entries(
        &self,
        request: Request<Streaming<AppendEntriesRequest>>,
    ) -> Result<Response<Self::AppendEntriesStream>, Status> {
        let (sender, answers) = mpsc::channel(limits::PEER_WORK_MAX);
        tokio::spawn(self.clone().append(request.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    type ForwardStream = Answers<ForwardResponse>;

    async fn forward(
        &self,
        request: Request<Streaming<ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        let (sender, answers) = mpsc::channel(limits::PEER_WORK_MAX);
        tokio::spawn(self.clone().take_forwards(request.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}
