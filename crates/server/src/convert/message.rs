use bytes::Bytes;
use prost::Message as _;
use ticketrail_proto::error::Problem;
use ticketrail_proto::v1;

use super::{Checked, at_most, not_yet};
use crate::limits;

/// Checks a message, with paths from the message on.
pub(super) fn check(message: &v1::Message, body_bytes_max: usize) -> Checked<()> {
    at_most(message.body.len(), body_bytes_max, "body")?;
    headers(&message.headers)?;
    message.properties.as_ref().map_or(Ok(()), properties)
}

/// The stored form: the very bytes of the public one (see `ticketrail/store/v1/message.proto`).
pub(super) fn stored(message: &v1::Message) -> Bytes {
    message.encode_to_vec().into()
}

fn headers(headers: &[v1::Header]) -> Checked<()> {
    if headers.len() > limits::HEADERS_MAX {
        let must = format!(
            "up to {} headers, it has {}",
            limits::HEADERS_MAX,
            headers.len()
        );
        return Err(Problem::invalid_field("headers", must));
    }
    let mut bytes = 0;
    for (place, header) in headers.iter().enumerate() {
        let path = |field: &str| format!("headers[{place}].{field}");
        if header.key.is_empty() {
            return Err(Problem::invalid_field(
                path("key"),
                "1..128 bytes, it is empty",
            ));
        }
        at_most(header.key.len(), limits::HEADER_KEY_BYTES_MAX, &path("key"))?;
        // At most 64, so the comparison of all with all is cheaper than a set.
        if headers[..place].iter().any(|other| other.key == header.key) {
            let must = format!("unique in the message, `{}` is there before", header.key);
            return Err(Problem::invalid_field(path("key"), must));
        }
        let value = header.value.as_ref().and_then(|value| value.value.as_ref());
        let Some(value) = value else {
            return Err(Problem::invalid_field(
                path("value"),
                "given, with one of its kinds",
            ));
        };
        let size = value_bytes(value);
        at_most(size, limits::HEADER_VALUE_BYTES_MAX, &path("value"))?;
        bytes += header.key.len() + size;
    }
    at_most(bytes, limits::HEADERS_BYTES_MAX, "headers")
}

