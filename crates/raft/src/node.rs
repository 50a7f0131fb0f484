//! The running Raft node on one runtime. [`crate::Replica`] is the same without the type parameter.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use openraft::async_runtime::watch::Watch;
use openraft::async_runtime::{Oneshot, WatchReceiver};
use openraft::errors::{
    ClientWriteError, Fatal, ForwardReason, InitializeError, LinearizableReadError, RaftError,
};
use openraft::impls::OneshotResponder;
use openraft::metrics::{RaftMetrics, RaftServerMetrics};
use openraft::{AsyncRuntime, Instant, Raft, RaftState, ReadPolicy};
use ticketrail_core::NodeId;
use ticketrail_storage::Log;
use tokio::sync::mpsc;

use crate::applied::Shared;
use crate::checkpoint::SnapshotWritten;
use crate::codec;
use crate::config::ReplicaConfig;
use crate::error::{BootstrapError, PeerRefusal, ProposeError, ReadError};
use crate::machine::Machine;
use crate::membership::{ChangeError, MemberChange};
use crate::network::Letterhead;
use crate::order::Row;
use crate::replica::Committed;
use crate::seam::{Runtime, Worker};
use crate::status::{Leadership, Member, Status};
use crate::transfer::{TransferProgress, Transfers};
use crate::transport::{PeerRequest, PeerResponse, Transport};
use crate::types::{CommittedLeaderId, Payload, PeerAddress, Types, term_of};

/// How often a read asks, where the answers that confirmed it were to something older.
const READ_ATTEMPTS: usize = 3;
/// Pause between two tries of a proposal while this leader has no lease.
const LEASE_PAUSE: Duration = Duration::from_millis(5);
/// Longest wait for openraft's tasks to end.
const SHUTDOWN_MAX: Duration = Duration::from_millis(1_500);

/// What [`crate::Replica`] asks of the node, whatever runtime it is on.
pub(crate) trait Engine: Send + Sync {
    fn bootstrap(
        &self,
        members: BTreeMap<NodeId, PeerAddress>,
    ) -> BoxFuture<'static, Result<(), BootstrapError>>;
    fn is_initialized(&self) -> bool;
    fn propose(
        &self,
        term: u64,
        payload: Bytes,
    ) -> BoxFuture<'static, Result<Committed, ProposeError>>;
    fn read_index(self: Arc<Self>) -> BoxFuture<'static, Result<(), ReadError>>;
    fn handle(
        self: Arc<Self>,
        request: PeerRequest,
    ) -> BoxFuture<'static, Result<PeerResponse, PeerRefusal>>;
    fn transfer_leadership(&self, to: NodeId) -> BoxFuture<'static, ()>;
    fn change_members(&self, change: MemberChange) -> BoxFuture<'static, Result<(), ChangeError>>;
    fn succeed(self: Arc<Self>, dead: NodeId, term: u64) -> BoxFuture<'static, ()>;
    fn status(&self) -> Status;
    fn shutdown(&self) -> BoxFuture<'static, ()>;
}

type Watched<R, T> = <<R as AsyncRuntime>::Watch as Watch>::Receiver<T>;
type Metrics<R> = Watched<R, RaftMetrics<Types<R>>>;
type ServerMetrics<R> = Watched<R, RaftServerMetrics<Types<R>>>;

/// openraft's handle, with our types.
pub(crate) type Openraft<R> = Raft<Types<R>, Machine<R>>;

/// A Raft node.
pub(crate) struct Node<R: Runtime> {
    pub(crate) raft: Raft<Types<R>, Machine<R>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) config: ReplicaConfig,
    pub(crate) letterhead: Letterhead,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) reads: crate::read::Rounds,
    pub(crate) transfers: Arc<Transfers>,
    row: Arc<Row>,
    log: Log,
    worker: Mutex<Option<Worker>>,
}

impl<R: Runtime> Node<R> {
    pub(crate) fn new(
        raft: Raft<Types<R>, Machine<R>>,
        shared: Arc<Shared>,
        config: ReplicaConfig,
        transport: Arc<dyn Transport>,
        transfers: Arc<Transfers>,
        log: Log,
    ) -> Self {
        Self {
            raft,
            shared,
            letterhead: Letterhead::new(&config),
            config,
            transport,
            transfers,
            reads: crate::read::Rounds::default(),
            row: Arc::default(),
            log,
            worker: Mutex::new(None),
        }
    }

