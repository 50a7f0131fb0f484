//! A copy of a running cluster, and a new cluster from it: byte by byte what was there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use tempfile::TempDir;
use ticketrail_proto::v1::header_value::Value;
use ticketrail_proto::v1::{
    Header, HeaderValue, MessageState, PeekedMessage, PublishItem, SettleItem, SettleKind,
    SettleOutcome,
};
use ticketrail_tests::cluster::checks::{agreed, conserved};
use ticketrail_tests::cluster::consumer::{body, receive, settle, settle_items};
use ticketrail_tests::cluster::producer::{item, publish};
use ticketrail_tests::cluster::program::profile_folder;
use ticketrail_tests::cluster::{
    Behaviour, Clients, Cluster, Link, Producer, Program, duration, millis, secs, until, within,
};
use tokio::task::JoinHandle;

use crate::number;

const BATCHES: u64 = 20;
const BATCH: u64 = 10;
const LARGE: usize = 64 << 10;

fn folder() -> TempDir {
    TempDir::new_in(profile_folder()).unwrap()
}

fn all(cluster: &Cluster) -> Vec<Clients> {
    cluster.ids().into_iter().map(|id| cluster.on(id)).collect()
}

/// A message with a header, unlike all others.
fn order(batch: u64, k: u64) -> PublishItem {
    let mut item = item("orders", format!("order {batch} {k}"));
    let value = Some(Value::Integer(i64::try_from(batch * BATCH + k).unwrap()));
    item.message.as_mut().unwrap().headers.push(Header {
        key: "number".to_owned(),
        value: Some(HeaderValue { value }),
    });
    item
}

/// Publishes to a queue of its own until it is told to stop.
struct Traffic {
    stop: Arc<AtomicBool>,
    confirmed: Arc<Mutex<BTreeSet<Bytes>>>,
    task: JoinHandle<()>,
}

impl Traffic {
    async fn start(cluster: &Cluster) -> Self {
        let mut producer = Producer::open(cluster, "traffic").await;
        let mut publisher = cluster.on(2).publisher;
        let (stop, confirmed) = <(Arc<AtomicBool>, Arc<Mutex<BTreeSet<Bytes>>>)>::default();
        let (stopped, told) = (Arc::clone(&stop), Arc::clone(&confirmed));
        let task = tokio::spawn(async move {
            for round in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let bodies: Vec<Bytes> = (0..10).map(|k| format!("{round} {k}").into()).collect();
                let items = bodies.iter().map(|body| item("noise", body.clone()));
                let batch = within(secs(10), producer.batch(items.collect()));
                publisher.publish(batch).await.unwrap();
                told.lock().unwrap().extend(bodies);
            }
        });
        Self {
            stop,
            confirmed,
            task,
        }
    }

    fn so_far(&self) -> BTreeSet<Bytes> {
        self.confirmed.lock().unwrap().clone()
    }

    async fn stop(self) -> BTreeSet<Bytes> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        let confirmed = self.confirmed.lock().unwrap();
        confirmed.clone()
    }
}

fn bodies(messages: &[PeekedMessage]) -> BTreeSet<Bytes> {
    let body = |one: &PeekedMessage| one.message.clone().unwrap().body;
    messages.iter().map(body).collect()
}

/// As the messages are in the new cluster: what was held came back.
fn given_back(mut messages: Vec<PeekedMessage>) -> Vec<PeekedMessage> {
    for message in &mut messages {
        if message.state() == MessageState::InFlight {
            message.set_state(MessageState::Ready);
        }
        // Of what is delayed, and moves on with the time.
        message.time_remaining = None;
    }
    messages
}

/// Everything in a queue but the time that is left.
async fn there(cluster: &Cluster, queue: &str) -> Vec<PeekedMessage> {
    let mut messages = cluster.peek_all(queue).await;
    for message in &mut messages {
        message.time_remaining = None;
    }
    messages
}

