//! The calls of `ClusterService` that change the members, and the one that watches.

use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use ticketrail_broker::{MembersAnswer, MembersRequest};
use ticketrail_core::NodeId;
use ticketrail_proto::error::Problem;
use ticketrail_proto::v1;
use ticketrail_raft::PeerAddress;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use super::cluster::Cluster;
use crate::config::is_address;
use crate::limits;
use crate::listen::Deadline;
use crate::members::{self, Wanted};

/// What `WatchCluster` sends.
pub(super) type Watched =
    Pin<Box<dyn Stream<Item = Result<v1::WatchClusterResponse, Status>> + Send>>;

impl Cluster {
    pub(super) async fn add(
        &self,
        request: Request<v1::AddNodeRequest>,
    ) -> Result<MembersAnswer, Status> {
        let wanted = {
            let request = request.get_ref();
            let node = node_id(request.node_id)?;
            check_address("client_address", &request.client_address)?;
            check_address("peer_address", &request.peer_address)?;
            let address = PeerAddress {
                client: request.client_address.clone(),
                peer: request.peer_address.clone(),
            };
            Wanted::Add { node, address }
        };
        self.change(&request, wanted).await
    }

    /// A change of one node.
    pub(super) async fn change_node<T>(
        &self,
        request: &Request<T>,
        node: u64,
        change: fn(NodeId) -> MembersRequest,
    ) -> Result<MembersAnswer, Status> {
        let node = node_id(node)?;
        self.change(request, Wanted::Other(change(node))).await
    }

    pub(super) async fn change<T>(
        &self,
        request: &Request<T>,
        wanted: Wanted,
    ) -> Result<MembersAnswer, Status> {
        self.0.check_forward(request)?;
        members::change(&self.0, &wanted, Deadline::of(request)).await
    }

    pub(super) fn watch(&self, request: &v1::WatchClusterRequest) -> Result<Watched, Problem> {
        let interval = match &request.interval {
            None => limits::WATCH_INTERVAL_DEFAULT,
            Some(written) => Duration::try_from(*written)
                .ok()
                .filter(|interval| *interval >= limits::WATCH_INTERVAL_MIN)
                .ok_or_else(|| Problem::invalid_field("interval", "at least 100 ms"))?,
        };
        let (seen, answers) = mpsc::channel(1);
        let cluster = Self(self.0.clone());
        tokio::spawn(async move {
            let mut look = tokio::time::interval(interval);
            look.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut before = None;
            loop {
                tokio::select! {
                    _ = look.tick() => {}
                    () = cluster.0.stopping.drains() => {
                        // Whoever is gone needs not be told.
                        let _ = seen.send(Err(cluster.0.shutting_down().into())).await;
                        return;
                    }
                    () = seen.closed() => return,
                }
                let now = cluster.seen();
                if before.as_ref() == Some(&now) {
                    continue;
                }
                let answer = v1::WatchClusterResponse {
                    cluster: Some(now.clone()),
                };
                if seen.send(Ok(answer)).await.is_err() {
                    return;
                }
                before = Some(now);
            }
        });
        Ok(Box::pin(ReceiverStream::new(answers)))
    }
}

fn node_id(node: u64) -> Result<NodeId, Problem> {
    match node {
        0 => Err(Problem::invalid_field("node_id", "1 or more")),
        node => Ok(NodeId(node)),
    }
}

fn check_address(field: &str, address: &str) -> Result<(), Problem> {
    if is_address(address) && address.len() <= limits::ADDRESS_BYTES_MAX {
        return Ok(());
    }
    let must = "`host:port`, as others reach it, at most 255 bytes";
    Err(Problem::invalid_field(field, must))
}
