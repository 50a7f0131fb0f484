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
#[derive(Clone, Debug, PartialEq)]
pub struct StoredEntry {
    /// For the state machine.
    pub entry: Entry,
    /// For each command, in the same order, who waits for it.
    pub origins: Vec<Option<Origin>>,
    /// The messages that its publishes hold.
    pub bodies: Bodies,
    /// For Raft: a change of members.
    pub membership: Option<store::Membership>,
}

/// An entry of encoded commands, each copied as it is. Empty `commands` make a tick.
#[must_use]
pub fn encode_entry(stamps: Stamps, commands: &[Bytes]) -> Bytes {
    let head = header(stamps);
    let framed = |command: &Bytes| {
        key_len(COMMANDS) + encoded_len_varint(command.len() as u64) + command.len()
    };
    let size = head.encoded_len() + commands.iter().map(framed).sum::<usize>();
    let mut payload = BytesMut::with_capacity(size);
    head.encode(&mut payload)
        .expect("the buffer has room for the whole entry");
    for command in commands {
        encode_key(COMMANDS, WireType::LengthDelimited, &mut payload);
        encode_varint(command.len() as u64, &mut payload);
        payload.put_slice(command);
    }
    payload.freeze()
}

/// An entry that changes the members.
#[must_use]
pub fn encode_membership(membership: &store::Membership) -> Bytes {
    let mut entry = header(Stamps::default());
    entry.membership = Some(membership.clone());
    entry.encode_to_vec().into()
}

fn header(stamps: Stamps) -> store::Entry {
    store::Entry {
        version: ENTRY_VERSION,
        lease_now_ms: stamps.lease_now.0,
        wall_now_ms: stamps.wall_now.0,
        commands: Vec::new(),
        membership: None,
    }
}

/// Decodes an entry's payload. An empty payload is a blank entry: nothing in it. Message bodies stay
/// slices of `payload`.
///
/// # Errors
/// When the bytes are not an entry that this program knows completely.
pub fn decode_entry(payload: Bytes) -> Result<StoredEntry, DecodeError> {
    let blank = payload.is_empty();
    let stored = store::Entry::decode(payload).map_err(DecodeError::malformed("Entry"))?;
    if !blank {
        check_version(stored.version)?;
    }
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
    let entry = Entry { stamps, commands };
    Ok(StoredEntry {
        entry,
        origins,
        bodies,
        membership: stored.membership,
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
