//! What a client or a peer may get wrong: each with its status, reason and field, and no effect.
#![allow(clippy::unwrap_used)]

mod support;

use bytes::Bytes;
use support::{Cluster, PATIENCE, item, seconds};
use ticketrail_proto::error::reason_of;
use ticketrail_proto::peer;
use ticketrail_proto::peer::peer_service_client::PeerServiceClient;
use ticketrail_proto::v1::{self, consume_request, publish_stream_request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_types::StatusExt;

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, reason: &str, field: &str) {
    let status = answer.expect_err("it is refused");
    let found = reason_of(&status).unwrap_or_else(|| panic!("{status:?} has no reason"));
    assert_eq!(
        (status.code(), found.as_str()),
        (code, reason),
        "{status:?}"
    );
    let violations = status
        .get_details_bad_request()
        .map(|bad| bad.field_violations);
    let named = violations
        .unwrap_or_default()
        .first()
        .map(|first| first.field.clone());
    let metadata = status.get_details_error_info().unwrap().metadata;
    let named = named
        .or_else(|| metadata.get("field").cloned())
        .unwrap_or_default();
    assert_eq!(named, field, "{status:?}");
}

fn invalid<T: std::fmt::Debug>(answer: Result<T, Status>, field: &str) {
    refused(answer, Code::InvalidArgument, "INVALID_FIELD", field);
}

async fn cluster() -> Cluster {
    let cluster = Cluster::start(1).await;
    cluster.queue("orders").await;
    cluster
}

fn batch(items: Vec<v1::PublishItem>) -> v1::PublishRequest {
    v1::PublishRequest {
        items,
        ..Default::default()
    }
}

