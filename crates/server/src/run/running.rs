use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ticketrail_broker::{Broker, BrokerConfig, WallClockSource};
use ticketrail_core::{BootId, DiskId, NodeId};
use ticketrail_proto::peer::peer_service_server::PeerServiceServer;
use ticketrail_raft::{Folders, PeerAddress, Replica, ReplicaConfig};
use ticketrail_storage::LogConfig;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::enter::{Way, enter};
use super::join::Joining;
use super::measure::measure;
use super::members::{cluster_id, follow_members, set_addresses};
use super::routes::routes;
use super::{Listeners, Machine, RunError, known_members, standing};
use crate::alone::Alone;
use crate::config::{Entrance, OverloadLimits, ServerConfig};
use crate::limits;
use crate::listen::{Door, accept, peer_server};
use crate::machine;
use crate::metrics::Watched;
use crate::node::{Node, SharedNode};
use crate::peer::{Me, PeerEndpoint, Peers};
use crate::services;
use crate::spans::Spans;
use crate::stopping::{Stopping, Streams};

/// A node that runs.
pub(super) struct Running {
    node: SharedNode,
    peers: Peers,
    folders: Folders,
    stop_timeout: Duration,
    /// Cancelled to end every connection at once.
    kill: CancellationToken,
    /// Cancelled to end the peer listener, after that of the clients.
    stop_peers: CancellationToken,
    client_tasks: JoinSet<()>,
    peer_tasks: JoinSet<()>,
}

impl Running {
    /// Opens the folders, starts the replica and the broker, and serves.
    pub(super) async fn start(
        config: ServerConfig,
        listeners: Listeners,
        machine: Machine,
    ) -> Result<Self, RunError> {
        // Like the others bound before anything else.
        let metrics = match &config.metrics.listen {
            Some(address) => Some(super::bind(address).await?),
            None => None,
        };
        let cluster_id = cluster_id(&config).await?;
        let me = Me {
            cluster_id,
            node: config.node,
            boot: BootId(rand::random()),
        };
        let root = config.data_dir.clone();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            cluster = format!("{cluster_id:032x}"),
            boot = %me.boot,
            listen = config.listen,
            peer_listen = config.peer_listen,
            metrics_listen = config.metrics.listen,
            data_dir = %config.data_dir.display(),
            "starting"
        );
        let (disk_of, log_config) = (machine.disk_of, LogConfig::new(me.cluster_id, me.node.0));
        let fresh = DiskId(rand::random::<u128>().max(1));
        let open = move || Folders::open_on(&root, log_config, fresh, &*disk_of);
        let opened = tokio::task::spawn_blocking(open).await;
        let (folders, storage, recovery) = opened
            .map_err(|error| RunError::Start(error.to_string()))?
            .map_err(|error| RunError::Start(error.to_string()))?;
        tracing::info!(node = %me.node, cluster = format!("{cluster_id:032x}"), ?recovery, "log opened");

