//! A full disk: publishes are refused on all nodes, settles and deletes go on, nothing is lost, and
//! all goes on by itself when there is room again.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use ticketrail_proto::v1::{DeleteQueueRequest, SettleKind, SettleOutcome};
use ticketrail_tests::cluster::checks::{agreed, conserved};
use ticketrail_tests::cluster::consumer::{body, receive, settle};
use ticketrail_tests::cluster::producer::{batch, item, publish};
use ticketrail_tests::cluster::{Cluster, Producer, Refused, SmallDisk, secs, until, within};
use tonic::Code;

/// Two log segments, sled and the snapshot files take half of it.
const DISK_BYTES: u64 = 400 << 20;
/// Below this publishes are refused.
const FLOOR_BYTES: u64 = 64 << 20;
/// How soon all nodes must have heard.
const HEARD_WITHIN: Duration = secs(10);

/// What was confirmed, and what of it was acknowledged.
#[derive(Default)]
struct Sets {
    confirmed: BTreeSet<Bytes>,
    acknowledged: BTreeSet<Bytes>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_publishes_and_nothing_else() {
    if let Err(why) = SmallDisk::is_possible() {
        println!("skipped: no small file system can be mounted here: {why}");
        return;
    }
    let floor = format!("[limits]\ndisk_free_bytes_min = {FLOOR_BYTES}\n");
    let builder = Cluster::builder().small_disks(DISK_BYTES).config(&floor);
    let cluster = builder.start().await;
    cluster.queue("orders").create().await;
    let mut sets = Sets::default();
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    for (name, full) in [
        ("a follower", vec![follower]),
        ("the leader", vec![leader]),
        ("all", cluster.ids()),
    ] {
        println!("full: {name}, nodes {full:?}");
        fill(&cluster, &mut sets, name).await;
        short_of_room(&cluster, &mut sets, &full, FLOOR_BYTES / 2, name).await;
        fill(&cluster, &mut sets, &format!("{name}, between")).await;
        short_of_room(&cluster, &mut sets, &full, 0, name).await;
    }
    // What is on the disks is whole, too.
    cluster.kill_all();
    for id in cluster.ids() {
        cluster.spawn(id);
    }
    for id in cluster.ids() {
        cluster.serves(id).await;
    }
    everything_is_there(&cluster, &sets).await;
}

/// Publishes a little, through whatever node.
async fn fill(cluster: &Cluster, sets: &mut Sets, name: &str) {
    let nodes: Vec<_> = cluster.ids().iter().map(|id| cluster.on(*id)).collect();
    let mut producer = Producer::open(cluster, "").await;
    let bodies: Vec<Bytes> = (0..60).map(|k| format!("{name} {k}").into()).collect();
    let items = bodies.iter().map(|body| item("orders", body.clone()));
    publish(&nodes, &producer.batch(items.collect())).await;
    sets.confirmed.extend(bodies);
}

/// Fills some disks but for a rest, sees what works, and relieves them.
async fn short_of_room(cluster: &Cluster, sets: &mut Sets, full: &[u64], rest: u64, name: &str) {
    cluster.queue("gone").create().await;
    for id in full {
        cluster.disk(*id).leave(rest).unwrap();
    }
    for id in cluster.ids() {
        publishes_are_refused(cluster, id).await;
    }
    for id in cluster.ids() {
        acknowledge_some(cluster, sets, id).await;
    }
    let request = within(
        secs(5),
        DeleteQueueRequest {
            name: "gone".to_owned(),
            ..DeleteQueueRequest::default()
        },
    );
    cluster
        .on(full[0])
        .topology
        .delete_queue(request)
        .await
        .unwrap();
    if rest == 0 {
        for id in full {
            checkpoint_waits(cluster, sets, *id).await;
        }
    }
    for id in full {
        cluster.disk(*id).relieve().unwrap();
    }
    for id in cluster.ids() {
        publishes_are_taken(cluster, sets, id, &format!("{name} {rest} after {id}")).await;
    }
    assert_eq!(cluster.running(), cluster.ids());
    for id in cluster.ids() {
        assert_eq!(cluster.has_ended(id), None, "node {id}");
    }
    everything_is_there(cluster, sets).await;
}

async fn publishes_are_refused(cluster: &Cluster, id: u64) {
    until("publishes to be refused", HEARD_WITHIN, async || {
        let request = within(secs(5), batch(vec![item("refused", "never")]));
        match cluster.on(id).publisher.publish(request).await {
            Err(status) if Refused::from(&status).is(Code::ResourceExhausted, "OVERLOADED") => {
                let refused = Refused::from(&status);
                assert!(refused.retry_after.is_some(), "it says when to come back");
                assert_eq!(
                    refused.metadata.get("bound").map(String::as_str),
                    Some("disk")
                );
                Ok(())
            }
            other => Err(format!(
                "node {id}: {:?}",
                other.map_err(|s| Refused::from(&s))
            )),
        }
    })
    .await;
}

async fn publishes_are_taken(cluster: &Cluster, sets: &mut Sets, id: u64, text: &str) {
    let taken = Bytes::from(text.to_owned());
    let mut producer = Producer::open(cluster, "").await;
    let nodes = [cluster.on(id)];
    publish(&nodes, &producer.batch(vec![item("orders", taken.clone())])).await;
    sets.confirmed.insert(taken);
}

async fn acknowledge_some(cluster: &Cluster, sets: &mut Sets, id: u64) {
    let node = cluster.on(id);
    let deliveries = receive(&node, "orders", 3).await.unwrap();
    assert!(!deliveries.is_empty());
    let receipts: Vec<Bytes> = deliveries.iter().map(|d| d.receipt.clone()).collect();
    let outcomes = settle(&node, "orders", &receipts, SettleKind::Ack)
        .await
        .unwrap();
    assert!(
        outcomes.iter().all(|outcome| *outcome == SettleOutcome::Ok),
        "{outcomes:?}"
    );
    sets.acknowledged.extend(deliveries.iter().map(body));
}

/// With no byte free: the node says that its checkpoint waits, and serves on.
async fn checkpoint_waits(cluster: &Cluster, sets: &mut Sets, id: u64) {
    let waiting = || {
        cluster
            .log_text(id)
            .matches("no room for a checkpoint")
            .count()
    };
    let again = || {
        cluster
            .log_text(id)
            .matches("checkpoints have room again")
            .count()
    };
    until("a checkpoint to wait for room", secs(20), async || {
        // Files that were removed since have left room again.
        cluster.disk(id).leave(0).unwrap();
        // Something for it to write: the last one may have found its room in time.
        Producer::open(cluster, "").await;
        match waiting() > again() {
            true => Ok(()),
            false => Err("none waits"),
        }
    })
    .await;
    acknowledge_some(cluster, sets, id).await;
}

/// The set of bytes: what was confirmed and not acknowledged is there, and nothing else.
async fn everything_is_there(cluster: &Cluster, sets: &Sets) {
    let peeked = cluster.peek_all("orders").await;
    let there: Vec<Bytes> = peeked
        .into_iter()
        .map(|m| m.message.unwrap().body)
        .collect();
    let expected: BTreeSet<Bytes> = &sets.confirmed - &sets.acknowledged;
    assert_eq!(there.len(), expected.len(), "nothing lost, nothing twice");
    assert_eq!(there.into_iter().collect::<BTreeSet<_>>(), expected);
    conserved("orders", &cluster.stats("orders").await);
    agreed(cluster).await;
}
