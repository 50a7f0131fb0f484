//! Nodes in this process, on loopback and temporary folders.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use ticketrail_proto::v1;
use ticketrail_proto::v1::cluster_service_client::ClusterServiceClient;
use ticketrail_proto::v1::consumer_service_client::ConsumerServiceClient;
use ticketrail_proto::v1::publisher_service_client::PublisherServiceClient;
use ticketrail_proto::v1::queue_admin_service_client::QueueAdminServiceClient;
use ticketrail_proto::v1::topology_service_client::TopologyServiceClient;
use ticketrail_server::{
    Listeners, RunError, WrittenConfig, WrittenLimits, WrittenTracing, run_on,
};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// A limit for every wait of a test: what takes longer is broken.
pub const PATIENCE: Duration = Duration::from_secs(15);

pub struct Cluster {
    pub nodes: Vec<Node>,
    folder: TempDir,
    bootstrap: Option<String>,
    limits: WrittenLimits,
    tracing: WrittenTracing,
}

pub struct Node {
    pub id: u64,
    pub client_address: String,
    pub peer_address: String,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<Result<(), RunError>>>,
}

impl Cluster {
    /// Starts so many nodes and waits until all of them serve.
    pub async fn start(count: u64) -> Self {
        Self::start_with(count, WrittenLimits::default()).await
    }

    pub async fn start_with(count: u64, limits: WrittenLimits) -> Self {
        Self::start_as(count, limits, WrittenTracing::default()).await
    }

    /// As [`Self::start`], with a collector of spans.
    pub async fn start_traced(count: u64, otlp_endpoint: String) -> Self {
        let otlp_endpoint = Some(otlp_endpoint);
        Self::start_as(
            count,
            WrittenLimits::default(),
            WrittenTracing { otlp_endpoint },
        )
        .await
    }

    async fn start_as(count: u64, limits: WrittenLimits, tracing: WrittenTracing) -> Self {
        let mut nodes = Vec::new();
        let mut listeners = Vec::new();
        for id in 1..=count {
            let bound = Listeners {
                clients: loopback("0").await,
                peers: loopback("0").await,
            };
            nodes.push(Node {
                id,
                client_address: bound.clients.local_addr().unwrap().to_string(),
                peer_address: bound.peers.local_addr().unwrap().to_string(),
                stop: None,
                running: None,
            });
            listeners.push(bound);
        }
        let line =
            |node: &Node| format!("{}={}@{}", node.id, node.peer_address, node.client_address);
        let bootstrap = nodes.iter().map(line).collect::<Vec<_>>().join(",");
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = Self {
            nodes,
            folder,
            bootstrap: Some(bootstrap),
            limits,
            tracing,
        };
        for (place, bound) in listeners.into_iter().enumerate() {
            cluster.run(place, bound);
        }
        cluster.serving().await;
        cluster
    }

    pub fn config(&self, place: usize) -> WrittenConfig {
        let node = &self.nodes[place];
        WrittenConfig {
            node_id: Some(node.id),
            listen: Some(node.client_address.clone()),
            peer_listen: Some(node.peer_address.clone()),
            data_dir: Some(self.folder_of(place)),
            bootstrap: self.bootstrap.clone(),
            limits: self.limits.clone(),
            tracing: self.tracing.clone(),
            ..WrittenConfig::default()
        }
    }

    /// Nodes that start from now on are told nothing of the others.
    pub fn forget_bootstrap(&mut self) {
        self.bootstrap = None;
    }

