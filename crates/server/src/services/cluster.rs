use std::time::Duration;

use ticketrail_broker::ClusterView;
use ticketrail_core::{NodeId, WallTime};
use ticketrail_proto::v1;
use ticketrail_proto::v1::cluster_service_server::ClusterService;
use ticketrail_raft::Member;
use tonic::{Request, Response, Status};

use crate::convert::{self, duration_to_proto};
use crate::node::SharedNode;

/// `ticketrail.v1.ClusterService`.
pub(crate) struct Cluster(pub(crate) SharedNode);

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn get_cluster(
        &self,
        _request: Request<v1::GetClusterRequest>,
    ) -> Result<Response<v1::GetClusterResponse>, Status> {
        let view = self.0.broker.cluster();
        let node = |(id, member): (&NodeId, &Member)| self.node(&view, *id, member);
        let nodes = view.status.members.iter().map(node).collect();
        let applied = view.status.applied_index.unwrap_or_default();
        Ok(Response::new(v1::GetClusterResponse {
            cluster_id: convert::id_to_proto(view.cluster_id),
            answering_node_id: self.0.id.0,
            leader_node_id: view.status.leader.map_or(0, |leader| leader.0),
            term: view.status.term,
            commit_index: view.status.committed_index.unwrap_or_default(),
            applied_index: applied,
            digest: Some(v1::OutcomeDigest {
                index: applied,
                value: view.status.digest,
            }),
            lease_now_ms: view.lease_now_ms,
            wall_now: Some(convert::timestamp(WallTime(view.wall_now_ms))),
            nodes,
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            state_machine_version: view.version,
        }))
    }
}

impl Cluster {
    fn node(&self, view: &ClusterView, id: NodeId, member: &Member) -> v1::Node {
        let is_me = id == self.0.id;
        let silent_ms = view
            .nodes
            .iter()
            .find(|node| node.node == id)
            .and_then(|node| node.silent_ms);
        let contact = if is_me { Some(0) } else { silent_ms };
        let known = is_me || contact.is_some();
        let role = match () {
            () if view.status.leader == Some(id) => v1::NodeRole::Leader,
            () if !known => v1::NodeRole::Unspecified,
            () if !member.voter => v1::NodeRole::Learner,
            () if is_me && view.status.leader.is_none() => v1::NodeRole::Candidate,
            () => v1::NodeRole::Follower,
        };
        let matched = if is_me {
            view.status.last_log_index
        } else {
            member.matched_index
        };
        v1::Node {
            node_id: id.0,
            client_address: member.address.client.clone(),
            peer_address: member.address.peer.clone(),
            role: role as i32,
            boot_id: self.0.peers.boot_of(id).map_or(0, |boot| boot.0),
            last_contact: contact.map(|ms| duration_to_proto(Duration::from_millis(ms))),
            matched_index: matched.unwrap_or_default(),
            voter: member.voter,
        }
    }
}
