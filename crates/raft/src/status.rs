//! What a replica tells about itself.

use std::collections::BTreeMap;
use std::time::Duration;

use ticketrail_core::NodeId;

use crate::PeerAddress;
use crate::transfer::TransferProgress;

/// Who leads, as this node knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The term.
    pub term: u64,
    /// Its leader, once one is known.
    pub leader: Option<NodeId>,
    /// This node is the leader. Its state may lag until the first entry of the term is applied.
    pub is_leader: bool,
    /// Since when it is so, on the clock of [`crate::Replica::now`].
    pub since: Duration,
}

/// A replica at one moment.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The node.
    pub node_id: NodeId,
    /// Its term.
    pub term: u64,
    /// Who has its vote in that term.
    pub voted_for: Option<NodeId>,
    /// Its leader.
    pub leader: Option<NodeId>,
    /// The last entry of its log.
    pub last_log_index: Option<u64>,
    /// The last entry that it knows to be committed.
    pub committed_index: Option<u64>,
    /// The last entry that it has applied.
    pub applied_index: Option<u64>,
    /// The last entry that the newest snapshot file covers.
    pub snapshot_index: Option<u64>,
    /// The last entry that Raft needs no more.
    pub purged_index: Option<u64>,
    /// The members.
    pub members: BTreeMap<NodeId, Member>,
    /// Term and index of the entry that made them so, committed or not; none while there are none.
    pub members_entry: Option<(u64, u64)>,
    /// The voters are being changed: the old and the new ones decide together.
    pub changing_voters: bool,
    /// On the leader: when a majority last answered, in milliseconds before now.
    pub quorum_ack_ms_ago: Option<u64>,
    /// On a follower: when the leader was last heard, in milliseconds before now.
    pub leader_contact_ms_ago: Option<u64>,
    /// Digest of the state after the last applied entry.
    pub digest: u64,
    /// Digests at earlier indexes, multiples of [`crate::DIGEST_EVERY`], oldest first: nodes that
    /// have one of them for the same index must agree.
    pub digests: Vec<(u64, u64)>,
    /// How far this node is with a snapshot that it fetches.
    pub fetching: Option<TransferProgress>,
}

/// A member of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Where it listens.
    pub address: PeerAddress,
    /// It votes.
    pub voter: bool,
    /// As the leader sees it: the last entry known to be on its disk.
    pub matched_index: Option<u64>,
    /// As the leader sees it: when it last answered, in milliseconds before now.
    pub answered_ms_ago: Option<u64>,
    /// As the leader sees it: how far it is with a snapshot that it fetches.
    pub fetching: Option<TransferProgress>,
}
