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
//! ends of the wire), `restore` and `checkpoint` (what survives a restart), `transfer` (snapshots to nodes that lag),
//! `backup` (a new cluster from a copy).
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod answered;
mod applied;
mod backup;
mod checkpoint;
mod codec;
mod commits;
mod compaction;
mod config;
mod divergence;
mod error;
mod export;
mod figures;
mod folders;
mod hold;
mod log_store;
mod machine;
mod membership;
mod network;
mod node;
mod order;
mod read;
mod replica;
mod restore;
mod room;
mod rows;
mod seam;
mod serve;
mod shelf;
mod start;
mod status;
mod succeed;
#[cfg(test)]
mod suite;
mod transfer;
mod transport;
mod types;
mod watched;

pub use applied::{AppliedEntry, AppliedSink, Replaced};
pub use backup::{BackupContents, Heir, RestoreError, check_backup, restore_backup};
pub use compaction::{CompactionCounts, DiskUse};
pub use config::{DIGEST_EVERY, DIGESTS_KEPT, FRAME_BYTES_MAX, GROUP, ReplicaConfig};
pub use divergence::DigestCounts;
pub use error::{BootstrapError, PeerRefusal, ProposeError, ReadError, StartError};
pub use figures::Figures;
pub use folders::Folders;
pub use membership::{ChangeError, MemberChange};
pub use replica::{Committed, Replica, Storage};
pub use restore::{CheckpointOpener, SledFolder};
pub use seam::{Runtime, Stop, Worker};
pub use status::{Leadership, Member, Status};
pub use ticketrail_proto::stored::Origin;
pub use ticketrail_storage::{Histogram, HistogramCounts};
pub use transfer::{Source, SourceError, TransferCounts, TransferProgress};
pub use transport::{PeerRequest, PeerResponse, Transport, TransportError};
pub use types::PeerAddress;
pub use watched::{Look, WatchEnded, Watched, Watcher};
