//! A message as its producer makes it and its consumer reads it.

use std::time::Duration;

use bytes::Bytes;
use prost_types::Timestamp;
use ticketrail_proto::v1;

use crate::convert;

/// A body with headers and properties. The cluster holds the bounds: what is beyond them is refused with `INVALID_FIELD`,
/// and the [field](crate::Error::field) named.
///
/// ```
/// use ticketrail_client::Message;
///
/// let message = Message::new(r#"{"item":"coffee"}"#)
///     .content_type("application/json")
///     .header("table", 7)
///     .header("guest", "Ada");
/// assert_eq!(message.get("table").and_then(|value| value.as_integer()), Some(7));
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Message(v1::Message);

/// The typed value of a header.
#[derive(Debug, Clone, PartialEq)]
pub enum HeaderValue {
    /// UTF-8 text.
    Text(String),
    /// A signed whole number.
    Integer(i64),
    /// A floating-point number.
    Real(f64),
    /// True or false.
    Boolean(bool),
    /// Raw bytes.
    Bytes(Bytes),
    /// A point in time.
    Time(Timestamp),
}

impl Message {
    /// A message with this body and nothing else: up to 1 MiB, unless the server is configured otherwise; may be empty.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self(v1::Message {
            body: body.into(),
            ..Default::default()
        })
    }

    /// Adds a header: up to 64 of them, 32 KiB in all; a key of 1..128 bytes that appears once in a message, a value of
    /// up to 4 KiB.
    #[must_use]
    pub fn header(mut self, key: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        let value = Some(v1::HeaderValue {
            value: Some(value.into().into()),
        });
        self.0.headers.push(v1::Header {
            key: key.into(),
            value,
        });
        self
    }

    /// Says what the body is, such as `application/json`; up to 255 bytes, passed through.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.properties_mut().content_type = content_type.into();
        self
    }

    /// Ties an answer to its question; up to 255 bytes, passed through.
    #[must_use]
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.properties_mut().correlation_id = id.into();
        self
    }

    /// Names the queue where answers are expected; up to 255 bytes, passed through.
    #[must_use]
    pub fn reply_to(mut self, queue: impl Into<String>) -> Self {
        self.properties_mut().reply_to = queue.into();
        self
    }

    /// 0..31, higher is granted first; 4 where unset. Servers of this release refuse it with `NOT_YET`.
    #[must_use]
    pub fn priority(mut self, priority: u32) -> Self {
        self.properties_mut().priority = Some(priority);
        self
    }

    /// Expires so long after its commit (1 ms..1 year, whole milliseconds). Servers of this release refuse it with
    /// `NOT_YET`.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.properties_mut().ttl = Some(convert::to_proto(ttl));
        self
    }

    /// Becomes ready so long after its commit (0..1 year, whole milliseconds). Servers of this release refuse it with
    /// `NOT_YET`.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.properties_mut().delay = Some(convert::to_proto(delay));
        self
    }

    /// The payload.
    pub fn body(&self) -> &Bytes {
        &self.0.body
    }

    /// The headers, in their order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, HeaderValue)> {
        self.0.headers.iter().filter_map(|header| {
            let value = header.value.as_ref()?.value.clone()?;
            Some((header.key.as_str(), value.into()))
        })
    }

    /// The value of a header.
    pub fn get(&self, key: &str) -> Option<HeaderValue> {
        self.headers()
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value)
    }

    /// What the broker acts on or passes through.
    pub fn properties(&self) -> Option<&v1::Properties> {
        self.0.properties.as_ref()
    }

    /// About the bytes that the message takes on the wire; what batches are measured with.
    pub(crate) fn size(message: &v1::Message) -> usize {
        let headers = message.headers.iter().map(|header| {
            let value = header.value.as_ref().and_then(|value| value.value.as_ref());
            let value = match value {
                Some(v1::header_value::Value::Text(text)) => text.len(),
                Some(v1::header_value::Value::Bytes(bytes)) => bytes.len(),
                _ => 16,
            };
            header.key.len() + value + 8
        });
        message.body.len() + headers.sum::<usize>() + 64
    }

    fn properties_mut(&mut self) -> &mut v1::Properties {
        self.0.properties.get_or_insert_default()
    }
}

impl From<Message> for v1::Message {
    fn from(message: Message) -> Self {
        message.0
    }
}

impl From<v1::Message> for Message {
    fn from(message: v1::Message) -> Self {
        Self(message)
    }
}

impl From<Bytes> for Message {
    fn from(body: Bytes) -> Self {
        Self::new(body)
    }
}

impl From<Vec<u8>> for Message {
    fn from(body: Vec<u8>) -> Self {
        Self::new(body)
    }
}

impl From<String> for Message {
    fn from(body: String) -> Self {
        Self::new(body)
    }
}

impl From<&str> for Message {
    fn from(body: &str) -> Self {
        Self::new(body.to_owned())
    }
}

impl HeaderValue {
    /// The text, if it is text.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if it is a whole one.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            _ => None,
        }
    }
}

impl From<HeaderValue> for v1::header_value::Value {
    fn from(value: HeaderValue) -> Self {
        match value {
            HeaderValue::Text(text) => Self::Text(text),
            HeaderValue::Integer(number) => Self::Integer(number),
            HeaderValue::Real(number) => Self::Real(number),
            HeaderValue::Boolean(boolean) => Self::Boolean(boolean),
            HeaderValue::Bytes(bytes) => Self::Bytes(bytes),
            HeaderValue::Time(time) => Self::Time(time),
        }
    }
}

impl From<v1::header_value::Value> for HeaderValue {
    fn from(value: v1::header_value::Value) -> Self {
        use v1::header_value::Value;
        match value {
            Value::Text(text) => Self::Text(text),
            Value::Integer(number) => Self::Integer(number),
            Value::Real(number) => Self::Real(number),
            Value::Boolean(boolean) => Self::Boolean(boolean),
            Value::Bytes(bytes) => Self::Bytes(bytes),
            Value::Time(time) => Self::Time(time),
        }
    }
}

impl From<&str> for HeaderValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for HeaderValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i32> for HeaderValue {
    fn from(number: i32) -> Self {
        Self::Integer(number.into())
    }
}

impl From<i64> for HeaderValue {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<f64> for HeaderValue {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

impl From<bool> for HeaderValue {
    fn from(boolean: bool) -> Self {
        Self::Boolean(boolean)
    }
}

impl From<Bytes> for HeaderValue {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}
