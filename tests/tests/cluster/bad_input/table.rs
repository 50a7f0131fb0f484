//! The table: call, status, reason, field. After each row the queue `orders` is as it was.

use bytes::Bytes;
use ticketrail_proto::v1::{
    ConsumeOpen, CreateNamespaceRequest, CreateQueueRequest, DeadLetterTarget, GetQueueRequest,
    GetQueueStatsRequest, Header, HeaderValue, ListQueuesRequest, Message, PeekRequest,
    ProducerSequence, Properties, PublishItem, PublishRequest, QueueSettings, QueueStats,
    ReceiveRequest, RetryBackoff, SettleItem, SettleKind, SettleRequest, UpdateQueueRequest,
    header_value,
};
use ticketrail_tests::cluster::consumer::{self, range, receive, settle};
use ticketrail_tests::cluster::producer::{batch, item};
use ticketrail_tests::cluster::{
    Clients, Cluster, Consumer, Producer, Refused, duration, secs, within,
};
use tonic::{Code, Response, Status};

use Code::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unimplemented};

const INVALID: &str = "INVALID_FIELD";

/// What must not change.
struct Watched<'a> {
    cluster: &'a Cluster,
    before: (Vec<String>, QueueStats),
}

impl<'a> Watched<'a> {
    async fn new(cluster: &'a Cluster) -> Self {
        Self {
            cluster,
            before: look(cluster).await,
        }
    }

    /// The call was refused in just this way, and nothing changed.
    async fn refused<T: std::fmt::Debug>(
        &self,
        what: &str,
        answer: Result<Response<T>, Status>,
        (code, reason, field): (Code, &str, &str),
    ) -> Refused {
        let refused = match answer {
            Ok(answer) => panic!("{what}: expected {code:?} {reason} `{field}`, found {answer:?}"),
            Err(status) => Refused::from(&status),
        };
        assert!(
            refused.is(code, reason),
            "{what}: expected {code:?} {reason} `{field}`, found {refused}"
        );
        let named = if reason == "NOT_YET" {
            &refused.metadata["field"]
        } else {
            &refused.field
        };
        assert_eq!(named, field, "{what}: {refused}");
        assert!(
            refused.message.len() > 10,
            "{what}: a sentence says what to do: {refused}"
        );
        assert_eq!(
            look(self.cluster).await,
            self.before,
            "{what} had an effect"
        );
        refused
    }
}

async fn look(cluster: &Cluster) -> (Vec<String>, QueueStats) {
    let mut node = cluster.on(1);
    let answer = node
        .topology
        .list_queues(within(secs(10), ListQueuesRequest::default()))
        .await
        .unwrap();
    let queues = answer
        .into_inner()
        .queues
        .into_iter()
        .map(|queue| queue.name)
        .collect();
    let mut stats = cluster.stats("orders").await;
    (stats.position, stats.oldest_ready_age) = (None, None);
    (queues, stats)
}

/// One request, its default but for what is named.
macro_rules! with {
    ($kind:ident { $($field:ident $(: $value:expr)?),* $(,)? }) => {
        within(secs(10), $kind { $($field $(: $value)?,)* ..$kind::default() })
    };
}

