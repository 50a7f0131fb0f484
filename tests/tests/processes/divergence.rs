//! A replica whose state goes wrong stops itself, the others go on, and it comes back with their state.

use std::collections::BTreeSet;

use bytes::Bytes;
use ticketrail_proto::v1::{SettleKind, TransferLeadershipRequest};
use ticketrail_tests::cluster::checks::{agreed, conserved};
use ticketrail_tests::cluster::consumer::{body, receive, settle};
use ticketrail_tests::cluster::members::Entrance;
use ticketrail_tests::cluster::producer::{item, publish};
use ticketrail_tests::cluster::{Cluster, NodeId, Producer, Program, secs, until, within};

use crate::rolling::load::{Load, QUEUE};

/// Of what is read back at the end, byte by byte.
const KEPT: &str = "kept";
const KEPT_MESSAGES: usize = 200;
const DIFFERS: NodeId = 1;
/// The entry that it applies otherwise. States are compared every 100 entries.
const DIVERGES_AT: u64 = 150;
const COMPARED_EVERY: u64 = 100;
/// The first entry behind it whose digests are compared.
const COMPARED_AT: u64 = 200;

async fn lead(cluster: &Cluster, node_id: NodeId) {
    until(&format!("node {node_id} to lead"), secs(20), async || {
        let mut leader = cluster.on(cluster.leader().await).cluster;
        let transfer = within(secs(5), TransferLeadershipRequest { node_id });
        let answer = leader.transfer_leadership(transfer).await;
        match answer.map(|answer| answer.into_inner().leader_node_id) {
            Ok(leader) if leader == node_id => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// Bodies that are all different, of many sizes.
async fn keep(cluster: &Cluster) -> BTreeSet<Bytes> {
    let mut bodies = BTreeSet::new();
    let mut producer = Producer::open(cluster, "").await;
    while bodies.len() < KEPT_MESSAGES {
        let size = rand::random_range(16..4_096);
        bodies.insert((0..size).map(|_| rand::random::<u8>()).collect());
    }
    let nodes: Vec<_> = cluster.ids().into_iter().map(|id| cluster.on(id)).collect();
    for some in bodies.iter().collect::<Vec<_>>().chunks(50) {
        let items = some.iter().map(|body| item(KEPT, Bytes::clone(body)));
        publish(&nodes, &producer.batch(items.collect())).await;
    }
    bodies
}

/// All of the queue, each message once, as this node has it.
async fn read_back(cluster: &Cluster, id: NodeId) -> Vec<Bytes> {
    let node = cluster.on(id);
    let mut bodies = Vec::new();
    while bodies.len() < KEPT_MESSAGES {
        let taken = receive(&node, KEPT, 100).await.unwrap();
        assert!(!taken.is_empty(), "{} came", bodies.len());
        bodies.extend(taken.iter().map(body));
        let receipts: Vec<_> = taken.iter().map(|taken| taken.receipt.clone()).collect();
        settle(&node, KEPT, &receipts, SettleKind::Ack)
            .await
            .unwrap();
    }
    let stats = cluster.stats(KEPT).await;
    assert_eq!(stats.acknowledged, stats.published, "nothing is left");
    bodies
}

/// The entry whose digests were found to differ, as the node's log tells it.
fn found_out_at(said: &str) -> u64 {
    let (_, after) = said
        .split_once("DIVERGED: after entry ")
        .unwrap_or_else(|| panic!("it does not say why it ended: {said}"));
    let (index, rest) = after.split_once(' ').unwrap();
    assert!(rest.starts_with("this node's state has digest"), "{rest}");
    index.parse().unwrap()
}

async fn finds_itself_out(cluster: &Cluster, differs: NodeId) {
    let ended = until("the node to find itself out", secs(90), async || {
        let seen = cluster.view(differs).await.map(|view| view.applied_index);
        cluster.has_ended(differs).ok_or(seen)
    })
    .await;
    assert_eq!(ended.code(), Some(1), "it ends by itself, with a failure");
}

fn took_the_state_of_a_peer(cluster: &Cluster, differed: NodeId) {
    let said = cluster.log_text(differed);
    assert!(
        said.contains("the state here differs from a majority's: it is taken from a peer"),
        "{said}"
    );
}

async fn differs_and_comes_back(leader: NodeId) {
    let cluster = Cluster::builder().program(Program::Faulty).prepared().await;
    cluster.set_fault(DIFFERS, "diverges-at", DIVERGES_AT);
    cluster.ids().into_iter().for_each(|id| cluster.spawn(id));
    for id in cluster.ids() {
        cluster.serves(id).await;
    }
    lead(&cluster, leader).await;
    cluster.queue(QUEUE).create().await;
    cluster.queue(KEPT).create().await;
    let kept = keep(&cluster).await;
    let before = cluster.view(DIFFERS).await.unwrap().applied_index;
    assert!(before < DIVERGES_AT, "entry {before} was applied already");

    let load = Load::streams(&cluster, 400, &[2, 3, DIFFERS]).await;
    finds_itself_out(&cluster, DIFFERS).await;
    let said = cluster.log_text(DIFFERS);
    let index = found_out_at(&said);
    // The newest digest is told: on a busy machine one may be passed over.
    assert!(
        index >= COMPARED_AT && index.is_multiple_of(COMPARED_EVERY),
        "after entry {index}: {said}"
    );
    load.flows(&cluster, "without the node that differs").await;
    for other in [2, 3] {
        assert_eq!(cluster.has_ended(other), None, "the others go on");
    }

    // Would it apply the log again, it would differ again.
    cluster.restart(DIFFERS).await;
    load.flows(&cluster, "with all nodes").await;
    println!("{}", load.finish(&cluster).await);
    took_the_state_of_a_peer(&cluster, DIFFERS);
    conserved(QUEUE, &cluster.stats(QUEUE).await);
    let read = read_back(&cluster, DIFFERS).await;
    assert_eq!(read.len(), kept.len(), "each message once");
    assert!(
        read.into_iter().collect::<BTreeSet<_>>() == kept,
        "the very same bytes"
    );
    agreed(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_differs_stops_itself_and_comes_back_with_the_state_of_the_others() {
    differs_and_comes_back(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_differs_stops_itself_and_comes_back_with_the_state_of_the_others() {
    differs_and_comes_back(DIFFERS).await;
}

/// Its configuration names no members; it knows them from before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joined_and_differs_comes_back_likewise() {
    const JOINED: NodeId = 4;
    let mut cluster = Cluster::builder().program(Program::Faulty).start().await;
    cluster.queue(QUEUE).create().await;
    cluster.prepare_node(JOINED, Entrance::Join);
    cluster.set_fault(JOINED, "diverges-at", DIVERGES_AT);
    cluster.restart(JOINED).await;
    cluster.voters_are(&[1, 2, 3, JOINED]).await;
    let before = cluster.view(JOINED).await.unwrap().applied_index;
    assert!(before < DIVERGES_AT, "entry {before} was applied already");
    let load = Load::streams(&cluster, 400, &[1, 2, 3]).await;
    finds_itself_out(&cluster, JOINED).await;
    cluster.restart(JOINED).await;
    took_the_state_of_a_peer(&cluster, JOINED);
    load.flows(&cluster, "with all nodes").await;
    println!("{}", load.finish(&cluster).await);
    agreed(&cluster).await;
}
