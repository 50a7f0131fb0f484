use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use ticketrail_core::{Entry, LeaseTime, Stamps, WallTime};

use super::bodies::{Bodies, run_ends};
use super::command::{Origin, command_from};
use super::error::DecodeError;
use crate::store;
use crate::store::command::Kind;

/// The version of `store.v1.Entry` that this program writes, and the highest that it reads.
pub const ENTRY_VERSION: u32 = 1;

/// Field number of `store.v1.Entry.commands`.
const COMMANDS: u32 = 4;

/// A log entry's payload, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntry {
    /// For the state machine.
    pub entry: Entry,
    /// For each command, in the same order, who waits for it.
    pub origins: Vec<Option<Origin>>,
    /// The messages that its publishes hold.
    pub bodies: Bodies,
}

/// Appends an entry of encoded commands, each copied as it is. No `commands` make a tick.
pub fn encode_entry(stamps: Stamps, commands: &[Bytes], payload: &mut BytesMut) {
    let head = store::Entry {
        version: ENTRY_VERSION,
        lease_now_ms: stamps.lease_now.0,
        wall_now_ms: stamps.wall_now.0,
        commands: Vec::new(),
    };
    let framed = |command: &Bytes| {
        key_len(COMMANDS) + encoded_len_varint(command.len() as u64) + command.len()
    };
    payload.reserve(head.encoded_len() + commands.iter().map(framed).sum::<usize>());
    head.encode(payload).expect("a BytesMut grows");
    for command in commands {
        encode_key(COMMANDS, WireType::LengthDelimited, payload);
        encode_varint(command.len() as u64, payload);
        payload.put_slice(command);
    }
}

/// Decodes an entry's payload. Message bodies stay slices of `payload`.
///
/// # Errors
/// When the bytes are not an entry that this program knows completely.
pub fn decode_entry(payload: Bytes) -> Result<StoredEntry, DecodeError> {
    let stored = store::Entry::decode(payload).map_err(DecodeError::malformed("Entry"))?;
    check_version(stored.version)?;
    let count = stored.commands.len();
    let mut origins = Vec::with_capacity(count);
    let mut commands = Vec::with_capacity(count);
    let mut bodies = Bodies::default();
    for (place, mut command) in (0..).zip(stored.commands) {
        if let Some(Kind::Publish(publish)) = &mut command.kind {
            let runs = run_ends(publish)?;
            bodies.add(place, runs, std::mem::take(&mut publish.messages));
        }
        origins.push(command.origin.map(Into::into));
        commands.push(command_from(command)?);
    }
    let stamps = Stamps {
        lease_now: LeaseTime(stored.lease_now_ms),
        wall_now: WallTime(stored.wall_now_ms),
    };
    Ok(StoredEntry {
        entry: Entry { stamps, commands },
        origins,
        bodies,
    })
}

/// Refuses versions that this program does not know.
pub(crate) fn check_version(found: u32) -> Result<(), DecodeError> {
    match found {
        1..=ENTRY_VERSION => Ok(()),
        0 => Err(DecodeError::Missing {
            field: "Entry.version",
        }),
        _ => Err(DecodeError::UnknownVersion {
            what: "Entry",
            found,
            known: ENTRY_VERSION,
        }),
    }
}
