//! One example of each thing that is stored or sent, every field set.

use bytes::Bytes;
use prost_types::{Duration, Timestamp};
use ticketrail_core::command::*;
use ticketrail_core::row::*;
use ticketrail_core::*;
use ticketrail_proto::stored::{Origin, encode_command, encode_entry, encode_message};
use ticketrail_proto::v1;
use ticketrail_proto::v1::header_value::Value;

const ID: u128 = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff;

/// A message with every field set and a header of each kind.
pub(crate) fn message() -> v1::Message {
    let values = [
        ("text", Value::Text("grün".to_owned())),
        ("integer", Value::Integer(-7)),
        ("real", Value::Real(0.5)),
        ("boolean", Value::Boolean(true)),
        ("bytes", Value::Bytes(Bytes::from_static(&[0, 255]))),
        (
            "time",
            Value::Time(Timestamp {
                seconds: 1_800_000_000,
                nanos: 5,
            }),
        ),
    ];
    let header = |(key, value): (&str, Value)| v1::Header {
        key: key.to_owned(),
        value: Some(v1::HeaderValue { value: Some(value) }),
    };
    v1::Message {
        body: Bytes::from_static(b"a body"),
        headers: values.into_iter().map(header).collect(),
        properties: Some(v1::Properties {
            priority: Some(9),
            ttl: Some(Duration {
                seconds: 60,
                nanos: 0,
            }),
            delay: Some(Duration {
                seconds: 1,
                nanos: 500_000_000,
            }),
            deliver_at: Some(Timestamp {
                seconds: 1_800_000_001,
                nanos: 0,
            }),
            group_key: "group".to_owned(),
            deduplication_id: "dedup".to_owned(),
            content_type: "text/plain".to_owned(),
            correlation_id: "correlation".to_owned(),
            reply_to: "answers".to_owned(),
        }),
    }
}

pub(crate) fn origin() -> Origin {
    Origin {
        node: NodeId(2),
        boot: BootId(0xfeed),
        correlation: 77,
    }
}

fn owner() -> Owner {
    Owner {
        node: NodeId(3),
        boot: BootId(0xbeef),
        connection: 12,
    }
}

fn settings() -> QueueSettings {
    QueueSettings {
        lease_ms: 45_000,
        max_deliveries: 7,
        retry_backoff: Some(backoff()),
        dead_letter: Some(DeadLetter {
            routing_key: "orders/dead".to_owned(),
        }),
        paused: true,
    }
}

fn backoff() -> RetryBackoff {
    RetryBackoff {
        base_ms: 100,
        factor_percent: 200,
        max_ms: 60_000,
        jitter_percent: 25,
    }
}

/// The messages of [`publish`].
pub(crate) fn messages() -> Vec<Bytes> {
    let second = v1::Message {
        body: Bytes::from_static(b"second"),
        ..Default::default()
    };
    vec![
        encode_message(&message()),
        encode_message(&second),
        Bytes::new(),
    ]
}

fn publish() -> Publish {
    let run = |routing_key: &str, count, bytes| PublishRun {
        routing_key: routing_key.to_owned(),
        count,
        bytes,
        mandatory: true,
    };
    let bytes = messages()
        .iter()
        .map(|m| m.len() as u64)
        .collect::<Vec<_>>();
    Publish {
        namespace: "default".to_owned(),
        producer: Some(ProducerSequence {
            id: ProducerId(ID),
            epoch: 3,
            first_sequence: 900,
            digests: vec![1, u64::MAX, 3],
        }),
        atomic: true,
        runs: vec![
            run("orders", 2, bytes[0] + bytes[1]),
            run("tasks", 1, bytes[2]),
        ],
    }
}

fn settle() -> Settle {
    let kinds = [
        SettleKind::Ack,
        SettleKind::Nack {
            delay_ms: Some(500),
        },
        SettleKind::Nack { delay_ms: None },
        SettleKind::Reject,
        SettleKind::Release,
        SettleKind::Extend { lease_ms: 60_000 },
    ];
    let range = |(k, kind): (u64, SettleKind)| SettleRange {
        queue: QueueId(4),
        first_offset: Offset(100 * k),
        count: 10,
        first_fence: Fence(1_000 + k),
        kind,
    };
    Settle {
        ranges: (0..).zip(kinds).map(range).collect(),
    }
}

