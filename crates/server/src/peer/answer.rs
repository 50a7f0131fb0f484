//! The answering half of what is asked besides Raft.

use std::time::Duration;

use ticketrail_broker::{MembersRequest, Standing as Known};
use ticketrail_core::{DiskId, NodeId};
use ticketrail_proto::error::Problem;
use ticketrail_proto::peer::change_members_request::Change;
use ticketrail_proto::peer::{
    AdmitRequest, AdmitResponse, ChangeMembersRequest, ChangeMembersResponse, HelloRequest,
    HelloResponse, MemberAddress, Stage, Standing,
};
use ticketrail_raft::{PeerAddress, Replica};
use tokio::time::Instant;
use tonic::Status;

use super::PeerEndpoint;
use super::ask::{disk_bytes, disk_from};
use crate::limits;
use crate::members::{self, Wanted};

impl PeerEndpoint {
    /// Says who this node is; is welcomed, where it waits for that.
    pub(super) fn greet(&self, request: &HelloRequest) -> Result<HelloResponse, Problem> {
        let (sender, _) = self.check(request.header.as_ref(), 0)?;
        let disk = disk_of(&request.disk_id)?;
        if disk_from(&request.welcome_disk_id) == Some(self.peers.disk()) {
            self.learn(&request.members);
            self.peers.gate().open();
        }
        let standing = match self.broker.standing(sender, disk) {
            Known::Unknown => Standing::Unknown,
            Known::Admitted => Standing::Admitted,
            Known::OtherDisk => Standing::OtherDisk,
            Known::Retired => Standing::Retired,
        };
        Ok(HelloResponse {
            header: Some(self.peers.me().header_to(sender)),
            disk_id: disk_bytes(self.peers.disk()),
            stage: stage(self.broker.replica()) as i32,
            standing: standing as i32,
        })
    }

    /// Learns where the members are, while the log here tells of none.
    fn learn(&self, members: &[MemberAddress]) {
        let knows_some = !self.broker.replica().status().members.is_empty();
        if knows_some || members.is_empty() {
            return;
        }
        let members = members.iter();
        let address =
            |member: &MemberAddress| (NodeId(member.node_id), member.peer_address.clone());
        if let Err(error) = self.peers.set_addresses(&members.map(address).collect()) {
            tracing::error!(%error, "a member cannot be reached at its address");
        }
    }

    /// Has the log take the sender's id for its disk.
    pub(super) async fn take_in(&self, request: AdmitRequest) -> Result<AdmitResponse, Problem> {
        let (sender, _) = self.check(request.header.as_ref(), 0)?;
        self.peers.gate().check()?;
        let disk = disk_of(&request.disk_id)?;
        let deadline = Instant::now() + limits::ADMIT_WAIT_MAX;
        self.broker.admit(sender, disk, deadline).await?;
        Ok(AdmitResponse {
            header: Some(self.peers.me().header_to(sender)),
        })
    }

    /// Changes the members, as the leader.
    pub(super) async fn change(
        &self,
        request: ChangeMembersRequest,
    ) -> Result<ChangeMembersResponse, Status> {
        let (sender, _) = self.check(request.header.as_ref(), 0)?;
        let wait = Duration::from_millis(request.timeout_ms).min(limits::CALL_TIME_MAX);
        let wanted = wanted(request.change)?;
        let deadline = Instant::now() + wait;
        let answer = members::change_here(&self.broker, &self.peers, &wanted, deadline).await?;
        Ok(ChangeMembersResponse {
            header: Some(self.peers.me().header_to(sender)),
            unchanged: answer.unchanged,
            warnings: answer.warnings,
            leader_node_id: answer.leader.map_or(0, |leader| leader.0),
        })
    }
}

fn wanted(change: Option<Change>) -> Result<Wanted, Problem> {
    let change = change.ok_or_else(|| Problem::field_must("change", "be set"))?;
    Ok(match change {
        Change::Add(add) => Wanted::Add {
            node: NodeId(add.node_id),
            address: PeerAddress {
                peer: add.peer_address,
                client: add.client_address,
            },
        },
        Change::Promote(node) => Wanted::Other(MembersRequest::Promote(NodeId(node))),
        Change::Demote(node) => Wanted::Other(MembersRequest::Demote(NodeId(node))),
        Change::Remove(node) => Wanted::Other(MembersRequest::Remove(NodeId(node))),
        Change::Transfer(to) => {
            let to = Some(NodeId(to)).filter(|to| to.0 > 0);
            Wanted::Other(MembersRequest::Transfer(to))
        }
    })
}

fn disk_of(bytes: &bytes::Bytes) -> Result<DiskId, Problem> {
    disk_from(bytes).ok_or_else(|| Problem::invalid_field("disk_id", "16 bytes"))
}

/// How much of a cluster's history this node holds. The first members of a cluster write each other
/// down as entry 0, before there is a leader.
fn stage(replica: &Replica) -> Stage {
    let status = replica.status();
    let beyond_the_first = |index: Option<u64>| index.is_some_and(|index| index > 0);
    if beyond_the_first(status.last_log_index) || beyond_the_first(status.applied_index) {
        Stage::Member
    } else if replica.is_initialized() {
        Stage::Founding
    } else {
        Stage::Blank
    }
}
