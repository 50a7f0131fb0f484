//! Start and stop of a node.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use thiserror::Error;
use ticketrail_broker::{Broker, BrokerConfig, WallClockSource};
use ticketrail_core::{BootId, NodeId};
use ticketrail_proto::PUBLIC_DESCRIPTORS;
use ticketrail_proto::peer::peer_service_server::PeerServiceServer;
use ticketrail_proto::v1::cluster_service_server::ClusterServiceServer;
use ticketrail_proto::v1::consumer_service_server::ConsumerServiceServer;
use ticketrail_proto::v1::publisher_service_server::PublisherServiceServer;
use ticketrail_proto::v1::queue_admin_service_server::QueueAdminServiceServer;
use ticketrail_proto::v1::topology_service_server::TopologyServiceServer;
use ticketrail_raft::{BootstrapError, Folders, Member, PeerAddress, Replica, ReplicaConfig};
use ticketrail_storage::{Disk, LogConfig, OsDisk, StorageError, identity};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Router;
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::layer::util::{Identity, Stack};

use crate::config::{Bootstrap, ServerConfig};
use crate::limits;
use crate::listen::{CallLayer, accept, server};
use crate::node::{Node, SharedNode};
use crate::peer::{Me, PeerEndpoint, Peers};
use crate::services;

/// Why a node did not start, or stopped by itself.
#[derive(Debug, Error)]
pub enum RunError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The data folder is empty and nothing says which cluster to make.
    #[error(
        "`{folder}` is empty: give `bootstrap` with the first members for the very first start"
    )]
    NotBootstrapped {
        /// Which.
        folder: String,
    },
    /// The data folder is another cluster's.
    #[error("`{folder}` belongs to cluster {found:032x}, `cluster_id` says {given:032x}")]
    OtherCluster {
        /// Which.
        folder: String,
        /// Whose it is.
        found: u128,
        /// What the configuration says.
        given: u128,
    },
    /// What is on the disk cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The node cannot go on from what is on the disk.
    #[error("{0}")]
    Start(String),
    /// The node had to stop: nothing that was not confirmed before was confirmed after.
    #[error("the node stopped: {0}")]
    Failed(String),
}

/// The sockets of a node, bound before anything else, so that a taken port is told at once.
#[derive(Debug)]
pub struct Listeners {
    /// For clients.
    pub clients: TcpListener,
    /// For other nodes.
    pub peers: TcpListener,
}

impl Listeners {
    /// Binds the addresses of a configuration.
    ///
    /// # Errors
    /// [`RunError::Listen`].
    pub async fn bind(config: &ServerConfig) -> Result<Self, RunError> {
        Ok(Self {
            clients: bind(&config.listen).await?,
            peers: bind(&config.peer_listen).await?,
        })
    }
}

async fn bind(address: &str) -> Result<TcpListener, RunError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| RunError::Listen {
        address: address.to_owned(),
        source,
    })
}

/// Runs a node until `shutdown` resolves, then stops it: no new connections, streams end with
/// UNAVAILABLE, calls get up to 10 s.
///
/// # Errors
/// When the node cannot start, or must stop by itself; see [`RunError`].
pub async fn run(config: ServerConfig, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let listeners = Listeners::bind(&config).await?;
    run_on(config, listeners, shutdown).await
}

/// As [`run`], on sockets that are bound already.
///
/// # Errors
/// As [`run`].
pub async fn run_on(
    config: ServerConfig,
    listeners: Listeners,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    run_with(config, listeners, Machine::default(), shutdown).await
}

/// Opens the disk of a folder.
pub type DiskOf = Arc<dyn Fn(&Path) -> io::Result<Arc<dyn Disk>> + Send + Sync>;

/// The machine under a node: the seam at which tests put a disk that fails and a clock that is wrong.
#[derive(Clone)]
pub struct Machine {
    /// Opens the disks of log and snapshots.
    pub disk_of: DiskOf,
    /// Reads the wall clock: UTC, milliseconds since 1970.
    pub wall_clock: WallClockSource,
}

