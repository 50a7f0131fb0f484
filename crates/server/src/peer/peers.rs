use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use ticketrail_broker::{Broker, Forward, Haste, Link, LinkError};
use ticketrail_core::{BootId, DiskId, NodeId};
use ticketrail_proto::peer::peer_service_client::PeerServiceClient;
use ticketrail_proto::peer::{
    AppendEntriesRequest, AppendEntriesResponse, ForwardRequest, ForwardResponse, Header,
    forward_response,
};
use ticketrail_raft::{PeerRequest, PeerResponse, Transport, TransportError};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::gate::Gate;
use super::header::Me;
use super::lane::{Lane, LaneError, Open, describe};
use super::pause::Pause;
use crate::limits;

/// Reads this node's wall clock: UTC, milliseconds since 1970.
pub(crate) type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The ways to all other nodes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Peers(Arc<Shared>);

struct Shared {
    me: Me,
    disk: DiskId,
    gate: Gate,
    wall_clock: WallClock,
    /// Is told of every peer that was heard of.
    broker: RwLock<Option<Broker>>,
    links: RwLock<BTreeMap<NodeId, Arc<PeerLink>>>,
}

/// The way to one peer.
struct PeerLink {
    address: String,
    client: PeerServiceClient<Channel>,
    entries: Lane<AppendEntriesRequest, AppendEntriesResponse>,
    forwards: Lane<ForwardRequest, ForwardResponse>,
    pause: Arc<Pause>,
    seen: Mutex<Option<Seen>>,
}

/// What a peer last said of itself.
#[derive(Clone, Copy)]
struct Seen {
    boot: BootId,
    wall_ms: u64,
    at: Instant,
}

impl Peers {
    /// Knows nobody yet.
    pub(crate) fn new(me: Me, disk: DiskId, wall_clock: WallClock) -> Self {
        let (broker, links) = (RwLock::default(), RwLock::default());
        Self(Arc::new(Shared {
            me,
            disk,
            gate: Gate::new(),
            wall_clock,
            broker,
            links,
        }))
    }

    /// Tells this broker from now on of peers that were heard of.
    pub(crate) fn serve(&self, broker: &Broker) {
        *self
            .0
            .broker
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(broker.clone());
    }

    /// Ends all links.
    pub(crate) fn close(&self) {
        self.0
            .links
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        *self
            .0
            .broker
            .write()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Who this node is.
    pub(crate) fn me(&self) -> Me {
        self.0.me
    }

    /// This node's disk.
    pub(crate) fn disk(&self) -> DiskId {
        self.0.disk
    }

    /// What keeps this node out of Raft until it may take part.
    pub(crate) fn gate(&self) -> &Gate {
        &self.0.gate
    }

    /// Whether a node is a member, as far as this node knows.
    pub(crate) fn knows(&self, node: NodeId) -> bool {
        let links = self.0.links.read().unwrap_or_else(PoisonError::into_inner);
        links.contains_key(&node)
    }

    /// All other members, as far as this node knows.
    pub(crate) fn others(&self) -> Vec<NodeId> {
        let links = self.0.links.read().unwrap_or_else(PoisonError::into_inner);
        links.keys().copied().collect()
    }

    /// To ask a peer something.
    pub(super) fn client(&self, node: NodeId) -> Option<PeerServiceClient<Channel>> {
        Some(self.link(node)?.client.clone())
    }

    /// This node's wall clock.
    pub(crate) fn wall_ms(&self) -> u64 {
        (self.0.wall_clock)()
    }

    /// Learns where the others are; links to addresses that did not change stay. Must be called
    /// inside a tokio runtime.
    ///
    /// # Errors
    /// The first address that is none; the others are learnt all the same.
    pub(crate) fn set_addresses(&self, addresses: &BTreeMap<NodeId, String>) -> Result<(), String> {
        let mut links = self.0.links.write().unwrap_or_else(PoisonError::into_inner);
        links.retain(|node, link| addresses.get(node) == Some(&link.address));
        let mut result = Ok(());
        for (node, address) in addresses {
            if *node != self.0.me.node && !links.contains_key(node) {
                match PeerLink::new(address) {
                    Ok(link) => drop(links.insert(*node, Arc::new(link))),
                    Err(error) => result = result.and(Err(error)),
                }
            }
        }
        result
    }

    /// A peer's process was heard of, and perhaps (not 0) its wall clock: it may be asked again at
    /// once.
    pub(crate) fn heard(&self, node: NodeId, boot: BootId, wall_ms: u64) {
        let Some(link) = self.link(node) else { return };
        link.pause.over();
        let wall_ms = link.note(boot, wall_ms);
        if let Some(broker) = &*self.broker() {
            broker.observe_peer(node, boot, wall_ms);
        }
    }

    /// A peer said what is short there, or on any node that it leads.
    pub(crate) fn heard_pressure(&self, node: NodeId, pressure: u32) {
        if let Some(broker) = &*self.broker() {
            broker.admission().heard(node, pressure);
        }
    }

    /// What is short on this node.
    pub(crate) fn own_pressure(&self) -> u32 {
        let broker = self.broker();
        broker
            .as_ref()
            .map_or(0, |broker| broker.admission().own_pressure())
    }

    /// What is short on this node, or on one that it leads.
    fn pressure_of_all(&self) -> u32 {
        let broker = self.broker();
        broker
            .as_ref()
            .map_or(0, |broker| broker.admission().pressure_of_all())
    }

    pub(super) fn broker(&self) -> RwLockReadGuard<'_, Option<Broker>> {
        self.0.broker.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run of a node's process, where it is known.
    pub(crate) fn boot_of(&self, node: NodeId) -> Option<BootId> {
        if node == self.0.me.node {
            return Some(self.0.me.boot);
        }
        let link = self.link(node)?;
        let seen = link.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.map(|seen| seen.boot)
    }

    /// Nobody listens at a peer's address: its host says so at once, so its process is gone. A peer
    /// that cannot be asked is not known to be gone.
    pub(crate) async fn is_gone(&self, node: NodeId) -> bool {
        let Some(link) = self.link(node) else {
            return false;
        };
        // A process that dies closes its connections and its listener one after the other.
        for _ in 0..limits::GONE_TRIES {
            let dialled = timeout(limits::GONE_WAIT_MAX, TcpStream::connect(&link.address)).await;
            match dialled {
                Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => return true,
                Ok(Ok(_)) => tokio::time::sleep(limits::GONE_PAUSE).await,
                Ok(Err(_)) | Err(_) => return false,
            }
        }
        false
    }

    fn link(&self, node: NodeId) -> Option<Arc<PeerLink>> {
        self.0
            .links
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&node)
            .cloned()
    }

