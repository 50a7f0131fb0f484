//! What the streams of a node that stops bring to an end, and where their clients go on.
#![allow(clippy::unwrap_used, dead_code)]

mod support;

use std::time::Duration;

use support::{Cluster, PATIENCE, item};
use ticketrail_proto::error::reason_of;
use ticketrail_proto::v1::{
    self, consume_request, consume_response, publish_stream_request, publish_stream_response,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tonic_types::StatusExt as _;

fn batch(first_sequence: u64, count: u64) -> v1::PublishStreamRequest {
    let items = (0..count).map(|n| item("orders", format!("{}", first_sequence + n)));
    let batch = v1::PublishBatch {
        first_sequence,
        items: items.collect(),
    };
    v1::PublishStreamRequest {
        frame: Some(publish_stream_request::Frame::Batch(batch)),
    }
}

/// Says that the node stops, and where the others are.
#[track_caller]
fn sends_to(status: &Status, others: &[String]) {
    assert_eq!(
        reason_of(status).unwrap().as_str(),
        "SHUTTING_DOWN",
        "{status:?}"
    );
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.metadata["nodes"], others.join(","));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_publish_stream_took_is_confirmed_and_nothing_else_is_stored() {
    let mut cluster = Cluster::start(3).await;
    cluster.queue("orders").await;
    let leader = cluster.leader().await;
    let (frames, requests) = mpsc::channel(64);
    let open = publish_stream_request::Frame::Open(v1::PublishOpen::default());
    let open = v1::PublishStreamRequest { frame: Some(open) };
    frames.send(open).await.unwrap();
    let mut client = cluster.publisher(leader);
    let answers = client.publish_stream(ReceiverStream::new(requests)).await;
    let mut answers = answers.unwrap().into_inner();

    let (mut sent, mut confirmed) = (0, 0);
    let go_away = timeout(PATIENCE, async {
        loop {
            match answers.message().await.unwrap().unwrap().frame.unwrap() {
                publish_stream_response::Frame::Opened(_) => {
                    for _ in 0..10 {
                        frames.send(batch(sent + 1, 10)).await.unwrap();
                        sent += 10;
                    }
                }
                publish_stream_response::Frame::Confirm(confirm) => {
                    confirmed = confirm.through_sequence;
                    if sent == 100 {
                        cluster.ask_to_stop(leader);
                    }
                    // There is always something under way, as with a producer under load.
                    if frames.send(batch(sent + 1, 10)).await.is_ok() {
                        sent += 10;
                    }
                }
                publish_stream_response::Frame::GoAway(go_away) => return go_away,
                publish_stream_response::Frame::Flow(_) => {}
            }
        }
    });
    let go_away = go_away.await.unwrap();
    let status = answers.message().await.unwrap_err();
    sends_to(&status, &go_away.addresses);
    cluster.stopped(leader).await.unwrap();
    let next = cluster
        .nodes
        .iter()
        .position(|node| node.client_address == go_away.addresses[0]);
    let next = next.unwrap();
    assert_eq!((go_away.addresses.len(), next == leader), (2, false));
    assert_eq!(cluster.stats(next, "orders").await.published, confirmed);
}

async fn next(answers: &mut Streaming<v1::ConsumeResponse>) -> consume_response::Frame {
    let frame = timeout(PATIENCE, answers.message()).await.unwrap();
    frame.unwrap().unwrap().frame.unwrap()
}

/// Deliveries up to the word that the node stops.
async fn until_go_away(answers: &mut Streaming<v1::ConsumeResponse>) -> u64 {
    let mut delivered = 0;
    loop {
        match next(answers).await {
            consume_response::Frame::Deliveries(more) => delivered += more.deliveries.len() as u64,
            consume_response::Frame::GoAway(go_away) => {
                assert_eq!(go_away.addresses.len(), 2);
                return delivered;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Waits until nobody can connect any more: from then on streams leave.
async fn no_longer_listens(address: &str) {
    let closed = async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, closed)
        .await
        .expect("the listener closes");
}

fn open(session_id: Vec<u8>) -> v1::ConsumeRequest {
    let open = v1::ConsumeOpen {
        queue: "orders".to_owned(),
        prefetch: Some(400),
        session_id: session_id.into(),
        ..Default::default()
    };
    v1::ConsumeRequest {
        frame: Some(consume_request::Frame::Open(open)),
    }
}

fn ack_first() -> v1::ConsumeRequest {
    let ranges = vec![v1::SettleRange {
        first_delivery_id: 1,
        kind: v1::SettleKind::Ack as i32,
        ..Default::default()
    }];
    v1::ConsumeRequest {
        frame: Some(consume_request::Frame::Settlement(v1::ConsumeSettlement {
            ranges,
        })),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_settles_what_it_holds_and_takes_it_along() {
    let mut cluster = Cluster::start(3).await;
    cluster.queue("orders").await;
    for _ in 0..8 {
        let items = (0..50).map(|_| item("orders", vec![0; 32 << 10])).collect();
        let batch = v1::PublishRequest {
            items,
            ..Default::default()
        };
        cluster.publisher(0).publish(batch).await.unwrap();
    }
    let (frames, requests) = mpsc::channel(8);
    frames.send(open(Vec::new())).await.unwrap();
    let mut client = cluster.consumer(0);
    let answers = client.consume(ReceiverStream::new(requests)).await;
    let mut answers = answers.unwrap().into_inner();
    let consume_response::Frame::Opened(opened) = next(&mut answers).await else {
        panic!("`opened` comes first");
    };

    // Nothing more is read before the stop: some of what was granted has not been written.
    let consume_response::Frame::Deliveries(first) = next(&mut answers).await else {
        panic!("deliveries follow");
    };
    cluster.ask_to_stop(0);
    no_longer_listens(&cluster.nodes[0].client_address).await;
    let delivered = first.deliveries.len() as u64 + until_go_away(&mut answers).await;
    assert!((1..400).contains(&delivered), "{delivered} delivered");
    let stats = cluster.stats(1, "orders").await;
    assert_eq!((stats.in_flight, stats.ready), (delivered, 400 - delivered));

    frames.send(ack_first()).await.unwrap();
    let consume_response::Frame::Settled(settled) = next(&mut answers).await else {
        panic!("a settlement is answered");
    };
    assert!(settled.through_settlement == 1 && settled.exceptions.is_empty());

    let moved = tokio_stream::iter([open(opened.session_id.to_vec())]);
    let moved = futures::StreamExt::chain(moved, futures::stream::pending());
    let mut elsewhere = cluster
        .consumer(1)
        .consume(moved)
        .await
        .unwrap()
        .into_inner();
    let consume_response::Frame::Opened(again) = next(&mut elsewhere).await else {
        panic!("`opened` comes first");
    };
    assert!(again.resumed);
    let mut taken_along = 0;
    while taken_along < delivered - 1 {
        let consume_response::Frame::Deliveries(more) = next(&mut elsewhere).await else {
            panic!("deliveries follow");
        };
        let resent = more
            .deliveries
            .iter()
            .filter(|one| one.redelivered_to_session);
        taken_along += resent.count() as u64;
        let uncounted = |one: &v1::Delivery| one.delivery_count == 1;
        assert!(more.deliveries.iter().all(uncounted));
    }
    timeout(Duration::from_secs(5), cluster.stopped(0))
        .await
        .expect("a session that moved is not waited for")
        .unwrap();
}