impl Default for Machine {
    /// The real one.
    fn default() -> Self {
        Self {
            disk_of: Arc::new(|folder| Ok(Arc::new(OsDisk::new(folder)?))),
            wall_clock: Arc::new(wall_ms),
        }
    }
}

/// As [`run_on`], on a machine that is not the real one.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    config: ServerConfig,
    listeners: Listeners,
    machine: Machine,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let running = Running::start(config, listeners, machine).await?;
    tokio::select! {
        () = shutdown => running.stop().await,
        reason = running.failed() => running.abort(reason).await,
    }
}

/// A node that runs.
struct Running {
    node: SharedNode,
    peers: Peers,
    folders: Folders,
    /// Cancelled to end every connection at once.
    kill: CancellationToken,
    /// Cancelled to end the peer listener, after that of the clients.
    stop_peers: CancellationToken,
    client_tasks: JoinSet<()>,
    peer_tasks: JoinSet<()>,
}

impl Running {
    async fn start(
        config: ServerConfig,
        listeners: Listeners,
        machine: Machine,
    ) -> Result<Self, RunError> {
        let cluster_id = cluster_id(&config)?;
        let me = Me {
            cluster_id,
            node: config.node,
            boot: BootId(rand::random()),
        };
        let root = config.data_dir.clone();
        let (disk_of, log_config) = (machine.disk_of, LogConfig::new(me.cluster_id, me.node.0));
        let open = move || Folders::open_on(&root, log_config, &*disk_of);
        let opened = tokio::task::spawn_blocking(open).await;
        let (folders, storage, recovery) = opened
            .map_err(|error| RunError::Start(error.to_string()))?
            .map_err(|error| RunError::Start(error.to_string()))?;
        tracing::info!(node = %me.node, cluster = format!("{cluster_id:032x}"), ?recovery, "log opened");

        let peers = Peers::new(me, Arc::clone(&machine.wall_clock));
        let members = config.bootstrap.as_ref().map(members).unwrap_or_default();
        set_addresses(&peers, &members)?;
        let replica_config = ReplicaConfig {
            members: members.clone(),
            ..ReplicaConfig::new(cluster_id, me.node, me.boot)
        };
        let transport = Arc::new(peers.clone());
        let broker = Broker::start(
            broker_config(me, members.len(), machine.wall_clock),
            Arc::new(peers.clone()),
            |sink| Replica::start(replica_config, storage, transport, sink),
        );
        let broker = broker
            .await
            .map_err(|error| RunError::Start(error.to_string()))?;
        form_cluster(broker.replica(), members).await?;
        peers.serve(&broker);
        let node = Arc::new(Node {
            broker,
            peers: peers.clone(),
            cluster_id,
            id: me.node,
            limits: config.limits,
            stop: CancellationToken::new(),
        });
        let mut running = Self {
            node,
            peers,
            folders,
            kill: CancellationToken::new(),
            stop_peers: CancellationToken::new(),
            client_tasks: JoinSet::new(),
            peer_tasks: JoinSet::new(),
        };
        running.listen(listeners, config.reflection).await?;
        Ok(running)
    }

    async fn listen(&mut self, listeners: Listeners, reflection: bool) -> Result<(), RunError> {
        let endpoint = PeerEndpoint::new(self.peers.clone(), self.node.broker.clone());
        let peer_service = PeerServiceServer::new(endpoint)
            .max_decoding_message_size(limits::PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::PEER_MESSAGE_BYTES_MAX);
        let peers = server()
            .add_service(peer_service)
            .serve_with_incoming_shutdown(
                accept(
                    listeners.peers,
                    self.kill.clone(),
                    limits::HANDSHAKE_WAIT_MAX,
                ),
                self.stop_peers.clone().cancelled_owned(),
            );
        self.peer_tasks.spawn(ended("peers", peers));

        let replica = self.node.broker.replica().clone();
        let follow = follow_members(replica.clone(), self.peers.clone(), self.stop_peers.clone());
        self.peer_tasks.spawn(follow);

        let (reporter, health) = services::health().await;
        self.client_tasks.spawn(services::watch_health(
            reporter,
            replica,
            self.node.stop.clone(),
        ));
        let clients = routes(&self.node, health, reflection)?.serve_with_incoming_shutdown(
            accept(
                listeners.clients,
                self.kill.clone(),
                limits::HANDSHAKE_WAIT_MAX,
            ),
            self.node.stop.clone().cancelled_owned(),
        );
        self.client_tasks.spawn(ended("clients", clients));
        Ok(())
    }

