//! What clients send and get on the message path.

use bytes::Bytes;
use prost_types::{Duration, Timestamp};
use ticketrail_proto::v1::*;

use super::golden;
use crate::samples;

fn position() -> Option<CommitPosition> {
    Some(CommitPosition {
        index: 5_000,
        place: 3,
    })
}

fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

fn items() -> Vec<PublishItem> {
    vec![PublishItem {
        exchange: "events".to_owned(),
        routing_key: "orders".to_owned(),
        mandatory: true,
        message: Some(samples::message()),
    }]
}

fn result() -> PublishResult {
    PublishResult {
        message_id: 77,
        queues: 1,
        duplicate: true,
    }
}

fn refusal() -> Refusal {
    Refusal {
        code: 8,
        reason: "QUEUE_FULL".to_owned(),
        message: "queue `orders` is full".to_owned(),
        metadata: [("queue".to_owned(), "orders".to_owned())].into(),
        field: "message.body".to_owned(),
        retry_after: seconds(1),
    }
}

fn delivery() -> Delivery {
    Delivery {
        delivery_id: 12,
        receipt: Bytes::from_static(b"receipt"),
        message_id: 77,
        offset: 9,
        delivery_count: 2,
        lease_remaining: seconds(30),
        published_at: Some(Timestamp {
            seconds: 1_800_000_000,
            nanos: 0,
        }),
        position: position(),
        exchange: "events".to_owned(),
        routing_key: "orders".to_owned(),
        message: Some(samples::message()),
        deaths: vec![DeathRecord {
            queue: "orders".to_owned(),
            reason: DeathReason::MaxDeliveries.into(),
            count: 2,
            first_time: Some(Timestamp {
                seconds: 1_800_000_000,
                nanos: 0,
            }),
            last_time: Some(Timestamp {
                seconds: 1_800_000_001,
                nanos: 0,
            }),
            original_exchange: "events".to_owned(),
            original_routing_key: "orders".to_owned(),
        }],
        redelivered_to_session: true,
    }
}

#[test]
fn publishing() {
    let producer = ProducerSequence {
        producer_id: Bytes::from_static(&[7; 16]),
        epoch: 3,
        first_sequence: 900,
    };
    golden(
        "v1/publish_request",
        &PublishRequest {
            namespace: "default".to_owned(),
            items: items(),
            producer: Some(producer),
            request_id: "request".to_owned(),
        },
    );
    golden(
        "v1/publish_response",
        &PublishResponse {
            results: vec![result()],
            position: position(),
        },
    );
    let batch = PublishBatch {
        first_sequence: 900,
        items: items(),
    };
    golden(
        "v1/publish_stream_batch",
        &PublishStreamRequest {
            frame: Some(publish_stream_request::Frame::Batch(batch)),
        },
    );
    let exception = |sequence, kind| PublishException {
        sequence,
        kind: Some(kind),
    };
    let confirm = PublishConfirm {
        through_sequence: 1_000,
        ranges: vec![ConfirmedRange {
            first_sequence: 900,
            count: 98,
            first_message_id: 77,
            queues: 1,
            position: position(),
        }],
        exceptions: vec![
            exception(998, publish_exception::Kind::Refusal(refusal())),
            exception(999, publish_exception::Kind::Result(result())),
        ],
    };
    golden(
        "v1/publish_stream_confirm",
        &PublishStreamResponse {
            frame: Some(publish_stream_response::Frame::Confirm(confirm)),
        },
    );
}

#[test]
fn consuming() {
    golden(
        "v1/receive_response",
        &ReceiveResponse {
            deliveries: vec![delivery()],
            receive_attempt_id: "attempt".to_owned(),
            position: position(),
        },
    );
    let deliveries = ConsumeDeliveries {
        deliveries: vec![delivery()],
    };
    golden(
        "v1/consume_deliveries",
        &ConsumeResponse {
            frame: Some(consume_response::Frame::Deliveries(deliveries)),
        },
    );
    let range = SettleRange {
        first_delivery_id: 1,
        last_delivery_id: 12,
        kind: SettleKind::Nack.into(),
        delay: seconds(5),
        lease_duration: seconds(60),
    };
    let settlement = ConsumeSettlement {
        ranges: vec![range],
    };
    golden(
        "v1/consume_settlement",
        &ConsumeRequest {
            frame: Some(consume_request::Frame::Settlement(settlement)),
        },
    );
    let exception = SettleException {
        settlement: 4,
        first_delivery_id: 2,
        last_delivery_id: 3,
        outcome: SettleOutcome::LeaseLost.into(),
    };
    let settled = ConsumeSettled {
        through_settlement: 5,
        exceptions: vec![exception],
        position: position(),
    };
    golden(
        "v1/consume_settled",
        &ConsumeResponse {
            frame: Some(consume_response::Frame::Settled(settled)),
        },
    );
    let item = SettleItem {
        receipt: Bytes::from_static(b"receipt"),
        kind: SettleKind::Extend.into(),
        delay: seconds(5),
        lease_duration: seconds(60),
    };
    golden(
        "v1/settle_request",
        &SettleRequest {
            namespace: "default".to_owned(),
            queue: "orders".to_owned(),
            items: vec![item],
        },
    );
}
