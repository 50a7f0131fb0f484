//! One example of each thing, for the tests of this crate.

use bytes::Bytes;
use prost_types::{Duration, Timestamp};

use crate::v1;
use crate::v1::header_value::Value;

/// A message with every field set.
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