    /// Resolves with the reason when the node must stop.
    async fn failed(&self) -> String {
        self.node.broker.replica().failed().await
    }

    /// Stops in order: clients, what works for them, peers, the log.
    async fn stop(mut self) -> Result<(), RunError> {
        tracing::info!("stopping");
        hand_over(self.node.broker.replica()).await;
        self.node.stop.cancel();
        let clients = async { while self.client_tasks.join_next().await.is_some() {} };
        if timeout(limits::STOP_WAIT_MAX, clients).await.is_err() {
            tracing::warn!("some calls did not end in time and are cut off");
        }
        self.node.broker.shutdown().await;
        self.stop_peers.cancel();
        self.kill.cancel();
        self.client_tasks.shutdown().await;
        while self.peer_tasks.join_next().await.is_some() {}
        self.peers.close();
        let folders = self.folders;
        let closed = tokio::task::spawn_blocking(move || folders.close()).await;
        closed.map_err(|error| RunError::Failed(error.to_string()))??;
        tracing::info!("stopped");
        Ok(())
    }

    /// Ends everything at once, so that nothing more is answered.
    async fn abort(mut self, reason: String) -> Result<(), RunError> {
        self.kill.cancel();
        self.node.stop.cancel();
        self.client_tasks.shutdown().await;
        self.peer_tasks.shutdown().await;
        if timeout(limits::ABORT_WAIT_MAX, self.node.broker.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("raft did not end in time");
        }
        self.peers.close();
        Err(RunError::Failed(reason))
    }
}

/// A leader that stops asks the most complete of the others to lead, and waits a moment for it: a
/// stop in order costs no election timeout.
async fn hand_over(replica: &Replica) {
    let status = replica.status();
    if status.leader != Some(status.node_id) {
        return;
    }
    let is_there = |member: &Member| {
        member
            .answered_ms_ago
            .is_some_and(|ms| u128::from(ms) < limits::QUORUM_SILENCE_MAX.as_millis())
    };
    let others = status
        .members
        .iter()
        .filter(|(node, _)| **node != status.node_id);
    let able = others.filter(|(_, member)| member.voter && is_there(member));
    let Some((to, _)) = able.max_by_key(|(_, member)| member.matched_index) else {
        return;
    };
    let mut leadership = replica.leadership();
    replica.transfer_leadership(*to).await;
    let handed = leadership.wait_for(|now| now.leader.is_some() && !now.is_leader);
    match timeout(limits::HAND_OVER_MAX, handed).await {
        Ok(_) => tracing::info!(%to, "leadership handed over"),
        Err(_) => tracing::info!(%to, "leadership was not taken over in time"),
    }
}

/// Runs a server to its end, which is only told.
async fn ended(
    what: &'static str,
    serve: impl Future<Output = Result<(), tonic::transport::Error>>,
) {
    if let Err(error) = serve.await {
        tracing::error!(what, %error, "a listener ended");
    }
}