    /// An answer counts only when it is of the node that was asked.
    pub(super) fn check_answer(
        &self,
        target: NodeId,
        header: Option<&Header>,
        wall_ms: u64,
    ) -> Result<(), String> {
        match self.0.me.check(header) {
            Ok((sender, boot)) if sender == target => {
                self.heard(sender, boot, wall_ms);
                Ok(())
            }
            Ok((sender, _)) => Err(format!("node {sender} answered instead")),
            Err(problem) => Err(problem.message().to_owned()),
        }
    }
}

impl PeerLink {
    fn new(address: &str) -> Result<Self, String> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| format!("`{address}` is no address of a peer: {error}"))?
            .connect_timeout(limits::PEER_CONNECT_WAIT_MAX)
            .tcp_nodelay(true)
            .initial_stream_window_size(limits::PEER_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::PEER_CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(limits::PEER_KEEPALIVE)
            .keep_alive_timeout(limits::PEER_KEEPALIVE)
            .keep_alive_while_idle(true);
        let client = PeerServiceClient::new(endpoint.connect_lazy())
            .max_decoding_message_size(limits::PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::PEER_MESSAGE_BYTES_MAX);
        let pause = Arc::new(Pause::default());
        let (to_append, to_forward) = (client.clone(), client.clone());
        let append: Open<_, _> = Box::new(move |requests| {
            let mut client = to_append.clone();
            async move {
                let answers = client.append_entries(ReceiverStream::new(requests)).await?;
                Ok(answers.into_inner())
            }
            .boxed()
        });
        let forward: Open<_, _> = Box::new(move |requests| {
            let mut client = to_forward.clone();
            async move {
                Ok(client
                    .forward(ReceiverStream::new(requests))
                    .await?
                    .into_inner())
            }
            .boxed()
        });
        Ok(Self {
            address: address.to_owned(),
            client,
            entries: Lane::start(Arc::clone(&pause), append),
            forwards: Lane::start(Arc::clone(&pause), forward),
            pause,
            seen: Mutex::default(),
        })
    }

    /// Notes what a peer said; its wall clock now, carried on from when it last told it.
    fn note(&self, boot: BootId, wall_ms: u64) -> u64 {
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let wall_ms = match &*seen {
            Some(last) if wall_ms == 0 && last.boot == boot && last.wall_ms > 0 => {
                let passed = now.saturating_duration_since(last.at).as_millis();
                last.wall_ms
                    .saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
            }
            _ => wall_ms,
        };
        *seen = Some(Seen {
            boot,
            wall_ms,
            at: now,
        });
        wall_ms
    }
}

