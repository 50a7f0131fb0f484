//! What happened besides the answers: the same on every node, acted on by the node it concerns.

use alloc::string::String;

use crate::id::{Offset, Owner, QueueId, SessionId};
use crate::message::Grant;

/// One event of an applied entry. Events of one entry are in the order in which they happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Messages were leased to a consumer: `owner.node` delivers them.
    Delivered {
        /// The consumer's session.
        session: SessionId,
        /// Who serves it.
        owner: Owner,
        /// What.
        grant: Grant,
    },
    /// A consumer lost leases because they expired, or through its session's end.
    LeasesLost {
        /// The consumer's session.
        session: SessionId,
        /// Who serves it, or last did.
        owner: Owner,
        /// The queue's incarnation.
        queue: QueueId,
        /// First offset.
        first_offset: Offset,
        /// How many.
        count: u32,
    },
    /// A session ended.
    SessionEnded {
        /// Which.
        session: SessionId,
        /// Who served it, or last did.
        owner: Owner,
        /// Why.
        why: SessionEnd,
    },
    /// A session is served by another connection from now on; the old one must stop.
    SessionMoved {
        /// Which.
        session: SessionId,
        /// Who served it.
        from: Owner,
    },
    /// Ready messages are left over: whoever waits in a long poll may ask. At most once per queue
    /// and entry, and only when something became ready in this entry.
    Ready {
        /// The queue's incarnation.
        queue: QueueId,
    },
    /// A queue is gone; those who wait on it must be told.
    QueueDeleted {
        /// The queue's incarnation.
        queue: QueueId,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionEnd {
    /// It closed.
    Closed,
    /// It did not come back within its grace.
    GraceOver,
    /// Its queue was deleted.
    QueueDeleted,
}