    pub(crate) fn attach(&self, worker: Worker) {
        *self.worker.lock().expect("no panic under this lock") = Some(worker);
    }

    pub(crate) fn metrics(&self) -> RaftMetrics<Types<R>> {
        self.raft.metrics().borrow_watched().clone()
    }

    /// Publishes who leads until openraft ends; then says why, if that was not asked for. Holds no
    /// handle: a replica that is dropped ends.
    pub(crate) async fn watch_leadership(
        mut server: ServerMetrics<R>,
        metrics: Metrics<R>,
        shared: Arc<Shared>,
    ) {
        loop {
            let seen = {
                let metrics = server.borrow_and_update();
                let leader = metrics.current_leader.map(NodeId);
                Leadership {
                    term: metrics.vote.leader_id().term,
                    leader,
                    is_leader: metrics.state.is_leader() && leader == Some(shared.node_id),
                    since: (shared.now)(),
                }
            };
            shared.leadership.send_if_modified(|known| {
                let changed = Leadership {
                    since: known.since,
                    ..seen
                } != *known;
                if changed {
                    let is_new = (seen.term, seen.leader) != (known.term, known.leader);
                    if is_new && seen.leader.is_some() {
                        shared.counts.note_leader();
                    }
                    *known = seen;
                }
                changed
            });
            if server.changed().await.is_err() {
                break;
            }
        }
        match metrics.borrow_watched().running_state.clone() {
            Err(Fatal::Stopped) => {}
            Err(fatal) => shared.fail(&format!("raft ended: {fatal}")),
            Ok(()) => shared.fail("raft ended by a panic"),
        }
        shared.leadership.send_modify(|known| {
            known.leader = None;
            known.is_leader = false;
        });
    }

    /// Tells openraft of new snapshot files, and what it may purge.
    pub(crate) async fn watch_snapshots(
        raft: Raft<Types<R>, Machine<R>>,
        mut written: mpsc::Receiver<SnapshotWritten>,
    ) {
        while let Some(snapshot) = written.recv().await {
            // Errors mean that openraft ended; the receiver's other end ends too.
            let _ = raft.trigger().snapshot().await;
            if let Some(upto) = snapshot.purge_upto {
                let _ = raft.trigger().purge_log(upto).await;
            }
        }
    }

    /// One round of leadership confirmed by a majority: what was committed before it began is at or
    /// before this index.
    pub(crate) async fn leader_read_index(&self) -> Result<u64, ReadError> {
        let begun = self.shared.answered.now();
        for _ in 0..READ_ATTEMPTS {
            let index = self.read_index_of_openraft().await?;
            if self.is_confirmed_since(begun) {
                return Ok(index);
            }
        }
        let late = "all that its peers answered was sent before";
        Err(ReadError::NotConfirmed(late.to_owned()))
    }

    fn is_confirmed_since(&self, begun: u64) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters = metrics.membership_config.membership().get_joint_config();
        let answered = &self.shared.answered;
        answered.since(begun, self.config.node_id, voters)
    }

    async fn read_index_of_openraft(&self) -> Result<u64, ReadError> {
        match self.raft.get_read_log_id(ReadPolicy::ReadIndex).await {
            Ok((read, _)) => Ok(read.index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => Err(
                ReadError::NotConfirmed("it does not lead any more".to_owned()),
            ),
            Err(RaftError::APIError(error)) => Err(ReadError::NotConfirmed(error.to_string())),
            Err(RaftError::Fatal(_)) => Err(ReadError::Stopped),
        }
    }
}

