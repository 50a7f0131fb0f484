use std::sync::Arc;

use ticketrail_broker::Broker;
use ticketrail_core::NodeId;
use ticketrail_proto::error::{Problem, Reason};
use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::config::MessageLimits;
use crate::limits;
use crate::peer::Peers;

/// Set to `1` in a request's metadata to be refused by a node that does not lead, not forwarded.
const NO_FORWARD: &str = "ticketrail-no-forward";

/// What all services of this process share.
pub(crate) struct Node {
    /// The service below.
    pub(crate) broker: Broker,
    /// The ways to the other nodes.
    pub(crate) peers: Peers,
    /// The cluster.
    pub(crate) cluster_id: u128,
    /// This node.
    pub(crate) id: NodeId,
    /// Bounds of what clients may send.
    pub(crate) limits: MessageLimits,
    /// Cancelled when the node stops: streams and long polls end.
    pub(crate) stop: CancellationToken,
}

/// A [`Node`], shared.
pub(crate) type SharedNode = Arc<Node>;

impl Node {
    /// Refuses a request that must not be forwarded, where this node does not lead.
    pub(crate) fn check_forward<T>(&self, request: &Request<T>) -> Result<(), Problem> {
        let no_forward = request.metadata().get(NO_FORWARD);
        if no_forward.is_none_or(|value| value.as_bytes() != b"1") {
            return Ok(());
        }
        let leadership = *self.broker.leadership().borrow();
        if leadership.is_leader {
            return Ok(());
        }
        let status = self.broker.replica().status();
        let leader = leadership
            .leader
            .and_then(|leader| status.members.get(&leader));
        Err(Problem::not_leader(
            leader.map(|leader| leader.address.client.as_str()),
        ))
    }
}

/// What calls and streams are told that end because this node stops.
pub(crate) fn shutting_down() -> Problem {
    let message = "this node stops; go on at another node";
    Problem::new(Reason::ShuttingDown, message).retry_after(limits::RETRY_AFTER)
}
