//! One holder at a time, for as long as it was told, whatever happens to nodes and clocks.

use std::time::Instant;

use bytes::Bytes;
use ticketrail_proto::v1::consume_response::Frame;
use ticketrail_proto::v1::{
    ConsumeOpen, Delivery, ReceiveRequest, SettleItem, SettleKind, SettleOutcome,
};
use ticketrail_tests::cluster::checks::{agreed, conserved};
use ticketrail_tests::cluster::consumer::{self, body, range, receive, settle, settle_items};
use ticketrail_tests::cluster::producer::{batch, item};
use ticketrail_tests::cluster::{
    Clients, Cluster, Consumer, Refused, duration, from_proto, millis, secs, until, within,
};

async fn publish(clients: &Clients, queue: &str, count: usize) {
    let items = (0..count)
        .map(|k| item(queue, format!("{queue} {k}")))
        .collect();
    clients
        .publisher
        .clone()
        .publish(within(secs(10), batch(items)))
        .await
        .unwrap();
}

/// The next message of a queue, waited for on one node after the other.
async fn next(nodes: &[Clients], queue: &str) -> Delivery {
    let mut turn = 0;
    until("a delivery", secs(30), async || {
        turn += 1;
        match receive(&nodes[turn % nodes.len()], queue, 1).await {
            Ok(deliveries) => deliveries
                .into_iter()
                .next()
                .ok_or_else(|| "none".to_owned()),
            Err(status) => Err(Refused::from(&status).to_string()),
        }
    })
    .await
}

