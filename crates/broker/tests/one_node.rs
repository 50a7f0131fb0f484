//! A broker over a cluster of one node: what becomes of sessions, attempts and acknowledgements when calls end early.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tempfile::TempDir;
use ticketrail_broker::{
    AdmissionConfig, Broker, BrokerConfig, ConsumeRequest, Consumer, ConsumerEnd, ConsumerEvent,
    Delivery, Forward, Haste, Link, LinkError, MembersRequest, NewMessage, ReceiveRequest,
    Standing,
};
use ticketrail_core::command::{AttachConsumer, SettleKind, SettleRange};
use ticketrail_core::view::SessionView;
use ticketrail_core::{
    BootId, Command, DiskId, Grant, NodeId, Owner, QueueSettings, SessionId, State, limits,
};
use ticketrail_proto::error::Reason;
use ticketrail_proto::stored::encode_command;
use ticketrail_raft::{
    AppliedEntry, AppliedSink, Folders, MemberChange, PeerAddress, PeerRequest, PeerResponse,
    Replaced, Replica, ReplicaConfig, Transport, TransportError,
};
use tokio::time::Instant;

const CLUSTER: u128 = 7;
const NODE: NodeId = NodeId(1);
const BOOT: BootId = BootId(5);
/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

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
    fn forward(&self, _: NodeId, _: Forward) -> BoxFuture<'static, Result<(), LinkError>> {
        Box::pin(async { Err(LinkError::NotTaken) })
    }
}

/// The broker's sink, of which entries can be kept, as by a snapshot that is put in the place of the
/// state.
struct Ear {
    broker: Arc<dyn AppliedSink>,
    is_deaf: AtomicBool,
}

impl AppliedSink for Ear {
    fn applied(&self, state: &State, applied: AppliedEntry<'_>) {
        if !self.is_deaf.load(Ordering::Relaxed) {
            self.broker.applied(state, applied);
        }
    }

    fn replaced(&self, state: &State, replaced: Replaced) {
        self.is_deaf.store(false, Ordering::Relaxed);
        self.broker.replaced(state, replaced);
    }

    fn polls(&self) -> bool {
        self.broker.polls()
    }
}

