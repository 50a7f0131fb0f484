//! What can go wrong here, with what a caller needs to act on.

use ticketrail_core::NodeId;
use ticketrail_storage::StorageError;

/// Why a replica did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting makes no sense.
    #[error("raft configuration: {0}")]
    Config(String),
    /// The log, the checkpoint or the snapshot files.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Likewise.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The data folder was being made from a backup.
    #[error("`{0}` holds a restore that did not come to its end: empty it and restore again")]
    UnfinishedRestore(String),
    /// The log starts behind the end of the state: entries in between are gone here, and there is nobody
    /// to take a newer state from.
    #[error(
        "DATA_LOSS: the log starts after entry {purged}, the newest checkpoint or snapshot ends at entry {}, and the \
         configuration names no other member to take a newer state from. Start it with the cluster's `bootstrap` members: it \
         takes the state from one of them", show(*applied)
    )]
    StateLost {
        /// Raft needed no entry up to here.
        purged: u64,
        /// The last entry in the state.
        applied: Option<u64>,
    },
    /// The state was proved wrong, and there is nobody to take another one from.
    #[error(
        "DIVERGED: this node's state differs from a majority's, and the configuration names no other member to take it \
         from. Start it with the cluster's `bootstrap` members: it takes the state from one of them"
    )]
    Diverged,
    /// A peer's snapshot could not be taken.
    #[error("rejoining: {0}")]
    Rejoin(String),
    /// The log ends before the state: synced entries are gone.
    #[error(
        "DATA_LOSS: the checkpoint ends at entry {applied}, the log at entry {}. To rejoin: move this node's folder aside \
         and start it empty under a new node id", show(*last)
    )]
    LogLost {
        /// The last entry in the state.
        applied: u64,
        /// The last entry in the log.
        last: Option<u64>,
    },
    /// The state is another cluster's.
    #[error("the state belongs to cluster {found:032x}, not to cluster {expected:032x}")]
    ForeignState {
        /// Cluster of the state.
        found: u128,
        /// Cluster of the configuration.
        expected: u128,
    },
    /// Raft did not start.
    #[error("raft: {0}")]
    Raft(String),
}

fn show(index: Option<u64>) -> String {
    index.map_or_else(|| "none".to_owned(), |index| index.to_string())
}

/// Why a cluster was not formed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    /// It was, before.
    #[error("this node is part of a cluster already")]
    AlreadyInitialized,
    /// This node is not one of the members.
    #[error("this node is not among the members")]
    NotAMember,
    /// The replica stopped.
    #[error("the replica stopped")]
    Stopped,
}

/// Why a proposal did not come through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It is not in the log and never will be.
    #[error("this node does not lead in that term")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// It is not in the log and never will be: it is empty, or not an entry, or larger than
    /// [`crate::ReplicaConfig::entry_bytes_max`].
    #[error("the entry is empty, too large, or not an entry")]
    Invalid,
    /// It may be committed, or not.
    #[error("the outcome of the proposal is not known")]
    Unknown,
    /// It may be committed, or not, and this replica stopped.
    #[error("the replica stopped")]
    Stopped,
}

/// Why a read was not confirmed. It had no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader is known.
    #[error("no leader is known")]
    NoLeader,
    /// The leader did not confirm in time, or is one no more.
    #[error("the leader did not confirm the read: {0}")]
    NotConfirmed(String),
    /// This replica did not apply the entries up to there in time.
    #[error("this node lags behind the leader")]
    Lagging,
    /// The replica stopped.
    #[error("the replica stopped")]
    Stopped,
}

/// Why a peer's request is refused; nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefusal {
    /// The header names another cluster, group or node than this one.
    #[error("WRONG_CLUSTER: the message is not for node {node_id} of this cluster")]
    WrongTarget {
        /// This node.
        node_id: NodeId,
    },
    /// The sender was removed, or speaks for somebody else.
    #[error("UNKNOWN_PEER: node {sender} has no say here")]
    UnknownSender {
        /// Who claims to send.
        sender: NodeId,
    },
    /// A field is missing or broken.
    #[error("the message is malformed: {0}")]
    Malformed(String),
    /// The replica stopped.
    #[error("the replica stopped")]
    Stopped,
}
