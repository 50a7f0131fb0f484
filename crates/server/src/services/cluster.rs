use std::sync::PoisonError;
use std::time::Duration;

use ticketrail_broker::{ClusterView, MembersRequest};
use ticketrail_core::{NodeId, WallTime};
use ticketrail_proto::v1;
use ticketrail_proto::v1::cluster_service_server::ClusterService;
use ticketrail_raft::{Member, Status as Replicated};
use tonic::{Request, Response, Status};

use super::backup;
use super::health::has_quorum;
use super::members::Watched;
use super::stream::Frames;
use crate::convert::{self, duration_to_proto};
use crate::listen::Deadline;
use crate::members::Wanted;
use crate::node::SharedNode;

/// `ticketrail.v1.ClusterService`.
pub(crate) struct Cluster(pub(crate) SharedNode);

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn get_cluster(
        &self,
        _request: Request<v1::GetClusterRequest>,
    ) -> Result<Response<v1::GetClusterResponse>, Status> {
        Ok(Response::new(self.seen()))
    }

    type WatchClusterStream = Watched;

    async fn watch_cluster(
        &self,
        request: Request<v1::WatchClusterRequest>,
    ) -> Result<Response<Watched>, Status> {
        Ok(Response::new(self.watch(request.get_ref())?))
    }

    async fn add_node(
        &self,
        request: Request<v1::AddNodeRequest>,
    ) -> Result<Response<v1::AddNodeResponse>, Status> {
        let answer = self.add(request).await?;
        Ok(Response::new(v1::AddNodeResponse {
            unchanged: answer.unchanged,
            warnings: answer.warnings,
        }))
    }

    async fn promote_node(
        &self,
        request: Request<v1::PromoteNodeRequest>,
    ) -> Result<Response<v1::PromoteNodeResponse>, Status> {
        let node = request.get_ref().node_id;
        let promote = self.change_node(&request, node, MembersRequest::Promote);
        let answer = promote.await?;
        Ok(Response::new(v1::PromoteNodeResponse {
            unchanged: answer.unchanged,
            warnings: answer.warnings,
        }))
    }

    async fn demote_node(
        &self,
        request: Request<v1::DemoteNodeRequest>,
    ) -> Result<Response<v1::DemoteNodeResponse>, Status> {
        let node = request.get_ref().node_id;
        let demote = self.change_node(&request, node, MembersRequest::Demote);
        let answer = demote.await?;
        Ok(Response::new(v1::DemoteNodeResponse {
            unchanged: answer.unchanged,
            warnings: answer.warnings,
        }))
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::RemoveNodeResponse>, Status> {
        let node = request.get_ref().node_id;
        let remove = self.change_node(&request, node, MembersRequest::Remove);
        let answer = remove.await?;
        Ok(Response::new(v1::RemoveNodeResponse {
            unchanged: answer.unchanged,
            warnings: answer.warnings,
        }))
    }

    async fn transfer_leadership(
        &self,
        request: Request<v1::TransferLeadershipRequest>,
    ) -> Result<Response<v1::TransferLeadershipResponse>, Status> {
        let to = NodeId(request.get_ref().node_id);
        let transfer = MembersRequest::Transfer(Some(to).filter(|to| to.0 > 0));
        let answer = self.change(&request, Wanted::Other(transfer)).await?;
        Ok(Response::new(v1::TransferLeadershipResponse {
            leader_node_id: answer.leader.map_or(0, |leader| leader.0),
            unchanged: answer.unchanged,
        }))
    }

    type BackupStream = Frames<v1::BackupResponse>;

    async fn backup(
        &self,
        request: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let frames = backup::begin(&self.0, Deadline::of(&request))?;
        Ok(Response::new(frames))
    }
}

impl Cluster {
    /// The cluster as this node sees it.
    pub(super) fn seen(&self) -> v1::GetClusterResponse {
        let mut view = self.0.broker.cluster();
        // A leader that no majority answers may have been replaced, and who does not hear of its
        // leader does not know either.
        if !has_quorum(&view.status) {
            view.status.leader = None;
        }
        let node = |(id, member): (&NodeId, &Member)| self.node(&view, *id, member);
        let nodes = view.status.members.iter().map(node).collect();
        let applied = view.status.applied_index.unwrap_or_default();
        v1::GetClusterResponse {
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
            changing_voters: view.status.changing_voters,
            disk: self.disk(&view.status),
        }
    }

    fn disk(&self, status: &Replicated) -> Option<v1::DiskUse> {
        let data = self.0.data.lock().unwrap_or_else(PoisonError::into_inner);
        let data = data.clone()?;
        let broker = &self.0.broker;
        let found = broker.replica().disk_use();
        Some(v1::DiskUse {
            log_bytes: found.log_bytes,
            live_body_bytes: found.live_bytes,
            dead_body_bytes: found.dead_bytes,
            body_bytes_max: found.stored_bytes_max,
            spare_bytes: found.spare_bytes,
            checkpoint_bytes: data.used("checkpoint"),
            snapshot_bytes: data.used("snapshots"),
            snapshot_index: status.snapshot_index.unwrap_or_default(),
            free_bytes: data.space.free_bytes,
            size_bytes: data.space.total_bytes,
            free_bytes_min: broker.admission().disk_floor(data.space.total_bytes),
        })
    }

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
        let fetching = match is_me {
            true => view.status.fetching,
            false => member.fetching,
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
            lag_entries: lag_entries(&view.status, id, member),
            fetching: fetching.map(|progress| v1::SnapshotProgress {
                bytes_done: progress.bytes_done,
                bytes_total: progress.bytes_total,
            }),
        }
    }
}

/// Entries that a member is not known to hold; the leader alone knows.
fn lag_entries(status: &Replicated, id: NodeId, member: &Member) -> Option<u64> {
    if status.leader != Some(status.node_id) {
        return None;
    }
    if id == status.node_id {
        return Some(0);
    }
    let next = |index: Option<u64>| index.map_or(0, |index| index + 1);
    Some(next(status.last_log_index).saturating_sub(next(member.matched_index)))
}
