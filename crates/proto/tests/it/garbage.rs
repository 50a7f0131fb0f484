//! Bytes that nobody wrote: refused as a value, never a panic.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;
use ticketrail_proto::receipt::Receipt;
use ticketrail_proto::stored::{
    DecodeError, Items, decode_bodies, decode_command, decode_entry, decode_message, decode_row,
    decode_row_key, encode_command, encode_row, encode_row_key, keep_bodies,
};
use ticketrail_proto::{peer, store, v1};

use crate::samples;

fn decode_as_everything(bytes: &[u8]) {
    let shared = Bytes::copy_from_slice(bytes);
    let _ = decode_entry(shared.clone());
    let _ = decode_bodies(shared.clone());
    let _ = decode_command(shared.clone());
    let _ = decode_message(shared.clone());
    let _ = decode_row(bytes);
    let _ = decode_row_key(bytes);
    let _ = Receipt::decode(7, bytes);
    let _ = peer::AppendEntriesRequest::decode(shared.clone());
    let _ = peer::ForwardRequest::decode(shared.clone());
    let _ = store::CheckpointMeta::decode(shared.clone());
    let _ = v1::PublishStreamRequest::decode(shared.clone());
    let _ = v1::ConsumeRequest::decode(shared);
}

/// Something that was written, to be damaged.
fn written() -> Vec<Vec<u8>> {
    let mut all = vec![samples::entry().to_vec()];
    let commands = samples::commands()
        .into_iter()
        .chain(samples::newer_commands());
    for (_, command, messages) in commands {
        all.push(encode_command(&command, Some(samples::origin()), &messages).to_vec());
    }
    let items = Items {
        place: samples::commands().len() as u32 - 1,
        first_item: 1,
        count: 2,
    };
    all.push(keep_bodies(samples::entry(), &[items]).unwrap().to_vec());
    for (_, key, row) in samples::rows() {
        all.push(encode_row_key(&key));
        all.push(encode_row(&row));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        decode_as_everything(&bytes);
    }
}

#[test]
fn every_changed_byte_and_every_cut_is_taken_calmly() {
    for bytes in written() {
        for at in 0..bytes.len() {
            decode_as_everything(&bytes[..at]);
            for mask in [0x01, 0x08, 0x80, 0xff] {
                let mut bad = bytes.clone();
                bad[at] ^= mask;
                decode_as_everything(&bad);
            }
        }
    }
}

#[test]
fn what_a_later_release_wrote_asks_for_an_upgrade() {
    let newer = store::Entry {
        version: 2,
        ..Default::default()
    };
    let found = decode_entry(newer.encode_to_vec().into());
    assert_eq!(
        found,
        Err(DecodeError::UnknownVersion {
            what: "Entry",
            found: 2,
            known: 1
        })
    );

    // Field 99 of Command: a kind that this program does not know.
    let unknown = store::Entry {
        version: 1,
        ..Default::default()
    };
    let mut bytes = unknown.encode_to_vec();
    bytes.extend_from_slice(&[0x22, 3, 0x9a, 0x06, 0]);
    assert_eq!(decode_entry(bytes.into()), Err(DecodeError::UnknownCommand));
}

#[test]
fn an_entry_without_version_is_no_entry() {
    let found = decode_entry(Bytes::new());
    assert_eq!(
        found,
        Err(DecodeError::Missing {
            field: "Entry.version"
        })
    );
}

#[test]
fn a_publish_whose_runs_do_not_add_up_is_refused() {
    let run = store::PublishRun {
        count: u32::MAX,
        ..Default::default()
    };
    let publish = store::Publish {
        runs: vec![run.clone(), run],
        messages: vec![Bytes::new()],
        ..Default::default()
    };
    let command = store::Command {
        origin: None,
        kind: Some(store::command::Kind::Publish(publish)),
    };
    let found = decode_command(command.encode_to_vec().into());
    let counted = 2 * u64::from(u32::MAX);
    assert_eq!(
        found,
        Err(DecodeError::MessageCount {
            messages: 1,
            counted
        })
    );
}
