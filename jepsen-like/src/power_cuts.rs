//! Power cuts: under publish load, one, two or all nodes are killed at a random instant and lose what
//! was not synced. After their restart every confirmed message must be there, by id and by bytes,
//! once, and nothing that was not published.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use ticketrail_proto::v1::{PeekedMessage, PurgeQueueRequest, SettleKind, SettleOutcome};
use ticketrail_tests::cluster::checks::{agreed, conserved};
use ticketrail_tests::cluster::consumer::{receive, settle};
use ticketrail_tests::cluster::producer::item;
use ticketrail_tests::cluster::{
    Clients, Cluster, NodeId, Producer, Program, Refused, invites_retry, millis, secs, until,
    within,
};

const QUEUE: &str = "power cuts";
/// The queue is emptied after so many runs: what is older has survived as many cuts.
const RUNS_KEPT: u32 = 8;
/// Publishers, spread over the nodes.
const PUBLISHERS: u64 = 4;

/// Consumers, spread over the nodes.
const CONSUMERS: u64 = 2;
/// Most that a consumer takes at a time; it acknowledges about half.
const TAKEN_MAX: u32 = 8;
/// What is not acknowledged comes back after so long.
const LEASE: Duration = secs(2);

/// What was done, for people; a broken promise is a panic.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Where the dice began.
    pub seed: u64,
    /// Kills by how many nodes they took.
    pub cuts: BTreeMap<usize, u32>,
    /// Kills that took the leader.
    pub of_the_leader: u32,
    /// Messages that were confirmed and found.
    pub confirmed: u64,
    /// Messages that were acknowledged and are gone.
    pub acked: u64,
    /// Messages found that nobody had confirmed: allowed, their answers were lost.
    pub unconfirmed: u64,
    /// Longest time from a restart until all nodes served.
    pub slowest_restart: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs: u32 = self.cuts.values().sum();
        write!(
            f,
            "{runs} power cuts (nodes killed at once: {:?}, {} with the leader), seed {}: {} confirmed messages, \
             all there by id and bytes or, {} of them, acknowledged and gone; {} more whose answers were lost; \
             slowest restart {:?}",
            self.cuts,
            self.of_the_leader,
            self.seed,
            self.confirmed,
            self.acked,
            self.unconfirmed,
            self.slowest_restart
        )
    }
}

/// What the publishers did since the queue was last emptied.
#[derive(Default)]
struct Published {
    /// Every body that may be in the queue.
    tried: BTreeSet<Bytes>,
    /// Id and body of what was confirmed.
    confirmed: BTreeMap<u64, Bytes>,
    /// What an answer said to be acknowledged.
    acked: BTreeSet<u64>,
    /// Acknowledgements whose answers were lost.
    perhaps_acked: BTreeSet<u64>,
}