    pub fn folder_of(&self, place: usize) -> std::path::PathBuf {
        self.folder
            .path()
            .join(format!("node-{}", self.nodes[place].id))
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn run(&mut self, place: usize, bound: Listeners) {
        let config = self.config(place).validate().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = run_on(config, bound, async {
            let _ = stopped.await;
        });
        self.nodes[place].stop = Some(stop);
        self.nodes[place].running = Some(tokio::spawn(running));
    }

    /// Asks a node to stop; [`Self::stopped`] waits for it.
    pub fn ask_to_stop(&mut self, place: usize) {
        self.nodes[place].stop.take().unwrap().send(()).unwrap();
    }

    /// Stops a node in order.
    pub async fn stop(&mut self, place: usize) -> Result<(), RunError> {
        self.ask_to_stop(place);
        self.stopped(place).await
    }

    /// Waits for a node that was asked to stop.
    pub async fn stopped(&mut self, place: usize) -> Result<(), RunError> {
        let node = &mut self.nodes[place];
        let running = node.running.take().unwrap();
        tokio::time::timeout(PATIENCE, running)
            .await
            .unwrap()
            .unwrap()
    }

    /// Starts a stopped node again, on its old ports.
    pub async fn start_again(&mut self, place: usize) {
        let node = &self.nodes[place];
        let bound = Listeners {
            clients: listen(&node.client_address).await,
            peers: listen(&node.peer_address).await,
        };
        self.run(place, bound);
    }

    /// Waits until every node that runs serves.
    pub async fn serving(&mut self) {
        for place in 0..self.nodes.len() {
            if self.nodes[place].running.is_some() {
                self.node_serving(place).await;
            }
        }
    }

    async fn node_serving(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        let request = HealthCheckRequest {
            service: String::new(),
        };
        let mut client = HealthClient::new(channel(&node.client_address));
        let serves = async {
            loop {
                let status = client.check(request.clone()).await;
                if status.is_ok_and(|status| status.get_ref().status == 1) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            served = tokio::time::timeout(PATIENCE, serves) => served.expect("the node serves"),
            ended = node.running.as_mut().unwrap() => panic!("node {} ended: {ended:?}", node.id),
        }
    }

    pub fn publisher(&self, place: usize) -> PublisherServiceClient<Channel> {
        PublisherServiceClient::new(self.channel(place)).max_encoding_message_size(usize::MAX)
    }

    pub fn consumer(&self, place: usize) -> ConsumerServiceClient<Channel> {
        ConsumerServiceClient::new(self.channel(place))
    }

    pub fn topology(&self, place: usize) -> TopologyServiceClient<Channel> {
        TopologyServiceClient::new(self.channel(place))
    }

    pub fn admin(&self, place: usize) -> QueueAdminServiceClient<Channel> {
        QueueAdminServiceClient::new(self.channel(place))
    }

    pub fn cluster(&self, place: usize) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel(place))
    }

    pub fn channel(&self, place: usize) -> Channel {
        channel(&self.nodes[place].client_address)
    }

    /// The place of the leader, once all agree.
    pub async fn leader(&self) -> usize {
        tokio::time::timeout(PATIENCE, async {
            loop {
                let mut known = Vec::new();
                for place in 0..self.nodes.len() {
                    let request = v1::GetClusterRequest {};
                    let answer = self.cluster(place).get_cluster(request).await.unwrap();
                    known.push(answer.get_ref().leader_node_id);
                }
                if known[0] != 0 && known.iter().all(|id| *id == known[0]) {
                    return self
                        .nodes
                        .iter()
                        .position(|node| node.id == known[0])
                        .unwrap();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("a leader that all agree on")
    }

    /// Makes a queue with defaults.
    pub async fn queue(&self, name: &str) {
        let request = v1::CreateQueueRequest {
            name: name.to_owned(),
            ..Default::default()
        };
        self.topology(0).create_queue(request).await.unwrap();
    }

    pub async fn stats(&self, place: usize, queue: &str) -> v1::QueueStats {
        let request = v1::GetQueueStatsRequest {
            queue: queue.to_owned(),
            ..Default::default()
        };
        let answer = self.admin(place).get_queue_stats(request).await.unwrap();
        answer.into_inner().stats.unwrap()
    }
}

async fn loopback(port: &str) -> TcpListener {
    listen(&format!("127.0.0.1:{port}")).await
}

async fn listen(address: &str) -> TcpListener {
    tokio::time::timeout(PATIENCE, async {
        loop {
            match TcpListener::bind(address).await {
                Ok(listener) => return listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    })
    .await
    .expect("the port is free")
}

pub fn channel(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect_lazy()
}

pub fn item(queue: &str, body: impl Into<Bytes>) -> v1::PublishItem {
    v1::PublishItem {
        routing_key: queue.to_owned(),
        mandatory: true,
        message: Some(v1::Message {
            body: body.into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

pub fn bodies(deliveries: &[v1::Delivery]) -> Vec<String> {
    let body = |delivery: &v1::Delivery| {
        String::from_utf8(delivery.message.as_ref().unwrap().body.to_vec()).unwrap()
    };
    deliveries.iter().map(body).collect()
}
