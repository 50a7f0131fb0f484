//! Three whole nodes: what a client does through one node is there on the others.
#![allow(clippy::unwrap_used)]

mod support;

use support::{Cluster, PATIENCE, bodies, item, seconds};
use ticketrail_proto::v1::{
    self, consume_request, consume_response, publish_stream_request, publish_stream_response,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

fn request(max: u32, attempt: &str) -> v1::ReceiveRequest {
    v1::ReceiveRequest {
        queue: "orders".to_owned(),
        max_messages: Some(max),
        wait: seconds(5),
        receive_attempt_id: attempt.to_owned(),
        ..Default::default()
    }
}

fn settle(receipt: &bytes::Bytes, kind: v1::SettleKind) -> v1::SettleRequest {
    let item = v1::SettleItem {
        receipt: receipt.clone(),
        kind: kind as i32,
        ..Default::default()
    };
    v1::SettleRequest {
        queue: "orders".to_owned(),
        items: vec![item],
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_serves_any_call() {
    let cluster = Cluster::start(3).await;
    cluster.queue("orders").await;
    for place in 0..3 {
        let batch = v1::PublishRequest {
            items: vec![
                item("orders", format!("{place}a")),
                item("orders", format!("{place}b")),
            ],
            ..Default::default()
        };
        let answer = cluster
            .publisher(place)
            .publish(batch)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(answer.results.len(), 2);
        assert_eq!(
            answer.results[1].message_id,
            answer.results[0].message_id + 1
        );
        assert!(answer.results.iter().all(|result| result.queues == 1));
    }
    let mut taken = Vec::new();
    for place in 0..3 {
        let answer = cluster
            .consumer(place)
            .receive(request(2, ""))
            .await
            .unwrap()
            .into_inner();
        taken.extend(answer.deliveries);
    }
    assert_eq!(bodies(&taken), ["0a", "0b", "1a", "1b", "2a", "2b"]);
    for (place, delivery) in taken.iter().enumerate() {
        let ack = settle(&delivery.receipt, v1::SettleKind::Ack);
        let answer = cluster
            .consumer(place % 3)
            .settle(ack.clone())
            .await
            .unwrap()
            .into_inner();
        assert_eq!(answer.results[0].outcome(), v1::SettleOutcome::Ok);
        let again = cluster
            .consumer((place + 1) % 3)
            .settle(ack)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            again.results[0].outcome(),
            v1::SettleOutcome::AlreadySettled
        );
    }
    for place in 0..3 {
        let stats = cluster.stats(place, "orders").await;
        assert_eq!(
            (stats.published, stats.acknowledged, stats.ready),
            (6, 6, 0)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_of_receive_is_given_again_by_another_node() {
    let cluster = Cluster::start(3).await;
    cluster.queue("orders").await;
    let batch = v1::PublishRequest {
        items: vec![item("orders", "a")],
        ..Default::default()
    };
    cluster.publisher(0).publish(batch).await.unwrap();
    let first = cluster
        .consumer(1)
        .receive(request(1, "wish 1"))
        .await
        .unwrap()
        .into_inner();
    let again = cluster
        .consumer(2)
        .receive(request(1, "wish 1"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(first.deliveries[0].receipt, again.deliveries[0].receipt);
    assert_eq!(again.deliveries[0].delivery_count, 1);
}

struct Consume {
    frames: mpsc::Sender<v1::ConsumeRequest>,
    answers: Streaming<v1::ConsumeResponse>,
}

impl Consume {
    async fn open(
        cluster: &Cluster,
        place: usize,
        open: v1::ConsumeOpen,
    ) -> (Self, v1::ConsumeOpened) {
        let (frames, requests) = mpsc::channel(16);
        let open = v1::ConsumeRequest {
            frame: Some(consume_request::Frame::Open(open)),
        };
        frames.send(open).await.unwrap();
        let answers = cluster
            .consumer(place)
            .consume(ReceiverStream::new(requests))
            .await
            .unwrap();
        let mut consume = Self {
            frames,
            answers: answers.into_inner(),
        };
        match consume.next().await {
            consume_response::Frame::Opened(opened) => (consume, opened),
            other => panic!("not opened but {other:?}"),
        }
    }

    async fn send(&self, frame: consume_request::Frame) {
        self.frames
            .send(v1::ConsumeRequest { frame: Some(frame) })
            .await
            .unwrap();
    }

    async fn next(&mut self) -> consume_response::Frame {
        let frame = timeout(PATIENCE, self.answers.message())
            .await
            .expect("a frame in time");
        frame.unwrap().expect("the stream goes on").frame.unwrap()
    }

    async fn deliveries(&mut self, count: usize) -> Vec<v1::Delivery> {
        let mut found = Vec::new();
        while found.len() < count {
            match self.next().await {
                consume_response::Frame::Deliveries(frame) => found.extend(frame.deliveries),
                other => panic!("not deliveries but {other:?}"),
            }
        }
        found
    }

    async fn settle(&mut self, first: u64, last: u64, kind: v1::SettleKind) -> v1::ConsumeSettled {
        let range = v1::SettleRange {
            first_delivery_id: first,
            last_delivery_id: last,
            kind: kind as i32,
            ..Default::default()
        };
        let settlement = v1::ConsumeSettlement {
            ranges: vec![range],
        };
        self.send(consume_request::Frame::Settlement(settlement))
            .await;
        match self.next().await {
            consume_response::Frame::Settled(settled) => settled,
            other => panic!("not settled but {other:?}"),
        }
    }
}

fn open(prefetch: u32) -> v1::ConsumeOpen {
    v1::ConsumeOpen {
        queue: "orders".to_owned(),
        prefetch: Some(prefetch),
        ..Default::default()
    }
}

async fn publish(cluster: &Cluster, place: usize, bodies: std::ops::Range<u32>) {
    let items = bodies
        .map(|body| item("orders", body.to_string()))
        .collect();
    let batch = v1::PublishRequest {
        items,
        ..Default::default()
    };
    cluster.publisher(place).publish(batch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_on_each_node_gets_and_settles_messages() {
    let cluster = Cluster::start(3).await;
    cluster.queue("orders").await;
    for place in 0..3 {
        let (mut consume, opened) = Consume::open(&cluster, place, open(10)).await;
        assert_eq!((opened.prefetch, opened.resumed), (10, false));
        publish(&cluster, (place + 1) % 3, 0..10).await;
        let deliveries = consume.deliveries(10).await;
        assert_eq!(
            bodies(&deliveries),
            (0..10).map(|n| n.to_string()).collect::<Vec<_>>()
        );
        let ids: Vec<_> = deliveries
            .iter()
            .map(|delivery| delivery.delivery_id)
            .collect();
        assert_eq!(ids, (1..=10).collect::<Vec<_>>());
        assert!(
            deliveries
                .iter()
                .all(|delivery| delivery.routing_key == "orders")
        );
        let settled = consume.settle(1, 10, v1::SettleKind::Ack).await;
        assert_eq!(
            (settled.through_settlement, settled.exceptions.len()),
            (1, 0)
        );
        let again = consume.settle(3, 4, v1::SettleKind::Ack).await;
        let exception = again.exceptions[0];
        assert_eq!(
            (exception.first_delivery_id, exception.last_delivery_id),
            (3, 4)
        );
        assert_eq!(exception.outcome(), v1::SettleOutcome::AlreadySettled);
        drop(consume.frames);
        assert!(
            timeout(PATIENCE, consume.answers.message())
                .await
                .unwrap()
                .unwrap()
                .is_none()
        );
    }
    let stats = cluster.stats(0, "orders").await;
    assert_eq!(
        (stats.acknowledged, stats.in_flight, stats.ready),
        (30, 0, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_moves_to_another_node_with_its_leases() {
    let cluster = Cluster::start(3).await;
    cluster.queue("orders").await;
    publish(&cluster, 0, 0..3).await;
    let (mut first, opened) = Consume::open(&cluster, 1, open(2)).await;
    let held = first.deliveries(2).await;
    let come_back = v1::ConsumeOpen {
        session_id: opened.session_id.clone(),
        ..open(2)
    };
    let (mut second, resumed) = Consume::open(&cluster, 2, come_back).await;
    assert!(resumed.resumed);
    assert_eq!(resumed.session_id, opened.session_id);
    let again = second.deliveries(2).await;
    assert_eq!(bodies(&again), bodies(&held));
    assert!(
        again
            .iter()
            .all(|delivery| delivery.redelivered_to_session && delivery.delivery_count == 1)
    );
    match first.next().await {
        consume_response::Frame::Cancelled(cancelled) => {
            assert_eq!(cancelled.refusal.unwrap().reason, "SESSION_MOVED");
        }
        other => panic!("not cancelled but {other:?}"),
    }
    let settled = second.settle(1, 2, v1::SettleKind::Ack).await;
    assert!(settled.exceptions.is_empty());
    assert_eq!(bodies(&second.deliveries(1).await), ["2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_stops_deliveries_and_releases() {
    let cluster = Cluster::start(1).await;
    cluster.queue("orders").await;
    publish(&cluster, 0, 0..5).await;
    let (mut consume, _) = Consume::open(&cluster, 0, open(3)).await;
    assert_eq!(consume.deliveries(3).await.len(), 3);
    let drain = v1::ConsumeDrain {
        release_unsettled: true,
    };
    consume.send(consume_request::Frame::Drain(drain)).await;
    match consume.next().await {
        consume_response::Frame::Drained(drained) => assert_eq!(drained.released, 3),
        other => panic!("not drained but {other:?}"),
    }
    let stats = cluster.stats(0, "orders").await;
    assert_eq!((stats.ready, stats.in_flight), (5, 0));

    let (mut consume, _) = Consume::open(&cluster, 0, open(3)).await;
    assert!(
        consume
            .deliveries(3)
            .await
            .iter()
            .all(|delivery| delivery.delivery_count == 1)
    );
    consume
        .send(consume_request::Frame::Drain(v1::ConsumeDrain::default()))
        .await;
    match consume.next().await {
        consume_response::Frame::Drained(drained) => assert_eq!(drained.released, 0),
        other => panic!("not drained but {other:?}"),
    }
    let settled = consume.settle(1, 3, v1::SettleKind::Ack).await;
    assert!(settled.exceptions.is_empty());
    drop(consume.frames);
    assert!(
        timeout(PATIENCE, consume.answers.message())
            .await
            .unwrap()
            .unwrap()
            .is_none()
    );
    let stats = cluster.stats(0, "orders").await;
    assert_eq!((stats.ready, stats.acknowledged), (2, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_at_most_once_acknowledges_by_taking() {
    let cluster = Cluster::start(1).await;
    cluster.queue("orders").await;
    publish(&cluster, 0, 0..5).await;
    let asked = v1::ConsumeOpen {
        auto_ack: true,
        ..open(3)
    };
    let (mut consume, _) = Consume::open(&cluster, 0, asked).await;
    // It may close its side and read on.
    let Consume { frames, .. } = &mut consume;
    *frames = mpsc::channel(1).0;
    assert_eq!(
        bodies(&consume.deliveries(5).await),
        ["0", "1", "2", "3", "4"]
    );
    let stats = cluster.stats(0, "orders").await;
    assert_eq!(
        (stats.ready, stats.in_flight, stats.acknowledged),
        (0, 0, 5)
    );
}

struct Publish {
    frames: mpsc::Sender<v1::PublishStreamRequest>,
    answers: Streaming<v1::PublishStreamResponse>,
}

impl Publish {
    async fn open(
        cluster: &Cluster,
        place: usize,
        open: v1::PublishOpen,
    ) -> (Self, v1::PublishOpened) {
        let (frames, requests) = mpsc::channel(64);
        let publish = Self::send_to(&frames, publish_stream_request::Frame::Open(open));
        publish.await;
        let mut client = cluster.publisher(place);
        let answers = client.publish_stream(ReceiverStream::new(requests));
        let mut publish = Self {
            frames,
            answers: answers.await.unwrap().into_inner(),
        };
        match publish.next().await {
            publish_stream_response::Frame::Opened(opened) => (publish, opened),
            other => panic!("not opened but {other:?}"),
        }
    }

    async fn send_to(
        frames: &mpsc::Sender<v1::PublishStreamRequest>,
        frame: publish_stream_request::Frame,
    ) {
        frames
            .send(v1::PublishStreamRequest { frame: Some(frame) })
            .await
            .unwrap();
    }

    async fn batch(&self, first_sequence: u64, bodies: std::ops::Range<u32>) {
        let items = bodies
            .map(|body| item("orders", body.to_string()))
            .collect();
        let batch = v1::PublishBatch {
            first_sequence,
            items,
        };
        Self::send_to(&self.frames, publish_stream_request::Frame::Batch(batch)).await;
    }

    async fn next(&mut self) -> publish_stream_response::Frame {
        let frame = timeout(PATIENCE, self.answers.message())
            .await
            .expect("a frame in time");
        frame.unwrap().expect("the stream goes on").frame.unwrap()
    }

    /// Confirms until all up to `sequence` are told.
    async fn confirms(&mut self, sequence: u64) -> Vec<v1::PublishConfirm> {
        let mut confirms: Vec<v1::PublishConfirm> = Vec::new();
        while confirms
            .last()
            .is_none_or(|last| last.through_sequence < sequence)
        {
            match self.next().await {
                publish_stream_response::Frame::Confirm(confirm) => confirms.push(confirm),
                other => panic!("not a confirm but {other:?}"),
            }
        }
        confirms
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_opens_a_publish_stream_is_told_where_the_leader_is() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    for place in 0..3 {
        let (_publish, opened) = Publish::open(&cluster, place, v1::PublishOpen::default()).await;
        let elsewhere = match place == leader {
            true => "",
            false => &cluster.nodes[leader].client_address,
        };
        assert_eq!(opened.leader_address, elsewhere, "at {place}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_goes_on_over_another_node_and_stores_each_message_once() {
    let cluster = Cluster::start(3).await;
    cluster.queue("orders").await;
    let name = v1::OpenProducerRequest {
        name: "importer".to_owned(),
        ..Default::default()
    };
    let producer = cluster
        .publisher(0)
        .open_producer(name)
        .await
        .unwrap()
        .into_inner();
    let open = v1::PublishOpen {
        producer_id: producer.producer_id.clone(),
        epoch: producer.epoch,
        ..Default::default()
    };
    let (mut publish, opened) = Publish::open(&cluster, 1, open.clone()).await;
    assert_eq!((opened.last_sequence, opened.credit_messages), (0, 1_024));
    for batch in 0..10_u32 {
        publish
            .batch(u64::from(batch) * 50 + 1, batch * 50..batch * 50 + 50)
            .await;
    }
    let confirms = publish.confirms(500).await;
    let stored: u32 = confirms
        .iter()
        .flat_map(|confirm| &confirm.ranges)
        .map(|range| range.count)
        .sum();
    assert_eq!(stored, 500);
    drop(publish);

    let (mut publish, opened) = Publish::open(&cluster, 2, open).await;
    assert_eq!(opened.last_sequence, 500);
    publish.batch(481, 480..500).await;
    publish.batch(501, 500..510).await;
    let confirms = publish.confirms(510).await;
    let again = confirms
        .iter()
        .flat_map(|confirm| &confirm.exceptions)
        .count();
    assert_eq!(again, 20);
    assert_eq!(cluster.stats(0, "orders").await.published, 510);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_tell_of_the_same_cluster() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    for place in 0..3 {
        let answer = cluster
            .cluster(place)
            .get_cluster(v1::GetClusterRequest {})
            .await
            .unwrap();
        let view = answer.into_inner();
        assert_eq!(view.answering_node_id, cluster.nodes[place].id);
        assert_eq!(view.leader_node_id, cluster.nodes[leader].id);
        assert_eq!(view.nodes.len(), 3);
        for (node, expected) in view.nodes.iter().zip(&cluster.nodes) {
            assert_eq!(node.client_address, expected.client_address);
            assert_eq!(node.peer_address, expected.peer_address);
            assert!(node.voter);
        }
    }
    for place in 0..3 {
        let mut request = tonic::Request::new(v1::ListQueuesRequest::default());
        request
            .metadata_mut()
            .insert("ticketrail-no-forward", "1".parse().unwrap());
        let answer = cluster.topology(place).list_queues(request).await;
        if place == leader {
            answer.unwrap();
            continue;
        }
        let status = answer.unwrap_err();
        let info = tonic_types::StatusExt::get_details_error_info(&status).unwrap();
        assert_eq!(info.reason, "NOT_LEADER");
        assert_eq!(
            info.metadata["leader"],
            cluster.nodes[leader].client_address
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_was_stopped_goes_on_where_it_stopped() {
    let mut cluster = Cluster::start(3).await;
    cluster.queue("orders").await;
    publish(&cluster, 0, 0..50).await;
    for place in 0..3 {
        cluster.stop(place).await.unwrap();
    }
    for place in 0..3 {
        cluster.start_again(place).await;
    }
    cluster.serving().await;
    assert_eq!(cluster.stats(1, "orders").await.ready, 50);
    publish(&cluster, 2, 50..60).await;
    let answer = cluster
        .consumer(0)
        .receive(request(100, ""))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.deliveries.len(), 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_the_leader_is_survived() {
    let mut cluster = Cluster::start(3).await;
    cluster.queue("orders").await;
    publish(&cluster, 0, 0..10).await;
    let leader = cluster.leader().await;
    cluster.stop(leader).await.unwrap();
    let other = (leader + 1) % 3;
    publish(&cluster, other, 10..20).await;
    cluster.start_again(leader).await;
    cluster.serving().await;
    assert_eq!(cluster.stats(leader, "orders").await.ready, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_goes_with_the_message_and_does_not_hinder_a_retry() {
    let cluster = Cluster::start(1).await;
    cluster.queue("orders").await;
    let mut publisher = cluster.publisher(0);
    let opened = publisher
        .open_producer(v1::OpenProducerRequest::default())
        .await
        .unwrap();
    let opened = opened.into_inner();
    let trace = |span: &str| format!("00-0af7651916cd43dd8448eb211c80319c-{span}-01");
    let mut found = Vec::new();
    for span in ["b7ad6b7169203331", "00f067aa0ba902b7"] {
        let mut request = tonic::Request::new(v1::PublishRequest {
            items: vec![item("orders", "a")],
            producer: Some(v1::ProducerSequence {
                producer_id: opened.producer_id.clone(),
                epoch: opened.epoch,
                first_sequence: 1,
            }),
            ..Default::default()
        });
        request
            .metadata_mut()
            .insert("traceparent", trace(span).parse().unwrap());
        let answer = publisher.publish(request).await.unwrap().into_inner();
        found.push((answer.results[0].message_id, answer.results[0].duplicate));
    }
    assert_eq!(found, [(found[0].0, false), (found[0].0, true)]);
    let answer = cluster
        .consumer(0)
        .receive(request(2, ""))
        .await
        .unwrap()
        .into_inner();
    let headers = &answer.deliveries[0].message.as_ref().unwrap().headers;
    let value = headers[0].value.clone().unwrap().value.unwrap();
    assert_eq!(headers[0].key, "traceparent");
    assert_eq!(
        value,
        v1::header_value::Value::Text(trace("b7ad6b7169203331"))
    );
}