pub(super) async fn topology(cluster: &Cluster) {
    let watched = Watched::new(cluster).await;
    let mut node = cluster.on(2);
    let long = "x".repeat(256);
    for (name, what) in [
        ("", "empty"),
        (&*long, "256 bytes"),
        ("a\nb", "control"),
        ("\u{7f}", "delete"),
        ("tr.x", "reserved"),
    ] {
        let answer = node
            .topology
            .create_queue(with!(CreateQueueRequest {
                name: name.to_owned()
            }))
            .await;
        watched
            .refused(
                &format!("queue name, {what}"),
                answer,
                (InvalidArgument, INVALID, "name"),
            )
            .await;
        let answer = node
            .topology
            .create_namespace(with!(CreateNamespaceRequest {
                name: name.to_owned()
            }))
            .await;
        watched
            .refused(
                &format!("namespace name, {what}"),
                answer,
                (InvalidArgument, INVALID, "name"),
            )
            .await;
    }
    let answer = node
        .topology
        .get_queue(with!(GetQueueRequest {
            name: "nowhere".into()
        }))
        .await;
    watched
        .refused("unknown queue", answer, (NotFound, "QUEUE_NOT_FOUND", ""))
        .await;
    let namespace = "nowhere".to_owned();
    let answer = node
        .topology
        .get_queue(with!(GetQueueRequest {
            namespace: namespace.clone(),
            name: "orders".into()
        }))
        .await;
    watched
        .refused(
            "unknown namespace",
            answer,
            (NotFound, "NAMESPACE_NOT_FOUND", ""),
        )
        .await;
    let answer = node
        .topology
        .create_queue(with!(CreateQueueRequest {
            namespace,
            name: "q".into()
        }))
        .await;
    watched
        .refused(
            "create in an unknown namespace",
            answer,
            (NotFound, "NAMESPACE_NOT_FOUND", ""),
        )
        .await;
    let answer = node
        .admin
        .get_queue_stats(with!(GetQueueStatsRequest {
            queue: "nowhere".into()
        }))
        .await;
    watched
        .refused(
            "counts of an unknown queue",
            answer,
            (NotFound, "QUEUE_NOT_FOUND", ""),
        )
        .await;
    for size in [0, 1_001] {
        let answer = node
            .topology
            .list_queues(with!(ListQueuesRequest {
                page_size: Some(size)
            }))
            .await;
        watched
            .refused("page size", answer, (InvalidArgument, INVALID, "page_size"))
            .await;
    }
    let answer = node
        .topology
        .list_queues(with!(ListQueuesRequest {
            page_token: "garbage".into()
        }))
        .await;
    watched
        .refused(
            "page token",
            answer,
            (InvalidArgument, INVALID, "page_token"),
        )
        .await;
    settings(&watched, &mut node).await;
}

async fn settings(watched: &Watched<'_>, node: &mut Clients) {
    type Row = (
        &'static str,
        QueueSettings,
        (Code, &'static str, &'static str),
    );
    let negative = Some(prost_types::Duration {
        seconds: -1,
        nanos: 0,
    });
    let none = QueueSettings::default;
    let rows: [Row; 9] = [
        (
            "unknown kind",
            QueueSettings { kind: 99, ..none() },
            (InvalidArgument, INVALID, "settings.kind"),
        ),
        (
            "a later kind",
            QueueSettings { kind: 2, ..none() },
            (Unimplemented, "NOT_YET", "settings.kind"),
        ),
        (
            "unknown overflow",
            QueueSettings {
                overflow: 77,
                ..none()
            },
            (InvalidArgument, INVALID, "settings.overflow"),
        ),
        (
            "lease of -1 s",
            QueueSettings {
                lease_duration: negative,
                ..none()
            },
            (InvalidArgument, INVALID, "settings.lease_duration"),
        ),
        (
            "lease of 13 h",
            QueueSettings {
                lease_duration: Some(duration(secs(13 * 3_600))),
                ..none()
            },
            (InvalidArgument, INVALID, "settings.lease_duration"),
        ),
        (
            "a length limit",
            QueueSettings {
                max_messages: Some(5),
                ..none()
            },
            (Unimplemented, "NOT_YET", "settings.max_messages"),
        ),
        (
            "backoff without base",
            QueueSettings {
                retry_backoff: Some(RetryBackoff::default()),
                ..none()
            },
            (InvalidArgument, INVALID, "settings.retry_backoff.base"),
        ),
        (
            "dead letters to an exchange",
            QueueSettings {
                dead_letter: Some(DeadLetterTarget {
                    exchange: "x".into(),
                    routing_key: None,
                }),
                ..none()
            },
            (Unimplemented, "NOT_YET", "settings.dead_letter.exchange"),
        ),
        (
            "dead letters to a bad name",
            QueueSettings {
                dead_letter: Some(DeadLetterTarget {
                    routing_key: Some("\t".into()),
                    ..Default::default()
                }),
                ..none()
            },
            (InvalidArgument, INVALID, "settings.dead_letter.routing_key"),
        ),
    ];
    for (what, settings, expected) in rows {
        let answer = node
            .topology
            .create_queue(with!(CreateQueueRequest {
                name: "q".into(),
                settings: Some(settings)
            }))
            .await;
        watched.refused(what, answer, expected).await;
    }
    let different = Some(QueueSettings {
        max_deliveries: Some(77),
        ..none()
    });
    let answer = node
        .topology
        .create_queue(with!(CreateQueueRequest {
            name: "orders".into(),
            settings: different.clone()
        }))
        .await;
    let refused = watched
        .refused(
            "re-declared differently",
            answer,
            (AlreadyExists, "ALREADY_EXISTS", ""),
        )
        .await;
    assert_eq!(refused.differs, ["max_deliveries"]);
    let answer = node
        .topology
        .update_queue(with!(UpdateQueueRequest {
            name: "orders".into(),
            settings: different
        }))
        .await;
    watched
        .refused(
            "update without a mask",
            answer,
            (InvalidArgument, INVALID, "update_mask"),
        )
        .await;
}