impl<R: Runtime> Engine for Node<R> {
    fn bootstrap(
        &self,
        members: BTreeMap<NodeId, PeerAddress>,
    ) -> BoxFuture<'static, Result<(), BootstrapError>> {
        let raft = self.raft.clone();
        let members: BTreeMap<u64, PeerAddress> = members
            .into_iter()
            .map(|(id, address)| (id.0, address))
            .collect();
        Box::pin(async move {
            raft.initialize(members).await.map_err(|error| match error {
                RaftError::APIError(InitializeError::NotAllowed(_)) => {
                    BootstrapError::AlreadyInitialized
                }
                RaftError::APIError(InitializeError::NotInMembers(_)) => BootstrapError::NotAMember,
                RaftError::Fatal(_) => BootstrapError::Stopped,
            })
        })
    }

    fn is_initialized(&self) -> bool {
        let log = self.log.state();
        log.last.is_some() || log.vote.is_some()
    }

    fn propose(
        &self,
        term: u64,
        payload: Bytes,
    ) -> BoxFuture<'static, Result<Committed, ProposeError>> {
        let bytes_max = self
            .config
            .entry_bytes_max
            .min(self.log.payload_bytes_max());
        if payload.len() > bytes_max || !codec::is_payload(&payload) {
            return Box::pin(async { Err(ProposeError::Invalid) });
        }
        let raft = self.raft.clone();
        let place = self.row.join();
        let start = move || Attempt::start(&raft, term, payload.clone());
        let mut attempt = place.is_first().then(&start);
        Box::pin(async move {
            loop {
                if let Some(attempt) = &mut attempt {
                    match attempt.end().await {
                        // However long it takes: a leader that its peers do not answer may go on in
                        // the same term later, and who waits for the entry is told that it is lost
                        // only by a later term.
                        Err(Refusal::LeaseExpired) => place.wait(),
                        Err(Refusal::Final(error)) => return Err(error),
                        Ok(committed) => return Ok(committed),
                    }
                }
                R::sleep(LEASE_PAUSE).await;
                attempt = place.is_first().then(&start);
            }
        })
    }

    fn read_index(self: Arc<Self>) -> BoxFuture<'static, Result<(), ReadError>> {
        Box::pin(crate::read::read_index(self))
    }

    fn handle(
        self: Arc<Self>,
        request: PeerRequest,
    ) -> BoxFuture<'static, Result<PeerResponse, PeerRefusal>> {
        Box::pin(crate::serve::handle(self, request))
    }

    fn transfer_leadership(&self, to: NodeId) -> BoxFuture<'static, ()> {
        let (raft, me) = (self.raft.clone(), self.config.node_id);
        Box::pin(async move {
            let votes = move |state: &RaftState<Types<R>>| {
                let membership = state.membership_state.effective().membership();
                to != me && membership.voter_ids().any(|voter| voter == to.0)
            };
            // An error means that the replica stopped, and with that it leads no more either.
            if raft.with_raft_state(votes).await.is_ok_and(|votes| votes) {
                let _ = raft.trigger().transfer_leader(to.0).await;
            }
        })
    }

    fn change_members(&self, change: MemberChange) -> BoxFuture<'static, Result<(), ChangeError>> {
        let raft = self.raft.clone();
        Box::pin(async move { crate::membership::change::<R>(&raft, change).await })
    }

    fn succeed(self: Arc<Self>, dead: NodeId, term: u64) -> BoxFuture<'static, ()> {
        Box::pin(crate::succeed::succeed(self, dead, term))
    }

    fn status(&self) -> Status {
        let metrics = self.metrics();
        let is_leader = metrics.state.is_leader();
        let contact = self.shared.since_leader_contact().filter(|_| !is_leader);
        let applied = self.shared.lock();
        Status {
            node_id: self.config.node_id,
            term: metrics.current_term,
            voted_for: Some(NodeId(metrics.vote.leader_id().voted_for)).filter(|id| id.0 != 0),
            leader: metrics.current_leader.map(NodeId),
            last_log_index: metrics.last_log_index,
            committed_index: metrics.cluster_committed.map(|id| id.index),
            applied_index: applied.last.map(|id| id.index),
            snapshot_index: metrics.snapshot.map(|id| id.index),
            purged_index: metrics.purged.map(|id| id.index),
            members: members(&metrics, &self.transfers.to_members()),
            members_entry: (metrics.membership_config.log_id().as_ref())
                .map(|id| (term_of(id), id.index)),
            fetching: self.transfers.receiving.progress(),
            changing_voters: metrics
                .membership_config
                .membership()
                .get_joint_config()
                .len()
                > 1,
            quorum_ack_ms_ago: metrics.last_quorum_acked.map(|at| ms(at.elapsed())),
            leader_contact_ms_ago: contact.map(ms),
            digest: applied.state.digest(),
            digests: self.shared.digests.own(),
        }
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.transfers.stop();
        let raft = self.raft.clone();
        let worker = self.worker.lock().expect("no panic under this lock").take();
        Box::pin(async move {
            // An error is a wait that was too long, or an end that came by itself.
            let _ = R::timeout(SHUTDOWN_MAX, raft.shutdown()).await;
            if let Some(mut worker) = worker {
                worker.ask();
                let _ = R::timeout(SHUTDOWN_MAX, worker.ended()).await;
            }
        })
    }
}