/// Does so many power cuts.
///
/// # Panics
/// When a promise is broken; the seed is printed first.
pub async fn run(runs: u32, seed: u64) -> Report {
    println!("power cuts: {runs} runs, seed {seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let cluster = Arc::new(Cluster::builder().program(Program::Faulty).start().await);
    // What is left to its lease comes back as often as it takes.
    let queue = cluster.queue(QUEUE).lease(LEASE).max_deliveries(0);
    queue.create().await;
    let published = Arc::new(Mutex::new(Published::default()));
    let mut report = Report {
        seed,
        ..Report::default()
    };
    for run in 0..runs {
        let before = published.lock().expect("not poisoned").confirmed.len();
        one(&cluster, &published, &mut dice, &mut report).await;
        let found = compare(&cluster, &published, run).await;
        let after = published.lock().expect("not poisoned").confirmed.len();
        report.confirmed += (after - before) as u64;
        if run % RUNS_KEPT == RUNS_KEPT - 1 || run == runs - 1 {
            report.unconfirmed += found as u64;
            report.acked += published.lock().expect("not poisoned").acked.len() as u64;
            println!(
                "after {} runs: {} confirmed messages compared",
                run + 1,
                report.confirmed
            );
            empty(&cluster).await;
            *published.lock().expect("not poisoned") = Published::default();
        }
    }
    conserved(QUEUE, &cluster.stats(QUEUE).await);
    agreed(&cluster).await;
    assert!(
        report.confirmed >= 20 * u64::from(runs),
        "too little was exercised: {report}"
    );
    assert!(
        report.acked >= u64::from(runs),
        "too little was acknowledged: {report}"
    );
    report
}

/// Load, one cut at a random instant, restart.
async fn one(
    cluster: &Arc<Cluster>,
    published: &Arc<Mutex<Published>>,
    dice: &mut StdRng,
    report: &mut Report,
) {
    let stop = Arc::new(AtomicBool::new(false));
    let mut users = Vec::new();
    for number in 0..PUBLISHERS {
        let producer = Producer::open(cluster, "").await;
        let node = cluster.on(number % 3 + 1);
        let seed = dice.random();
        users.push(tokio::spawn(publish(
            node,
            producer,
            Arc::clone(published),
            Arc::clone(&stop),
            seed,
        )));
    }
    for number in 0..CONSUMERS {
        users.push(tokio::spawn(consume(
            cluster.on(number % 3 + 1),
            Arc::clone(published),
            Arc::clone(&stop),
            dice.random(),
        )));
    }
    let leader = cluster.leader().await;
    let mut victims = cluster.ids();
    while victims.len() > 1 && dice.random_bool(0.5) {
        victims.remove(dice.random_range(0..victims.len()));
    }
    let enough =
        published.lock().expect("not poisoned").confirmed.len() + dice.random_range(10..400);
    let instant = millis(dice.random_range(0..100));
    confirmed(published, enough).await;
    // A random instant is what this is about: the only wait here that is not for a condition.
    tokio::time::sleep(instant).await;
    for victim in &victims {
        cluster.kill(*victim);
    }
    stop.store(true, Ordering::Relaxed);
    for user in users {
        user.await.expect("it does not panic");
    }
    *report.cuts.entry(victims.len()).or_default() += 1;
    report.of_the_leader += u32::from(victims.contains(&leader));
    restart(cluster, &victims, report).await;
}

async fn confirmed(published: &Mutex<Published>, enough: usize) {
    until("messages to be confirmed", secs(30), async || {
        let confirmed = published.lock().expect("not poisoned").confirmed.len();
        if confirmed >= enough {
            Ok(())
        } else {
            Err(confirmed)
        }
    })
    .await;
}

async fn restart(cluster: &Cluster, victims: &[NodeId], report: &mut Report) {
    let started = Instant::now();
    for victim in victims {
        cluster.spawn(*victim);
    }
    for id in cluster.ids() {
        cluster.serves(id).await;
    }
    report.slowest_restart = report.slowest_restart.max(started.elapsed());
}

/// Publishes batches of unique bodies through one node until told to stop or nobody answers.
async fn publish(
    mut node: Clients,
    mut producer: Producer,
    published: Arc<Mutex<Published>>,
    stop: Arc<AtomicBool>,
    seed: u64,
) {
    let mut dice = StdRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        let first = producer.next;
        let bodies: Vec<Bytes> = (0..dice.random_range(1..20))
            .map(|k| body(&producer, first + k, dice.random_range(0..4_000)))
            .collect();
        published
            .lock()
            .expect("not poisoned")
            .tried
            .extend(bodies.iter().cloned());
        let request = producer.batch(
            bodies
                .iter()
                .map(|body| item(QUEUE, body.clone()))
                .collect(),
        );
        match node.publisher.publish(within(secs(3), request)).await {
            Ok(answer) => {
                let results = answer.into_inner().results;
                let ids = results.iter().map(|result| result.message_id);
                published
                    .lock()
                    .expect("not poisoned")
                    .confirmed
                    .extend(ids.zip(bodies));
            }
            // Its node is dead, or has no majority: whether it is stored is not known.
            Err(status) if invites_retry(&status) => return,
            Err(status) => panic!("a publish was refused: {}", Refused::from(&status)),
        }
    }
}

