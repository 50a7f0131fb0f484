//! Messages: deliveries, and what peeking shows.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use ticketrail_client::proto::{PeekedMessage, Properties};
use ticketrail_client::{DeathReason, DeathRecord, Delivery, HeaderValue, Message, Receipt};

use super::{about, seconds, time};
use crate::units;

/// How many characters of a body fit a line of a table.
const BODY_CHARS: usize = 60;

/// A receipt as people copy it.
pub(crate) fn receipt(receipt: &Receipt) -> String {
    URL_SAFE_NO_PAD.encode(receipt.as_bytes())
}

pub(crate) fn parse_receipt(text: &str) -> Option<Receipt> {
    URL_SAFE_NO_PAD
        .decode(text.trim())
        .ok()
        .map(Receipt::from_bytes)
}

/// A delivery for programs. The body is text where it is UTF-8 and base64 where it is not;
/// `body_encoding` tells which.
pub(crate) fn delivery_json(delivery: &Delivery) -> Value {
    let mut object = message_json(delivery.message());
    let fields = json!({
        "message_id": delivery.message_id(),
        "offset": delivery.offset(),
        "delivery_count": delivery.delivery_count(),
        "published_at": time(delivery.published_at()),
        "routing_key": delivery.routing_key(),
        "receipt": receipt(delivery.receipt()),
        "lease_remaining_seconds": delivery.lease_remaining().as_millis() as f64 / 1000.0,
        "deaths": deaths_json(delivery.deaths()),
    });
    extend(&mut object, fields);
    Value::Object(object)
}

pub(crate) fn peeked_json(peeked: &PeekedMessage, with_body: bool) -> Value {
    let message = Message::from(peeked.message.clone().unwrap_or_default());
    let mut object = message_json(&message);
    if !with_body {
        object.remove("body");
        object.remove("body_encoding");
    }
    let fields = json!({
        "state": state(peeked),
        "message_id": peeked.message_id,
        "offset": peeked.offset,
        "delivery_count": peeked.delivery_count,
        "published_at": time(peeked.published_at.as_ref()),
        "routing_key": peeked.routing_key,
        "body_bytes": peeked.body_bytes,
        "time_remaining_seconds": seconds(peeked.time_remaining.as_ref()),
        "deaths": deaths_json(&peeked.deaths),
    });
    extend(&mut object, fields);
    Value::Object(object)
}

/// A delivery for people, as a block of lines.
pub(crate) fn delivery_block(delivery: &Delivery) -> String {
    let mut lines = vec![format!(
        "message {}   offset {}   delivery {}   leased for {}",
        delivery.message_id(),
        delivery.offset(),
        delivery.delivery_count(),
        units::show_about(delivery.lease_remaining()),
    )];
    lines.extend(
        delivery
            .message()
            .headers()
            .map(|(key, value)| format!("  {key}: {}", header_text(&value))),
    );
    lines.extend(
        delivery
            .deaths()
            .iter()
            .map(|death| format!("  died: {}", death_text(death))),
    );
    lines.push(format!("  receipt: {}", receipt(delivery.receipt())));
    lines.push(body_text(delivery.body()));
    lines.join("\n")
}

/// A delivery for people, in one line.
pub(crate) fn delivery_line(delivery: &Delivery) -> String {
    let again = match delivery.delivery_count() {
        0 | 1 => String::new(),
        count => format!(" (delivery {count})"),
    };
    let dead = match delivery.deaths().last() {
        Some(death) => format!(" (died: {})", death_text(death)),
        None => String::new(),
    };
    format!(
        "{}{again}{dead}  {}",
        delivery.message_id(),
        body_text(delivery.body())
    )
}

/// The row of a message in the table of `peek`.
pub(crate) fn peeked_row(peeked: &PeekedMessage, with_body: bool) -> [String; 7] {
    let message = Message::from(peeked.message.clone().unwrap_or_default());
    let mut remarks: Vec<String> = message
        .headers()
        .map(|(key, value)| format!("{key}={}", header_text(&value)))
        .collect();
    remarks.extend(
        peeked
            .deaths
            .iter()
            .map(|death| format!("died: {}", death_text(death))),
    );
    let state = match &peeked.time_remaining {
        Some(remaining) => format!("{} ({})", state(peeked), about(Some(remaining))),
        None => state(peeked).to_owned(),
    };
    [
        peeked.offset.to_string(),
        peeked.message_id.to_string(),
        state,
        peeked.delivery_count.to_string(),
        units::show_bytes(peeked.body_bytes),
        remarks.join(" "),
        if with_body {
            shorten(&body_text(message.body()))
        } else {
            String::new()
        },
    ]
}

/// The value of a header as text, for people and for the environment of commands.
pub(crate) fn header_text(value: &HeaderValue) -> String {
    match value {
        HeaderValue::Text(text) => text.clone(),
        HeaderValue::Integer(number) => number.to_string(),
        HeaderValue::Real(number) => number.to_string(),
        HeaderValue::Boolean(boolean) => boolean.to_string(),
        HeaderValue::Bytes(bytes) => STANDARD.encode(bytes),
        HeaderValue::Time(time) => time.to_string(),
    }
}

