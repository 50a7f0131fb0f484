//! Nodes that are cut off from the others: what they say, where their clients go, and how they come back.

use std::time::{Duration, Instant};

use ticketrail_tests::cluster::checks::{agreed, conserved};
use ticketrail_tests::cluster::producer::{item, publish};
use ticketrail_tests::cluster::{Behaviour, Cluster, NodeId, Producer, secs, until};
use tonic::Request;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::number;
use crate::rolling::load::{Load, QUEUE};

/// A node that is cut off names no leader, not even itself, and does not serve.
async fn says_that_it_is_alone(cluster: &Cluster, id: NodeId) {
    until("a lonely node to say so", secs(10), async || {
        let view = cluster
            .view(id)
            .await
            .map_err(|refused| refused.to_string())?;
        let request = Request::new(HealthCheckRequest::default());
        let mut health = HealthClient::new(cluster.on(id).channel);
        let answer = health
            .check(request)
            .await
            .map_err(|status| status.to_string())?;
        match (view.leader_node_id, answer.get_ref().status()) {
            (0, ServingStatus::NotServing) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_cut_off_comes_back_without_an_election() {
    let time = secs(number("TICKETRAIL_CUT_OFF_SECONDS", 20) as u64);
    let cluster = Cluster::builder().links().alone().start().await;
    cluster.queue("orders").create().await;
    let leader = cluster.leader().await;
    let cut_off = cluster.follower().await;
    let mut producer = Producer::open(&cluster, "").await;
    cluster.links_of(cut_off, Behaviour::CUT);
    says_that_it_is_alone(&cluster, cut_off).await;
    let healed_at = Instant::now() + time;
    let others = cluster.ids().into_iter().filter(|id| *id != cut_off);
    let nodes: Vec<_> = others.map(|id| cluster.on(id)).collect();
    let mut published = 0;
    while Instant::now() < healed_at {
        let batch = producer.batch(vec![item("orders", format!("{published}"))]);
        publish(&nodes, &batch).await;
        published += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // What the others agreed on without it is theirs; what it brings them is nothing.
    let (term, leader) = {
        let view = cluster.view(leader).await.unwrap();
        (view.term, view.leader_node_id)
    };
    cluster.links_of(cut_off, Behaviour::FINE);
    cluster.serves(cut_off).await;
    agreed(&cluster).await;
    for id in cluster.ids() {
        let view = cluster.view(id).await.unwrap();
        assert_eq!(
            (view.term, view.leader_node_id),
            (term, leader),
            "node {id}"
        );
    }
    let stats = cluster.stats("orders").await;
    assert_eq!(stats.published, published);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_of_a_leader_that_is_cut_off_go_on_elsewhere() {
    let cluster = Cluster::builder().links().alone().start().await;
    cluster.queue(QUEUE).create().await;
    let leader = cluster.leader().await;
    // They know of no other node until they are told.
    let load = Load::streams(&cluster, 200, &[leader]).await;
    load.flows(&cluster, "before").await;

    let cut_at = Instant::now();
    cluster.links_of(leader, Behaviour::CUT);
    says_that_it_is_alone(&cluster, leader).await;
    load.flows(&cluster, "without the old leader").await;
    let gap = load.gaps.longest_since(cut_at);
    println!("the leader was cut off with its clients: longest gap in confirms {gap:?}");
    cluster.links_of(leader, Behaviour::FINE);
    cluster.serves(leader).await;
    load.flows(&cluster, "with all nodes").await;
    println!("{}", load.finish(&cluster).await);
    conserved(QUEUE, &cluster.stats(QUEUE).await);
    agreed(&cluster).await;
}
