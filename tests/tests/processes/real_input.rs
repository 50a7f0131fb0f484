//! Real input, real failure: the package lists of a Debian machine, one message per stanza, while
//! the leader, then a follower, then all nodes at once are killed with -9.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ticketrail_proto::v1::consume_response::Frame;
use ticketrail_proto::v1::{ConsumeOpen, Delivery, SettleKind};
use ticketrail_tests::cluster::checks::{agreed, conserved};
use ticketrail_tests::cluster::consumer::{self, body, range};
use ticketrail_tests::cluster::producer::{Pipeline, item};
use ticketrail_tests::cluster::{
    Clients, Cluster, CommittedLog, Consumer, Producer, Refused, millis, secs, until,
};
use tokio::sync::watch;
use tonic::Status;

const SMALL: usize = 3_000;
const NACK_ONE_IN: u64 = 50;
const REJECT_ONE_IN: u64 = 500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stanza_is_worked_on_or_dead_lettered_though_all_nodes_die() {
    let full = env::var("TICKETRAIL_REAL_INPUT").is_ok_and(|size| size == "full");
    let stanzas = stanzas(if full { usize::MAX } else { SMALL });
    let published: BTreeSet<Bytes> = stanzas.iter().cloned().collect();
    assert_eq!(published.len(), stanzas.len(), "every body is unique");
    let cluster = Cluster::start().await;
    cluster
        .queue("stanzas")
        .max_deliveries(0)
        .dead_letters_to("hopeless")
        .create()
        .await;
    cluster.queue("hopeless").create().await;

    let seen = Arc::new(Mutex::new(Seen::default()));
    let (stop, stopped) = watch::channel(false);
    let consumers = cluster
        .ids()
        .into_iter()
        .map(|id| tokio::spawn(work(cluster.on(id), Arc::clone(&seen), stopped.clone())));
    let consumers: Vec<_> = consumers.collect();
    let (progress, confirmed) = watch::channel(0);
    let pace = if full { Duration::ZERO } else { millis(40) };
    let started = Instant::now();
    let (pipeline, ()) = tokio::join!(
        produce(&cluster, stanzas.clone(), progress, pace),
        kill_along_the_way(&cluster, confirmed, stanzas.len()),
    );
    drained(&cluster).await;
    println!(
        "{} stanzas published and drained in {:?}",
        stanzas.len(),
        started.elapsed()
    );
    stop.send(true).unwrap();
    for consumer in consumers {
        consumer.await.unwrap();
    }

    // What the clients saw: acknowledged and dead-lettered are together what was published.
    let dead = cluster.peek_all("hopeless").await;
    let dead: BTreeSet<Bytes> = dead.into_iter().map(|m| m.message.unwrap().body).collect();
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert!(
        seen.acked.is_disjoint(&dead),
        "what was acknowledged is not a dead letter"
    );
    let lost: Vec<_> = published
        .iter()
        .filter(|body| !seen.ack_sent.contains(*body) && !dead.contains(*body))
        .collect();
    assert!(lost.is_empty(), "{} stanzas are lost", lost.len());
    assert!(
        seen.ids.keys().all(|body| published.contains(body)),
        "nothing that was not published"
    );
    let twice: Vec<_> = seen.ids.iter().filter(|(_, ids)| ids.len() > 1).collect();
    assert!(
        twice.is_empty(),
        "stored under several message ids: {twice:?}"
    );
    let redelivered = seen
        .counts
        .values()
        .filter(|counts| counts.len() > 1)
        .count();
    assert!(
        redelivered > published.len() / 60,
        "only {redelivered} redeliveries: too little was exercised"
    );
    for counts in seen.counts.values() {
        let mut sorted = counts.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(
            sorted.len(),
            counts.len(),
            "each redelivery has a count of its own: {counts:?}"
        );
    }

    // What the nodes hold.
    let (work, hopeless) = (
        cluster.stats("stanzas").await,
        cluster.stats("hopeless").await,
    );
    let sent = published.len() as u64;
    assert_eq!(work.published, sent);
    assert_eq!(work.acknowledged + work.dead_lettered_out, sent);
    assert_eq!(hopeless.dead_lettered_in, dead.len() as u64);
    assert!(work.redelivered > 0 && !dead.is_empty());
    conserved("stanzas", &work);
    conserved("hopeless", &hopeless);
    let agreement = agreed(&cluster).await;
    println!(
        "acknowledged {} + dead-lettered {} = published {sent}; {} redeliveries; digest {:016x} at {}",
        work.acknowledged,
        dead.len(),
        work.redelivered,
        agreement.digest,
        agreement.index
    );

    // What is in the committed log: every stanza once, whatever was sent again.
    cluster.stop().await;
    let log = CommittedLog::read(&cluster, 3, agreement);
    let replay = log.replay();
    assert_eq!(replay.state.digest(), agreement.digest);
    assert_eq!(replay.stored, sent);
    assert!(replay.sequences.values().all(|told| told.stored == 1));
    assert_eq!(
        log.bodies().into_keys().collect::<BTreeSet<_>>(),
        published,
        "the very bytes"
    );
    let ids: BTreeMap<u64, Bytes> = (1..).zip(stanzas).collect();
    for (sequence, id) in pipeline.ids.iter().filter(|(_, id)| **id != 0) {
        let stored = &seen.ids[&ids[sequence]];
        assert_eq!(
            stored.iter().collect::<Vec<_>>(),
            [id],
            "the confirmed id is the delivered one"
        );
    }
}