/// Each command under the name of its field in `store.v1.Command`, with the messages it holds.
pub(crate) fn commands() -> Vec<(&'static str, Command, Vec<Bytes>)> {
    let namespace = || "ns".to_owned();
    let queue = || "a/b #1".to_owned();
    let session = SessionId(ID);
    let changes = QueueChanges {
        lease_ms: Some(10_000),
        max_deliveries: Some(3),
        retry_backoff: Some(Some(backoff())),
        dead_letter: Some(None),
        paused: Some(true),
    };
    let plain = vec![
        (
            "bootstrap",
            Command::Bootstrap(Bootstrap {
                cluster_id: ID,
                hash_seed: 0x5eed,
            }),
        ),
        (
            "set_version",
            Command::SetVersion(SetVersion { version: 2 }),
        ),
        (
            "create_namespace",
            Command::CreateNamespace(CreateNamespace {
                namespace: namespace(),
            }),
        ),
        (
            "delete_namespace",
            Command::DeleteNamespace(DeleteNamespace {
                namespace: namespace(),
            }),
        ),
        (
            "create_queue",
            Command::CreateQueue(CreateQueue {
                namespace: namespace(),
                queue: queue(),
                settings: settings(),
            }),
        ),
        (
            "update_queue",
            Command::UpdateQueue(UpdateQueue {
                namespace: namespace(),
                queue: queue(),
                changes,
                revision: Some(5),
            }),
        ),
        (
            "delete_queue",
            Command::DeleteQueue(DeleteQueue {
                namespace: namespace(),
                queue: queue(),
                if_empty: true,
            }),
        ),
        (
            "purge_queue",
            Command::PurgeQueue(PurgeQueue {
                namespace: namespace(),
                queue: queue(),
                include_delayed: true,
                rest: None,
            }),
        ),
        (
            "open_producer",
            Command::OpenProducer(OpenProducer {
                namespace: namespace(),
                name: Some("importer".to_owned()),
                fresh_id: ProducerId(ID),
            }),
        ),
        (
            "receive",
            Command::Receive(Receive {
                namespace: namespace(),
                queue: queue(),
                max_messages: 10,
                lease_ms: Some(0),
                attempt: b"attempt-1".to_vec(),
            }),
        ),
        (
            "attach_consumer",
            Command::AttachConsumer(AttachConsumer {
                namespace: namespace(),
                queue: queue(),
                session,
                owner: owner(),
                prefetch: 100,
                lease_ms: Some(20_000),
            }),
        ),
        (
            "set_prefetch",
            Command::SetPrefetch(SetPrefetch {
                session,
                owner: owner(),
                prefetch: 50,
            }),
        ),
        (
            "detach_consumer",
            Command::DetachConsumer(DetachConsumer {
                session,
                owner: owner(),
                release: true,
            }),
        ),
        ("settle", Command::Settle(settle())),
        (
            "node_booted",
            Command::NodeBooted(NodeBooted {
                node: NodeId(1),
                boot: BootId(0xb007),
            }),
        ),
        (
            "sessions_lost",
            Command::SessionsLost(SessionsLost {
                node: NodeId(1),
                boot: BootId(0xb007),
            }),
        ),
    ];
    let mut all: Vec<_> = plain
        .into_iter()
        .map(|(name, command)| (name, command, Vec::new()))
        .collect();
    all.push(("publish", Command::Publish(publish()), messages()));
    all
}

