//! A broker over a cluster of one node: what becomes of sessions, attempts and acknowledgements when calls end early.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tempfile::TempDir;
use ticketrail_broker::{
    Broker, BrokerConfig, ConsumeRequest, ConsumerEvent, Link, LinkError, NewMessage,
    ReceiveRequest,
};
use ticketrail_core::command::{AttachConsumer, SettleKind, SettleRange};
use ticketrail_core::view::SessionView;
use ticketrail_core::{BootId, Command, NodeId, Owner, QueueSettings, SessionId};
use ticketrail_proto::stored::encode_command;
use ticketrail_raft::{
    Folders, PeerAddress, PeerRequest, PeerResponse, Replica, ReplicaConfig, Transport,
    TransportError,
};
use tokio::time::Instant;

const CLUSTER: u128 = 7;
const NODE: NodeId = NodeId(1);
const BOOT: BootId = BootId(5);

struct Alone;

impl Transport for Alone {
    fn call(
        &self,
        target: NodeId,
        _: PeerRequest,
        _: Duration,
    ) -> BoxFuture<'static, Result<PeerResponse, TransportError>> {
        let reason = "there is no other node".to_owned();
        Box::pin(async move { Err(TransportError::Unreachable { target, reason }) })
    }
}

impl Link for Alone {
    fn forward(
        &self,
        _: NodeId,
        _: u64,
        _: Vec<Bytes>,
    ) -> BoxFuture<'static, Result<(), LinkError>> {
        Box::pin(async { Err(LinkError::NotTaken) })
    }
}

struct Node {
    broker: Broker,
    _folder: TempDir,
    _folders: Folders,
}

impl Node {
    /// With a queue `q` of short leases.
    async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let (folders, storage, _) = Folders::open(folder.path(), CLUSTER, NODE.0).unwrap();
        let random = AtomicU64::new(1);
        let config = BrokerConfig {
            node: NODE,
            boot: BOOT,
            cluster_id: CLUSTER,
            voters: 1,
            waiting_bytes_max: 1 << 20,
            wall_clock: Arc::new(|| 1_000),
            entropy: Arc::new(move || u128::from(random.fetch_add(1, Ordering::Relaxed))),
        };
        let broker = Broker::start(config, Arc::new(Alone), |sink| async {
            let config = ReplicaConfig::new(CLUSTER, NODE, BOOT);
            let replica = Replica::start(config, storage, Arc::new(Alone), sink).await?;
            let members = BTreeMap::from([(NODE, PeerAddress::default())]);
            replica.bootstrap(members).await.unwrap();
            Ok::<_, ticketrail_raft::StartError>(replica)
        });
        let node = Self {
            broker: broker.await.unwrap(),
            _folder: folder,
            _folders: folders,
        };
        // At once: a call that overtakes the cluster's first entry waits for it.
        let settings = QueueSettings {
            lease_ms: 1_000,
            ..QueueSettings::default()
        };
        node.broker
            .create_queue("", "q", settings, soon())
            .await
            .unwrap();
        node
    }

    async fn publish(&self, count: usize) {
        let message = NewMessage {
            routing_key: "q".to_owned(),
            mandatory: true,
            message: Bytes::from_static(b"x"),
            given: None,
        };
        let published = self
            .broker
            .publish("", None, vec![message; count], soon())
            .await;
        assert!(published.unwrap().refused.is_empty());
    }

    fn sessions(&self) -> Vec<SessionView> {
        self.broker
            .replica()
            .with_state(|state| state.sessions().collect())
    }

    /// Acknowledged and ready messages.
    fn counts(&self) -> (u64, u64) {
        self.broker.replica().with_state(|state| {
            let queue = state.queue("default", "q").unwrap();
            (queue.counters.acknowledged, queue.ready)
        })
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let until = soon();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < until, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn consume(session: Option<SessionId>, auto_ack: bool) -> ConsumeRequest {
    ConsumeRequest {
        namespace: String::new(),
        queue: "q".to_owned(),
        prefetch: 10,
        lease: None,
        session,
        auto_ack,
    }
}

#[tokio::test]
async fn a_session_whose_stream_is_gone_does_not_stay_connected() {
    let node = Node::start().await;
    // As after an outage that outlasted the word of the stream's end.
    let attach = Command::AttachConsumer(AttachConsumer {
        namespace: "default".to_owned(),
        queue: "q".to_owned(),
        session: SessionId(99),
        owner: Owner {
            node: NODE,
            boot: BOOT,
            connection: 1 << 40,
        },
        prefetch: 10,
        lease_ms: None,
    });
    let term = node.broker.leadership().borrow().term;
    let command = encode_command(&attach, None, &[]);
    node.broker.accept_forward(term, vec![command]).unwrap();
    eventually("the session", async || node.sessions().pop()).await;
    let held = node.broker.consume(consume(None, false), soon()).await;
    let held = held.unwrap();
    eventually("its end", async || {
        let sessions = node.sessions();
        sessions
            .iter()
            .all(|view| view.connected == (view.session == held.handle.session()))
            .then_some(())
    })
    .await;
    node.broker.shutdown().await;
}

#[tokio::test]
async fn a_repeated_attempt_whose_leases_are_over_is_answered_at_once() {
    let node = Node::start().await;
    node.publish(2).await;
    let ask = || ReceiveRequest {
        namespace: String::new(),
        queue: "q".to_owned(),
        max_messages: 1,
        wait: Duration::from_secs(9),
        lease: None,
        attempt: b"once".to_vec(),
    };
    let (_, first) = node.broker.receive(ask(), soon()).await.unwrap();
    let receipt = SettleRange {
        queue: first[0].queue,
        first_offset: first[0].offset,
        count: 1,
        first_fence: first[0].fence,
        kind: SettleKind::Release,
    };
    node.broker.settle(vec![receipt], soon()).await.unwrap();
    let before = node.broker.replica().status().applied_index.unwrap();
    let started = Instant::now();
    let (position, again) = node.broker.receive(ask(), soon()).await.unwrap();
    assert!(position.is_some() && again.is_empty());
    assert!(started.elapsed() < Duration::from_secs(5));
    let after = node.broker.replica().status().applied_index.unwrap();
    assert!(
        after - before < 5,
        "{} entries for one call",
        after - before
    );
    node.broker.shutdown().await;
}

#[tokio::test]
async fn what_an_auto_ack_consumer_acknowledged_is_delivered_though_calls_are_dropped() {
    let node = Node::start().await;
    let mut consumer = node
        .broker
        .consume(consume(None, true), soon())
        .await
        .unwrap();
    node.publish(5).await;
    let mut delivered = 0;
    eventually("all deliveries", async || {
        // Each look drops the call, as a stream does that has something else to do.
        if let Some(ConsumerEvent::Deliveries(batch)) = consumer.next().now_or_never() {
            delivered += batch.len();
        }
        (delivered == 5).then_some(())
    })
    .await;
    assert_eq!(node.counts(), (5, 0));
    node.broker.shutdown().await;
}

#[tokio::test]
async fn a_refused_attachment_leaves_nothing_behind() {
    let node = Node::start().await;
    let before = node.broker.replica().status().applied_index.unwrap();
    let mut request = consume(None, false);
    request.queue = "none".to_owned();
    assert!(node.broker.consume(request, soon()).await.is_err());
    node.publish(1).await;
    let after = node.broker.replica().status().applied_index.unwrap();
    assert!(after - before <= 2, "the attachment and the publish");
    assert!(node.sessions().is_empty());
    node.broker.shutdown().await;
}
