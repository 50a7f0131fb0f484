//! The stored form of what the core works with: between `ticketrail-core` types and
//! `ticketrail.store.v1` bytes, without copying a message body.
//!
//! A node encodes a command once ([`encode_command`]); the leader puts encoded commands into an entry
//! as they came ([`encode_entry`]); every node decodes the entry for its state machine
//! ([`decode_entry`]) and finds message bodies in it again ([`Bodies`]), also when only some of them were kept
//! ([`keep_bodies`]). Checkpoints and snapshot files
//! hold rows ([`encode_row_key`], [`encode_row`]). What does not decode is an
//! error and never a panic: the caller stops and says so.

mod bodies;
mod command;
mod entry;
mod error;
mod kept;
mod message;
mod parts;
mod row;
mod row_columns;
mod row_key;
mod row_parts;
mod settings;

pub use bodies::{Bodies, StoredBody, decode_bodies};
pub use command::{Origin, StoredCommand, decode_command, encode_command};
pub use entry::{ENTRY_VERSION, StoredEntry, decode_entry, encode_entry};
pub use error::DecodeError;
pub use kept::{Items, keep_bodies};
pub use message::{decode_message, encode_message};
pub use row::{decode_row, encode_row};
pub use row_key::{decode_row_key, encode_row_key};