pub(super) async fn publishing(cluster: &Cluster) {
    let watched = Watched::new(cluster).await;
    let mut node = cluster.on(3);
    let header = |key: &str, bytes: usize| Header {
        key: key.to_owned(),
        value: Some(HeaderValue {
            value: Some(header_value::Value::Bytes(Bytes::from(vec![1; bytes]))),
        }),
    };
    let headers = |count: usize, bytes| {
        (0..count)
            .map(|k| header(&format!("h{k}"), bytes))
            .collect::<Vec<_>>()
    };
    let message = |message: Message| PublishItem {
        message: Some(message),
        ..item("orders", "")
    };
    let properties = |properties: Properties| {
        message(Message {
            properties: Some(properties),
            ..Message::default()
        })
    };
    let none = Message::default;
    let no_value = Header {
        key: "k".into(),
        value: Some(HeaderValue::default()),
    };
    let over = Bytes::from(vec![0; (1 << 20) + 1]);
    let rows: Vec<(&str, PublishItem, (Code, &str, &str))> = vec![
        (
            "body one byte over",
            item("orders", over),
            (InvalidArgument, INVALID, "items[0].message.body"),
        ),
        (
            "no message",
            PublishItem {
                message: None,
                ..item("orders", "")
            },
            (InvalidArgument, INVALID, "items[0].message"),
        ),
        (
            "65 headers",
            message(Message {
                headers: headers(65, 1),
                ..none()
            }),
            (InvalidArgument, INVALID, "items[0].message.headers"),
        ),
        (
            "headers of over 32 KiB",
            message(Message {
                headers: headers(9, 4_096),
                ..none()
            }),
            (InvalidArgument, INVALID, "items[0].message.headers"),
        ),
        (
            "a header over 4 KiB",
            message(Message {
                headers: headers(1, 4_097),
                ..none()
            }),
            (
                InvalidArgument,
                INVALID,
                "items[0].message.headers[0].value",
            ),
        ),
        (
            "a header without kind",
            message(Message {
                headers: vec![no_value],
                ..none()
            }),
            (
                InvalidArgument,
                INVALID,
                "items[0].message.headers[0].value",
            ),
        ),
        (
            "a header key of 129 bytes",
            message(Message {
                headers: vec![header(&"k".repeat(129), 1)],
                ..none()
            }),
            (InvalidArgument, INVALID, "items[0].message.headers[0].key"),
        ),
        (
            "a header twice",
            message(Message {
                headers: vec![header("k", 1), header("k", 2)],
                ..none()
            }),
            (InvalidArgument, INVALID, "items[0].message.headers[1].key"),
        ),
        (
            "a long content type",
            properties(Properties {
                content_type: "x".repeat(256),
                ..Properties::default()
            }),
            (
                InvalidArgument,
                INVALID,
                "items[0].message.properties.content_type",
            ),
        ),
        (
            "a priority",
            properties(Properties {
                priority: Some(9),
                ..Properties::default()
            }),
            (
                Unimplemented,
                "NOT_YET",
                "items[0].message.properties.priority",
            ),
        ),
        (
            "a group",
            properties(Properties {
                group_key: "g".into(),
                ..Properties::default()
            }),
            (
                Unimplemented,
                "NOT_YET",
                "items[0].message.properties.group_key",
            ),
        ),
        (
            "an exchange",
            PublishItem {
                exchange: "x".into(),
                ..item("orders", "")
            },
            (Unimplemented, "NOT_YET", "items[0].exchange"),
        ),
        (
            "a routing key of 256 bytes",
            item(&"x".repeat(256), ""),
            (InvalidArgument, INVALID, "items[0].routing_key"),
        ),
        (
            "mandatory to nowhere",
            item("nowhere", ""),
            (FailedPrecondition, "UNROUTABLE", ""),
        ),
    ];
    for (what, wrong, expected) in rows {
        let answer = node
            .publisher
            .publish(within(secs(10), batch(vec![wrong.clone()])))
            .await;
        watched.refused(what, answer, expected).await;
        // In the middle of a good batch it is named by its place and refuses all.
        let answer = node
            .publisher
            .publish(within(secs(10), batch(vec![item("orders", "good"), wrong])))
            .await;
        let (code, reason, field) = expected;
        watched
            .refused(
                what,
                answer,
                (code, reason, &field.replace("items[0]", "items[1]")),
            )
            .await;
    }
    for count in [0, 101, 1_001] {
        let items = vec![item("orders", "x"); count];
        let answer = node.publisher.publish(within(secs(10), batch(items))).await;
        watched
            .refused(
                &format!("batch of {count}"),
                answer,
                (InvalidArgument, INVALID, "items"),
            )
            .await;
    }
    let large = Bytes::from(vec![0; 1 << 20]);
    let answer = node
        .publisher
        .publish(within(secs(10), batch(vec![item("orders", large); 5])))
        .await;
    watched
        .refused(
            "batch of 5 MiB",
            answer,
            (InvalidArgument, INVALID, "items"),
        )
        .await;
    let namespace = "nowhere".to_owned();
    let answer = node
        .publisher
        .publish(with!(PublishRequest {
            namespace,
            items: vec![item("orders", "x")]
        }))
        .await;
    watched
        .refused(
            "unknown namespace",
            answer,
            (NotFound, "NAMESPACE_NOT_FOUND", ""),
        )
        .await;
    let answer = node
        .publisher
        .publish(with!(PublishRequest {
            request_id: "r".into(),
            items: vec![item("orders", "x")]
        }))
        .await;
    watched
        .refused(
            "a request id",
            answer,
            (Unimplemented, "NOT_YET", "request_id"),
        )
        .await;
}