        let spans = Spans::start(config.otlp_endpoint.as_deref(), me.node);
        let spans = spans.map_err(RunError::Start)?;
        let peers = Peers::new(me, folders.disk_id(), Arc::clone(&machine.wall_clock));
        let (first_members, way) = way(&config);
        let mut members = known_members::read(&config.data_dir);
        // An operator's word comes first.
        members.extend(first_members.clone());
        set_addresses(&peers, &members)?;
        let replica_config = ReplicaConfig {
            dead_bytes_max: config.dead_bytes_max,
            rejoin_from: members.keys().copied().collect(),
            snapshot_bytes: config.snapshots.every_bytes,
            log_bytes_kept: config.snapshots.log_bytes_kept,
            fetch_bytes_per_second: config.snapshots.fetch_bytes_per_second,
            hold_bytes_max: config.snapshots.hold_bytes_max,
            planted_divergence: machine.planted_divergence,
            ..ReplicaConfig::new(cluster_id, me.node, me.boot)
        };
        let transport = Arc::new(peers.clone());
        let broker = Broker::start(
            broker_config(
                me,
                folders.disk_id(),
                first_members.len(),
                machine.wall_clock,
                &config.overload,
            ),
            Arc::new(peers.clone()),
            |sink| Replica::start(replica_config, storage, transport, sink),
        );
        let broker = broker
            .await
            .map_err(|error| RunError::Start(error.to_string()))?;
        peers.serve(&broker);
        let node = Arc::new(Node {
            broker,
            peers: peers.clone(),
            cluster_id,
            id: me.node,
            calls: Arc::default(),
            limits: config.limits,
            alone: Alone::default(),
            stopping: Stopping::default(),
            streams: Streams::default(),
            backups: Arc::new(Semaphore::new(limits::BACKUPS_MAX)),
            spans,
            data: Mutex::default(),
        });
        let mut running = Self {
            node,
            peers,
            folders,
            stop_timeout: config.stop_timeout,
            kill: CancellationToken::new(),
            stop_peers: CancellationToken::new(),
            client_tasks: JoinSet::new(),
            peer_tasks: JoinSet::new(),
        };
        running.measure(config.data_dir.clone());
        running.follow_members(config.data_dir.clone());
        let watched = Watched::new(
            Arc::clone(&running.node),
            config.data_dir,
            config.metrics.queues_max,
            Arc::default(),
            Arc::default(),
        );
        let watched = Arc::new(watched);
        running
            .listen(listeners, config.reflection, &config.overload, &watched)
            .await?;
        if let Some(metrics) = metrics {
            let stop = running.stop_peers.clone();
            let serve = crate::metrics::serve(metrics, watched, stop);
            running.peer_tasks.spawn(serve);
        }
        running.enter(way);
        Ok(running)
    }

    /// Comes to have a part in the cluster, and sees whether it keeps it.
    fn enter(&mut self, way: Way) {
        let replica = self.node.broker.replica().clone();
        let (peers, stop) = (self.peers.clone(), self.stop_peers.clone());
        let watch = standing::watch(replica.clone(), peers.clone(), stop.clone());
        self.peer_tasks.spawn(watch);
        self.peer_tasks.spawn(async move {
            tokio::select! {
                () = enter(replica, peers, way) => {}
                () = stop.cancelled() => {}
            }
        });
    }

    fn follow_members(&mut self, data_dir: PathBuf) {
        let replica = self.node.broker.replica().clone();
        let (peers, stop) = (self.peers.clone(), self.stop_peers.clone());
        let follow = follow_members(replica, peers, data_dir, stop);
        self.peer_tasks.spawn(follow);
    }

    fn measure(&mut self, data_dir: PathBuf) {
        let (node, stop) = (Arc::clone(&self.node), self.stop_peers.clone());
        self.peer_tasks.spawn(measure(node, data_dir, stop));
    }

    async fn listen(
        &mut self,
        listeners: Listeners,
        reflection: bool,
        overload: &OverloadLimits,
        watched: &Watched,
    ) -> Result<(), RunError> {
        machine::raise_file_limit(overload.connections_max as u64 + limits::FILES_BESIDE);
        let admission = Arc::clone(self.node.broker.admission());
        let door = Door {
            connections_max: overload.connections_max,
            connection_bytes_max: overload.admission.connection_bytes_max,
            greeting_wait: limits::HANDSHAKE_WAIT_MAX,
            admission: Some(admission),
            counts: Arc::clone(&watched.clients),
        };
        let peer_door = Door {
            connections_max: limits::PEER_CONNECTIONS_MAX,
            counts: Arc::clone(&watched.peers),
            admission: None,
            ..door.clone()
        };
        let endpoint = PeerEndpoint::new(self.peers.clone(), self.node.broker.clone());
        let peer_service = PeerServiceServer::new(endpoint)
            .max_decoding_message_size(limits::PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::PEER_MESSAGE_BYTES_MAX);
        let peers = peer_server()
            .add_service(peer_service)
            .serve_with_incoming_shutdown(
                accept(listeners.peers, self.kill.clone(), peer_door),
                self.stop_peers.clone().cancelled_owned(),
            );
        self.peer_tasks.spawn(ended("peers", peers));

        let replica = self.node.broker.replica().clone();

        let (reporter, health) = services::health(&self.node).await;
        self.client_tasks.spawn(services::watch_health(
            reporter,
            replica,
            self.node.alone.clone(),
            self.node.stopping.clone(),
        ));
        let stopping = self.node.stopping.clone();
        let clients = routes(&self.node, health, reflection)?.serve_with_incoming_shutdown(
            accept(listeners.clients, self.kill.clone(), door),
            async move { stopping.drains().await },
        );
        self.client_tasks.spawn(ended("clients", clients));
        Ok(())
    }

    /// Resolves with the reason when the node must stop.
    pub(super) async fn failed(&self) -> String {
        self.node.broker.replica().failed().await
    }

    /// Stops in order: leadership, clients, what works for them, peers, the log.
    pub(super) async fn stop(mut self) -> Result<(), RunError> {
        tracing::info!("stopping");
        let deadline = Instant::now() + self.stop_timeout;
        self.node.stopping.refuse();
        self.node.broker.begin_farewell();
        let until = Instant::now() + limits::HAND_OVER_MAX;
        match self.node.broker.hand_over(until).await {
            Ok(Some(leader)) => tracing::info!(%leader, "leadership handed over"),
            Ok(None) => {}
            Err(problem) => tracing::info!(%problem, "leadership was not handed over"),
        }
        self.node.stopping.drain();
        self.end_clients(deadline).await;
        let farewell = Instant::now() + limits::FAREWELL_END_MAX;
        if !self.node.broker.end_farewell(farewell).await {
            tracing::info!("the others find out by themselves which connections ended here");
        }
        self.node.broker.shutdown().await;
        self.node.spans.stop().await;
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

    /// Waits for streams and calls. Streams have half of the time to settle what their clients hold,
    /// and a moment only when there is no majority to settle it.
    async fn end_clients(&mut self, deadline: Instant) {
        let half = Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2;
        tokio::select! {
            () = self.node.streams.ended() => {}
            () = sleep_until(half) => tracing::info!("streams that have not ended are cut off"),
            () = services::quorum_lost_for(self.node.broker.replica(), limits::STOP_ALONE_MAX) => {
                tracing::info!("no majority is to be heard: streams are cut off");
            }
        }
        self.node.stopping.end();
        let clients = async {
            while self.client_tasks.join_next().await.is_some() {}
            self.node.streams.ended().await;
        };
        if timeout_at(deadline, clients).await.is_err() {
            tracing::warn!("some calls did not end in time and are cut off");
        }
    }

    /// Ends everything at once, so that nothing more is answered.
    pub(super) async fn abort(mut self, reason: String) -> Result<(), RunError> {
        self.kill.cancel();
        self.node.stopping.end();
        self.client_tasks.shutdown().await;
        self.peer_tasks.shutdown().await;
        if timeout(limits::ABORT_WAIT_MAX, self.node.broker.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("raft did not end in time");
        }
        // What does not get out by then is not waited for.
        let _ = timeout(limits::ABORT_WAIT_MAX, self.node.spans.stop()).await;
        self.peers.close();
        Err(RunError::Failed(reason))
    }
}

/// The members that are known before the log tells, and how this node comes to be one.
fn way(config: &ServerConfig) -> (BTreeMap<NodeId, PeerAddress>, Way) {
    let address = config.address.clone();
    match &config.entrance {
        Entrance::Bootstrap(bootstrap) => {
            let members = bootstrap.members.clone();
            (members.clone(), Way::Founding(members))
        }
        Entrance::Join { endpoints, votes } => {
            let joining = Joining {
                endpoints: endpoints.clone(),
                votes: *votes,
                address,
                folder: config.data_dir.clone(),
            };
            (BTreeMap::new(), Way::Joining(joining))
        }
        Entrance::None => (BTreeMap::new(), Way::Waiting { address }),
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

fn broker_config(
    me: Me,
    disk: DiskId,
    voters: usize,
    wall_clock: WallClockSource,
    overload: &OverloadLimits,
) -> BrokerConfig {
    BrokerConfig {
        node: me.node,
        boot: me.boot,
        disk,
        cluster_id: me.cluster_id,
        voters,
        admission: overload.admission.clone(),
        wall_clock,
        entropy: Arc::new(rand::random),
        enclose: BrokerConfig::plain(),
    }
}
