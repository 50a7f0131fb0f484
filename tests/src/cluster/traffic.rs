//! Publishers and consumers that go on whatever happens, and the check that what they saw adds up to
//! the last byte: nothing confirmed is lost, nothing acknowledged comes back, nothing is there twice,
//! nothing is there that nobody published.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ticketrail_proto::v1::{Delivery, PublishRequest, PublishResponse, SettleKind, SettleOutcome};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::Status;

use super::checks::{agreed, conserved};
use super::consumer::{body, receive, settle};
use super::producer::item;
use super::{Clients, Cluster, Producer, Refused, invites_retry, millis, secs, until, within};

/// Messages of a batch.
const BATCH: u64 = 10;
/// How long one attempt on one node may take.
const ATTEMPT: Duration = secs(3);
/// After a failed call.
const PAUSE: Duration = millis(20);
/// How long a publish is tried before that is a broken promise.
const CONFIRM_WITHIN: Duration = secs(60);

/// Publishers and consumers of one queue.
#[derive(Debug)]
pub struct Traffic {
    queue: String,
    seen: Arc<Seen>,
    publishers: JoinSet<()>,
    consumers: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Seen {
    sets: Mutex<Sets>,
    stop_publishing: AtomicBool,
    stop_consuming: AtomicBool,
}

#[derive(Debug, Default)]
struct Sets {
    /// Every body that may be in the queue.
    tried: BTreeSet<Bytes>,
    /// Id and body of what was confirmed.
    confirmed: BTreeMap<u64, Bytes>,
    /// What was delivered, by id.
    delivered: BTreeMap<u64, Bytes>,
    /// What an answer said to be acknowledged, by id, and the attempt that was.
    acked: BTreeMap<u64, u32>,
    /// Acknowledgements whose answers were lost.
    perhaps_acked: BTreeSet<u64>,
    last_confirm: Option<Instant>,
    longest_gap: Duration,
    wrong: Vec<String>,
}

/// What the traffic saw, once it added up.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    /// Messages that were confirmed.
    pub confirmed: usize,
    /// Of these, acknowledged for certain.
    pub acked: usize,
    /// The longest time without a confirm.
    pub longest_gap: Duration,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            confirmed,
            acked,
            longest_gap,
        } = self;
        write!(
            f,
            "{confirmed} messages confirmed, {acked} of them acknowledged in the first answer, \
             longest gap between confirms {longest_gap:?}"
        )
    }
}

impl Seen {
    fn sets(&self) -> MutexGuard<'_, Sets> {
        self.sets.lock().expect("no panic under this lock")
    }
}

impl Sets {
    fn confirmed(&mut self, ids: impl Iterator<Item = u64>, bodies: Vec<Bytes>) {
        let now = Instant::now();
        let gap = self.last_confirm.map(|last| now - last);
        self.longest_gap = self.longest_gap.max(gap.unwrap_or_default());
        self.last_confirm = Some(now);
        // A repetition that the node answers from memory has no ids any more; deliveries have them.
        self.confirmed
            .extend(ids.zip(bodies).filter(|(id, _)| *id != 0));
    }

    fn delivered(&mut self, delivery: &Delivery) {
        let (id, body) = (delivery.message_id, body(delivery));
        if let Some(attempt) = self.acked.get(&id)
            && delivery.delivery_count > *attempt
        {
            self.wrong.push(format!(
                "message {id}, acknowledged at attempt {attempt}, came again as {}",
                delivery.delivery_count
            ));
        }
        match self.delivered.insert(id, body.clone()) {
            Some(before) if before != body => {
                self.wrong
                    .push(format!("message {id} came with other bytes"));
            }
            _ => {}
        }
    }

    fn settled(&mut self, delivery: &Delivery, outcome: SettleOutcome) {
        let id = delivery.message_id;
        match outcome {
            SettleOutcome::Ok => drop(self.acked.insert(id, delivery.delivery_count)),
            // An earlier attempt, whose answer was lost, was the one.
            SettleOutcome::AlreadySettled => drop(self.perhaps_acked.insert(id)),
            // It is or will be another's.
            SettleOutcome::LeaseLost | SettleOutcome::NotFound => {}
            other => self.wrong.push(format!("an ack of {id}: {other:?}")),
        }
    }
}

impl Traffic {
    /// Starts so many of each, spread over the nodes; each goes to the next node when one fails it.
    pub async fn start(cluster: &Cluster, queue: &str, publishers: u64, consumers: u64) -> Self {
        let seen = Arc::<Seen>::default();
        let mut traffic = Self {
            queue: queue.to_owned(),
            seen: Arc::clone(&seen),
            publishers: JoinSet::new(),
            consumers: JoinSet::new(),
        };
        let nodes: Vec<Clients> = cluster.ids().into_iter().map(|id| cluster.on(id)).collect();
        let from = |number: u64| {
            let first = number as usize % nodes.len();
            let mut nodes = nodes.clone();
            nodes.rotate_left(first);
            nodes
        };
        for number in 0..publishers {
            let producer = Producer::open(cluster, "").await;
            let (nodes, queue) = (from(number), queue.to_owned());
            traffic
                .publishers
                .spawn(publish(nodes, queue, producer, Arc::clone(&seen)));
        }
        for number in 0..consumers {
            let (nodes, queue) = (from(number), queue.to_owned());
            traffic
                .consumers
                .spawn(consume(nodes, queue, Arc::clone(&seen)));
        }
        traffic
    }

    /// Waits until so many more are confirmed.
    pub async fn confirms(&self, more: usize) {
        let enough = self.seen.sets().confirmed.len() + more;
        until("messages to be confirmed", CONFIRM_WITHIN, async || {
            let confirmed = self.seen.sets().confirmed.len();
            if confirmed >= enough {
                Ok(())
            } else {
                Err(format!("{confirmed} of {enough}"))
            }
        })
        .await;
    }