pub(super) async fn producers(cluster: &Cluster) {
    let mut node = cluster.on(1);
    let mut old = Producer::open(cluster, "bad input").await;
    let first = old.batch(vec![item("orders", "the first")]);
    node.publisher
        .publish(within(secs(10), first))
        .await
        .unwrap();
    let watched = Watched::new(cluster).await;
    let x = || vec![item("orders", "x")];

    let answer = node
        .publisher
        .publish(within(secs(10), old.batch_at(7, x())))
        .await;
    let refused = watched
        .refused("a gap", answer, (FailedPrecondition, "OUT_OF_SEQUENCE", ""))
        .await;
    assert_eq!(refused.metadata["expected_sequence"], "2");
    let answer = node
        .publisher
        .publish(within(secs(10), old.batch_at(1, x())))
        .await;
    watched
        .refused(
            "another body",
            answer,
            (FailedPrecondition, "SEQUENCE_REUSED", ""),
        )
        .await;
    let new = Producer::open(cluster, "bad input").await;
    assert_eq!((new.epoch, new.next), (old.epoch + 1, 2));
    let answer = node
        .publisher
        .publish(within(secs(10), old.batch_at(2, x())))
        .await;
    watched
        .refused(
            "an old epoch",
            answer,
            (FailedPrecondition, "PRODUCER_FENCED", ""),
        )
        .await;
    let unknown = Producer {
        id: Bytes::from_static(&[9; 16]),
        epoch: 1,
        next: 1,
    };
    let answer = node
        .publisher
        .publish(within(secs(10), unknown.batch_at(1, x())))
        .await;
    watched
        .refused(
            "an unknown producer",
            answer,
            (FailedPrecondition, "UNKNOWN_PRODUCER", ""),
        )
        .await;

    let good = ProducerSequence {
        producer_id: new.id,
        epoch: new.epoch,
        first_sequence: 2,
    };
    for (wrong, field) in [
        (
            ProducerSequence {
                producer_id: Bytes::from_static(b"short"),
                ..good.clone()
            },
            "producer.producer_id",
        ),
        (
            ProducerSequence {
                epoch: 0,
                ..good.clone()
            },
            "producer.epoch",
        ),
        (
            ProducerSequence {
                first_sequence: 0,
                ..good.clone()
            },
            "producer.first_sequence",
        ),
    ] {
        let answer = node
            .publisher
            .publish(with!(PublishRequest {
                items: x(),
                producer: Some(wrong)
            }))
            .await;
        watched
            .refused(field, answer, (InvalidArgument, INVALID, field))
            .await;
    }
}

