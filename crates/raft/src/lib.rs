//! One replicated copy of the core: Raft over our log, our state machine and our messages. The only
//! room that knows openraft.
//!
//! `broker` holds a [`Replica`]: it proposes entries, confirms reads, looks at the state and hears
//! of every applied entry ([`AppliedSink`]). `server` carries peer messages: it implements
//! [`Transport`] and calls [`Replica::handle`]. This room never reads a wall clock, opens no socket
//! and knows no client; runtime, network and disk are seams, so that a simulator runs three
//! replicas on one thread from a seed ([`Runtime`]).
//!
//! Start reading at [`Replica`], then `applied` (apply), `log_store`, `network` and `serve` (both
//! ends of the wire), `restore` and `checkpoint` (what survives a restart).
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod applied;
mod checkpoint;
mod codec;
mod config;
mod error;
mod folders;
mod log_store;
mod machine;
mod network;
mod node;
mod order;
mod read;
mod replica;
mod restore;
mod rows;
mod seam;
mod serve;
mod shelf;
mod status;
#[cfg(test)]
mod suite;
mod transport;
mod types;

pub use applied::{AppliedEntry, AppliedSink};
pub use config::{DIGEST_EVERY, DIGESTS_KEPT, FRAME_BYTES_MAX, GROUP, ReplicaConfig};
pub use error::{BootstrapError, PeerRefusal, ProposeError, ReadError, StartError};
pub use folders::Folders;
pub use replica::{Committed, Replica, Storage};
pub use restore::{CheckpointOpener, SledFolder};
pub use seam::{Runtime, Stop, Worker};
pub use status::{Leadership, Member, Status};
pub use ticketrail_proto::stored::Origin;
pub use transport::{PeerRequest, PeerResponse, Transport, TransportError};
pub use types::PeerAddress;