/// Takes a few messages at a time and acknowledges about half of them, until told to stop or nobody
/// answers.
async fn consume(
    node: Clients,
    published: Arc<Mutex<Published>>,
    stop: Arc<AtomicBool>,
    seed: u64,
) {
    let mut dice = StdRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        let mut deliveries = match receive(&node, QUEUE, TAKEN_MAX).await {
            Ok(deliveries) => deliveries,
            Err(status) if invites_retry(&status) => return,
            Err(status) => panic!("a receive was refused: {}", Refused::from(&status)),
        };
        deliveries.retain(|_| dice.random_bool(0.5));
        if deliveries.is_empty() {
            continue;
        }
        let receipts: Vec<Bytes> = deliveries.iter().map(|d| d.receipt.clone()).collect();
        let answer = settle(&node, QUEUE, &receipts, SettleKind::Ack).await;
        let mut published = published.lock().expect("not poisoned");
        let ids = deliveries.iter().map(|delivery| delivery.message_id);
        match answer {
            Ok(outcomes) => {
                let settled = ids.zip(outcomes);
                let acked = settled.filter(|(_, outcome)| *outcome == SettleOutcome::Ok);
                published.acked.extend(acked.map(|(id, _)| id));
            }
            Err(status) if invites_retry(&status) => {
                published.perhaps_acked.extend(ids);
                return;
            }
            Err(status) => panic!("an ack was refused: {}", Refused::from(&status)),
        }
    }
}

/// A body like no other: who, which, and some more.
fn body(producer: &Producer, sequence: u64, more: usize) -> Bytes {
    let id: String = producer
        .id
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut body = format!("{id} {} {sequence} ", producer.epoch).into_bytes();
    body.extend((0..more).map(|k| (k as u64 * 31 + sequence) as u8));
    body.into()
}

/// Compares what is in the queue with what was confirmed and acknowledged; says how much is there that
/// nobody confirmed.
async fn compare(cluster: &Cluster, published: &Mutex<Published>, run: u32) -> usize {
    agreed(cluster).await;
    let peeked = cluster.peek_all(QUEUE).await;
    let published = published.lock().expect("not poisoned");
    let body = |message: &PeekedMessage| {
        message
            .message
            .as_ref()
            .map(|message| message.body.clone())
            .unwrap_or_default()
    };
    let there: BTreeMap<u64, Bytes> = peeked
        .iter()
        .map(|message| (message.message_id, body(message)))
        .collect();
    assert_eq!(there.len(), peeked.len(), "run {run}: an id twice");
    for (id, confirmed) in &published.confirmed {
        match there.get(id) {
            Some(found) => assert_eq!(found, confirmed, "run {run}: message {id} has other bytes"),
            None if published.acked.contains(id) || published.perhaps_acked.contains(id) => {}
            None => panic!("run {run}: message {id} was confirmed and is lost"),
        }
    }
    let back = published.acked.iter().find(|id| there.contains_key(id));
    assert_eq!(back, None, "run {run}: an acknowledged message is back");
    let bodies: BTreeSet<&Bytes> = there.values().collect();
    assert_eq!(
        bodies.len(),
        there.len(),
        "run {run}: a body was stored twice"
    );
    let phantom = there.values().find(|body| !published.tried.contains(*body));
    assert_eq!(phantom, None, "run {run}: a message that nobody published");
    let unconfirmed = there
        .keys()
        .filter(|id| !published.confirmed.contains_key(id));
    unconfirmed.count()
}

/// What is leased is purged when it is back.
async fn empty(cluster: &Cluster) {
    until("the queue to be empty", secs(30), async || {
        let mut leader = cluster.on(cluster.leader().await);
        let purge = PurgeQueueRequest {
            queue: QUEUE.to_owned(),
            ..PurgeQueueRequest::default()
        };
        let purged = leader.admin.purge_queue(within(secs(10), purge)).await;
        purged.map_err(|status| Refused::from(&status).to_string())?;
        let stats = cluster.stats(QUEUE).await;
        match stats.ready + stats.in_flight + stats.delayed {
            0 => Ok(()),
            left => Err(format!("{left} messages left")),
        }
    })
    .await;
}