fn value_bytes(value: &v1::header_value::Value) -> usize {
    use v1::header_value::Value;
    match value {
        Value::Text(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::Boolean(_) => 1,
        Value::Integer(_) | Value::Real(_) => 8,
        Value::Time(_) => 12,
    }
}

fn properties(properties: &v1::Properties) -> Checked<()> {
    not_yet(properties.priority.is_some(), "properties.priority")?;
    not_yet(properties.ttl.is_some(), "properties.ttl")?;
    not_yet(properties.delay.is_some(), "properties.delay")?;
    not_yet(properties.deliver_at.is_some(), "properties.deliver_at")?;
    not_yet(!properties.group_key.is_empty(), "properties.group_key")?;
    not_yet(
        !properties.deduplication_id.is_empty(),
        "properties.deduplication_id",
    )?;
    let max = limits::PROPERTY_BYTES_MAX;
    at_most(
        properties.content_type.len(),
        max,
        "properties.content_type",
    )?;
    at_most(
        properties.correlation_id.len(),
        max,
        "properties.correlation_id",
    )?;
    at_most(properties.reply_to.len(), max, "properties.reply_to")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ticketrail_proto::error::Reason;
    use v1::header_value::Value;

    fn header(key: &str, value: Value) -> v1::Header {
        v1::Header {
            key: key.to_owned(),
            value: Some(v1::HeaderValue { value: Some(value) }),
        }
    }

    fn text(key: &str, value: &str) -> v1::Header {
        header(key, Value::Text(value.to_owned()))
    }

    fn good() -> v1::Message {
        v1::Message {
            body: Bytes::from_static(b"body"),
            headers: (0..64).map(|n| text(&format!("k{n}"), "v")).collect(),
            properties: Some(v1::Properties {
                content_type: "x".repeat(255),
                ..v1::Properties::default()
            }),
        }
    }

    #[test]
    fn a_message_at_its_bounds_passes_and_is_stored_as_it_is() {
        let message = good();
        assert_eq!(check(&message, 4), Ok(()));
        let stored = stored(&message);
        let found = ticketrail_proto::store::StoredMessage::decode(stored.clone()).unwrap();
        assert_eq!(found.body, message.body);
        assert_eq!(v1::Message::decode(stored), Ok(message));
    }

    #[test]
    fn each_bad_field_is_named() {
        type Change = fn(&mut v1::Message);
        fn p(m: &mut v1::Message) -> &mut v1::Properties {
            m.properties.as_mut().unwrap()
        }
        let invalid = Reason::InvalidField;
        let table: &[(Change, Reason, &str)] = &[
            (|m| m.body = Bytes::from_static(b"12345"), invalid, "body"),
            (|m| m.headers.push(text("k64", "v")), invalid, "headers"),
            (|m| m.headers[7].key.clear(), invalid, "headers[7].key"),
            (
                |m| m.headers[7].key = "k".repeat(129),
                invalid,
                "headers[7].key",
            ),
            (
                |m| m.headers[7].key = "k6".into(),
                invalid,
                "headers[7].key",
            ),
            (|m| m.headers[7].value = None, invalid, "headers[7].value"),
            (
                |m| m.headers[7].value = Some(v1::HeaderValue::default()),
                invalid,
                "headers[7].value",
            ),
            (
                |m| m.headers[7] = text("k7", &"v".repeat(4_097)),
                invalid,
                "headers[7].value",
            ),
            (
                |m| {
                    m.headers = (0..8)
                        .map(|n| text(&n.to_string(), &"v".repeat(4_096)))
                        .collect()
                },
                invalid,
                "headers",
            ),
            (
                |m| p(m).priority = Some(4),
                Reason::NotYet,
                "properties.priority",
            ),
            (
                |m| p(m).ttl = Some(prost_types::Duration::default()),
                Reason::NotYet,
                "properties.ttl",
            ),
            (
                |m| p(m).delay = Some(prost_types::Duration::default()),
                Reason::NotYet,
                "properties.delay",
            ),
            (
                |m| p(m).deliver_at = Some(prost_types::Timestamp::default()),
                Reason::NotYet,
                "properties.deliver_at",
            ),
            (
                |m| p(m).group_key = "g".into(),
                Reason::NotYet,
                "properties.group_key",
            ),
            (
                |m| p(m).deduplication_id = "d".into(),
                Reason::NotYet,
                "properties.deduplication_id",
            ),
            (
                |m| p(m).content_type = "x".repeat(256),
                invalid,
                "properties.content_type",
            ),
            (
                |m| p(m).correlation_id = "x".repeat(256),
                invalid,
                "properties.correlation_id",
            ),
            (
                |m| p(m).reply_to = "x".repeat(256),
                invalid,
                "properties.reply_to",
            ),
        ];
        for (change, reason, field) in table {
            let mut message = good();
            change(&mut message);
            let problem = check(&message, 4).unwrap_err();
            assert_eq!(problem.reason(), *reason, "{problem}");
            assert!(
                problem.message().starts_with(&format!("`{field}`")),
                "{field}: {problem}"
            );
        }
    }

    #[test]
    fn values_of_every_kind_pass() {
        let kinds = [
            Value::Text(String::new()),
            Value::Integer(-1),
            Value::Real(f64::NAN),
            Value::Boolean(true),
            Value::Bytes(Bytes::from_static(b"\xff")),
            Value::Time(prost_types::Timestamp::default()),
        ];
        for value in kinds {
            let message = v1::Message {
                headers: vec![header("k", value)],
                ..v1::Message::default()
            };
            assert_eq!(check(&message, 0), Ok(()));
        }
    }
}
