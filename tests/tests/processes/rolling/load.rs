//! Users of the client library: producers, consumers, and callers of each unary call.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::stream::{FuturesOrdered, StreamExt};
use ticketrail_client::{Client, Message, Publication, QueueStats, SettleOutcome, Wanted};
use ticketrail_tests::cluster::{Cluster, NodeId, millis, secs, until};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::gaps::Gaps;

/// Of the streams.
pub(crate) const QUEUE: &str = "orders";
/// Of the unary calls.
pub(crate) const QUIET_QUEUE: &str = "letters";

const PRODUCERS: u64 = 4;
const CONSUMERS: usize = 4;
const BODY_BYTES: usize = 256;
/// Producers publish what is due this often.
const PACE: Duration = millis(10);
/// One caller makes a call at most this often.
const CALL_PACE: Duration = millis(5);
/// Work that a consumer has under way.
const PREFETCH: u32 = 200;

/// What users saw.
#[derive(Default)]
struct Seen {
    confirmed: AtomicU64,
    calls: AtomicU64,
    /// Deliveries with a count above 1.
    redelivered: AtomicU64,
    /// Deliveries of what was acknowledged before: never allowed.
    redelivered_acked: AtomicU64,
    stop_publishing: AtomicBool,
    stop_consuming: AtomicBool,
    failed: Mutex<Vec<String>>,
    acked: Mutex<BTreeSet<u64>>,
}

impl Seen {
    fn failed(&self, what: &str, why: &dyn fmt::Display) {
        let mut failed = self.failed.lock().unwrap();
        failed.push(format!("{what}: {why}"));
    }
}

/// The users of a test.
pub(crate) struct Load {
    seen: Arc<Seen>,
    pub(crate) gaps: Arc<Gaps>,
    publishing: JoinSet<()>,
    consuming: JoinSet<()>,
    started: Instant,
}

impl Load {
    /// Starts all users; `rate` is messages per second of all producers together.
    pub(crate) async fn start(cluster: &Cluster, rate: usize) -> Self {
        let mut load = Self::streams(cluster, rate, &cluster.ids()).await;
        let all = cluster.ids().into_iter().map(|id| url(cluster, id));
        let client = Client::connect(all).await.unwrap();
        load.publishing
            .spawn(publish_batches(client.clone(), Arc::clone(&load.seen)));
        load.publishing
            .spawn(look(client.clone(), Arc::clone(&load.seen)));
        load.consuming
            .spawn(receive(client, Arc::clone(&load.seen)));
        load
    }

    /// Starts producers and consumers only, which know of these nodes.
    pub(crate) async fn streams(cluster: &Cluster, rate: usize, nodes: &[NodeId]) -> Self {
        let all: Vec<String> = nodes.iter().map(|id| url(cluster, *id)).collect();
        Self::streams_to(&all, rate).await
    }

    /// The same for nodes that are reached at these endpoints.
    pub(crate) async fn streams_to(all: &[String], rate: usize) -> Self {
        let mut load = Self {
            seen: Arc::default(),
            gaps: Arc::new(Gaps::new()),
            publishing: JoinSet::new(),
            consuming: JoinSet::new(),
            started: Instant::now(),
        };
        for producer in 0..PRODUCERS {
            // The first knows of one node only: where else to go it is told when that stops.
            let endpoints = if producer == 0 { &all[..1] } else { all };
            let client = Client::connect(endpoints).await.unwrap();
            let (seen, gaps) = (Arc::clone(&load.seen), Arc::clone(&load.gaps));
            let per_tick = (rate as f64 * PACE.as_secs_f64() / PRODUCERS as f64).max(0.1);
            load.publishing
                .spawn(produce(client, producer, per_tick, seen, gaps));
        }
        for _ in 0..CONSUMERS {
            let client = Client::connect(all).await.unwrap();
            load.consuming
                .spawn(consume(client, Arc::clone(&load.seen)));
        }
        load
    }

    /// Waits until messages are confirmed, delivered and acknowledged that were not when this began.
    pub(crate) async fn flows(&self, cluster: &Cluster, when: &str) {
        self.flows_while(when, || cluster.running()).await;
    }

