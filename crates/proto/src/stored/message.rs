use bytes::Bytes;
use prost::Message as _;

use super::DecodeError;
use crate::v1;

/// A client's message as it goes into the log: a `store.v1.StoredMessage`, whose bytes are those of
/// `v1.Message` (held by a test). Encode it once; its digest and its size are taken from these bytes.
#[must_use]
pub fn encode_message(message: &v1::Message) -> Bytes {
    message.encode_to_vec().into()
}

/// A message from the log as it goes to a client; the body is a slice of `stored`.
///
/// # Errors
/// When the bytes are not a message.
pub fn decode_message(stored: Bytes) -> Result<v1::Message, DecodeError> {
    v1::Message::decode(stored).map_err(DecodeError::malformed("StoredMessage"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;
    use crate::store::StoredMessage;

    #[test]
    fn the_stored_message_and_the_public_one_are_the_same_bytes() {
        let public = encode_message(&samples::message());
        let stored = StoredMessage::decode(public.clone()).unwrap();
        assert_eq!(stored.body, samples::message().body);
        assert_eq!(stored.headers.len(), 6, "one header of each kind");
        assert!(
            stored
                .headers
                .iter()
                .all(|h| h.value.as_ref().is_some_and(|v| v.value.is_some()))
        );
        assert_eq!(
            stored.encode_to_vec(),
            public,
            "a field is missing in StoredMessage"
        );
    }

    #[test]
    fn a_body_is_a_slice_of_the_stored_bytes() {
        let stored = encode_message(&samples::message());
        let range = stored.as_ptr_range();
        let body = decode_message(stored).unwrap().body;
        assert!(range.contains(&body.as_ptr()));
    }
}
