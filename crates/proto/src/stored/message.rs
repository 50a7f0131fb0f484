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