    /// Forgets the longest gap between confirms until now.
    pub fn forget_gap(&self) {
        self.seen.sets().longest_gap = Duration::ZERO;
    }

    /// Ends the publishers, lets the consumers empty the queue, and compares.
    ///
    /// # Panics
    /// When it does not add up.
    pub async fn finish(mut self, cluster: &Cluster) -> Tally {
        self.seen.stop_publishing.store(true, Relaxed);
        joined(&mut self.publishers).await;
        until("the queue to be empty", secs(60), async || {
            let stats = cluster.stats(&self.queue).await;
            match stats.ready + stats.in_flight + stats.delayed + stats.parked {
                0 => Ok(()),
                left => Err(left),
            }
        })
        .await;
        self.seen.stop_consuming.store(true, Relaxed);
        joined(&mut self.consumers).await;
        let stats = cluster.stats(&self.queue).await;
        conserved(&self.queue, &stats);
        agreed(cluster).await;
        let sets = self.seen.sets();
        assert!(sets.wrong.is_empty(), "{:#?}", sets.wrong);
        for (id, body) in &sets.confirmed {
            let delivered = sets.delivered.get(id);
            assert_eq!(
                delivered,
                Some(body),
                "message {id} was confirmed and did not come"
            );
        }
        let bodies: BTreeSet<&Bytes> = sets.delivered.values().collect();
        assert_eq!(
            bodies.len(),
            sets.delivered.len(),
            "a body was stored under two ids"
        );
        let phantom = bodies.iter().find(|body| !sets.tried.contains(**body));
        assert_eq!(phantom, None, "a message that nobody published");
        // Publishers repeat until they are confirmed: all that was tried was stored, once.
        assert_eq!(stats.published, sets.tried.len() as u64, "{stats:?}");
        assert_eq!(stats.acknowledged, stats.published, "{stats:?}");
        for id in sets.delivered.keys() {
            assert!(
                sets.acked.contains_key(id) || sets.perhaps_acked.contains(id),
                "message {id} is gone and nobody acknowledged it"
            );
        }
        Tally {
            confirmed: sets.tried.len(),
            acked: sets.acked.len(),
            longest_gap: sets.longest_gap,
        }
    }
}

async fn joined(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        ended.expect("it does not panic");
    }
}

/// Publishes batch after batch, each until it is confirmed.
async fn publish(nodes: Vec<Clients>, queue: String, mut producer: Producer, seen: Arc<Seen>) {
    let mut turn = 0;
    while !seen.stop_publishing.load(Relaxed) {
        let name: String = producer.id.iter().map(|b| format!("{b:02x}")).collect();
        let bodies: Vec<Bytes> = (producer.next..producer.next + BATCH)
            .map(|sequence| format!("{name} {sequence}").into())
            .collect();
        seen.sets().tried.extend(bodies.iter().cloned());
        let items = bodies.iter().map(|body| item(&queue, body.clone()));
        let request = producer.batch(items.collect());
        let results = confirmed(&nodes, &mut turn, request).await.results;
        let ids = results.iter().map(|result| result.message_id);
        seen.sets().confirmed(ids, bodies);
    }
}

/// Publishes through one node after the other until one confirms it.
async fn confirmed(
    nodes: &[Clients],
    turn: &mut usize,
    request: PublishRequest,
) -> PublishResponse {
    let deadline = Instant::now() + CONFIRM_WITHIN;
    loop {
        let mut publisher = nodes[*turn % nodes.len()].publisher.clone();
        match publisher.publish(within(ATTEMPT, request.clone())).await {
            Ok(answer) => return answer.into_inner(),
            Err(status) if invites_retry(&status) && Instant::now() < deadline => {
                *turn += 1;
                sleep(PAUSE).await;
            }
            Err(status) => panic!("a publish was refused: {}", Refused::from(&status)),
        }
    }
}

/// Takes and acknowledges, until told to stop.
async fn consume(nodes: Vec<Clients>, queue: String, seen: Arc<Seen>) {
    let mut turn = 0;
    while !seen.stop_consuming.load(Relaxed) {
        let node = &nodes[turn % nodes.len()];
        let deliveries = match receive(node, &queue, 20).await {
            Ok(deliveries) => deliveries,
            Err(status) => {
                turn += 1;
                failed(&seen, "receive", &status).await;
                continue;
            }
        };
        {
            let mut sets = seen.sets();
            deliveries
                .iter()
                .for_each(|delivery| sets.delivered(delivery));
        }
        let receipts: Vec<Bytes> = deliveries.iter().map(|d| d.receipt.clone()).collect();
        if receipts.is_empty() {
            continue;
        }
        match settle(node, &queue, &receipts, SettleKind::Ack).await {
            Ok(outcomes) => {
                let mut sets = seen.sets();
                let settled = deliveries.iter().zip(outcomes);
                settled.for_each(|(delivery, outcome)| sets.settled(delivery, outcome));
            }
            Err(status) => {
                let ids = deliveries.iter().map(|delivery| delivery.message_id);
                seen.sets().perhaps_acked.extend(ids);
                turn += 1;
                failed(&seen, "ack", &status).await;
            }
        }
    }
}

/// What is not to be expected of nodes that come and go is written down; then a pause before the next
/// node is tried.
async fn failed(seen: &Seen, what: &str, status: &Status) {
    if !invites_retry(status) {
        let why = format!("{what}: {}", Refused::from(status));
        seen.sets().wrong.push(why);
    }
    sleep(PAUSE).await;
}