/// Commands of a later date than the fixture of an entry.
pub(crate) fn newer_commands() -> Vec<(&'static str, Command, Vec<Bytes>)> {
    let admit = AdmitNode {
        node: NodeId(4),
        disk: DiskId(ID),
    };
    let retire = RetireNode { node: NodeId(4) };
    let purge = PurgeQueue {
        namespace: "shop".to_owned(),
        queue: "orders".to_owned(),
        include_delayed: true,
        rest: Some(PurgeRest {
            queue: QueueId(7),
            below: Offset(1_000),
        }),
    };
    vec![
        ("purge_rest", Command::PurgeQueue(purge), Vec::new()),
        ("admit_node", Command::AdmitNode(admit), Vec::new()),
        ("retire_node", Command::RetireNode(retire), Vec::new()),
    ]
}

pub(crate) fn stamps() -> Stamps {
    Stamps {
        lease_now: LeaseTime(123_456),
        wall_now: WallTime(1_800_000_000_000),
    }
}

/// An entry of all commands.
pub(crate) fn entry() -> Bytes {
    let encoded: Vec<Bytes> = commands()
        .iter()
        .map(|(_, command, messages)| encode_command(command, Some(origin()), messages))
        .collect();
    let mut payload = bytes::BytesMut::new();
    encode_entry(stamps(), &encoded, &mut payload);
    payload.freeze()
}

/// A publish, and then fifty that are alike.
fn series() -> Vec<RunSeries> {
    let position = |index, place| Position { index, place };
    let run = |id, position, count, bytes| RunRow {
        count,
        first_message_id: MessageId(id),
        body: BodyRef { position, item: 2 },
        published_at: WallTime(1_800_000_000_001),
        bytes,
    };
    vec![
        RunSeries::one(run(77, position(9_000, 3), 100, 102_400)),
        RunSeries {
            first: run(200, position(9_001, 0), 10, 10_240),
            runs: 50,
            id_step: 20,
            place_step: 2,
        },
    ]
}

/// Each row under the name of its field in `store.v1.Row`.
pub(crate) fn rows() -> Vec<(&'static str, RowKey, Row)> {
    let queue = QueueId(9);
    let at = Offset(1 << 33);
    let body = BodyRef {
        position: Position {
            index: 5_000,
            place: 3,
        },
        item: 7,
    };
    vec![
        ("meta", RowKey::Meta, Row::Meta(meta())),
        (
            "node",
            RowKey::Node(NodeId(4)),
            Row::Node(NodeRow {
                disk: DiskId(ID),
                retired: true,
            }),
        ),
        (
            "namespace",
            RowKey::Namespace("grün".to_owned()),
            Row::Namespace,
        ),
        (
            "producer",
            RowKey::Producer(ProducerId(ID)),
            Row::Producer(producer()),
        ),
        (
            "producer_chunk",
            RowKey::ProducerChunk(ProducerId(ID), 14),
            Row::ProducerChunk(vec![
                Remembered {
                    digest: u64::MAX,
                    message_id: MessageId(1),
                },
                Remembered {
                    digest: 2,
                    message_id: MessageId(u64::MAX),
                },
            ]),
        ),
        (
            "queue",
            RowKey::Queue(queue),
            Row::Queue(Box::new(queue_row())),
        ),
        (
            "session",
            RowKey::Session(SessionId(ID)),
            Row::Session(session()),
        ),
        (
            "run",
            RowKey::Run(queue, at),
            Row::Run(RunRow {
                count: 100,
                first_message_id: MessageId(77),
                body,
                published_at: WallTime(1_800_000_000_001),
                bytes: 102_400,
            }),
        ),
        ("runs", RowKey::Runs(queue, at), Row::Runs(series())),
        ("ready", RowKey::Ready(queue, at), Row::Ready(42)),
        (
            "lease",
            RowKey::Lease(queue, at),
            Row::Lease(LeaseRow {
                count: 16,
                first_fence: Fence(88),
                session: Some(SessionId(ID)),
                deadline: LeaseTime(153_456),
                delivery_count: 2,
            }),
        ),
        (
            "returned",
            RowKey::Returned(queue, at),
            Row::Returned(Span { count: 1, value: 3 }),
        ),
        (
            "delayed",
            RowKey::Delayed(queue, at),
            Row::Delayed(Span {
                count: 1,
                value: LeaseTime(200_000),
            }),
        ),
        (
            "parked",
            RowKey::Parked(queue, at),
            Row::Parked(ParkedRow {
                reason: DeathReason::MaxDeliveries,
                at: WallTime(1_800_000_000_002),
            }),
        ),
        (
            "deaths",
            RowKey::Deaths(queue, at),
            Row::Deaths(vec![
                death(DeathReason::Rejected),
                death(DeathReason::MaxDeliveries),
            ]),
        ),
        (
            "settled",
            RowKey::Settled(queue, 12, at),
            Row::Settled(SettledRow {
                count: 1_000,
                first_fence: Fence(99),
            }),
        ),
        (
            "attempt",
            RowKey::Attempt(queue, 6),
            Row::Attempt(attempt()),
        ),
        (
            "spans",
            RowKey::ReadySpans(queue, Offset(256)),
            Row::Spans(vec![piece(0, 1, 0), piece(2, 1, 0), piece(255, 1_000, 0)]),
        ),
        (
            "returned_spans",
            RowKey::ReturnedSpans(queue, Offset(256)),
            Row::Spans(vec![piece(4, 2, 3), piece(6, 1, 1)]),
        ),
        (
            "delayed_spans",
            RowKey::DelayedSpans(queue, Offset(0)),
            Row::Spans(vec![piece(9, 1, 200_000)]),
        ),
        (
            "settled_spans",
            RowKey::SettledSpans(queue, 12, Offset(512)),
            Row::Spans(vec![piece(0, 20, 99), piece(30, 1, u64::MAX)]),
        ),
    ]
}