pub(super) async fn consuming(cluster: &Cluster) {
    let watched = Watched::new(cluster).await;
    let mut node = cluster.on(2);
    let negative = Some(prost_types::Duration {
        seconds: -1,
        nanos: 0,
    });
    let thirteen_hours = Some(duration(secs(13 * 3_600)));
    let orders = || ReceiveRequest {
        queue: "orders".into(),
        ..ReceiveRequest::default()
    };
    for (what, request, field) in [
        (
            "0 messages",
            ReceiveRequest {
                max_messages: Some(0),
                ..orders()
            },
            "max_messages",
        ),
        (
            "1,001 messages",
            ReceiveRequest {
                max_messages: Some(1_001),
                ..orders()
            },
            "max_messages",
        ),
        (
            "lease of -1 s",
            ReceiveRequest {
                lease_duration: negative,
                ..orders()
            },
            "lease_duration",
        ),
        (
            "lease of 13 h",
            ReceiveRequest {
                lease_duration: thirteen_hours,
                ..orders()
            },
            "lease_duration",
        ),
        (
            "a wait of 21 s",
            ReceiveRequest {
                wait: Some(duration(secs(21))),
                ..orders()
            },
            "wait",
        ),
        (
            "a long attempt id",
            ReceiveRequest {
                receive_attempt_id: "x".repeat(129),
                ..orders()
            },
            "receive_attempt_id",
        ),
        ("an empty queue name", ReceiveRequest::default(), "queue"),
    ] {
        let answer = node.consumer.receive(within(secs(10), request)).await;
        watched
            .refused(what, answer, (InvalidArgument, INVALID, field))
            .await;
    }
    let answer = node
        .consumer
        .receive(with!(ReceiveRequest {
            queue: "nowhere".into()
        }))
        .await;
    watched
        .refused(
            "receive from nowhere",
            answer,
            (NotFound, "QUEUE_NOT_FOUND", ""),
        )
        .await;
    let answer = node
        .consumer
        .peek(with!(PeekRequest {
            queue: "orders".into(),
            states: vec![99]
        }))
        .await;
    watched
        .refused(
            "an unknown state",
            answer,
            (InvalidArgument, INVALID, "states[0]"),
        )
        .await;
    let answer = node
        .consumer
        .peek(with!(PeekRequest {
            queue: "orders".into(),
            page_size: Some(0)
        }))
        .await;
    watched
        .refused("page of 0", answer, (InvalidArgument, INVALID, "page_size"))
        .await;

    let orders = || consumer::open("orders");
    for (what, open, expected) in [
        (
            "credit 0",
            ConsumeOpen {
                prefetch: Some(0),
                ..orders()
            },
            (InvalidArgument, INVALID, "open.prefetch"),
        ),
        (
            "credit 2^31",
            ConsumeOpen {
                prefetch: Some(1 << 31),
                ..orders()
            },
            (InvalidArgument, INVALID, "open.prefetch"),
        ),
        (
            "lease of -1 s",
            ConsumeOpen {
                lease_duration: negative,
                ..orders()
            },
            (InvalidArgument, INVALID, "open.lease_duration"),
        ),
        (
            "lease of 13 h",
            ConsumeOpen {
                lease_duration: thirteen_hours,
                ..orders()
            },
            (InvalidArgument, INVALID, "open.lease_duration"),
        ),
        (
            "half a session id",
            ConsumeOpen {
                session_id: Bytes::from_static(b"8 bytes!"),
                ..orders()
            },
            (InvalidArgument, INVALID, "open.session_id"),
        ),
        (
            "an unknown session",
            ConsumeOpen {
                session_id: Bytes::from_static(&[1; 16]),
                ..orders()
            },
            (NotFound, "SESSION_NOT_FOUND", ""),
        ),
        (
            "a queue that is not there",
            consumer::open("nowhere"),
            (NotFound, "QUEUE_NOT_FOUND", ""),
        ),
        (
            "a group",
            ConsumeOpen {
                group: "g".into(),
                ..orders()
            },
            (Unimplemented, "NOT_YET", "open.group"),
        ),
    ] {
        let answer = Consumer::open(&node, open)
            .await
            .map(|consumer| Response::new(consumer.opened));
        watched.refused(what, answer, expected).await;
    }
}

