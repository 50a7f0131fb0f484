//! A backup: a folder with a consistent copy of one node's state and of the bodies that it refers to.
//!
//! ```text
//! manifest = header sector: whose copy it is, up to which entry, and the length and check of the other files
//! state    = the rows, as the snapshot file that the node wrote
//! bodies   = header sector, record *          record = crc length index payload
//! ```
//!
//! The manifest comes last, when the other files are on disk and were read back: a folder without one is no backup. Nothing in
//! such a folder is ever changed.

mod error;
mod manifest;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

pub use error::BackupError;
pub use manifest::BackupManifest;
pub use reader::{Backup, BackupBodies};
pub use writer::BackupWriter;

use crate::header::Magic;
use crate::identity::Identity;

const MANIFEST: &str = "manifest";
const NEW_MANIFEST: &str = "manifest.new";
const STATE: &str = "state";
const BODIES: &str = "bodies";

const MANIFEST_MAGIC: Magic = Magic(b"TRBACKU\n");
const BODIES_MAGIC: Magic = Magic(b"TRBKBOD\n");

/// Length of what is before a body: check, length, index.
const RECORD_HEADER_BYTES: usize = 16;
/// A longer body is damage, not data: an entry has at most half of that.
const BODY_BYTES_MAX: usize = 64 << 20;
/// Read and written in pieces of about this size.
const PIECE_BYTES: usize = 1 << 20;

/// The head of a body's record; its check is over the rest of the head and the body.
fn record_head(owner: Identity, index: u64, body: &[u8]) -> [u8; RECORD_HEADER_BYTES] {
    let mut head = [0; RECORD_HEADER_BYTES];
    head[4..8].copy_from_slice(&(body.len() as u32).to_le_bytes());
    head[8..16].copy_from_slice(&index.to_le_bytes());
    let crc = record_crc(owner, &head, body);
    head[..4].copy_from_slice(&crc.to_le_bytes());
    head
}

fn record_crc(owner: Identity, head: &[u8], body: &[u8]) -> u32 {
    let seed = crc32c::crc32c_append(owner.node_id as u32, &owner.cluster_id.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &head[4..]), body)
}
