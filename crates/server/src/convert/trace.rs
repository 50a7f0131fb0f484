//! W3C trace context: the trace of a request goes into its messages as headers, and with them to whoever
//! receives them.

use ticketrail_proto::v1;
use tonic::metadata::MetadataMap;

use crate::limits;

/// The key of the header that ties a message to its trace.
const TRACEPARENT: &str = "traceparent";
/// The key of the header with what tracing systems add to it.
const TRACESTATE: &str = "tracestate";

/// The trace that a request belongs to; messages that do not say get it as headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trace {
    parent: Option<String>,
    state: Option<String>,
}

impl Trace {
    /// The trace of a request; none where `traceparent` is not what W3C says that it is.
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Self {
        Self::in_metadata(request.metadata())
    }

    fn in_metadata(metadata: &MetadataMap) -> Self {
        let text = |key| metadata.get(key).and_then(|text| text.to_str().ok());
        let parent = text(TRACEPARENT).filter(|text| is_traceparent(text));
        let fits = |text: &&str| !text.is_empty() && text.len() <= limits::TRACESTATE_BYTES_MAX;
        let state = text(TRACESTATE).filter(|text| parent.is_some() && fits(text));
        Self {
            parent: parent.map(str::to_owned),
            state: state.map(str::to_owned),
        }
    }

    /// Its `traceparent`.
    #[cfg(feature = "otlp")]
    pub(crate) fn parent(&self) -> Option<&str> {
        self.parent.as_deref()
    }

    /// A message with the trace as its last headers, where it has none; else `None`.
    pub(super) fn added_to(&self, message: &v1::Message) -> Option<v1::Message> {
        let parent = self.parent.as_ref()?;
        let has = |key: &str| message.headers.iter().any(|header| header.key == key);
        if has(TRACEPARENT) || message.headers.len() >= limits::HEADERS_MAX {
            return None;
        }
        let mut traced = message.clone();
        traced.headers.push(header(TRACEPARENT, parent));
        if let Some(state) = &self.state
            && !has(TRACESTATE)
            && traced.headers.len() < limits::HEADERS_MAX
        {
            traced.headers.push(header(TRACESTATE, state));
        }
        Some(traced)
    }
}

/// What a message says for `traceparent`, whatever it is.
#[cfg(feature = "otlp")]
pub(crate) fn traceparent_of(message: &v1::Message) -> Option<&str> {
    let mut headers = message.headers.iter();
    let header = headers.find(|header| header.key == TRACEPARENT)?;
    match header.value.as_ref()?.value.as_ref()? {
        v1::header_value::Value::Text(text) => Some(text),
        _ => None,
    }
}

fn header(key: &str, text: &str) -> v1::Header {
    let value = v1::header_value::Value::Text(text.to_owned());
    v1::Header {
        key: key.to_owned(),
        value: Some(v1::HeaderValue { value: Some(value) }),
    }
}

/// `00-<32 hex digits>-<16 hex digits>-<2 hex digits>`, lower case, neither id 0. A later version may
/// have more behind it, which is not ours to pass on.
pub(crate) fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let &[version, trace, span, flags] = parts.as_slice() else {
        return false;
    };
    let is_hex = |part: &str, digits: usize| {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        part.len() == digits && part.bytes().all(hex)
    };
    let is_id = |part: &str, digits| is_hex(part, digits) && part.bytes().any(|byte| byte != b'0');
    is_hex(version, 2) && version != "ff" && is_id(trace, 32) && is_id(span, 16) && is_hex(flags, 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn trace(pairs: &[(&'static str, &str)]) -> Trace {
        let mut metadata = MetadataMap::new();
        for (key, text) in pairs {
            metadata.insert(*key, text.parse().unwrap());
        }
        Trace::in_metadata(&metadata)
    }

    fn keys(trace: &Trace, headers: &[&str]) -> Vec<String> {
        let message = v1::Message {
            headers: headers.iter().map(|key| header(key, "own")).collect(),
            ..v1::Message::default()
        };
        let traced = trace.added_to(&message).unwrap_or(message);
        traced
            .headers
            .into_iter()
            .map(|header| header.key)
            .collect()
    }

    #[test]
    fn a_trace_goes_into_messages_that_have_none() {
        let both = trace(&[(TRACEPARENT, PARENT), (TRACESTATE, "vendor=1")]);
        assert_eq!(keys(&both, &["a"]), ["a", TRACEPARENT, TRACESTATE]);
        assert_eq!(
            keys(&both, &[TRACEPARENT]),
            [TRACEPARENT],
            "its own is kept"
        );
        assert_eq!(keys(&both, &[TRACESTATE]), [TRACESTATE, TRACEPARENT]);
        let parent = trace(&[(TRACEPARENT, PARENT)]);
        assert_eq!(keys(&parent, &[]), [TRACEPARENT]);
        let state = trace(&[(TRACESTATE, "vendor=1")]);
        assert_eq!(state, Trace::default(), "it means nothing alone");
    }

    #[test]
    fn full_messages_are_left_as_they_are() {
        let both = trace(&[(TRACEPARENT, PARENT), (TRACESTATE, "vendor=1")]);
        let names: Vec<String> = (0..64).map(|k| format!("k{k}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(keys(&both, &names).len(), 64);
        assert_eq!(keys(&both, &names[1..])[63], TRACEPARENT, "room for one");
    }

    #[test]
    fn only_what_w3c_calls_a_trace_is_one() {
        assert!(is_traceparent(PARENT));
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }
}
