//! What is confirmed survives any death, and the next confirm comes soon.

use std::collections::BTreeSet;
use std::time::Instant;

use bytes::Bytes;
use ticketrail_tests::cluster::checks::{agreed, conserved};
use ticketrail_tests::cluster::producer::{item, publish};
use ticketrail_tests::cluster::{Clients, Cluster, Producer, secs};

use crate::leader_kills;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_leaders_death_a_confirm_comes_within_two_seconds() {
    let cluster = Cluster::builder().alone().start().await;
    cluster.queue("orders").create().await;
    let mut producer = Producer::open(&cluster, "").await;
    let kills = leader_kills();
    for round in 0..kills {
        let leader = cluster.leader().await;
        let others: Vec<Clients> = cluster
            .ids()
            .into_iter()
            .filter(|id| *id != leader)
            .map(|id| cluster.on(id))
            .collect();
        // Connections stand before the kill, as those of a client that works.
        for node in &others {
            let before = producer.batch(vec![item(
                "orders",
                format!("before {round} {}", node.address),
            )]);
            publish(std::slice::from_ref(node), &before).await;
        }
        let after = producer.batch(vec![item("orders", format!("after {round}"))]);
        cluster.kill(leader);
        let killed = Instant::now();
        publish(&others, &after).await;
        let outage = killed.elapsed();
        println!("kill {round} of the leader, node {leader}: first confirm after {outage:?}");
        assert!(
            outage < secs(2),
            "first confirm only {outage:?} after the leader's death"
        );
        cluster.restart(leader).await;
    }
    let stats = cluster.stats("orders").await;
    assert_eq!(stats.published, 3 * kills as u64, "each message once");
    conserved("orders", &stats);
    agreed(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_confirmed_is_there_after_all_nodes_were_killed() {
    let cluster = Cluster::start().await;
    cluster.queue("orders").create().await;
    let nodes: Vec<Clients> = cluster.ids().into_iter().map(|id| cluster.on(id)).collect();
    let mut producer = Producer::open(&cluster, "importer").await;
    let mut confirmed = BTreeSet::new();
    for round in 0..3 {
        for k in 0..20 {
            let bodies: Vec<Bytes> = (0..5).map(|b| format!("{round} {k} {b}").into()).collect();
            let items = bodies
                .iter()
                .map(|body| item("orders", body.clone()))
                .collect();
            publish(&nodes, &producer.batch(items)).await;
            confirmed.extend(bodies);
        }
        // Nothing is flushed or announced: the last confirm is a moment old.
        cluster.kill_all();
        for id in cluster.ids() {
            cluster.spawn(id);
        }
        for id in cluster.ids() {
            cluster.serves(id).await;
        }
        let there: Vec<Bytes> = bodies(&cluster).await;
        assert_eq!(there.len(), confirmed.len(), "nothing lost, nothing twice");
        assert_eq!(
            there.into_iter().collect::<BTreeSet<_>>(),
            confirmed,
            "the very bytes"
        );
    }
    // The producer's place is remembered, and its earlier self is fenced by an epoch.
    let again = Producer::open(&cluster, "importer").await;
    assert_eq!((&again.id, again.next), (&producer.id, producer.next));
    assert_eq!(again.epoch, producer.epoch + 1);
    conserved("orders", &cluster.stats("orders").await);
    agreed(&cluster).await;
}

async fn bodies(cluster: &Cluster) -> Vec<Bytes> {
    let peeked = cluster.peek_all("orders").await;
    peeked
        .into_iter()
        .map(|message| message.message.unwrap().body)
        .collect()
}