fn piece(at: u8, count: u64, value: u64) -> Piece {
    Piece { at, count, value }
}

fn meta() -> MetaRow {
    MetaRow {
        applied_index: 6_000,
        lease_now: LeaseTime(123_456),
        wall_now: WallTime(1_800_000_000_000),
        digest: 0xd16e57,
        version: 1,
        bootstrap: Some((ID, 0x5eed)),
        next_queue: QueueId(10),
        next_message_id: MessageId(1_234),
        unroutable: 5,
    }
}

fn producer() -> ProducerRow {
    ProducerRow {
        namespace: "default".to_owned(),
        name: Some("importer".to_owned()),
        epoch: 2,
        openers: vec![(ProducerId(ID), 1), (ProducerId(ID + 1), 2)],
        last_sequence: 902,
        first_remembered: 65,
        used_at: WallTime(1_799_998_200_000),
    }
}

fn queue_row() -> QueueRow {
    QueueRow {
        namespace: "default".to_owned(),
        name: "orders".to_owned(),
        revision: 4,
        settings: settings(),
        counters: Counters {
            published: 1,
            published_bytes: 2,
            dead_lettered_in: 3,
            granted: 4,
            redelivered: 5,
            leases_expired: 6,
            acknowledged: 7,
            dead_lettered_out: 8,
            expired: 9,
            dropped: 10,
            purged: 11,
        },
        next_offset: Offset(12),
        next_fence: Fence(13),
        next_turn: 14,
        next_attempt: 15,
    }
}

fn session() -> SessionRow {
    SessionRow {
        queue: QueueId(9),
        owner: owner(),
        prefetch: 100,
        lease_ms: Some(20_000),
        turn: Some(0),
        grace_until: Some(LeaseTime(128_456)),
    }
}

fn death(reason: DeathReason) -> Death {
    Death {
        queue: "orders".to_owned(),
        reason,
        count: 2,
        first_time: WallTime(1_800_000_000_003),
        last_time: WallTime(1_800_000_000_004),
        routing_key: "orders".to_owned(),
    }
}

fn attempt() -> AttemptRow {
    AttemptRow {
        id: b"attempt-1".to_vec(),
        answered_at: LeaseTime(120_000),
        leases: vec![AttemptRange {
            first_offset: Offset(3),
            count: 4,
            first_fence: Fence(5),
        }],
    }
}
