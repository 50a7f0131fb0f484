use std::sync::Arc;

use ticketrail_broker::{Broker, BrokerConfig, WallClockSource};
use ticketrail_core::BootId;
use ticketrail_proto::peer::peer_service_server::PeerServiceServer;
use ticketrail_raft::{Folders, Replica, ReplicaConfig};
use ticketrail_storage::LogConfig;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::members::{cluster_id, follow_members, form_cluster, hand_over, members, set_addresses};
use super::routes::routes;
use super::{Listeners, Machine, RunError};
use crate::config::ServerConfig;
use crate::limits;
use crate::listen::{accept, server};
use crate::node::{Node, SharedNode};
use crate::peer::{Me, PeerEndpoint, Peers};
use crate::services;

/// A node that runs.
pub(super) struct Running {
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
    /// Opens the folders, starts the replica and the broker, and serves.
    pub(super) async fn start(
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
    pub(super) async fn failed(&self) -> String {
        self.node.broker.replica().failed().await
    }

    /// Stops in order: clients, what works for them, peers, the log.
    pub(super) async fn stop(mut self) -> Result<(), RunError> {
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
    pub(super) async fn abort(mut self, reason: String) -> Result<(), RunError> {
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

/// Runs a server to its end, which is only told.
async fn ended(
    what: &'static str,
    serve: impl Future<Output = Result<(), tonic::transport::Error>>,
) {
    if let Err(error) = serve.await {
        tracing::error!(what, %error, "a listener ended");
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
