//! Taking over from a leader whose process is known to be gone, without waiting for its lease to end.
//!
//! The election is marked as one that the leader asked for, so that the others vote although they heard
//! of it a moment ago. Nothing here trusts a lease: reads ask a majority, and votes still go only to
//! who has all that is committed. A mistake costs an election, once per leader.

use std::sync::Arc;
use std::time::Duration;

use openraft::raft::TransferLeaderRequest;
use ticketrail_core::NodeId;

use crate::node::Node;
use crate::seam::Runtime;

/// The voters try one after the other, so that they do not split the votes; each has so long.
const TURN: Duration = Duration::from_millis(60);

/// Stands for election in place of `dead`, if it leads in `term` as far as this node knows.
pub(crate) async fn succeed<R: Runtime>(node: Arc<Node<R>>, dead: NodeId, term: u64) {
    let me = node.config.node_id.0;
    let metrics = node.metrics();
    let voters = metrics.membership_config.membership().voter_ids();
    let mut others = voters.filter(|voter| *voter != dead.0);
    let Some(turn) = others.position(|voter| voter == me) else {
        return;
    };
    if let Ok(turn @ 1..) = u32::try_from(turn) {
        R::sleep(TURN * turn).await;
    }
    let metrics = node.metrics();
    let vote = metrics.vote;
    let still_leads = metrics.current_leader == Some(dead.0)
        && vote.leader_id().term == term
        && vote.is_committed();
    if still_leads {
        let request = TransferLeaderRequest::new(vote, me, None);
        if let Err(error) = node.raft.handle_transfer_leader(request).await {
            tracing::debug!(%error, "no election: raft ended");
        }
    }
}