pub(super) async fn settling(cluster: &Cluster) {
    let mut node = cluster.on(1);
    // What was published before is still there; one of each queue is held from here on.
    let held = receive(&node, "orders", 1).await.unwrap().remove(0);
    let other = batch(vec![item("others", "foreign")]);
    node.publisher
        .publish(within(secs(10), other))
        .await
        .unwrap();
    let foreign = receive(&node, "others", 1).await.unwrap().remove(0);
    let watched = Watched::new(cluster).await;

    let good = SettleItem {
        receipt: held.receipt.clone(),
        kind: SettleKind::Ack as i32,
        ..SettleItem::default()
    };
    let with_receipt = |receipt: &[u8]| SettleItem {
        receipt: Bytes::copy_from_slice(receipt),
        ..good.clone()
    };
    let mut flipped = held.receipt.to_vec();
    flipped[9] ^= 1;
    let second = Some(duration(secs(1)));
    let extend = SettleItem {
        kind: SettleKind::Extend as i32,
        ..good.clone()
    };
    let negative = Some(prost_types::Duration {
        seconds: -1,
        nanos: 0,
    });
    for (what, wrong, field) in [
        ("garbage", with_receipt(b"garbage"), "items[1].receipt"),
        ("no receipt", with_receipt(b""), "items[1].receipt"),
        ("a flipped bit", with_receipt(&flipped), "items[1].receipt"),
        (
            "of another queue",
            with_receipt(&foreign.receipt),
            "items[1].receipt",
        ),
        (
            "unknown kind",
            SettleItem {
                kind: 99,
                ..good.clone()
            },
            "items[1].kind",
        ),
        (
            "no kind",
            SettleItem {
                kind: 0,
                ..good.clone()
            },
            "items[1].kind",
        ),
        (
            "an ack with a delay",
            SettleItem {
                delay: second,
                ..good.clone()
            },
            "items[1].delay",
        ),
        (
            "an extension without end",
            extend.clone(),
            "items[1].lease_duration",
        ),
        (
            "an extension of -1 s",
            SettleItem {
                lease_duration: negative,
                ..extend.clone()
            },
            "items[1].lease_duration",
        ),
        (
            "an extension of 13 h",
            SettleItem {
                lease_duration: Some(duration(secs(13 * 3_600))),
                ..extend
            },
            "items[1].lease_duration",
        ),
    ] {
        // The good item before it is not settled either.
        let items = vec![good.clone(), wrong];
        let answer = node
            .consumer
            .settle(with!(SettleRequest {
                queue: "orders".into(),
                items
            }))
            .await;
        watched
            .refused(what, answer, (InvalidArgument, INVALID, field))
            .await;
    }
    for (what, count) in [("no item", 0), ("1,001 items", 1_001)] {
        let items = vec![good.clone(); count];
        let answer = node
            .consumer
            .settle(with!(SettleRequest {
                queue: "orders".into(),
                items
            }))
            .await;
        watched
            .refused(what, answer, (InvalidArgument, INVALID, "items"))
            .await;
    }

    // On a stream the stream ends, and says why.
    for (what, first, kind, reason) in [
        ("unknown kind", 1, 99, INVALID),
        (
            "a delivery that was never sent",
            5,
            SettleKind::Ack as i32,
            "UNKNOWN_DELIVERY",
        ),
    ] {
        let mut stream = Consumer::open(&node, consumer::open("orders"))
            .await
            .unwrap();
        let wrong = ticketrail_proto::v1::SettleRange {
            kind,
            ..range(first, 0, SettleKind::Ack)
        };
        stream.settle(vec![wrong]).await.unwrap();
        ended(&mut stream, what, reason).await;
    }
    for credit in [0, 1 << 31] {
        let mut stream = Consumer::open(&node, consumer::open("orders"))
            .await
            .unwrap();
        stream.credit(credit).await.unwrap();
        let refused = ended(&mut stream, "credit", INVALID).await;
        assert_eq!(refused.field, "credit.prefetch");
    }
    for (queue, receipt) in [("orders", held.receipt), ("others", foreign.receipt)] {
        settle(&node, queue, &[receipt], SettleKind::Ack)
            .await
            .unwrap();
    }
}

async fn ended(stream: &mut Consumer, what: &str, reason: &str) -> Refused {
    loop {
        match stream.frame().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("{what}: the stream ended with OK"),
            Err(status) => {
                let refused = Refused::from(&status);
                assert!(refused.is(InvalidArgument, reason), "{what}: {refused}");
                return refused;
            }
        }
    }
}
