use std::sync::{Arc, Mutex};

use ticketrail_broker::Broker;
use ticketrail_core::NodeId;
use ticketrail_proto::error::Problem;
use tokio::sync::Semaphore;
use tonic::Request;

use crate::alone::Alone;
use crate::config::MessageLimits;
use crate::data_folder::DataFolder;
use crate::metrics::Calls;
use crate::peer::Peers;
use crate::spans::Spans;
use crate::stopping::{Stopping, Streams};

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
    /// What is counted of their calls.
    pub(crate) calls: Arc<Calls>,
    /// Bounds of what clients may send.
    pub(crate) limits: MessageLimits,
    /// Whether it has lost its quorum.
    pub(crate) alone: Alone,
    /// How far a stop is.
    pub(crate) stopping: Stopping,
    /// The tasks behind the streams of clients.
    pub(crate) streams: Streams,
    /// Backups that may be made at a time.
    pub(crate) backups: Arc<Semaphore>,
    /// What tells a collector of its messages.
    pub(crate) spans: Spans,
    /// What it takes of its disk, as last looked at; none before the first look.
    pub(crate) data: Mutex<Option<DataFolder>>,
}

/// A [`Node`], shared.
pub(crate) type SharedNode = Arc<Node>;

impl Node {
    /// Refuses a request that must not be forwarded, where this node does not lead; and any where
    /// nobody does as far as this node can know.
    pub(crate) fn check_forward<T>(&self, request: &Request<T>) -> Result<(), Problem> {
        self.check_quorum()?;
        let no_forward = request.metadata().get(NO_FORWARD);
        if no_forward.is_none_or(|value| value.as_bytes() != b"1") {
            return Ok(());
        }
        let leadership = *self.broker.leadership().borrow();
        if leadership.is_leader {
            return Ok(());
        }
        Err(Problem::not_leader(self.leader_elsewhere().as_deref()))
    }

    /// Where clients reach the leader, where it is another node and known.
    pub(crate) fn leader_elsewhere(&self) -> Option<String> {
        let leader = self.broker.leadership().borrow().leader?;
        if leader == self.id {
            return None;
        }
        let mut members = self.broker.replica().status().members;
        Some(members.remove(&leader)?.address.client)
    }
}
