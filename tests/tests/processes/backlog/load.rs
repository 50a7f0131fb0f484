//! Load on the raw interface that costs the driver little: publishing and consuming as fast as it goes, timed. An
//! election in between, as a busy machine has them, is waited for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use ticketrail_proto::v1::consume_response::Frame as FromConsumer;
use ticketrail_proto::v1::publish_exception::Kind;
use ticketrail_proto::v1::publish_stream_request::Frame as ToPublisher;
use ticketrail_proto::v1::publish_stream_response::Frame as FromPublisher;
use ticketrail_proto::v1::{
    CreateQueueRequest, PublishBatch, PublishConfirm, PublishOpen, PublishStreamRequest,
    SettleKind, SettleRange,
};
use ticketrail_tests::cluster::consumer::{self, range, receive, settle};
use ticketrail_tests::cluster::producer::item;
use ticketrail_tests::cluster::{
    Clients, Cluster, Consumer, Producer, duration, invites_retry, millis, secs, until, within,
};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

const PRODUCERS: u64 = 4;
const CONSUMERS: u64 = 4;
const FRAMES_IN_FLIGHT: usize = 10;
const PREFETCH: u32 = 1_000;
const CALLS_AT_ONCE: usize = 32;

/// Messages to publish.
#[derive(Clone)]
pub(super) struct Messages {
    /// They go round these.
    pub(super) queues: Arc<Vec<String>>,
    pub(super) body_bytes: usize,
    /// Messages of a frame.
    pub(super) batch: u64,
}

impl Messages {
    pub(super) fn to(queue: &str, body_bytes: usize, batch: u64) -> Self {
        Self {
            queues: Arc::new(vec![queue.to_owned()]),
            body_bytes,
            batch,
        }
    }
}

/// How long single things took.
#[derive(Clone, Default)]
pub(super) struct Times(Arc<Mutex<Vec<Duration>>>);

impl Times {
    async fn note(&self, took: Duration) {
        self.0.lock().await.push(took);
    }

    /// In milliseconds; so many per mille took less.
    pub(super) async fn at(&self, per_mille: usize) -> f64 {
        let mut all = self.0.lock().await;
        all.sort_unstable();
        let at = all.len().saturating_sub(1) * per_mille / 1_000;
        all.get(at).map_or(0.0, |took| took.as_secs_f64() * 1e3)
    }
}

/// Clients of all nodes, a connection each, the `place`-th first.
fn nodes(cluster: &Cluster, place: u64) -> Vec<Clients> {
    let mut ids = cluster.ids();
    let count = ids.len();
    ids.rotate_left(place as usize % count);
    ids.into_iter().map(|id| cluster.on(id)).collect()
}

/// Calls again and again, on one node after the other, while a refusal invites it.
async fn insist<T>(
    nodes: &[Clients],
    mut call: impl AsyncFnMut(Clients) -> Result<T, Status>,
) -> T {
    let mut turn = 0;
    until("a call to be answered", secs(60), async || {
        let clients = nodes[turn % nodes.len()].clone();
        turn += 1;
        match call(clients).await {
            Err(status) if !invites_retry(&status) => panic!("{status}"),
            other => other.map_err(|status| status.to_string()),
        }
    })
    .await
}

/// Publishes `count` messages over several streams; answers when all are confirmed, with the time that each frame
/// took.
pub(super) async fn fill(cluster: &Cluster, messages: &Messages, count: u64) -> Times {
    let times = Times::default();
    let mut tasks = JoinSet::new();
    let frames = count.div_ceil(messages.batch);
    let producers = PRODUCERS.min(frames);
    for place in 0..producers {
        let first = |place: u64| (frames * place / producers * messages.batch).min(count);
        let stream = PublishStream {
            producer: Producer::open(cluster, "").await,
            messages: messages.clone(),
            first: first(place),
            count: first(place + 1) - first(place),
            confirmed: 0,
            times: times.clone(),
        };
        tasks.spawn(stream.publish_all(nodes(cluster, place)));
    }
    tasks.join_all().await;
    times
}

struct PublishStream {
    producer: Producer,
    messages: Messages,
    /// The number of its first message among all.
    first: u64,
    count: u64,
    confirmed: u64,
    times: Times,
}

impl PublishStream {
    async fn publish_all(mut self, nodes: Vec<Clients>) {
        let mut turn = 0;
        while self.confirmed < self.count {
            let node = &nodes[turn % nodes.len()];
            turn += 1;
            if let Err(status) = self.publish(node).await {
                assert!(invites_retry(&status), "{status}");
                sleep(millis(20)).await;
            }
        }
    }

    /// Publishes what is not confirmed yet, over one stream.
    async fn publish(&mut self, node: &Clients) -> Result<(), Status> {
        let (frames, requests) = mpsc::channel(FRAMES_IN_FLIGHT + 1);
        let send = async |frame| {
            let sent = frames.send(PublishStreamRequest { frame: Some(frame) });
            let closed = |_| Status::unavailable("the stream is closed");
            sent.await.map_err(closed)
        };
        let open = PublishOpen {
            producer_id: self.producer.id.clone(),
            epoch: self.producer.epoch,
            ..PublishOpen::default()
        };
        send(ToPublisher::Open(open)).await?;
        let mut client = node.publisher.clone();
        let requests = ReceiverStream::new(requests);
        let mut answers = client.publish_stream(requests).await?.into_inner();
        let body = Bytes::from(vec![b'x'; self.messages.body_bytes]);
        let mut sent = self.confirmed;
        let mut in_flight: VecDeque<(u64, Instant)> = VecDeque::new();
        while self.confirmed < self.count {
            while in_flight.len() < FRAMES_IN_FLIGHT && sent < self.count {
                let end = self.count.min(sent + self.messages.batch);
                let items = (sent..end).map(|k| item(self.queue(k), body.clone()));
                let batch = PublishBatch {
                    first_sequence: sent + 1,
                    items: items.collect(),
                };
                send(ToPublisher::Batch(batch)).await?;
                in_flight.push_back((end, Instant::now()));
                sent = end;
            }
            let answer = answers.message().await?;
            let ended = || Status::unavailable("the stream ended early");
            let frame = answer.ok_or_else(ended)?.frame;
            if let Some(FromPublisher::Confirm(confirm)) = frame {
                check(&confirm);
                self.confirmed = confirm.through_sequence;
                while let Some((end, at)) = in_flight.pop_front() {
                    if end > self.confirmed {
                        in_flight.push_front((end, at));
                        break;
                    }
                    self.times.note(at.elapsed()).await;
                }
            }
        }
        Ok(())
    }