/// What the consumers saw, together.
#[derive(Default)]
struct Seen {
    /// Acks that were sent; whether they counted is known only for `acked`.
    ack_sent: BTreeSet<Bytes>,
    /// Acks that were confirmed.
    acked: BTreeSet<Bytes>,
    /// Message ids of each body.
    ids: BTreeMap<Bytes, BTreeSet<u64>>,
    /// Delivery counts of each body, as they came.
    counts: BTreeMap<Bytes, Vec<u32>>,
}

/// Publishes through node 1 only, over as many streams as its deaths make necessary.
async fn produce(
    cluster: &Cluster,
    stanzas: Vec<Bytes>,
    progress: watch::Sender<usize>,
    pace: Duration,
) -> Pipeline {
    let producer = Producer::open(cluster, "apt").await;
    let items = stanzas
        .into_iter()
        .map(|stanza| item("stanzas", stanza))
        .collect();
    let mut pipeline = Pipeline::new(producer, items);
    pipeline.batch = 10;
    pipeline.pace = pace;
    let node = cluster.on(1);
    let patience = secs(600);
    until("everything to be confirmed", patience, async || {
        pipeline
            .run(&node, &progress)
            .await
            .map_err(|status| Refused::from(&status).to_string())
    })
    .await;
    pipeline
}

async fn kill_along_the_way(cluster: &Cluster, mut confirmed: watch::Receiver<usize>, all: usize) {
    let mut reached = async |part: usize| {
        confirmed
            .wait_for(|count| *count >= all * part / 5)
            .await
            .unwrap();
    };
    reached(1).await;
    let leader = cluster.kill_leader().await;
    cluster.restart(leader).await;
    reached(2).await;
    let follower = cluster.follower().await;
    cluster.kill(follower);
    cluster.restart(follower).await;
    reached(3).await;
    cluster.kill_all();
    cluster.ids().into_iter().for_each(|id| cluster.spawn(id));
    for id in cluster.ids() {
        cluster.serves(id).await;
    }
    assert!(
        *confirmed.borrow() < all,
        "the kills came while messages were published"
    );
}

async fn drained(cluster: &Cluster) {
    until("the queue to be empty", secs(120), async || {
        let stats = cluster.stats("stanzas").await;
        let left = stats.ready + stats.delayed + stats.in_flight + stats.parked;
        if left == 0 { Ok(()) } else { Err(stats) }
    })
    .await;
}

