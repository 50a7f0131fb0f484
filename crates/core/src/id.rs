//! A type of its own for every number with a meaning.

use core::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// One incarnation of a queue. A name that is deleted and created again gets a new one, so
    /// that receipts of the old queue can never touch the new one. Never reused; starts at 1.
    QueueId, u64
);
number!(
    /// Place of a message in one queue: dense, from 0, in commit order.
    Offset, u64
);
number!(
    /// Identity of a message, unique in the cluster, growing in commit order; starts at 1. A dead
    /// letter keeps it.
    MessageId, u64
);
number!(
    /// Fencing number of a lease: grows with every grant of a queue, starts at 1. 0 is never
    /// granted and so never current.
    Fence, u64
);
number!(
    /// A consumer's session, made by the node that it first connected to (random, 128 bits).
    SessionId, u128
);
number!(
    /// A producer (random, 128 bits).
    ProducerId, u128
);
number!(
    /// A node of the cluster; never 0, never used again once its disk is gone.
    NodeId, u64
);
number!(
    /// One run of a node's process (random), so that sessions of a run that ended are known.
    BootId, u64
);
number!(
    /// What a node keeps (random, 128 bits), made when its folder is: a node whose disk was lost or
    /// replaced has another one. 0 where the folder is older than that.
    DiskId, u128
);
number!(
    /// Replicated lease time: milliseconds that the cluster has lived through with a leader. Never
    /// goes back, stands still while there is no leader. Decides leases, delays, windows, grace.
    LeaseTime, u64
);
number!(
    /// Replicated wall time: milliseconds since 1970 UTC, from the median of the nodes' clocks.
    WallTime, u64
);

impl LeaseTime {
    /// This time plus a span in milliseconds; saturates.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

impl Offset {
    /// The offset `n` places on; saturates.
    #[must_use]
    pub fn plus(self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }
}

/// Where a command stands in the cluster's history: the commit position that every mutation's
/// answer carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Raft log index of the entry, from 1.
    pub index: u64,
    /// Place of the command in its entry, from 0.
    pub place: u32,
}

/// The process that serves a session now, and which of its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// The node.
    pub node: NodeId,
    /// The run of the node's process.
    pub boot: BootId,
    /// The connection, counted by that process. A late word about an older one changes nothing.
    pub connection: u64,
}