fn message_json(message: &Message) -> Map<String, Value> {
    let mut object = Map::new();
    let (body, encoding) = match std::str::from_utf8(message.body()) {
        Ok(text) => (text.to_owned(), "utf8"),
        Err(_) => (STANDARD.encode(message.body()), "base64"),
    };
    let headers = message
        .headers()
        .map(|(key, value)| (key.to_owned(), header_json(&value)));
    object.insert("headers".to_owned(), Value::Object(headers.collect()));
    object.insert("body".to_owned(), body.into());
    object.insert("body_encoding".to_owned(), encoding.into());
    object.extend(
        message
            .properties()
            .map(properties_json)
            .unwrap_or_default(),
    );
    object
}

fn properties_json(properties: &Properties) -> Map<String, Value> {
    let texts = [
        ("content_type", &properties.content_type),
        ("correlation_id", &properties.correlation_id),
        ("reply_to", &properties.reply_to),
    ];
    let set = texts.into_iter().filter(|(_, text)| !text.is_empty());
    set.map(|(name, text)| (name.to_owned(), text.as_str().into()))
        .collect()
}

fn header_json(value: &HeaderValue) -> Value {
    match value {
        HeaderValue::Integer(number) => (*number).into(),
        HeaderValue::Real(number) => (*number).into(),
        HeaderValue::Boolean(boolean) => (*boolean).into(),
        other => header_text(other).into(),
    }
}

fn deaths_json(deaths: &[DeathRecord]) -> Vec<Value> {
    let object = |death: &DeathRecord| {
        json!({
            "queue": death.queue,
            "reason": reason(death),
            "count": death.count,
            "first_time": time(death.first_time.as_ref()),
            "last_time": time(death.last_time.as_ref()),
        })
    };
    deaths.iter().map(object).collect()
}

fn death_text(death: &DeathRecord) -> String {
    let times = if death.count > 1 {
        format!(" {} times", death.count)
    } else {
        String::new()
    };
    format!("{} in {}{times}", reason(death), death.queue)
}

fn reason(death: &DeathRecord) -> &'static str {
    match death.reason() {
        DeathReason::Unspecified => "unknown",
        DeathReason::Rejected => "rejected",
        DeathReason::Expired => "expired",
        DeathReason::MaxDeliveries => "max_deliveries",
        DeathReason::MaxLength => "max_length",
    }
}

fn state(peeked: &PeekedMessage) -> &'static str {
    use ticketrail_client::MessageState;
    match peeked.state() {
        MessageState::Unspecified => "unknown",
        MessageState::Ready => "ready",
        MessageState::InFlight => "in flight",
        MessageState::Delayed => "delayed",
        MessageState::Parked => "parked",
    }
}

fn body_text(body: &[u8]) -> String {
    match std::str::from_utf8(body) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("base64:{}", STANDARD.encode(body)),
    }
}

/// One line of at most `BODY_CHARS` characters.
fn shorten(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut short: String = text.chars().take(BODY_CHARS).map(plain).collect();
    if text.chars().nth(BODY_CHARS).is_some() {
        short.pop();
        short.push('…');
    }
    short
}

fn extend(object: &mut Map<String, Value>, fields: Value) {
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ticketrail_client::MessageState;

    fn peeked(message: Message) -> PeekedMessage {
        PeekedMessage {
            state: MessageState::InFlight.into(),
            message_id: 7,
            offset: 3,
            delivery_count: 2,
            body_bytes: message.body().len() as u64,
            message: Some(message.into()),
            time_remaining: Some(prost_types::Duration {
                seconds: 29,
                nanos: 500_000_000,
            }),
            ..Default::default()
        }
    }

    #[test]
    fn json_has_text_as_text_and_bytes_as_base64() {
        let text = peeked_json(&peeked(Message::new("hé").header("n", 5)), true);
        assert_eq!(
            (&text["body"], &text["body_encoding"]),
            (&json!("hé"), &json!("utf8"))
        );
        assert_eq!(text["headers"], json!({"n": 5}));
        assert_eq!(text["time_remaining_seconds"], json!(29.5));
        let bytes = peeked_json(&peeked(Message::new(vec![0xff, 0])), true);
        assert_eq!(
            (&bytes["body"], &bytes["body_encoding"]),
            (&json!("/wA="), &json!("base64"))
        );
        assert_eq!(
            peeked_json(&peeked(Message::new("x")), false).get("body"),
            None
        );
    }

    #[test]
    fn rows_are_one_line() {
        let body = "line\n".repeat(40);
        let row = peeked_row(&peeked(Message::new(body).header("a", "b")), true);
        assert_eq!(
            row[..6],
            ["3", "7", "in flight (29.5s)", "2", "200 B", "a=b"]
        );
        assert_eq!(row[6].chars().count(), BODY_CHARS);
        assert!(row[6].ends_with('…') && !row[6].contains('\n'));
    }

    #[test]
    fn receipts_survive_copy_and_paste() {
        let original = Receipt::from_bytes(vec![0, 255, 254, 1]);
        let text = receipt(&original);
        assert!(
            text.chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        );
        assert_eq!(parse_receipt(&format!(" {text}\n")), Some(original));
        assert_eq!(parse_receipt("no receipt"), None);
    }
}