/// One consumer on one node: works until it is told to stop, over as many streams as it takes.
async fn work(node: Clients, seen: Arc<Mutex<Seen>>, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        let stream = one_stream(&node, &seen);
        tokio::select! {
            // A broken stream is opened again; a node that is down is asked again until it is up.
            _ = stream => tokio::time::sleep(millis(50)).await,
            () = async { drop(stop.wait_for(|stop| *stop).await) } => {}
        }
    }
}

async fn one_stream(node: &Clients, seen: &Mutex<Seen>) -> Result<(), Status> {
    let open = ConsumeOpen {
        prefetch: Some(50),
        ..consumer::open("stanzas")
    };
    let mut stream = Consumer::open(node, open).await?;
    let mut acks_by_frame: BTreeMap<u64, BTreeMap<u64, Bytes>> = BTreeMap::new();
    let mut frames = 0;
    while let Some(frame) = stream.frame().await? {
        match frame {
            Frame::Deliveries(frame) => {
                let ranges: Vec<_> = frame
                    .deliveries
                    .iter()
                    .map(|d| range(d.delivery_id, 0, decide(d)))
                    .collect();
                let acks = note(&mut seen.lock().unwrap(), &frame.deliveries);
                frames += 1;
                acks_by_frame.insert(frames, acks);
                stream.settle(ranges).await?;
            }
            Frame::Settled(settled) => {
                let mut seen = seen.lock().unwrap();
                for exception in settled.exceptions {
                    let acks = acks_by_frame.get_mut(&exception.settlement).unwrap();
                    acks.retain(|id, _| {
                        !(exception.first_delivery_id..=exception.last_delivery_id).contains(id)
                    });
                }
                let later = acks_by_frame.split_off(&(settled.through_settlement + 1));
                let done = std::mem::replace(&mut acks_by_frame, later);
                seen.acked
                    .extend(done.into_values().flat_map(BTreeMap::into_values));
            }
            _ => {}
        }
    }
    Ok(())
}

fn decide(delivery: &Delivery) -> SettleKind {
    match delivery.message_id {
        id if id % REJECT_ONE_IN == 0 => SettleKind::Reject,
        id if id % NACK_ONE_IN == 1 && delivery.delivery_count == 1 => SettleKind::Nack,
        _ => SettleKind::Ack,
    }
}

/// Writes deliveries down; says which of them are about to be acknowledged.
fn note(seen: &mut Seen, deliveries: &[Delivery]) -> BTreeMap<u64, Bytes> {
    let mut acks = BTreeMap::new();
    for delivery in deliveries {
        let body = body(delivery);
        seen.ids
            .entry(body.clone())
            .or_default()
            .insert(delivery.message_id);
        seen.counts
            .entry(body.clone())
            .or_default()
            .push(delivery.delivery_count);
        if decide(delivery) == SettleKind::Ack {
            seen.ack_sent.insert(body.clone());
            acks.insert(delivery.delivery_id, body);
        }
    }
    acks
}

/// Stanzas of `apt-cache dumpavail`, or like them where there is none.
fn stanzas(max: usize) -> Vec<Bytes> {
    let output = Command::new("/usr/bin/apt-cache").arg("dumpavail").output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut all: Vec<Bytes> = text
        .split("\n\n")
        .filter(|stanza| !stanza.trim().is_empty())
        .take(max)
        .map(|stanza| Bytes::from(stanza.to_owned()))
        .collect();
    if all.is_empty() {
        println!("apt-cache dumpavail gives nothing (apt-get update?): stanzas are made up");
        all = (0..SMALL).map(made_up).collect();
    }
    // Two archives may offer the same stanza.
    let mut first = BTreeSet::new();
    all.retain(|stanza| first.insert(stanza.clone()));
    all
}

fn made_up(number: usize) -> Bytes {
    let description = "A package that exists to be put into a queue. ".repeat(number % 17 + 1);
    Bytes::from(format!(
        "Package: package-{number}\nVersion: 1.{number}-1\nArchitecture: all\nDescription: {description}"
    ))
}