    /// The same; which nodes run is said when the time is over.
    pub(crate) async fn flows_while(&self, when: &str, running: impl Fn() -> Vec<NodeId>) {
        let confirmed = self.seen.confirmed.load(Relaxed);
        let acked = self.seen.acked.lock().unwrap().len();
        until(&format!("messages to flow {when}"), secs(20), async || {
            self.nothing_failed();
            let now = self.seen.confirmed.load(Relaxed);
            let acked_now = self.seen.acked.lock().unwrap().len();
            match now > confirmed + 100 && acked_now > acked + 100 {
                true => Ok(()),
                false => Err((now - confirmed, acked_now - acked, running())),
            }
        })
        .await;
    }

    /// # Panics
    /// When something failed.
    pub(crate) fn nothing_failed(&self) {
        let failed = self.seen.failed.lock().unwrap();
        assert!(failed.is_empty(), "{} failed: {failed:#?}", failed.len());
        let acked = self.seen.redelivered_acked.load(Relaxed);
        assert_eq!(acked, 0, "deliveries of acknowledged messages");
    }

    /// Ends the producers, waits until all is acknowledged, ends the consumers.
    pub(crate) async fn finish(self, cluster: &Cluster) -> String {
        self.finish_by(async || cluster.stats(QUEUE).await).await
    }

    /// The same, with another way to the counts of [`QUEUE`].
    pub(crate) async fn finish_by(mut self, stats: impl AsyncFn() -> QueueStats) -> String {
        let seen = &self.seen;
        seen.stop_publishing.store(true, Relaxed);
        ended(&mut self.publishing).await;
        let took = self.started.elapsed();
        let left = all_acknowledged(&stats).await;
        seen.stop_consuming.store(true, Relaxed);
        ended(&mut self.consuming).await;
        self.nothing_failed();
        let seen = &self.seen;
        let confirmed = seen.confirmed.load(Relaxed);
        let acked = seen.acked.lock().unwrap().len() as u64;
        assert_eq!(acked, confirmed, "each confirmed message was acknowledged");
        let stats = stats().await;
        assert_eq!(stats.published, confirmed, "each message was stored once");
        format!(
            "{confirmed} messages in {took:?} ({:.0}/s) and {} unary calls: 0 failed, 0 deliveries of \
             acknowledged messages, {} redeliveries of others, longest gap in confirms {:?}, {left} were left to \
             consume at the end",
            confirmed as f64 / took.as_secs_f64(),
            seen.calls.load(Relaxed),
            seen.redelivered.load(Relaxed),
            self.gaps.longest_since(self.started),
        )
    }
}

/// Waits as long as the backlog gets smaller; how large it was.
async fn all_acknowledged(stats: &impl AsyncFn() -> QueueStats) -> u64 {
    let backlog = async || {
        let stats = stats().await;
        stats.published - stats.acknowledged
    };
    let first = backlog().await;
    let mut left = first;
    while left > 0 {
        let what = format!("a backlog of {left} to get smaller");
        left = until(&what, secs(20), async || match backlog().await {
            now if now < left => Ok(now),
            now => Err(now),
        })
        .await;
    }
    first
}

fn url(cluster: &Cluster, id: u64) -> String {
    format!("http://{}", cluster.address(id))
}

async fn ended(tasks: &mut JoinSet<()>) {
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
    };
    timeout(secs(60), all)
        .await
        .expect("all users come to an end");
}

async fn produce(client: Client, number: u64, per_tick: f64, seen: Arc<Seen>, gaps: Arc<Gaps>) {
    let producer = client.producer().start().await.unwrap();
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut due, mut next) = (0.0, 0_u64);
    let mut confirms = FuturesOrdered::new();
    loop {
        tokio::select! {
            Some(confirm) = confirms.next(), if !confirms.is_empty() => match confirm {
                Ok(_) => {
                    gaps.confirmed();
                    seen.confirmed.fetch_add(1, Relaxed);
                }
                Err(error) => return seen.failed("publish on a stream", &error),
            },
            _ = pace.tick(), if !seen.stop_publishing.load(Relaxed) => {
                due += per_tick;
                while due >= 1.0 {
                    due -= 1.0;
                    let mut body = vec![0; BODY_BYTES];
                    body[..8].copy_from_slice(&((number << 40) | next).to_be_bytes());
                    next += 1;
                    match producer.publish(QUEUE, Message::new(body)).await {
                        Ok(confirm) => confirms.push_back(confirm),
                        Err(error) => return seen.failed("publish", &error),
                    }
                }
            }
            else => break,
        }
    }
    if let Err(error) = producer.close().await {
        seen.failed("close of a producer", &error);
    }
}