impl Transport for Peers {
    fn call(
        &self,
        target: NodeId,
        request: PeerRequest,
        wait: Duration,
    ) -> BoxFuture<'static, Result<PeerResponse, TransportError>> {
        let Some(link) = self.link(target) else {
            let reason = "its address is not known".to_owned();
            return async move { Err(TransportError::Unreachable { target, reason }) }.boxed();
        };
        let peers = self.clone();
        let answer = match request {
            PeerRequest::AppendEntries(mut request) => {
                request.wall_clock_ms = self.wall_ms();
                request.pressure = self.pressure_of_all();
                let answer = link.entries.call(request);
                async move {
                    let answer = answer.await.map_err(|error| lane_error(target, error))?;
                    Ok(PeerResponse::AppendEntries(answer))
                }
                .boxed()
            }
            other => unary(target, link, other).boxed(),
        };
        async move {
            let answer = timeout(wait, answer).await;
            let answer = answer.map_err(|_| TransportError::TimedOut { target })??;
            let wall_ms = match &answer {
                PeerResponse::AppendEntries(answer) => answer.wall_clock_ms,
                _ => 0,
            };
            peers
                .check_answer(target, answer.header(), wall_ms)
                .map_err(|reason| TransportError::Refused { target, reason })?;
            if let PeerResponse::AppendEntries(answer) = &answer {
                peers.heard_pressure(target, answer.pressure);
            }
            Ok(answer)
        }
        .boxed()
    }
}

async fn unary(
    target: NodeId,
    link: Arc<PeerLink>,
    request: PeerRequest,
) -> Result<PeerResponse, TransportError> {
    if let Some(reason) = link.pause.blocks(Instant::now()) {
        return Err(TransportError::Unreachable { target, reason });
    }
    let mut client = link.client.clone();
    let answer = match request {
        PeerRequest::Vote(request) => client
            .vote(request)
            .await
            .map(|answer| PeerResponse::Vote(answer.into_inner())),
        PeerRequest::PreVote(request) => client
            .pre_vote(request)
            .await
            .map(|answer| PeerResponse::PreVote(answer.into_inner())),
        PeerRequest::TransferLeader(request) => client
            .transfer_leader(request)
            .await
            .map(|answer| PeerResponse::TransferLeader(answer.into_inner())),
        PeerRequest::ReadIndex(request) => client
            .read_index(request)
            .await
            .map(|answer| PeerResponse::ReadIndex(answer.into_inner())),
        PeerRequest::OfferSnapshot(request) => client
            .offer_snapshot(request)
            .await
            .map(|answer| PeerResponse::OfferSnapshot(answer.into_inner())),
        PeerRequest::OpenSnapshot(request) => client
            .open_snapshot(request)
            .await
            .map(|answer| PeerResponse::OpenSnapshot(answer.into_inner())),
        PeerRequest::ReadSnapshot(request) => client
            .read_snapshot(request)
            .await
            .map(|answer| PeerResponse::ReadSnapshot(answer.into_inner())),
        PeerRequest::CloseSnapshot(request) => client
            .close_snapshot(request)
            .await
            .map(|answer| PeerResponse::CloseSnapshot(answer.into_inner())),
        PeerRequest::AppendEntries(_) => {
            let reason = "entries go through their lane".to_owned();
            return Err(TransportError::Refused { target, reason });
        }
    };
    answer.map_err(|status| {
        let reason = describe(&status);
        if is_unreachable(&status) {
            link.pause.failed(&reason, Instant::now());
            TransportError::Unreachable { target, reason }
        } else {
            TransportError::Refused { target, reason }
        }
    })
}

fn is_unreachable(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Cancelled
    )
}

fn lane_error(target: NodeId, error: LaneError) -> TransportError {
    match error {
        LaneError::NotSent(reason) | LaneError::Broken(reason) => {
            TransportError::Unreachable { target, reason }
        }
    }
}

impl Link for Peers {
    fn forward(
        &self,
        leader: NodeId,
        forward: Forward,
    ) -> BoxFuture<'static, Result<(), LinkError>> {
        let Some(link) = self.link(leader) else {
            return async { Err(LinkError::NotTaken) }.boxed();
        };
        let peers = self.clone();
        // The lane answers in order, so the id is only there for people who read the traffic.
        let header = Some(self.0.me.header_to(leader));
        let answer = link.forwards.call(ForwardRequest {
            header,
            request_id: forward.term,
            term: forward.term,
            commands: forward.commands,
            may_wait: forward.haste == Haste::WithOthers,
        });
        async move {
            let answer = match timeout(limits::FORWARD_WAIT_MAX, answer).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(LaneError::NotSent(_))) => return Err(LinkError::NotTaken),
                Ok(Err(LaneError::Broken(_))) | Err(_) => return Err(LinkError::Broken),
            };
            if peers
                .check_answer(leader, answer.header.as_ref(), 0)
                .is_err()
            {
                return Err(LinkError::Broken);
            }
            match answer.result {
                Some(forward_response::Result::Taken(_)) => Ok(()),
                Some(forward_response::Result::NotProposed(_)) => Err(LinkError::NotTaken),
                None => Err(LinkError::Broken),
            }
        }
        .boxed()
    }
}