struct Node {
    broker: Broker,
    ear: Arc<Ear>,
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
            disk: DiskId(1),
            cluster_id: CLUSTER,
            voters: 1,
            admission: AdmissionConfig {
                publish_bytes_max: 1 << 20,
                reserved_bytes_max: 1 << 20,
                ..AdmissionConfig::default()
            },
            wall_clock: Arc::new(|| 1_000),
            entropy: Arc::new(move || u128::from(random.fetch_add(1, Ordering::Relaxed))),
            enclose: BrokerConfig::plain(),
        };
        let mut ear = None;
        let broker = Broker::start(config, Arc::new(Alone), |broker| async {
            let is_deaf = AtomicBool::new(false);
            let sink = ear.insert(Arc::new(Ear { broker, is_deaf })).clone();
            let config = ReplicaConfig::new(CLUSTER, NODE, BOOT);
            let replica = Replica::start(config, storage, Arc::new(Alone), sink).await?;
            let members = BTreeMap::from([(NODE, PeerAddress::default())]);
            replica.bootstrap(members).await.unwrap();
            Ok::<_, ticketrail_raft::StartError>(replica)
        });
        let node = Self {
            broker: broker.await.unwrap(),
            ear: ear.unwrap(),
            _folder: folder,
            _folders: folders,
        };
        // At once: what overtakes the cluster's first entry waits for it.
        let has_default = node
            .broker
            .read(soon(), |state| state.has_namespace("default"));
        assert!(has_default.await.unwrap());
        let settings = QueueSettings {
            lease_ms: 1_000,
            ..QueueSettings::default()
        };
        node.broker
            .create_queue("", "q", settings, soon())
            .await
            .unwrap();
        // So that tests can count entries: the cluster's first one, the queue, this node's id, its boot.
        eventually("the first commands", async || {
            let counted = node.broker.figures().other_commands.counts;
            (counted.iter().sum::<u64>() >= 4).then_some(())
        })
        .await;
        node
    }

    async fn publish(&self, count: usize) {
        let published = self.broker.publish("", None, messages(count), soon()).await;
        assert!(published.unwrap().refused.is_empty());
    }

    /// Has the broker hear of the state as it is by a snapshot that was just installed.
    fn install(&self) {
        let term = self.broker.leadership().borrow().term;
        self.broker.replica().with_state(|state| {
            let index = state.applied_index();
            self.ear.replaced(state, Replaced { index, term });
        });
    }

    /// Messages that are leased.
    fn in_flight(&self) -> u64 {
        let replica = self.broker.replica();
        replica.with_state(|state| state.queue("default", "q").unwrap().in_flight)
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

fn messages(count: usize) -> Vec<NewMessage> {
    let message = NewMessage {
        routing_key: "q".to_owned(),
        mandatory: true,
        message: Bytes::from_static(b"x"),
        given: None,
    };
    vec![message; count]
}

/// The offsets of the next so many deliveries.
async fn delivered(consumer: &mut Consumer, count: usize) -> Vec<u64> {
    let mut offsets = Vec::new();
    while offsets.len() < count {
        match tokio::time::timeout_at(soon(), consumer.next()).await {
            Ok(ConsumerEvent::Deliveries(batch)) => {
                offsets.extend(batch.iter().map(|delivery| delivery.offset.0));
            }
            other => panic!("{other:?} after {offsets:?}"),
        }
    }
    offsets
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
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
    let forward = Forward {
        term,
        commands: vec![command],
        haste: Haste::Now,
    };
    node.broker.accept_forward(forward).unwrap();
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
async fn an_acknowledgement_that_may_wait_goes_with_what_comes_or_soon_alone() {
    let node = Node::start().await;
    node.publish(2).await;
    let mut consumer = node
        .broker
        .consume(consume(None, false), soon())
        .await
        .unwrap();
    let handle = consumer.handle.clone();
    let ack = |delivery: &Delivery| SettleRange {
        queue: delivery.queue,
        first_offset: delivery.offset,
        count: 1,
        first_fence: delivery.fence,
        kind: SettleKind::Ack,
    };
    let ConsumerEvent::Deliveries(held) = consumer.next().await else {
        panic!("two messages are ready");
    };
    let settled = handle.settle(vec![ack(&held[0])], Haste::WithOthers, soon());
    let published = node.broker.publish("", None, messages(1), soon());
    let (settled, published) = tokio::join!(settled, published);
    assert_eq!(
        settled.unwrap().position.index,
        published.unwrap().position.index,
        "one entry for both"
    );
    // Nothing else comes.
    let settled = handle.settle(vec![ack(&held[1])], Haste::WithOthers, soon());
    assert!(settled.await.unwrap().exceptions.is_empty());
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
    node.broker
        .settle(vec![receipt], Haste::Now, soon())
        .await
        .unwrap();
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

#[tokio::test]
async fn a_snapshot_has_what_a_session_holds_delivered_once() {
    let node = Node::start().await;
    let request = ConsumeRequest {
        lease: Some(Duration::from_secs(600)),
        ..consume(None, false)
    };
    let mut consumer = node.broker.consume(request, soon()).await.unwrap();
    node.publish(2).await;
    assert_eq!(delivered(&mut consumer, 2).await, [0, 1]);

    // One waits to be delivered; one more comes by an entry that is passed over.
    node.publish(1).await;
    node.ear.is_deaf.store(true, Ordering::Relaxed);
    let broker = node.broker.clone();
    let publishing =
        tokio::spawn(async move { broker.publish("", None, messages(1), soon()).await });
    eventually("the lease", async || (node.in_flight() == 4).then_some(())).await;
    node.install();
    let problem = publishing.await.unwrap().unwrap_err();
    assert_eq!(problem.reason(), Reason::OutcomeUnknown);
    assert_eq!(delivered(&mut consumer, 2).await, [2, 3]);

    // What was delivered is not delivered again, and entries go on behind the snapshot.
    node.install();
    node.publish(1).await;
    assert_eq!(delivered(&mut consumer, 1).await, [4]);

    // A state without the session: its client shall come back to it.
    let term = node.broker.leadership().borrow().term;
    let index = u64::MAX;
    (node.ear).replaced(&State::new(), Replaced { index, term });
    let event = tokio::time::timeout_at(soon(), consumer.next()).await;
    let is_over = matches!(event, Ok(ConsumerEvent::Ended(ConsumerEnd::CutOff)));
    assert!(is_over, "{event:?}");
    node.broker.shutdown().await;
}

#[tokio::test]
async fn what_is_given_back_unstarted_is_all_of_it_whatever_lies_between() {
    let node = Node::start().await;
    let mut consumer = node
        .broker
        .consume(consume(None, false), soon())
        .await
        .unwrap();
    let session = consumer.handle.session();
    let held = || {
        let replica = node.broker.replica();
        let fence = |grant: &Grant| grant.first_fence;
        replica.with_state(|state| state.held(session).first().map(fence))
    };
    node.publish(1).await;
    let first = eventually("a lease", async || held()).await;
    // Nobody reads: the consumer's events are a grant, its end, and another grant.
    eventually("the next lease", async || {
        held().filter(|next| *next > first)
    })
    .await;
    consumer.handle.set_prefetch(0, soon()).await.unwrap();
    let held = held();
    let unstarted = consumer.take_unstarted();
    let given_back = unstarted.iter().map(|range| range.first_fence).max();
    assert!(given_back >= held, "{unstarted:?}, {held:?}");
    // What lay between is still told.
    let told = tokio::time::timeout_at(soon(), consumer.next())
        .await
        .unwrap();
    assert!(matches!(told, ConsumerEvent::LeasesLost { .. }), "{told:?}");
    node.broker.shutdown().await;
}

#[tokio::test]
async fn an_id_that_was_never_admitted_is_retired_however_its_removal_is_cut_off() {
    let node = Node::start().await;
    let never = NodeId(9);
    let learner = MemberChange::AddLearner {
        node: never,
        address: PeerAddress::default(),
    };
    let replica = node.broker.replica();
    replica.change_members(learner).await.unwrap();
    let is_member = || replica.status().members.contains_key(&never);
    let remove = || {
        node.broker
            .change_members(MembersRequest::Remove(never), soon())
    };
    {
        let mut removing = Box::pin(remove());
        while is_member() {
            assert!(
                (&mut removing)
                    .now_or_never()
                    .is_none_or(|done| done.is_ok())
            );
            tokio::task::yield_now().await;
        }
    }
    remove().await.unwrap();
    let standing = node.broker.standing(never, DiskId(9));
    assert_eq!(standing, Standing::Retired);
    node.broker.shutdown().await;
}

#[tokio::test]
async fn a_purge_and_a_deletion_of_many_messages_take_several_short_commands() {
    let node = Node::start().await;
    let many = 3 * limits::PURGE_MESSAGES_MAX + 1_000;
    for delete in [false, true] {
        for _ in 0..many / 1_000 {
            node.publish(1_000).await;
        }
        let before = node.broker.replica().status().applied_index.unwrap();
        let removed = match delete {
            false => node.broker.purge_queue("", "q", false, soon()).await,
            true => node.broker.delete_queue("", "q", false, soon()).await,
        };
        assert_eq!(removed.unwrap().value, many);
        let entries = node.broker.replica().status().applied_index.unwrap() - before;
        assert!(entries >= 4, "{entries} entries");
        if !delete {
            assert_eq!(node.counts(), (0, 0));
        }
    }
    let gone = node.broker.purge_queue("", "q", false, soon()).await;
    assert_eq!(gone.unwrap_err().reason(), Reason::QueueNotFound);
    node.broker.shutdown().await;
}