async fn consume(client: Client, seen: Arc<Seen>) {
    let started = client.consumer(QUEUE).prefetch(PREFETCH).start().await;
    let mut consumer = started.unwrap();
    let mut settling = FuturesOrdered::new();
    while !seen.stop_consuming.load(Relaxed) || !settling.is_empty() {
        tokio::select! {
            Some((id, outcome)) = settling.next(), if !settling.is_empty() => match outcome {
                Ok(SettleOutcome::Ok | SettleOutcome::AlreadySettled) => {
                    seen.acked.lock().unwrap().insert(id);
                }
                Ok(other) => return seen.failed("ack", &format!("{other:?} for {id:x}")),
                Err(error) => return seen.failed("ack", &error),
            },
            delivery = timeout(millis(100), consumer.next()) => match delivery {
                Err(_) => {}
                Ok(Some(Ok(delivery))) => {
                    let id = u64::from_be_bytes(delivery.body()[..8].try_into().unwrap());
                    if delivery.delivery_count() > 1 {
                        seen.redelivered.fetch_add(1, Relaxed);
                    }
                    if seen.acked.lock().unwrap().contains(&id) {
                        seen.redelivered_acked.fetch_add(1, Relaxed);
                    }
                    let acked = delivery.ack();
                    settling.push_back(async move { (id, acked.await) });
                }
                Ok(Some(Err(error))) => return seen.failed("consume", &error),
                Ok(None) => return seen.failed("consume", &"ended"),
            },
        }
    }
    if let Err(error) = consumer.close().await {
        seen.failed("close of a consumer", &error);
    }
}

/// Batches without a producer: what may not be repeated once its outcome is unknown.
async fn publish_batches(client: Client, seen: Arc<Seen>) {
    let mut pace = interval(CALL_PACE);
    while !seen.stop_publishing.load(Relaxed) {
        pace.tick().await;
        let batch = (0..5).map(|n| Publication::to_queue(QUIET_QUEUE, format!("letter {n}")));
        seen.calls.fetch_add(1, Relaxed);
        if let Err(error) = client.publish(batch).await {
            return seen.failed("publish of a batch", &error);
        }
    }
}

/// Long polls, and settling by receipt.
async fn receive(client: Client, seen: Arc<Seen>) {
    let mut found = true;
    while !seen.stop_consuming.load(Relaxed) || found {
        let wanted = Wanted::up_to(100).wait(millis(500));
        seen.calls.fetch_add(1, Relaxed);
        let deliveries = match client.receive(QUIET_QUEUE, wanted).await {
            Ok(deliveries) => deliveries,
            Err(error) => return seen.failed("receive", &error),
        };
        found = !deliveries.is_empty();
        if !found {
            continue;
        }
        seen.calls.fetch_add(1, Relaxed);
        let receipts: Vec<_> = deliveries.iter().map(|one| one.receipt().clone()).collect();
        match client.ack(QUIET_QUEUE, &receipts).await {
            Ok(outcomes) => {
                let done = [SettleOutcome::Ok, SettleOutcome::AlreadySettled];
                if let Some(other) = outcomes.iter().find(|outcome| !done.contains(outcome)) {
                    return seen.failed("ack by receipt", &format!("{other:?}"));
                }
            }
            Err(error) => return seen.failed("ack by receipt", &error),
        }
    }
}

/// Reads that need the leader.
async fn look(client: Client, seen: Arc<Seen>) {
    let mut pace = interval(CALL_PACE);
    while !seen.stop_publishing.load(Relaxed) {
        pace.tick().await;
        seen.calls.fetch_add(1, Relaxed);
        if let Err(error) = client.queue_stats(QUEUE).await {
            return seen.failed("counts of a queue", &error);
        }
    }
}
