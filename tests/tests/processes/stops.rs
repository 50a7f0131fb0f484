//! How the process of a node ends that is asked to while a client still holds something.

use std::time::Instant;

use ticketrail_proto::v1::consume_response::Frame as Answer;
use ticketrail_tests::cluster::consumer::open;
use ticketrail_tests::cluster::producer::{item, publish};
use ticketrail_tests::cluster::{Cluster, Consumer, NodeId, Producer, secs};

/// A consumer on this node that holds a message and does not let go, once it was told to.
async fn told_to_go(cluster: &Cluster, id: NodeId) -> Consumer {
    let clients = cluster.on(id);
    let mut producer = Producer::open(cluster, "").await;
    let batch = producer.batch(vec![item("orders", "held")]);
    publish(std::slice::from_ref(&clients), &batch).await;
    let mut consumer = Consumer::open(&clients, open("orders")).await.unwrap();
    consumer.deliveries(1).await.unwrap();
    cluster.terminate(id);
    loop {
        match consumer.frame().await.unwrap().unwrap() {
            Answer::GoAway(go_away) => {
                assert_eq!(go_away.addresses.len(), 2);
                return consumer;
            }
            Answer::Deliveries(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_is_bounded_and_a_second_signal_ends_it_at_once() {
    let timeout = "[stop]\ntimeout_ms = 6000";
    let cluster = Cluster::builder().config(timeout).alone().start().await;
    cluster.queue("orders").create().await;

    let id = cluster.follower().await;
    let holds = told_to_go(&cluster, id).await;
    let asked = Instant::now();
    let status = cluster.ended(id, secs(20)).await;
    println!("with a client that holds on: {:?}", asked.elapsed());
    assert!(status.success(), "{status}");
    assert!(asked.elapsed() < secs(10), "{:?}", asked.elapsed());
    drop(holds);
    cluster.restart(id).await;

    let holds = told_to_go(&cluster, id).await;
    let asked = Instant::now();
    cluster.terminate(id);
    let status = cluster.ended(id, secs(20)).await;
    println!("asked again: {:?}", asked.elapsed());
    assert_eq!(status.code(), Some(5), "{status}");
    assert!(asked.elapsed() < secs(2), "{:?}", asked.elapsed());
    drop(holds);
    cluster.restart(id).await;
}