fn routes(
    node: &SharedNode,
    health: HealthServer<impl Health>,
    reflection: bool,
) -> Result<Router<Stack<CallLayer, Identity>>, RunError> {
    let bounds = node.limits;
    let request_max = limits::request_bytes_max(bounds.batch_bytes_max, bounds.body_bytes_max);
    macro_rules! service {
        ($server:ident, $service:ident) => {
            $server::new(services::$service(node.clone()))
                .max_decoding_message_size(request_max)
                .max_encoding_message_size(limits::PEER_MESSAGE_BYTES_MAX)
        };
    }
    let mut routes = server()
        .layer(CallLayer)
        .add_service(service!(PublisherServiceServer, Publisher))
        .add_service(service!(ConsumerServiceServer, Consumer))
        .add_service(service!(TopologyServiceServer, Topology))
        .add_service(service!(QueueAdminServiceServer, QueueAdmin))
        .add_service(service!(ClusterServiceServer, Cluster))
        .add_service(health);
    if reflection {
        let descriptors = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(PUBLIC_DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let broken = |error: tonic_reflection::server::Error| RunError::Start(error.to_string());
        routes = routes
            .add_service(descriptors().build_v1().map_err(broken)?)
            .add_service(descriptors().build_v1alpha().map_err(broken)?);
    }
    Ok(routes)
}

/// The cluster that the folder belongs to, or that shall be made in it.
fn cluster_id(config: &ServerConfig) -> Result<u128, RunError> {
    let folder = config.data_dir.join("log");
    let found = if folder.is_dir() {
        let disk = OsDisk::new(&folder)
            .map_err(|error| RunError::Start(format!("`{}`: {error}", folder.display())))?;
        identity::read(&disk)?
    } else {
        None
    };
    let shown = config.data_dir.display().to_string();
    let found = found.map(|identity| identity.cluster_id);
    match (found, &config.bootstrap) {
        (
            Some(found),
            Some(Bootstrap {
                given_id: Some(given),
                ..
            }),
        ) if found != *given => Err(RunError::OtherCluster {
            folder: shown,
            found,
            given: *given,
        }),
        (Some(found), _) => Ok(found),
        (None, Some(bootstrap)) => Ok(bootstrap.cluster_id),
        (None, None) => Err(RunError::NotBootstrapped { folder: shown }),
    }
}

fn members(bootstrap: &Bootstrap) -> BTreeMap<NodeId, PeerAddress> {
    let address = |member: &crate::config::Member| PeerAddress {
        peer: member.peer_address.clone(),
        client: member.client_address.clone(),
    };
    bootstrap
        .members
        .iter()
        .map(|member| (member.node, address(member)))
        .collect()
}

fn set_addresses(peers: &Peers, members: &BTreeMap<NodeId, PeerAddress>) -> Result<(), RunError> {
    let addresses = members
        .iter()
        .map(|(node, address)| (*node, address.peer.clone()))
        .collect();
    peers.set_addresses(&addresses).map_err(RunError::Start)
}

/// Forms the cluster where there is none.
async fn form_cluster(
    replica: &Replica,
    members: BTreeMap<NodeId, PeerAddress>,
) -> Result<(), RunError> {
    if replica.is_initialized() {
        return Ok(());
    }
    match replica.bootstrap(members).await {
        // Another member was quicker.
        Ok(()) | Err(BootstrapError::AlreadyInitialized) => Ok(()),
        Err(error) => Err(RunError::Start(error.to_string())),
    }
}

/// Keeps the ways to the others as the log says that they are, until the node stops.
async fn follow_members(replica: Replica, peers: Peers, stop: CancellationToken) {
    let mut known = BTreeMap::new();
    let mut leadership = replica.leadership();
    let mut look = tokio::time::interval(limits::MEMBERS_LOOK);
    loop {
        let members = replica.status().members;
        let members: BTreeMap<_, _> = members
            .into_iter()
            .map(|(node, member)| (node, member.address))
            .collect();
        if !members.is_empty() && members != known {
            if let Err(error) = set_addresses(&peers, &members) {
                tracing::error!(%error, "a member cannot be reached at its address");
            }
            known = members;
        }
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() { return },
            _ = look.tick() => {}
            () = stop.cancelled() => return,
        }
    }
}

fn broker_config(me: Me, voters: usize, wall_clock: WallClockSource) -> BrokerConfig {
    BrokerConfig {
        node: me.node,
        boot: me.boot,
        cluster_id: me.cluster_id,
        voters,
        waiting_bytes_max: limits::WAITING_BYTES_MAX,
        wall_clock,
        entropy: Arc::new(rand::random),
    }
}

fn wall_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
