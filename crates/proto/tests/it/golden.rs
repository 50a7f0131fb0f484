//! Bytes that must never change: each stored and sent record has a file in `fixtures/`, in hex. A test
//! that fails here means that a running cluster could not read its own disk, or its neighbours.
//!
//! A new record gets its file from `TICKETRAIL_WRITE_FIXTURES=1 cargo test -p ticketrail-proto golden`.
//! An existing file never changes after a release.

mod peer;
mod public;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

use bytes::Bytes;
use prost::Message;
use prost_types::FileDescriptorSet;
use ticketrail_core::{Fence, Offset, QueueId};
use ticketrail_proto::receipt::{Receipt, queue_tag};
use ticketrail_proto::store;
use ticketrail_proto::stored::{
    Items, decode_bodies, decode_command, decode_entry, decode_row, decode_row_key, encode_command,
    encode_row, encode_row_key, keep_bodies,
};

use crate::samples;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(format!("{name}.hex"))
}

/// Compares bytes with their fixture, and gives the fixture's.
fn fixture(name: &str, bytes: &[u8]) -> Bytes {
    let path = path(name);
    if env::var_os("TICKETRAIL_WRITE_FIXTURES").is_some() && !path.exists() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, to_hex(bytes)).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(
        to_hex(bytes),
        text,
        "{name}: the bytes are no longer those of the fixture"
    );
    from_hex(&text)
}

/// A message against its fixture: encodes to it, and the fixture decodes and encodes to itself.
pub(crate) fn golden<M: Message + Default + PartialEq>(name: &str, message: &M) {
    let stored = fixture(name, &message.encode_to_vec());
    let read = M::decode(stored.clone()).unwrap();
    assert!(read == *message, "{name}: reads back as something else");
    assert_eq!(read.encode_to_vec(), stored, "{name}");
}

fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(32) {
        line.iter()
            .for_each(|byte| write!(text, "{byte:02x}").unwrap());
        text.push('\n');
    }
    text
}

fn from_hex(text: &str) -> Bytes {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

#[test]
fn commands() {
    let all = samples::commands()
        .into_iter()
        .chain(samples::newer_commands());
    for (name, command, messages) in all {
        let encoded = encode_command(&command, Some(samples::origin()), &messages);
        let stored = fixture(&format!("store/command_{name}"), &encoded);
        let read = decode_command(stored).unwrap();
        assert_eq!(read.command, command, "{name}");
        assert_eq!(read.origin, Some(samples::origin()), "{name}");
        assert_eq!(read.messages, messages, "{name}");
    }
}

#[test]
fn an_entry_of_all_commands() {
    let stored = fixture("store/entry", &samples::entry());
    let read = decode_entry(stored).unwrap();
    assert_eq!(read.entry.stamps, samples::stamps());
    let commands: Vec<_> = samples::commands()
        .into_iter()
        .map(|(_, command, _)| command)
        .collect();
    assert_eq!(read.entry.commands, commands);
    let place = u32::try_from(commands.len() - 1).unwrap();
    for (item, routing_key) in [(0, "orders"), (1, "orders"), (2, "tasks")] {
        let body = read.bodies.get(place, item).unwrap();
        assert_eq!(body.routing_key, routing_key);
        assert_eq!(*body.message, samples::messages()[item as usize]);
    }
    assert!(read.bodies.get(place, 3).is_none());
    assert!(read.bodies.get(0, 0).is_none());
}

#[test]
fn what_is_kept_of_an_entry() {
    let place = u32::try_from(samples::commands().len() - 1).unwrap();
    let items = |first_item| Items {
        place,
        first_item,
        count: 1,
    };
    let kept = keep_bodies(samples::entry(), &[items(1), items(2)]).unwrap();
    let stored = fixture("store/kept_bodies", &kept);
    let read = decode_bodies(stored).unwrap();
    for (item, routing_key) in [(1, "orders"), (2, "tasks")] {
        let body = read.get(place, item).unwrap();
        assert_eq!(body.routing_key, routing_key);
        assert_eq!(*body.message, samples::messages()[item as usize]);
    }
    assert!(read.get(place, 0).is_none() && read.get(place, 3).is_none());
}

#[test]
fn rows_and_their_keys() {
    for (name, key, row) in samples::rows() {
        let stored = fixture(&format!("store/row_{name}"), &encode_row(&row));
        assert_eq!(decode_row(&stored).unwrap(), row, "{name}");
        let stored = fixture(&format!("store/key_{name}"), &encode_row_key(&key));
        assert_eq!(decode_row_key(&stored).unwrap(), key, "{name}");
    }
}

#[test]
fn raft_records() {
    let log_id = store::LogId {
        term: 3,
        index: 7_000,
    };
    let member = |node_id| store::Member {
        node_id,
        client_address: format!("127.0.0.1:{}", 7_399 + node_id),
        peer_address: format!("127.0.0.1:{}", 7_499 + node_id),
    };
    let membership = store::Membership {
        configs: vec![
            store::VoterSet {
                node_ids: vec![1, 2],
            },
            store::VoterSet {
                node_ids: vec![2, 3],
            },
        ],
        members: (1..=3).map(member).collect(),
    };
    golden(
        "store/vote",
        &store::Vote {
            term: 3,
            node_id: 2,
            committed: true,
        },
    );
    golden("store/membership", &membership);
    let membership = store::StoredMembership {
        log_id: Some(log_id),
        membership: Some(membership),
    };
    golden(
        "store/checkpoint_meta",
        &store::CheckpointMeta {
            version: 1,
            last_applied: Some(log_id),
            membership: Some(membership),
        },
    );
}

#[test]
fn a_stored_message() {
    golden("store/stored_message", &samples::message());
}

#[test]
fn a_receipt() {
    const CLUSTER: u128 = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;
    let receipt = Receipt {
        queue: QueueId(7),
        offset: Offset(1 << 40),
        fence: Fence(1_000_001),
        queue_tag: queue_tag("default", "orders"),
    };
    let stored = fixture("receipt", &receipt.encode(CLUSTER));
    assert_eq!(Receipt::decode(CLUSTER, &stored), Ok(receipt));
}

/// The schema and the fixtures tell the same list: nothing was forgotten.
#[test]
fn every_record_has_a_fixture() {
    let bytes: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ticketrail_all.fds"));
    let mut missing = Vec::new();
    let mut seen = 0;
    for file in FileDescriptorSet::decode(bytes).unwrap().file {
        for message in &file.message_type {
            let names: Vec<String> = match (file.package(), message.name()) {
                ("ticketrail.store.v1", "Command") => fields(message, "command_"),
                ("ticketrail.store.v1", "Row") => fields(message, "row_"),
                ("ticketrail.peer.v1", name)
                    if name.ends_with("Request") || name.ends_with("Response") =>
                {
                    vec![format!("peer/{}", snake(name))]
                }
                _ => continue,
            };
            seen += names.len();
            missing.extend(names.into_iter().filter(|name| !path(name).exists()));
        }
    }
    assert!(seen > 40, "only {seen} records found in the schema");
    assert!(missing.is_empty(), "no fixture for {missing:?}");
}

fn fields(message: &prost_types::DescriptorProto, prefix: &str) -> Vec<String> {
    let of_oneof = message
        .field
        .iter()
        .filter(|field| field.oneof_index.is_some());
    of_oneof
        .map(|field| format!("store/{prefix}{}", field.name()))
        .collect()
}

fn snake(name: &str) -> String {
    let mut snake = String::new();
    for (place, letter) in name.char_indices() {
        if letter.is_uppercase() && place > 0 {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}