    fn queue(&self, k: u64) -> &str {
        let queues = &self.messages.queues;
        &queues[(self.first + k) as usize % queues.len()]
    }
}

/// What was sent twice was stored once; nothing was refused.
fn check(confirm: &PublishConfirm) {
    for exception in &confirm.exceptions {
        let Some(Kind::Result(result)) = &exception.kind else {
            panic!("{exception:?}");
        };
        assert!(result.duplicate, "{exception:?}");
    }
}

/// What a consumer does with a delivery.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Fate {
    Ack,
    /// Every second one is acknowledged, the others shall come back in an hour.
    AckEverySecond,
}

impl Fate {
    fn of(self, ids: impl Iterator<Item = u64> + Clone) -> Vec<SettleRange> {
        if self == Self::Ack {
            let ends = ids.clone().min().zip(ids.max());
            let all = ends.map(|(first, last)| range(first, last, SettleKind::Ack));
            return all.into_iter().collect();
        }
        let settle = |id: u64| match id % 2 {
            0 => range(id, id, SettleKind::Ack),
            _ => SettleRange {
                delay: Some(duration(secs(3_600))),
                ..range(id, id, SettleKind::Nack)
            },
        };
        ids.map(settle).collect()
    }
}

/// Takes `count` messages off a queue with several consumers, and a few more.
pub(super) async fn drain(cluster: &Cluster, queue: &str, count: u64, fate: Fate) {
    let taken = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for place in 0..CONSUMERS {
        let (nodes, taken) = (nodes(cluster, place + 1), Arc::clone(&taken));
        let queue = queue.to_owned();
        tasks.spawn(async move {
            let mut turn = 0;
            while let Err(status) =
                consume(&nodes[turn % nodes.len()], &queue, count, fate, &taken).await
            {
                assert!(invites_retry(&status), "{status}");
                turn += 1;
                sleep(millis(20)).await;
            }
        });
    }
    tasks.join_all().await;
    until("every settle to be applied", secs(60), async || {
        let held = cluster.stats(queue).await.in_flight;
        if held == 0 { Ok(()) } else { Err(held) }
    })
    .await;
}

async fn consume(
    node: &Clients,
    queue: &str,
    count: u64,
    fate: Fate,
    taken: &AtomicU64,
) -> Result<(), Status> {
    let mut open = consumer::open(queue);
    open.prefetch = Some(PREFETCH);
    let mut consumer = Consumer::open(node, open).await?;
    let ended = || Status::unavailable("the stream ended early");
    while taken.load(Relaxed) < count {
        let Ok(frame) = timeout(millis(200), consumer.frame()).await else {
            continue; // The others may have taken the rest.
        };
        if let FromConsumer::Deliveries(frame) = frame?.ok_or_else(ended)? {
            let ids = frame.deliveries.iter().map(|delivery| delivery.delivery_id);
            taken.fetch_add(frame.deliveries.len() as u64, Relaxed);
            consumer.settle(fate.of(ids)).await?;
        }
    }
    consumer.drain(true).await?;
    while !matches!(
        consumer.frame().await?,
        None | Some(FromConsumer::Drained(_))
    ) {}
    Ok(())
}

/// Takes what is in some queues, ten messages a call.
pub(super) async fn drain_many(cluster: &Cluster, queues: &[String]) {
    each(cluster, queues, async |nodes, queue| {
        let deliveries = insist(nodes, async |node| receive(&node, queue, 10).await).await;
        assert!(!deliveries.is_empty(), "`{queue}` is empty");
        let receipts: Vec<Bytes> = deliveries.into_iter().map(|d| d.receipt).collect();
        let ack = async |node| settle(&node, queue, &receipts, SettleKind::Ack).await;
        insist(nodes, ack).await;
    })
    .await;
}

/// Creates queues of these names.
pub(super) async fn create_many(cluster: &Cluster, queues: &[String]) {
    each(cluster, queues, async |nodes, name| {
        let create = async |mut node: Clients| {
            let request = CreateQueueRequest {
                name: name.to_owned(),
                ..CreateQueueRequest::default()
            };
            node.topology.create_queue(within(secs(20), request)).await
        };
        insist(nodes, create).await;
    })
    .await;
}

/// Does something with each queue, with many at a time.
async fn each(cluster: &Cluster, queues: &[String], act: impl AsyncFn(&[Clients], &str)) {
    let nodes: Vec<_> = (0..3).map(|place| nodes(cluster, place)).collect();
    let (nodes, act) = (&nodes, &act);
    stream::iter(queues.iter().enumerate())
        .for_each_concurrent(CALLS_AT_ONCE, |(k, queue)| {
            act(&nodes[k % nodes.len()], queue)
        })
        .await;
}
