//! Changes of who belongs to the cluster. Who may be changed, and when, is decided above; here is
//! what openraft is asked for, one step at a time, and what its answers mean.
//!
//! Voters change in two entries (joint consensus). A leader that dies between them leaves both
//! sets in force together; [`MemberChange::Finish`] is what the next one does about it.

use std::collections::{BTreeMap, BTreeSet};

use openraft::ChangeMembers;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use ticketrail_core::NodeId;

use crate::node::Node;
use crate::seam::Runtime;
use crate::types::{PeerAddress, Types};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A node follows from now on and does not vote.
    AddLearner {
        /// The node; no member yet.
        node: NodeId,
        /// Where it is reached.
        address: PeerAddress,
    },
    /// A member is reached elsewhere. Only for the very same node: two at once would count twice.
    SetAddress {
        /// The member.
        node: NodeId,
        /// Where it is reached.
        address: PeerAddress,
    },
    /// A learner votes.
    Promote(NodeId),
    /// A voter becomes a learner.
    Demote(NodeId),
    /// A learner is no member any more.
    RemoveLearner(NodeId),
    /// The end of a change of voters that its leader did not live to see; else nothing.
    Finish,
}

/// Why a step was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// It was not made and never will be.
    #[error("this node does not lead")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// It was not made: the one before it is not committed yet.
    #[error("another change of the members is under way")]
    InProgress,
    /// It was not made: it makes no sense with the members as they are.
    #[error("{0}")]
    Refused(String),
    /// It may have been made.
    #[error("whether the members were changed is not known")]
    Unknown,
    /// It may have been made, and the replica stopped.
    #[error("the replica stopped")]
    Stopped,
}

/// Makes one step; resolves when it is committed and applied here.
pub(crate) async fn change<R: Runtime>(
    raft: &crate::node::Openraft<R>,
    change: MemberChange,
) -> Result<(), ChangeError> {
    let nodes = |node: NodeId, address| BTreeMap::from([(node.0, address)]);
    let ids = |node: NodeId| BTreeSet::from([node.0]);
    let changes = match change {
        MemberChange::AddLearner { node, address } => ChangeMembers::AddNodes(nodes(node, address)),
        MemberChange::SetAddress { node, address } => ChangeMembers::SetNodes(nodes(node, address)),
        MemberChange::Promote(node) => ChangeMembers::AddVoterIds(ids(node)),
        MemberChange::Demote(node) => ChangeMembers::RemoveVoters(ids(node)),
        MemberChange::RemoveLearner(node) => ChangeMembers::RemoveNodes(ids(node)),
        MemberChange::Finish => ChangeMembers::AddVoterIds(BTreeSet::new()),
    };
    // Who leaves the voters stays as a learner: so it hears of it.
    match raft.change_membership(changes, true).await {
        Ok(_) => Ok(()),
        Err(RaftError::Fatal(_)) => Err(ChangeError::Stopped),
        Err(RaftError::APIError(error)) => Err(refusal::<R>(error)),
    }
}

fn refusal<R: Runtime>(error: ClientWriteError<Types<R>>) -> ChangeError {
    match error {
        ClientWriteError::ForwardToLeader(forward) => ChangeError::NotLeader {
            leader: forward.leader_id.map(NodeId),
        },
        ClientWriteError::ChangeMembershipError(
            ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
        ) => ChangeError::InProgress,
        ClientWriteError::ChangeMembershipError(error) => ChangeError::Refused(error.to_string()),
        _ => ChangeError::Unknown,
    }
}

impl<R: Runtime> Node<R> {
    /// Whether a node was removed for good, as far as this node knows. A node that is not known is
    /// not refused for that: a leader may have been added by entries that are still to come.
    pub(crate) fn is_retired(&self, node: NodeId) -> bool {
        let metrics = self.raft.server_metrics();
        let is_member = {
            use openraft::async_runtime::WatchReceiver;
            let metrics = metrics.borrow_watched();
            metrics
                .membership_config
                .nodes()
                .any(|(id, _)| *id == node.0)
        };
        // Looked for only where it matters: entries are applied under the state's lock.
        !is_member
            && self
                .shared
                .lock()
                .state
                .node(node)
                .is_some_and(|known| known.retired)
    }
}
