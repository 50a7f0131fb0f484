//! What Ticketrail's bytes look like to someone else: the generated code of `proto/`, the conversions
//! between the stored form and `ticketrail-core`, and the stable error reasons.
//!
//! Called by every room that reads or writes bytes: `raft` and `broker` (log entries, checkpoint rows,
//! peer messages), `server` and `client` (the public services). It never decides anything: no limits, no
//! defaults that the core acts on, no IO.
//!
//! Start reading at `proto/ticketrail/v1/message.proto`, then [`error`] and, for what is on disk,
//! `proto/ticketrail/store/v1` and [`stored`].
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod backup;
pub mod error;
pub mod receipt;
pub mod stored;

/// The public interface, package `ticketrail.v1`.
pub mod v1 {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    tonic::include_proto!("ticketrail.v1");
}

/// Node to node, package `ticketrail.peer.v1`.
pub mod peer {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    tonic::include_proto!("ticketrail.peer.v1");
}

/// On disk, package `ticketrail.store.v1`.
pub mod store {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    tonic::include_proto!("ticketrail.store.v1");
}

/// The encoded descriptor set of `ticketrail.v1` with its imports, for server reflection. The peer and
/// store packages are left out on purpose.
pub const PUBLIC_DESCRIPTORS: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/ticketrail_v1.fds"));