async fn settle_one(
    clients: &Clients,
    queue: &str,
    receipt: &Bytes,
    kind: SettleKind,
) -> SettleOutcome {
    settle(clients, queue, std::slice::from_ref(receipt), kind)
        .await
        .unwrap()[0]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_end_when_they_should_and_not_before() {
    let cluster = Cluster::start().await;
    expiry_hands_on_and_the_stale_receipt_is_told(&cluster).await;
    extending_keeps(&cluster).await;
    nack_comes_back_after_its_delay_and_release_does_not_count(&cluster).await;
    the_same_attempt_on_two_nodes_gives_the_same_messages_once(&cluster).await;
    agreed(&cluster).await;
}

async fn expiry_hands_on_and_the_stale_receipt_is_told(cluster: &Cluster) {
    cluster.queue("short").lease(secs(1)).create().await;
    let (a, b) = (cluster.on(1), cluster.on(2));
    publish(&a, "short", 1).await;
    let asked = Instant::now();
    let first = receive(&a, "short", 1).await.unwrap().remove(0);
    let told = from_proto(first.lease_remaining.as_ref()).unwrap();
    assert!(
        told > millis(0) && told <= secs(1),
        "the lease is a second at most, not {told:?}"
    );
    let second = receive(&b, "short", 1).await.unwrap().remove(0);
    let after = asked.elapsed();
    assert!(
        after >= millis(950),
        "handed on after {after:?}, inside the lease"
    );
    assert_eq!((first.delivery_count, second.delivery_count), (1, 2));
    assert_eq!(
        (first.message_id, body(&first)),
        (second.message_id, body(&second))
    );
    assert_ne!(first.receipt, second.receipt);
    // From here on it is held for longer than this takes.
    let held = settle_one(&b, "short", &second.receipt, SettleKind::Extend).await;
    assert_eq!(held, SettleOutcome::Ok);

    // The stale receipt changes nothing, on any node and by any kind.
    for kind in [
        SettleKind::Ack,
        SettleKind::Nack,
        SettleKind::Reject,
        SettleKind::Release,
        SettleKind::Extend,
    ] {
        for id in cluster.ids() {
            let outcome = settle_one(&cluster.on(id), "short", &first.receipt, kind).await;
            assert_eq!(outcome, SettleOutcome::LeaseLost, "{kind:?} on node {id}");
        }
    }
    let third = cluster.on(3);
    assert_eq!(
        settle_one(&third, "short", &second.receipt, SettleKind::Ack).await,
        SettleOutcome::Ok
    );
    let again = settle_one(&a, "short", &second.receipt, SettleKind::Ack).await;
    assert_eq!(again, SettleOutcome::AlreadySettled);
    let stats = cluster.stats("short").await;
    assert_eq!(
        (stats.acknowledged, stats.granted, stats.redelivered),
        (1, 2, 1)
    );
    conserved("short", &stats);
}

async fn extending_keeps(cluster: &Cluster) {
    cluster.queue("extended").lease(secs(1)).create().await;
    let (a, b) = (cluster.on(1), cluster.on(3));
    publish(&a, "extended", 1).await;
    let held = receive(&a, "extended", 1).await.unwrap().remove(0);
    let extend = SettleItem {
        receipt: held.receipt.clone(),
        kind: SettleKind::Extend as i32,
        lease_duration: Some(duration(secs(20))),
        ..SettleItem::default()
    };
    assert_eq!(
        settle_items(&b, "extended", vec![extend]).await.unwrap(),
        [SettleOutcome::Ok]
    );
    // Somebody waits five seconds, five times the first lease, and gets nothing.
    assert_eq!(receive(&b, "extended", 1).await.unwrap(), []);
    assert_eq!(
        settle_one(&b, "extended", &held.receipt, SettleKind::Ack).await,
        SettleOutcome::Ok
    );
    assert_eq!(cluster.stats("extended").await.granted, 1);
}

async fn nack_comes_back_after_its_delay_and_release_does_not_count(cluster: &Cluster) {
    cluster.queue("again").create().await;
    let a = cluster.on(2);
    publish(&a, "again", 1).await;
    let first = receive(&a, "again", 1).await.unwrap().remove(0);
    assert_eq!(
        settle_one(&a, "again", &first.receipt, SettleKind::Release).await,
        SettleOutcome::Ok
    );
    let second = receive(&a, "again", 1).await.unwrap().remove(0);
    assert_eq!(second.delivery_count, 1, "a released grant does not count");
    let nack = SettleItem {
        receipt: second.receipt,
        kind: SettleKind::Nack as i32,
        delay: Some(duration(secs(1))),
        ..SettleItem::default()
    };
    let nacked = Instant::now();
    assert_eq!(
        settle_items(&a, "again", vec![nack]).await.unwrap(),
        [SettleOutcome::Ok]
    );
    assert_eq!(cluster.stats("again").await.delayed, 1);
    let third = receive(&a, "again", 1).await.unwrap().remove(0);
    assert!(
        nacked.elapsed() >= millis(950),
        "back after {:?}",
        nacked.elapsed()
    );
    assert_eq!(third.delivery_count, 2);
    assert_eq!(
        settle_one(&a, "again", &third.receipt, SettleKind::Ack).await,
        SettleOutcome::Ok
    );
}

async fn the_same_attempt_on_two_nodes_gives_the_same_messages_once(cluster: &Cluster) {
    cluster.queue("raced").create().await;
    publish(&cluster.on(1), "raced", 100).await;
    for attempt in 0..10 {
        let request = ReceiveRequest {
            queue: "raced".to_owned(),
            max_messages: Some(7),
            wait: Some(duration(secs(5))),
            receive_attempt_id: format!("attempt {attempt}"),
            ..ReceiveRequest::default()
        };
        let (mut a, mut b) = (cluster.on(1), cluster.on(2));
        let (a, b) = tokio::join!(
            a.consumer.receive(within(secs(15), request.clone())),
            b.consumer.receive(within(secs(15), request)),
        );
        let (a, b) = (a.unwrap().into_inner(), b.unwrap().into_inner());
        let seen = |deliveries: &[Delivery]| -> Vec<_> {
            deliveries
                .iter()
                .map(|d| (d.receipt.clone(), d.offset, d.delivery_count, body(d)))
                .collect()
        };
        assert_eq!(a.deliveries.len(), 7);
        assert_eq!(
            seen(&a.deliveries),
            seen(&b.deliveries),
            "attempt {attempt}"
        );
    }
    let stats = cluster.stats("raced").await;
    assert_eq!((stats.granted, stats.in_flight, stats.ready), (70, 70, 30));
    conserved("raced", &stats);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_does_not_shorten_a_lease() {
    let cluster = Cluster::start().await;
    let lease = secs(5);
    cluster.queue("orders").lease(lease).create().await;
    let leader = cluster.leader().await;
    publish(&cluster.on(leader), "orders", 1).await;
    let asked = Instant::now();
    let first = receive(&cluster.on(leader), "orders", 1)
        .await
        .unwrap()
        .remove(0);
    cluster.kill(leader);
    let others: Vec<Clients> = cluster
        .running()
        .into_iter()
        .map(|id| cluster.on(id))
        .collect();
    let second = next(&others, "orders").await;
    let after = asked.elapsed();
    println!(
        "a lease of {lease:?} was handed on {after:?} after it was asked for, over a failover"
    );
    assert!(
        after >= lease.mul_f64(0.95),
        "the failover shortened the lease to {after:?}"
    );
    assert_eq!(
        (second.message_id, second.delivery_count),
        (first.message_id, 2)
    );
    let outcome = settle_one(&others[0], "orders", &first.receipt, SettleKind::Ack).await;
    assert_eq!(outcome, SettleOutcome::LeaseLost);
    let outcome = settle_one(&others[0], "orders", &second.receipt, SettleKind::Ack).await;
    assert_eq!(outcome, SettleOutcome::Ok);
    cluster.restart(leader).await;
    conserved("orders", &cluster.stats("orders").await);
    agreed(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_moves_to_another_node_keeps_its_leases() {
    let cluster = Cluster::start().await;
    cluster.queue("orders").lease(secs(60)).create().await;
    let leader = cluster.leader().await;
    let others: Vec<_> = cluster
        .ids()
        .into_iter()
        .filter(|id| *id != leader)
        .collect();
    publish(&cluster.on(leader), "orders", 10).await;
    let open = ConsumeOpen {
        prefetch: Some(10),
        ..consumer::open("orders")
    };

    // First the connection breaks, then the whole node dies.
    let mut stream = Consumer::open(&cluster.on(others[0]), open.clone())
        .await
        .unwrap();
    assert!(!stream.opened.resumed);
    let first = stream.deliveries(10).await.unwrap();
    let resume = ConsumeOpen {
        session_id: stream.opened.session_id.clone(),
        ..open
    };
    drop(stream);
    let mut stream = Consumer::open(&cluster.on(leader), resume.clone())
        .await
        .unwrap();
    assert!(stream.opened.resumed, "the session goes on at another node");
    let second = stream.deliveries(10).await.unwrap();
    assert_same_leases(&first, &second);

    cluster.kill(leader);
    let third_node = cluster.on(others[1]);
    let mut stream = until("the session to be taken over", secs(20), async || {
        let stream = Consumer::open(&third_node, resume.clone()).await;
        stream.map_err(|status| Refused::from(&status).to_string())
    })
    .await;
    assert!(
        stream.opened.resumed,
        "the session survives the death of its node, which led"
    );
    let third = stream.deliveries(10).await.unwrap();
    assert_same_leases(&first, &third);

    // The first receipts are as good as the last ones, anywhere; the stream hears of it.
    let by_receipt = settle_one(
        &cluster.on(others[0]),
        "orders",
        &first[0].receipt,
        SettleKind::Ack,
    )
    .await;
    assert_eq!(by_receipt, SettleOutcome::Ok);
    stream
        .settle(vec![range(
            third[1].delivery_id,
            third[9].delivery_id,
            SettleKind::Ack,
        )])
        .await
        .unwrap();
    until_settled(&mut stream).await;
    let stats = cluster.stats("orders").await;
    assert_eq!(
        (stats.acknowledged, stats.granted, stats.in_flight),
        (10, 10, 0)
    );
    conserved("orders", &stats);
    cluster.restart(leader).await;
    agreed(&cluster).await;
}

fn assert_same_leases(before: &[Delivery], after: &[Delivery]) {
    let seen = |all: &[Delivery]| -> Vec<_> {
        all.iter()
            .map(|d| (d.receipt.clone(), d.message_id, d.delivery_count, body(d)))
            .collect()
    };
    assert_eq!(
        seen(before),
        seen(after),
        "the same grants, the same receipts"
    );
    assert!(
        after.iter().all(|d| d.redelivered_to_session),
        "marked as sent again"
    );
}

async fn until_settled(stream: &mut Consumer) {
    loop {
        match stream.frame().await.unwrap() {
            Some(Frame::Settled(settled)) => {
                assert_eq!(settled.exceptions, [], "all of it was acknowledged");
                return;
            }
            Some(Frame::LeaseLost(_)) => {}
            other => panic!("`settled` expected, not {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_vanished_consumer_held_comes_back_as_failed_after_its_grace() {
    let cluster = Cluster::start().await;
    cluster.queue("orders").lease(secs(3_600)).create().await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    publish(&cluster.on(leader), "orders", 4).await;
    let mut stream = Consumer::open(&cluster.on(follower), consumer::open("orders"))
        .await
        .unwrap();
    let first = stream.deliveries(4).await.unwrap();
    let grace = from_proto(stream.opened.session_grace.as_ref()).unwrap();

    // The node dies with its consumers; the others find out by themselves.
    cluster.kill(follower);
    let killed = Instant::now();
    let mut again = Vec::new();
    let others: Vec<Clients> = cluster
        .running()
        .into_iter()
        .map(|id| cluster.on(id))
        .collect();
    while again.len() < 4 {
        again.push(next(&others, "orders").await);
    }
    let after = killed.elapsed();
    assert!(
        after >= grace.mul_f64(0.95),
        "back after {after:?}, inside the grace of {grace:?}"
    );
    assert!(
        again.iter().all(|d| d.delivery_count == 2),
        "each counts as a failed delivery"
    );
    let ids = |all: &[Delivery]| all.iter().map(|d| d.message_id).collect::<Vec<_>>();
    assert_eq!(ids(&again), ids(&first), "in their old order");
    let resume = ConsumeOpen {
        session_id: stream.opened.session_id,
        ..consumer::open("orders")
    };
    let late = Consumer::open(&others[0], resume).await.unwrap_err();
    assert_eq!(Refused::from(&late).reason, "SESSION_NOT_FOUND");
    cluster.restart(follower).await;
    conserved("orders", &cluster.stats("orders").await);
    agreed(&cluster).await;
}
