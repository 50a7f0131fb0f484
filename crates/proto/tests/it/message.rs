use prost::Message as _;
use ticketrail_proto::store::StoredMessage;
use ticketrail_proto::stored::{decode_message, encode_message};

use crate::samples;

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
    let body = decode_message(stored.clone()).unwrap().body;
    assert!(range.contains(&body.as_ptr()));
}