fn ms(span: Duration) -> u64 {
    span.as_millis() as u64
}

fn members<R: Runtime>(
    metrics: &RaftMetrics<Types<R>>,
    fetching: &BTreeMap<NodeId, TransferProgress>,
) -> BTreeMap<NodeId, Member> {
    let membership = metrics.membership_config.membership();
    let member = |(id, address): (&u64, &PeerAddress)| {
        let matched = metrics
            .replication
            .as_ref()
            .and_then(|known| *known.get(id)?);
        let answered = metrics.heartbeat.as_ref().and_then(|known| *known.get(id)?);
        let member = Member {
            address: address.clone(),
            voter: membership.voter_ids().any(|voter| voter == *id),
            matched_index: matched.map(|log_id| log_id.index),
            answered_ms_ago: answered.map(|at| ms(at.elapsed())),
            fetching: fetching.get(&NodeId(*id)).copied(),
        };
        (NodeId(*id), member)
    };
    membership.nodes().map(member).collect()
}

type WriteResult<R> = openraft::raft::ClientWriteResult<Types<R>>;
type AnswerReceiver<R> = <<R as AsyncRuntime>::Oneshot as Oneshot>::Receiver<WriteResult<R>>;

/// One try of a proposal.
struct Attempt<R: Runtime> {
    send: BoxFuture<'static, Result<(), Fatal<Types<R>>>>,
    sent: Option<Result<(), Fatal<Types<R>>>>,
    answer: AnswerReceiver<R>,
}

enum Refusal {
    /// A leader has no lease before a majority has answered it, nor when it does not any more;
    /// nothing was proposed.
    LeaseExpired,
    Final(ProposeError),
}

impl<R: Runtime> Attempt<R> {
    /// The proposal is in openraft's queue when this returns, unless that is full: the order of the
    /// calls is the order in the log.
    fn start(raft: &Raft<Types<R>, Machine<R>>, term: u64, payload: Bytes) -> Self {
        let (responder, answer) = OneshotResponder::new_pair();
        let raft = raft.clone();
        let send = async move {
            let leader = CommittedLeaderId::new(term);
            raft.write(Payload(payload))
                .with_leader(leader)
                .responder(responder)
                .await
        };
        // Not limited by the task's budget, which would hold back a call among many.
        let mut send: BoxFuture<'static, _> = Box::pin(tokio::task::unconstrained(send));
        let sent = (&mut send).now_or_never();
        Self { send, sent, answer }
    }

    async fn end(&mut self) -> Result<Committed, Refusal> {
        let sent = match self.sent.take() {
            Some(sent) => sent,
            None => (&mut self.send).await,
        };
        if sent.is_err() {
            return Err(Refusal::Final(ProposeError::Stopped));
        }
        match (&mut self.answer).await {
            Ok(Ok(written)) => Ok(Committed {
                index: written.log_id.index,
                outcomes: written.data.outcomes,
            }),
            Ok(Err(ClientWriteError::ForwardToLeader(forward))) => Err(match forward.reason {
                ForwardReason::LeaseExpired => Refusal::LeaseExpired,
                _ => {
                    let leader = forward.leader_id.map(NodeId);
                    Refusal::Final(ProposeError::NotLeader { leader })
                }
            }),
            Ok(Err(_)) => Err(Refusal::Final(ProposeError::Unknown)),
            Err(_) => Err(Refusal::Final(ProposeError::Stopped)),
        }
    }
}