/// Orders in every state: most ready, of each batch some gone, some delayed, dead-lettered, in flight.
/// The receipts of those that are.
async fn every_state(cluster: &Cluster, producer: &mut Producer) -> (Vec<u64>, Vec<Bytes>) {
    cluster.queue("dead").create().await;
    let orders = cluster.queue("orders").dead_letters_to("dead");
    orders.lease(secs(600)).create().await;
    let mut ids = Vec::new();
    for batch in 0..BATCHES {
        let items = (0..BATCH).map(|k| order(batch, k)).collect();
        let stored = publish(&all(cluster), &producer.batch(items)).await;
        ids.extend(stored.results.iter().map(|result| result.message_id));
    }
    let clients = cluster.on(1);
    let taken = receive(&clients, "orders", 25).await.unwrap();
    let receipt = |of: &dyn Fn(usize) -> bool| -> Vec<Bytes> {
        let taken = taken.iter().enumerate().filter(|(k, _)| of(*k));
        taken
            .map(|(_, delivery)| delivery.receipt.clone())
            .collect()
    };
    settle(
        &clients,
        "orders",
        &receipt(&|k| k % 5 == 0),
        SettleKind::Ack,
    )
    .await
    .unwrap();
    settle(
        &clients,
        "orders",
        &receipt(&|k| k % 5 == 1),
        SettleKind::Reject,
    )
    .await
    .unwrap();
    let nack = |receipt: Bytes| SettleItem {
        receipt,
        kind: SettleKind::Nack as i32,
        delay: Some(duration(secs(3_600))),
        ..SettleItem::default()
    };
    let delayed = receipt(&|k| k % 5 == 2).into_iter().map(nack).collect();
    settle_items(&clients, "orders", delayed).await.unwrap();
    (ids, receipt(&|k| k % 5 > 2))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_cluster_holds_byte_by_byte_what_was_confirmed_before_the_backup() {
    let mut cluster = Cluster::start().await;
    let home = folder();
    let backup = home.path().join("backup");
    let shown = backup.display().to_string();
    let mut producer = Producer::open(&cluster, "till").await;
    let (ids, held) = every_state(&cluster, &mut producer).await;
    cluster.queue("noise").create().await;
    let traffic = Traffic::start(&cluster).await;
    until("traffic", secs(20), async || {
        let count = traffic.so_far().len();
        if count > 100 { Ok(()) } else { Err(count) }
    })
    .await;

    let orders = cluster.peek_all("orders").await;
    let dead = there(&cluster, "dead").await;
    assert_eq!((orders.len(), dead.len()), (190, 5));
    let before = traffic.so_far();
    let said = cluster.ok(&["backup", "--to", &shown]).await;
    let after = traffic.stop().await;
    assert!(
        said.contains("taken in") && said.contains("in 3 queues"),
        "{said}"
    );
    let said = cluster.ok(&["backup", "verify", &shown]).await;
    assert!(said.contains("is whole"), "{said}");
    let again = cluster.ticketrail(&["backup", "--to", &shown]).await;
    refuses(&again, "not empty");

    cluster.kill_all();
    let old_cluster = cluster.cluster_id();
    cluster.restore(&backup).await;
    assert_ne!(cluster.cluster_id(), old_cluster);
    assert_eq!(there(&cluster, "orders").await, given_back(orders));
    assert_eq!(there(&cluster, "dead").await, dead);
    let noise = bodies(&cluster.peek_all("noise").await);
    assert!(noise.is_superset(&before), "confirmed before, and lost");
    assert!(noise.is_subset(&after), "never published");
    for queue in ["orders", "dead", "noise"] {
        conserved(queue, &cluster.stats(queue).await);
    }

    // What the old cluster gave out is of no use; what producers sent is known.
    let clients = cluster.on(2);
    let stale = settle(&clients, "orders", &held, SettleKind::Ack).await;
    assert!(
        !matches!(&stale, Ok(outcomes) if outcomes.contains(&SettleOutcome::Ok)),
        "{stale:?}"
    );
    for batch in 0..BATCHES {
        let items = (0..BATCH).map(|k| order(batch, k)).collect();
        let again = producer.batch_at(batch * BATCH + 1, items);
        let stored = publish(&all(&cluster), &again).await;
        let known = stored
            .results
            .iter()
            .map(|result| (result.duplicate, result.message_id));
        let first = (batch * BATCH) as usize;
        let told = ids[first..first + BATCH as usize]
            .iter()
            .map(|id| (true, *id));
        assert!(known.eq(told), "{stored:?}");
    }
    let reopened = Producer::open(&cluster, "till").await;
    assert_eq!(reopened.next, producer.next);

    // It works, also without the node that was restored.
    let mut producer = reopened;
    let stored = publish(&all(&cluster), &producer.batch(vec![order(BATCHES, 0)])).await;
    assert!(stored.results[0].message_id > *ids.last().unwrap());
    cluster.kill(1);
    cluster.leader().await;
    let others = [cluster.on(2), cluster.on(3)];
    publish(&others, &producer.batch(vec![order(BATCHES, 1)])).await;
    cluster.restart(1).await;
    let taken = receive(&cluster.on(1), "orders", 300).await.unwrap();
    assert!(body(taken.last().unwrap()).starts_with(b"order 20 "));
    assert_eq!(taken.len(), 190 - 5 + 2, "all but the delayed ones");
    conserved("orders", &cluster.stats("orders").await);
    agreed(&cluster).await;
}

fn refuses(output: &Output, words: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{error}");
    assert!(error.contains(words), "`{words}` in: {error}");
}

/// `ticketrail backup` of the node at an address, under way.
fn begin_backup(address: &str, to: &Path) -> Child {
    let mut command = Command::new(Program::Product.path());
    command
        .args(["--endpoints", address, "backup", "--to"])
        .arg(to)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_cut_off_is_none_and_the_next_one_is_whole() {
    let mut cluster = Cluster::builder().alone().start().await;
    let home = folder();
    cluster.queue("orders").create().await;
    let mut producer = Producer::open(&cluster, "large").await;
    let nodes = all(&cluster);
    let messages = (number("TICKETRAIL_BACKUP_MIB", 48) << 20) / LARGE;
    for first in (0..messages).step_by(16) {
        let body = |k: usize| Bytes::from((first + k).to_le_bytes().repeat(LARGE / 8));
        let items = (0..16).map(|k| item("orders", body(k))).collect();
        publish(&nodes, &producer.batch(items)).await;
    }

    // The node dies while it sends, over a link on which all of it takes seconds.
    let cut_off = home.path().join("cut-off");
    let node = cluster.follower().await;
    let link = Link::open(cluster.address(node).to_owned()).await;
    link.behave(Behaviour {
        delay: millis(10),
        ..Behaviour::FINE
    });
    let program = begin_backup(&link.address(), &cut_off);
    until("the first bodies", secs(30), async || {
        let bytes = fs::metadata(cut_off.join("bodies")).map(|file| file.len());
        if bytes.as_ref().is_ok_and(|bytes| *bytes > 0) {
            return Ok(());
        }
        Err(bytes)
    })
    .await;
    cluster.kill(node);
    let ended = tokio::task::spawn_blocking(|| program.wait_with_output());
    let ended = ended.await.unwrap().unwrap();
    refuses(&ended, "is no backup: remove it");
    assert_eq!(ended.status.code(), Some(3), "{ended:?}");
    assert!(!cut_off.join("manifest").exists());
    let shown = cut_off.display().to_string();
    let verified = cluster.ticketrail(&["backup", "verify", &shown]).await;
    refuses(&verified, "holds no `manifest`");
    let config = cluster.data_dir(node).with_file_name("node.toml");
    let config = config.display().to_string();
    let restore = ["restore", "--from", &shown, "--config", &config];
    refuses(&cluster.ticketrail(&restore).await, "leave out `bootstrap`");

    // From those that are left, whole.
    let whole = home.path().join("whole");
    let shown = whole.display().to_string();
    let started = Instant::now();
    cluster.ok(&["backup", "--to", &shown]).await;
    println!(
        "{messages} messages of 64 KiB: backup in {:?}",
        started.elapsed()
    );
    cluster.restart(node).await;
    let told = cluster.stats("orders").await;
    agreed(&cluster).await;
    cluster.kill_all();
    let started = Instant::now();
    cluster.restore(&whole).await;
    println!("three nodes restored in {:?}", started.elapsed());
    let now = cluster.stats("orders").await;
    assert_eq!(
        (now.ready, now.published),
        (messages as u64, told.published)
    );
    let taken = receive(&cluster.on(3), "orders", 16).await.unwrap();
    for (k, delivery) in taken.iter().enumerate() {
        assert_eq!(body(delivery), k.to_le_bytes().repeat(LARGE / 8));
    }
    agreed(&cluster).await;
}
