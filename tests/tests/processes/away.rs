//! A node that was away for longer than the log goes back comes back by snapshot, and serves, while the
//! others have a backlog and go on with what they do.

use std::time::Instant;

use bytes::Bytes;
use ticketrail_tests::cluster::NodeId;
use ticketrail_tests::cluster::checks::{agreed, conserved};
use ticketrail_tests::cluster::consumer::{self, body};
use ticketrail_tests::cluster::producer::{item, publish};
use ticketrail_tests::cluster::{Clients, Cluster, Consumer, Producer, secs, until};

use crate::number;
use crate::rolling::load::{Load, QUEUE};

const BACKLOG: &str = "backlog";

const BODY_BYTES: usize = 64 << 10;
const BATCH: usize = 16;
/// A segment of the log has 64 MiB: the next one has to begin before the last can go.
const AWAY_MIB: usize = 96;

fn installs(cluster: &Cluster, id: NodeId) -> usize {
    let text = cluster.log_text(id);
    text.matches("a snapshot was installed").count()
}

fn others(cluster: &Cluster, away: NodeId) -> Vec<NodeId> {
    let ids = cluster.ids().into_iter();
    ids.filter(|id| *id != away).collect()
}

/// Publishes so much, and on until the nodes that run have purged what the one that is away would need.
async fn outgrow(cluster: &Cluster, away: NodeId, producer: &mut Producer) -> u64 {
    let others = || others(cluster, away).into_iter();
    let nodes: Vec<Clients> = others().map(|id| cluster.on(id)).collect();
    let least = (number("TICKETRAIL_AWAY_MIB", AWAY_MIB) << 20) / (BATCH * BODY_BYTES);
    let mut batches = 0;
    let deadline = Instant::now() + secs(600);
    loop {
        let bodies = (0..BATCH).map(|k| item(BACKLOG, Bytes::from(vec![k as u8; BODY_BYTES])));
        publish(&nodes, &producer.batch(bodies.collect())).await;
        batches += 1;
        if batches < least {
            continue;
        }
        let mut purged = true;
        for id in others() {
            // A whole segment, the one in which the other was left behind, is only kept for its messages.
            let disk = cluster.view(id).await.ok().and_then(|view| view.disk);
            purged &= disk.is_some_and(|disk| disk.live_body_bytes + disk.dead_body_bytes > 0);
        }
        if purged {
            return (batches * BATCH) as u64;
        }
        assert!(Instant::now() < deadline, "the log is not purged");
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Away {
    /// The process stands still and goes on.
    Paused,
    Killed,
}

async fn comes_back(way: Away) {
    let keep_little = "[snapshots]\nevery_bytes = 4194304\nlog_bytes_kept = 1048576\n";
    let cluster = Cluster::builder().alone().config(keep_little).start().await;
    cluster.queue(BACKLOG).create().await;
    cluster.queue(QUEUE).create().await;
    let mut producer = Producer::open(&cluster, "away").await;
    let away = cluster.follower().await;
    // A consumer that was there before; its stream is the node's to end, or to serve again.
    let mut before = Consumer::open(&cluster.on(away), consumer::open(BACKLOG))
        .await
        .unwrap();
    let rate = number("TICKETRAIL_AWAY_RATE", 1_000);
    let load = Load::streams(&cluster, rate, &others(&cluster, away)).await;
    load.flows(&cluster, "before").await;
    match way {
        Away::Paused => cluster.pause(away),
        Away::Killed => cluster.kill(away),
    }
    let published = outgrow(&cluster, away, &mut producer).await;
    let installed = installs(&cluster, away);
    match way {
        Away::Paused => cluster.resume(away),
        Away::Killed => cluster.spawn(away),
    }
    until("an installed snapshot", secs(60), async || {
        let now = installs(&cluster, away);
        if now > installed { Ok(()) } else { Err(now) }
    })
    .await;
    let caught_up = Instant::now();
    let mut after = until("a consumer on the node", secs(5), async || {
        let clients = cluster.on(away);
        let opened = Consumer::open(&clients, consumer::open(BACKLOG)).await;
        opened.map_err(|status| status.to_string())
    })
    .await;
    let delivered = after.deliveries(1).await.unwrap();
    assert_eq!(body(&delivered[0]).len(), BODY_BYTES);
    let waited = caught_up.elapsed();
    println!("the first delivery came {waited:?} after the snapshot");
    assert!(waited < secs(5));
    if way == Away::Paused {
        // What was there before ends or goes on; it does not hang.
        let told = tokio::time::timeout(secs(10), before.frame()).await;
        assert!(told.is_ok(), "the consumer from before hears nothing");
    }
    drop((before, after));
    load.flows(&cluster, "beside the node that is back").await;
    println!("{}", load.finish(&cluster).await);
    let stats = cluster.stats(BACKLOG).await;
    assert_eq!(stats.published, published);
    conserved(BACKLOG, &stats);
    agreed(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stood_still_beyond_the_log_comes_back_by_snapshot_and_delivers() {
    comes_back(Away::Paused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_killed_and_away_beyond_the_log_comes_back_by_snapshot_and_delivers() {
    comes_back(Away::Killed).await;
}
