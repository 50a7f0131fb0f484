//! The table of topology, publishing and producers: call, status, reason, field.

use bytes::Bytes;
use ticketrail_proto::v1::{
    CreateNamespaceRequest, CreateQueueRequest, DeadLetterTarget, GetQueueRequest,
    GetQueueStatsRequest, Header, HeaderValue, ListQueuesRequest, Message, ProducerSequence,
    Properties, PublishItem, PublishRequest, QueueSettings, RetryBackoff, UpdateQueueRequest,
    header_value,
};
use ticketrail_tests::cluster::producer::{batch, item};
use ticketrail_tests::cluster::{Clients, Cluster, Producer, duration, secs, within};
use tonic::{Code, Request};

use super::watched::{Expected, Watched, failed, invalid, not_found, not_yet};

fn soon<T>(request: T) -> Request<T> {
    within(secs(10), request)
}

fn negative() -> Option<prost_types::Duration> {
    Some(prost_types::Duration {
        seconds: -1,
        nanos: 0,
    })
}

pub(super) async fn topology(cluster: &Cluster) {
    let watched = Watched::new(cluster).await;
    let mut node = cluster.on(2);
    let create = |name: &str| CreateQueueRequest {
        name: name.to_owned(),
        ..Default::default()
    };
    for (name, what) in [
        ("", "empty name"),
        (&*"x".repeat(256), "name of 256 bytes"),
        ("a\nb", "line feed in a name"),
        ("\u{7f}", "delete in a name"),
        ("tr.x", "reserved name"),
    ] {
        let answer = node.topology.create_queue(soon(create(name))).await;
        watched.refused(what, answer, invalid("name")).await;
        let request = CreateNamespaceRequest {
            name: name.to_owned(),
        };
        let answer = node.topology.create_namespace(soon(request)).await;
        watched.refused(what, answer, invalid("name")).await;
    }
    let get = |namespace: &str, name: &str| {
        soon(GetQueueRequest {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    };
    let answer = node.topology.get_queue(get("", "nowhere")).await;
    watched
        .refused("unknown queue", answer, not_found("QUEUE_NOT_FOUND"))
        .await;
    let answer = node.topology.get_queue(get("nowhere", "orders")).await;
    watched
        .refused(
            "unknown namespace",
            answer,
            not_found("NAMESPACE_NOT_FOUND"),
        )
        .await;
    let request = CreateQueueRequest {
        namespace: "nowhere".into(),
        ..create("q")
    };
    let answer = node.topology.create_queue(soon(request)).await;
    watched
        .refused(
            "create in no namespace",
            answer,
            not_found("NAMESPACE_NOT_FOUND"),
        )
        .await;
    let request = GetQueueStatsRequest {
        queue: "nowhere".into(),
        ..Default::default()
    };
    let answer = node.admin.get_queue_stats(soon(request)).await;
    watched
        .refused(
            "counts of an unknown queue",
            answer,
            not_found("QUEUE_NOT_FOUND"),
        )
        .await;
    for size in [0, 1_001] {
        let request = ListQueuesRequest {
            page_size: Some(size),
            ..Default::default()
        };
        let answer = node.topology.list_queues(soon(request)).await;
        watched
            .refused("page size", answer, invalid("page_size"))
            .await;
    }
    let request = ListQueuesRequest {
        page_token: "garbage".into(),
        ..Default::default()
    };
    let answer = node.topology.list_queues(soon(request)).await;
    watched
        .refused("page token", answer, invalid("page_token"))
        .await;
    settings(&watched, &mut node).await;
    watched.done();
}

async fn settings(watched: &Watched<'_>, node: &mut Clients) {
    let none = QueueSettings::default;
    let target = |exchange: &str, key: &str| {
        Some(DeadLetterTarget {
            exchange: exchange.to_owned(),
            routing_key: Some(key.to_owned()),
        })
    };
    let long = Some(duration(secs(13 * 3_600)));
    #[rustfmt::skip]
    let rows: Vec<(&str, QueueSettings, Expected<'_>)> = vec![
        ("unknown kind", QueueSettings { kind: 99, ..none() }, invalid("settings.kind")),
        ("a later kind", QueueSettings { kind: 2, ..none() }, not_yet("settings.kind")),
        ("unknown overflow", QueueSettings { overflow: 77, ..none() }, invalid("settings.overflow")),
        ("lease of -1 s", QueueSettings { lease_duration: negative(), ..none() }, invalid("settings.lease_duration")),
        ("lease of 13 h", QueueSettings { lease_duration: long, ..none() }, invalid("settings.lease_duration")),
        ("a length limit", QueueSettings { max_messages: Some(5), ..none() }, not_yet("settings.max_messages")),
        ("backoff without base", QueueSettings { retry_backoff: Some(RetryBackoff::default()), ..none() }, invalid("settings.retry_backoff.base")),
        ("dead letters to an exchange", QueueSettings { dead_letter: target("x", "dead"), ..none() }, not_yet("settings.dead_letter.exchange")),
        ("dead letters to a bad name", QueueSettings { dead_letter: target("", "\t"), ..none() }, invalid("settings.dead_letter.routing_key")),
    ];
    for (what, settings, expected) in rows {
        let settings = Some(settings);
        let request = CreateQueueRequest {
            name: "q".into(),
            settings,
            ..Default::default()
        };
        let answer = node.topology.create_queue(soon(request)).await;
        watched.refused(what, answer, expected).await;
    }
    let (name, settings) = (
        "orders",
        Some(QueueSettings {
            max_deliveries: Some(77),
            ..none()
        }),
    );
    let request = CreateQueueRequest {
        name: name.into(),
        settings: settings.clone(),
        ..Default::default()
    };
    let answer = node.topology.create_queue(soon(request)).await;
    let expected = (Code::AlreadyExists, "ALREADY_EXISTS", "");
    let refused = watched
        .refused("re-declared differently", answer, expected)
        .await;
    assert_eq!(refused.differs, ["settings.max_deliveries"]);
    let request = UpdateQueueRequest {
        name: name.into(),
        settings,
        ..Default::default()
    };
    let answer = node.topology.update_queue(soon(request)).await;
    watched
        .refused("update without a mask", answer, invalid("update_mask"))
        .await;
}

fn header(key: &str, bytes: usize) -> Header {
    let value = header_value::Value::Bytes(Bytes::from(vec![1; bytes]));
    Header {
        key: key.to_owned(),
        value: Some(HeaderValue { value: Some(value) }),
    }
}

fn headers(headers: Vec<Header>) -> PublishItem {
    PublishItem {
        message: Some(Message {
            headers,
            ..Message::default()
        }),
        ..item("orders", "")
    }
}

fn many_headers(count: usize, bytes: usize) -> PublishItem {
    headers(
        (0..count)
            .map(|k| header(&format!("h{k}"), bytes))
            .collect(),
    )
}

fn properties(properties: Properties) -> PublishItem {
    let message = Message {
        properties: Some(properties),
        ..Message::default()
    };
    PublishItem {
        message: Some(message),
        ..item("orders", "")
    }
}

pub(super) async fn publishing(cluster: &Cluster) {
    let watched = Watched::new(cluster).await;
    let mut node = cluster.on(3);
    let none = Properties::default;
    let over = Bytes::from(vec![0; (1 << 20) + 1]);
    let no_value = Header {
        key: "k".into(),
        value: Some(HeaderValue::default()),
    };
    #[rustfmt::skip]
    let rows: Vec<(&str, PublishItem, Expected<'_>)> = vec![
        ("body one byte over", item("orders", over), invalid("items[0].message.body")),
        ("no message", PublishItem { message: None, ..item("orders", "") }, invalid("items[0].message")),
        ("65 headers", many_headers(65, 1), invalid("items[0].message.headers")),
        ("headers of over 32 KiB", many_headers(9, 4_096), invalid("items[0].message.headers")),
        ("a header over 4 KiB", many_headers(1, 4_097), invalid("items[0].message.headers[0].value")),
        ("a header without kind", headers(vec![no_value]), invalid("items[0].message.headers[0].value")),
        ("a header key of 129 bytes", headers(vec![header(&"k".repeat(129), 1)]), invalid("items[0].message.headers[0].key")),
        ("a header twice", headers(vec![header("k", 1), header("k", 2)]), invalid("items[0].message.headers[1].key")),
        ("a long content type", properties(Properties { content_type: "x".repeat(256), ..none() }), invalid("items[0].message.properties.content_type")),
        ("a priority", properties(Properties { priority: Some(9), ..none() }), not_yet("items[0].message.properties.priority")),
        ("a group", properties(Properties { group_key: "g".into(), ..none() }), not_yet("items[0].message.properties.group_key")),
        ("an exchange", PublishItem { exchange: "x".into(), ..item("orders", "") }, not_yet("items[0].exchange")),
        ("a routing key of 256 bytes", item(&"x".repeat(256), ""), invalid("items[0].routing_key")),
        ("mandatory to nowhere", item("nowhere", ""), failed("UNROUTABLE")),
    ];
    for (what, wrong, expected) in rows {
        let answer = node
            .publisher
            .publish(soon(batch(vec![wrong.clone()])))
            .await;
        watched.refused(what, answer, expected).await;
        // In the middle of a good batch it is named by its place and refuses all.
        let answer = node
            .publisher
            .publish(soon(batch(vec![item("orders", "good"), wrong])))
            .await;
        let (code, reason, field) = expected;
        let expected = (code, reason, &*field.replace("items[0]", "items[1]"));
        watched.refused(what, answer, expected).await;
    }
    for count in [0, 101, 1_001] {
        let request = batch(vec![item("orders", "x"); count]);
        let answer = node.publisher.publish(soon(request)).await;
        watched
            .refused(&format!("batch of {count}"), answer, invalid("items"))
            .await;
    }
    let large = item("orders", Bytes::from(vec![0; 1 << 20]));
    let answer = node.publisher.publish(soon(batch(vec![large; 5]))).await;
    watched
        .refused("batch of 5 MiB", answer, invalid("items"))
        .await;
    let good = batch(vec![item("orders", "x")]);
    let request = PublishRequest {
        namespace: "nowhere".into(),
        ..good.clone()
    };
    let answer = node.publisher.publish(soon(request)).await;
    watched
        .refused(
            "unknown namespace",
            answer,
            not_found("NAMESPACE_NOT_FOUND"),
        )
        .await;
    let request = PublishRequest {
        request_id: "r".into(),
        ..good
    };
    let answer = node.publisher.publish(soon(request)).await;
    watched
        .refused("a request id", answer, not_yet("request_id"))
        .await;
    watched.done();
}

pub(super) async fn producers(cluster: &Cluster) {
    let mut node = cluster.on(1);
    let mut old = Producer::open(cluster, "bad input").await;
    let first = old.batch(vec![item("orders", "the first")]);
    node.publisher.publish(soon(first)).await.unwrap();
    let watched = Watched::new(cluster).await;
    let x = || vec![item("orders", "x")];

    let answer = node.publisher.publish(soon(old.batch_at(7, x()))).await;
    let refused = watched
        .refused("a gap", answer, failed("OUT_OF_SEQUENCE"))
        .await;
    assert_eq!(refused.metadata.get("expected_sequence").unwrap(), "2");
    let answer = node.publisher.publish(soon(old.batch_at(1, x()))).await;
    watched
        .refused("another body", answer, failed("SEQUENCE_REUSED"))
        .await;
    let new = Producer::open(cluster, "bad input").await;
    assert_eq!((new.epoch, new.next), (old.epoch + 1, 2));
    let answer = node.publisher.publish(soon(old.batch_at(2, x()))).await;
    watched
        .refused("an old epoch", answer, failed("PRODUCER_FENCED"))
        .await;
    let unknown = Producer {
        id: Bytes::from_static(&[9; 16]),
        epoch: 1,
        next: 1,
    };
    let answer = node.publisher.publish(soon(unknown.batch_at(1, x()))).await;
    watched
        .refused("an unknown producer", answer, failed("UNKNOWN_PRODUCER"))
        .await;

    let good = ProducerSequence {
        producer_id: new.id,
        epoch: new.epoch,
        first_sequence: 2,
    };
    let short = Bytes::from_static(b"short");
    #[rustfmt::skip]
    let rows = [
        (ProducerSequence { producer_id: short, ..good.clone() }, "producer.producer_id"),
        (ProducerSequence { epoch: 0, ..good.clone() }, "producer.epoch"),
        (ProducerSequence { first_sequence: 0, ..good }, "producer.first_sequence"),
    ];
    for (wrong, field) in rows {
        let request = PublishRequest {
            producer: Some(wrong),
            ..batch(x())
        };
        let answer = node.publisher.publish(soon(request)).await;
        watched.refused(field, answer, invalid(field)).await;
    }
    watched.done();
}