fn header(n: usize) -> v1::Header {
    let value = v1::header_value::Value::Integer(1);
    v1::Header {
        key: format!("k{n}"),
        value: Some(v1::HeaderValue { value: Some(value) }),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_publishes_are_refused_and_store_nothing() {
    let cluster = cluster().await;
    let mut publisher = cluster.publisher(0);
    let mut with_headers = item("orders", "");
    with_headers.message.as_mut().unwrap().headers = (0..65).map(header).collect();
    let mut with_exchange = item("orders", "");
    with_exchange.exchange = "amq.topic".to_owned();
    let bad_name = v1::PublishRequest {
        namespace: "a\nb".to_owned(),
        ..batch(vec![item("orders", "")])
    };
    let table = [
        (batch(vec![]), "items"),
        (batch(vec![item("orders", ""); 1_001]), "items"),
        (batch(vec![item("orders", ""); 101]), "items"),
        (
            batch(vec![
                item("orders", ""),
                item("orders", vec![0; (1 << 20) + 1]),
            ]),
            "items[1].message.body",
        ),
        (batch(vec![item("orders", vec![0; 1 << 20]); 4]), "items"),
        (batch(vec![with_headers]), "items[0].message.headers"),
        (
            batch(vec![item(&"k".repeat(256), "")]),
            "items[0].routing_key",
        ),
        (bad_name, "namespace"),
    ];
    for (request, field) in table {
        invalid(publisher.publish(request).await, field);
    }
    let later = publisher.publish(batch(vec![with_exchange])).await;
    refused(later, Code::Unimplemented, "NOT_YET", "items[0].exchange");
    let unknown = publisher.publish(batch(vec![item("nowhere", "")])).await;
    refused(unknown, Code::FailedPrecondition, "UNROUTABLE", "");
    let elsewhere = v1::PublishRequest {
        namespace: "none".to_owned(),
        ..batch(vec![item("orders", "")])
    };
    refused(
        publisher.publish(elsewhere).await,
        Code::NotFound,
        "NAMESPACE_NOT_FOUND",
        "",
    );
    let huge = publisher
        .publish(batch(vec![item("orders", vec![0; 32 << 20])]))
        .await;
    invalid(huge, "request");
    assert_eq!(cluster.stats(0, "orders").await.published, 0);
    publisher
        .publish(batch(vec![item("orders", vec![0; 1 << 20])]))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_sequences_are_refused_and_consume_nothing() {
    let cluster = cluster().await;
    let mut publisher = cluster.publisher(0);
    let open = v1::OpenProducerRequest {
        name: "importer".to_owned(),
        ..Default::default()
    };
    let first = publisher
        .open_producer(open.clone())
        .await
        .unwrap()
        .into_inner();
    let producer = publisher.open_producer(open).await.unwrap().into_inner();
    assert_eq!((first.epoch, producer.epoch), (1, 2));
    let claim = |epoch, first_sequence| v1::ProducerSequence {
        producer_id: producer.producer_id.clone(),
        epoch,
        first_sequence,
    };
    let publish = |producer, body: &'static str| v1::PublishRequest {
        producer: Some(producer),
        ..batch(vec![item("orders", body)])
    };
    publisher.publish(publish(claim(2, 1), "a")).await.unwrap();
    let broken = Code::FailedPrecondition;
    let gap = publisher.publish(publish(claim(2, 3), "c")).await;
    refused(gap, broken, "OUT_OF_SEQUENCE", "");
    let reused = publisher.publish(publish(claim(2, 1), "other")).await;
    refused(reused, broken, "SEQUENCE_REUSED", "");
    let old = publisher.publish(publish(claim(1, 2), "b")).await;
    refused(old, broken, "PRODUCER_FENCED", "");
    let nobody = v1::ProducerSequence {
        producer_id: Bytes::from(vec![7; 16]),
        ..claim(1, 1)
    };
    refused(
        publisher.publish(publish(nobody, "a")).await,
        broken,
        "UNKNOWN_PRODUCER",
        "",
    );
    let short = v1::ProducerSequence {
        producer_id: Bytes::from(vec![7; 15]),
        ..claim(1, 1)
    };
    invalid(
        publisher.publish(publish(short, "a")).await,
        "producer.producer_id",
    );
    let again = publisher
        .publish(publish(claim(2, 1), "a"))
        .await
        .unwrap()
        .into_inner();
    assert!(again.results[0].duplicate);
    publisher.publish(publish(claim(2, 2), "b")).await.unwrap();
    assert_eq!(cluster.stats(0, "orders").await.published, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_names_and_settings_are_refused() {
    let cluster = cluster().await;
    let mut topology = cluster.topology(0);
    let create = |name: &str| v1::CreateQueueRequest {
        name: name.to_owned(),
        ..Default::default()
    };
    for name in [
        String::new(),
        "x".repeat(256),
        "a\u{7}b".to_owned(),
        "tr.mine".to_owned(),
    ] {
        invalid(topology.create_queue(create(&name)).await, "name");
    }
    topology
        .create_queue(create("../../etc/passwd"))
        .await
        .unwrap();
    let body = batch(vec![item("../../etc/passwd", "x")]);
    cluster.publisher(0).publish(body).await.unwrap();
    assert_eq!(cluster.stats(0, "../../etc/passwd").await.ready, 1);
    assert!(!cluster.folder().join("etc").exists());

    let with = |settings| v1::CreateQueueRequest {
        settings: Some(settings),
        ..create("q")
    };
    let settings = v1::QueueSettings {
        lease_duration: seconds(-1),
        ..Default::default()
    };
    invalid(
        topology.create_queue(with(settings)).await,
        "settings.lease_duration",
    );
    let settings = v1::QueueSettings {
        kind: 77,
        ..Default::default()
    };
    invalid(topology.create_queue(with(settings)).await, "settings.kind");
    let settings = v1::QueueSettings {
        kind: 2,
        ..Default::default()
    };
    let later = topology.create_queue(with(settings)).await;
    refused(later, Code::Unimplemented, "NOT_YET", "settings.kind");
    let settings = v1::QueueSettings {
        max_deliveries: Some(3),
        ..Default::default()
    };
    let differs = v1::CreateQueueRequest {
        settings: Some(settings),
        ..create("orders")
    };
    refused(
        topology.create_queue(differs).await,
        Code::AlreadyExists,
        "ALREADY_EXISTS",
        "",
    );
    let get = v1::GetQueueRequest {
        name: "nowhere".to_owned(),
        ..Default::default()
    };
    refused(
        topology.get_queue(get).await,
        Code::NotFound,
        "QUEUE_NOT_FOUND",
        "",
    );
    let list = v1::ListQueuesRequest {
        page_token: "x".to_owned(),
        ..Default::default()
    };
    invalid(topology.list_queues(list).await, "page_token");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_receives_and_settles_are_refused() {
    let cluster = cluster().await;
    cluster.queue("other").await;
    let mut consumer = cluster.consumer(0);
    let receive = |queue: &str| v1::ReceiveRequest {
        queue: queue.to_owned(),
        ..Default::default()
    };
    let unknown = consumer.receive(receive("nowhere")).await;
    refused(unknown, Code::NotFound, "QUEUE_NOT_FOUND", "");
    let table = [
        (
            v1::ReceiveRequest {
                lease_duration: seconds(-1),
                ..receive("orders")
            },
            "lease_duration",
        ),
        (
            v1::ReceiveRequest {
                lease_duration: seconds(13 * 3_600),
                ..receive("orders")
            },
            "lease_duration",
        ),
        (
            v1::ReceiveRequest {
                max_messages: Some(0),
                ..receive("orders")
            },
            "max_messages",
        ),
        (
            v1::ReceiveRequest {
                max_messages: Some(1_001),
                ..receive("orders")
            },
            "max_messages",
        ),
        (
            v1::ReceiveRequest {
                wait: seconds(21),
                ..receive("orders")
            },
            "wait",
        ),
        (
            v1::ReceiveRequest {
                receive_attempt_id: "x".repeat(129),
                ..receive("orders")
            },
            "receive_attempt_id",
        ),
        (receive(""), "queue"),
    ];
    for (request, field) in table {
        invalid(consumer.receive(request).await, field);
    }

    cluster
        .publisher(0)
        .publish(batch(vec![item("orders", "a"), item("other", "b")]))
        .await
        .unwrap();
    let mine = consumer
        .receive(receive("orders"))
        .await
        .unwrap()
        .into_inner()
        .deliveries
        .remove(0);
    let others = consumer
        .receive(receive("other"))
        .await
        .unwrap()
        .into_inner()
        .deliveries
        .remove(0);
    let settle = |items| v1::SettleRequest {
        queue: "orders".to_owned(),
        items,
        ..Default::default()
    };
    let good = v1::SettleItem {
        receipt: mine.receipt,
        kind: 1,
        ..Default::default()
    };
    let garbage = v1::SettleItem {
        receipt: Bytes::from_static(b"garbage"),
        ..good.clone()
    };
    let foreign = v1::SettleItem {
        receipt: others.receipt,
        ..good.clone()
    };
    let unknown = v1::SettleItem {
        kind: 99,
        ..good.clone()
    };
    let too_long = v1::SettleItem {
        kind: 5,
        lease_duration: seconds(13 * 3_600),
        ..good.clone()
    };
    let table = [
        (vec![], "items"),
        (vec![good.clone(); 1_001], "items"),
        (vec![good.clone(), garbage], "items[1].receipt"),
        (vec![good.clone(), foreign], "items[1].receipt"),
        (vec![good.clone(), unknown], "items[1].kind"),
        (vec![good.clone(), too_long], "items[1].lease_duration"),
    ];
    for (items, field) in table {
        invalid(consumer.settle(settle(items)).await, field);
    }
    assert_eq!(
        cluster.stats(0, "orders").await.in_flight,
        1,
        "nothing of a bad batch was done"
    );

    // A receipt of an earlier queue of the same name touches nothing.
    let delete = v1::DeleteQueueRequest {
        name: "orders".to_owned(),
        ..Default::default()
    };
    cluster.topology(0).delete_queue(delete).await.unwrap();
    cluster.queue("orders").await;
    cluster
        .publisher(0)
        .publish(batch(vec![item("orders", "a")]))
        .await
        .unwrap();
    consumer.receive(receive("orders")).await.unwrap();
    let answer = consumer
        .settle(settle(vec![good]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.results[0].outcome(), v1::SettleOutcome::NotFound);
    assert_eq!(cluster.stats(0, "orders").await.in_flight, 1);
}

async fn consume(cluster: &Cluster, frames: Vec<consume_request::Frame>) -> Status {
    let frames = frames
        .into_iter()
        .map(|frame| v1::ConsumeRequest { frame: Some(frame) });
    // The client's side stays open.
    let open = futures::StreamExt::chain(tokio_stream::iter(frames), futures::stream::pending());
    let mut answers = cluster
        .consumer(0)
        .consume(open)
        .await
        .unwrap()
        .into_inner();
    timeout(PATIENCE, async {
        loop {
            match answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended well"),
                Err(status) => return status,
            }
        }
    })
    .await
    .expect("the stream ends in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_frames_end_a_consume_stream() {
    use consume_request::Frame;
    let cluster = cluster().await;
    let open = || v1::ConsumeOpen {
        queue: "orders".to_owned(),
        ..Default::default()
    };
    let credit = |prefetch| {
        Frame::Credit(v1::ConsumeCredit {
            prefetch,
            prefetch_bytes: None,
        })
    };
    let settle = |range| {
        Frame::Settlement(v1::ConsumeSettlement {
            ranges: vec![range],
        })
    };
    let range = v1::SettleRange {
        first_delivery_id: 1,
        kind: 1,
        ..Default::default()
    };
    let table = [
        (vec![credit(1)], "open"),
        (
            vec![Frame::Open(v1::ConsumeOpen {
                prefetch: Some(0),
                ..open()
            })],
            "open.prefetch",
        ),
        (
            vec![Frame::Open(v1::ConsumeOpen {
                prefetch: Some(1 << 31),
                ..open()
            })],
            "open.prefetch",
        ),
        (
            vec![Frame::Open(v1::ConsumeOpen {
                lease_duration: seconds(-1),
                ..open()
            })],
            "open.lease_duration",
        ),
        (
            vec![Frame::Open(v1::ConsumeOpen {
                lease_duration: seconds(46_800),
                ..open()
            })],
            "open.lease_duration",
        ),
        (
            vec![Frame::Open(v1::ConsumeOpen {
                session_id: Bytes::from_static(b"x"),
                ..open()
            })],
            "open.session_id",
        ),
        (vec![Frame::Open(open()), Frame::Open(open())], "open"),
        (vec![Frame::Open(open()), credit(0)], "credit.prefetch"),
        (
            vec![Frame::Open(open()), credit(1 << 31)],
            "credit.prefetch",
        ),
        (
            vec![
                Frame::Open(open()),
                settle(v1::SettleRange { kind: 42, ..range }),
            ],
            "settlement.ranges[0].kind",
        ),
        (
            vec![
                Frame::Open(open()),
                Frame::Settlement(v1::ConsumeSettlement::default()),
            ],
            "settlement.ranges",
        ),
    ];
    for (frames, field) in table {
        invalid::<()>(Err(consume(&cluster, frames).await), field);
    }
    let never_sent = consume(&cluster, vec![Frame::Open(open()), settle(range)]).await;
    let field = "settlement.ranges[0].first_delivery_id";
    refused::<()>(
        Err(never_sent),
        Code::InvalidArgument,
        "UNKNOWN_DELIVERY",
        field,
    );
    let group = v1::ConsumeOpen {
        group: "g".to_owned(),
        ..open()
    };
    let later = consume(&cluster, vec![Frame::Open(group)]).await;
    refused::<()>(Err(later), Code::Unimplemented, "NOT_YET", "open.group");
    let unknown = v1::ConsumeOpen {
        queue: "nowhere".to_owned(),
        ..open()
    };
    let unknown = consume(&cluster, vec![Frame::Open(unknown)]).await;
    refused::<()>(Err(unknown), Code::NotFound, "QUEUE_NOT_FOUND", "");
    let gone = v1::ConsumeOpen {
        session_id: Bytes::from(vec![7; 16]),
        ..open()
    };
    let gone = consume(&cluster, vec![Frame::Open(gone)]).await;
    refused::<()>(Err(gone), Code::NotFound, "SESSION_NOT_FOUND", "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_frames_end_a_publish_stream() {
    use publish_stream_request::Frame;
    let cluster = cluster().await;
    let open = || Frame::Open(v1::PublishOpen::default());
    let batch = |first_sequence, count| {
        let items = vec![item("orders", "x"); count];
        Frame::Batch(v1::PublishBatch {
            first_sequence,
            items,
        })
    };
    let table = [
        (vec![batch(1, 1)], "open"),
        (vec![open(), open()], "open"),
        (vec![open(), batch(1, 0)], "batch.items"),
        (vec![open(), batch(1, 1_001)], "batch.items"),
        (vec![open(), batch(2, 1)], "batch.first_sequence"),
        (
            vec![open(), batch(1, 1), batch(1, 1)],
            "batch.first_sequence",
        ),
        (
            vec![Frame::Open(v1::PublishOpen {
                epoch: 1,
                ..Default::default()
            })],
            "open.epoch",
        ),
    ];
    for (frames, field) in table {
        let frames = frames
            .into_iter()
            .map(|frame| v1::PublishStreamRequest { frame: Some(frame) });
        let frames = tokio_stream::iter(frames.collect::<Vec<_>>());
        let mut answers = cluster
            .publisher(0)
            .publish_stream(frames)
            .await
            .unwrap()
            .into_inner();
        let status = loop {
            match timeout(PATIENCE, answers.message()).await.unwrap() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{field}: the stream ended well"),
                Err(status) => break status,
            }
        };
        invalid::<()>(Err(status), field);
    }
}

/// HTTP/2 by hand: what no client library would send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_wire_hurts_nobody() {
    let cluster = cluster().await;
    let address = &cluster.nodes[0].client_address;
    let mut garbage = TcpStream::connect(address).await.unwrap();
    garbage.write_all(&[0xff; 4_096]).await.unwrap();
    let mut answer = Vec::new();
    // The server says what it thinks of it, or hangs up; it does not wait for more.
    let _ = timeout(PATIENCE, garbage.read_to_end(&mut answer))
        .await
        .expect("it hangs up");

    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    half.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    half.write_all(&[0, 0, 200, 1, 4]).await.unwrap();

    // A message that says it has 1 GiB: refused at its head.
    let gib = by_hand(&cluster, "PublisherService/Publish", "\0\u{40}\0\0\0start").await;
    invalid::<()>(Err(gib), "request");
    let no_protobuf = by_hand(&cluster, "PublisherService/Publish", "\0\0\0\0\u{3}abc").await;
    invalid::<()>(Err(no_protobuf), "request");
    let no_method = by_hand(&cluster, "PublisherService/Nothing", "\0\0\0\0\0").await;
    refused::<()>(Err(no_method), Code::Unimplemented, "NOT_YET", "");
    cluster
        .publisher(0)
        .publish(batch(vec![item("orders", "still here")]))
        .await
        .unwrap();
    drop(half);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_of_another_cluster_are_refused() {
    let cluster = cluster().await;
    let mut client = PeerServiceClient::new(support::channel(&cluster.nodes[0].peer_address));
    let view = cluster
        .cluster(0)
        .get_cluster(v1::GetClusterRequest {})
        .await
        .unwrap()
        .into_inner();
    let header = |cluster_id: Bytes| peer::Header {
        cluster_id,
        sender_node_id: 2,
        target_node_id: 1,
        group_id: 0,
        boot_id: 1,
    };
    let vote = |cluster_id| peer::VoteRequest {
        header: Some(header(cluster_id)),
        vote: Some(peer::Vote {
            term: 1_000,
            node_id: 2,
            committed: false,
        }),
        ..Default::default()
    };
    let wrong = client.vote(vote(Bytes::from(vec![1; 16]))).await;
    refused(wrong, Code::FailedPrecondition, "WRONG_CLUSTER", "");
    // A sender that is no member here may have been added by an entry that this node has not seen: it is
    // heard, and gets no vote while there is a leader.
    let unknown = client.vote(vote(view.cluster_id.clone())).await.unwrap();
    assert!(!unknown.into_inner().granted);
    let entries = peer::AppendEntriesRequest {
        header: Some(header(Bytes::new())),
        ..Default::default()
    };
    let answer = client.append_entries(tokio_stream::iter([entries])).await;
    let status = answer.unwrap().into_inner().message().await;
    refused(status, Code::FailedPrecondition, "WRONG_CLUSTER", "");
    let after = cluster
        .cluster(0)
        .get_cluster(v1::GetClusterRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(after.term, view.term, "no vote was moved");
}

/// Sends a body as it is, gRPC framing included, and gives the status of the answer.
async fn by_hand(cluster: &Cluster, method: &str, body: &str) -> Status {
    let mut channel = cluster.channel(0);
    let request = tonic::codegen::http::Request::post(format!("http://x/ticketrail.v1.{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(body.to_owned()))
        .unwrap();
    std::future::poll_fn(|cx| tower::Service::poll_ready(&mut channel, cx))
        .await
        .unwrap();
    let answer = timeout(PATIENCE, tower::Service::call(&mut channel, request))
        .await
        .unwrap();
    Status::from_header_map(answer.unwrap().headers()).expect("a status without a body")
}
