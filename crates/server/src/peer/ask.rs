//! What this node asks of another one besides Raft: who it is, whether it may enter, and that the
//! leader change the members.

use std::time::Duration;

use bytes::Bytes;
use ticketrail_broker::{MembersAnswer, MembersRequest};
use ticketrail_core::{DiskId, NodeId};
use ticketrail_proto::error::{Problem, Reason};
use ticketrail_proto::peer::change_members_request::Change;
use ticketrail_proto::peer::peer_service_client::PeerServiceClient;
use ticketrail_proto::peer::{
    AddMember, AdmitRequest, ChangeMembersRequest, HelloRequest, MemberAddress, Stage, Standing,
};
use ticketrail_raft::Member;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::Peers;
use super::lane::describe;
use crate::limits;
use crate::members::Wanted;

/// What another node said of itself and of this one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Greeting {
    /// Its disk.
    pub(crate) disk: DiskId,
    /// How much it holds.
    pub(crate) stage: Stage,
    /// What it knows of this node.
    pub(crate) standing: Standing,
}

impl Peers {
    /// Asks a peer who it is.
    pub(crate) async fn hello(&self, target: NodeId) -> Result<Greeting, String> {
        let client = self.client(target).ok_or("its address is not known")?;
        self.hello_to(client, target, None).await
    }

    /// Asks whoever answers at an address, which must be `target` of this cluster. `welcome`: the disk
    /// of `target`, when its id is taken for it.
    pub(crate) async fn hello_at(
        &self,
        target: NodeId,
        address: &str,
        welcome: Option<DiskId>,
    ) -> Result<Greeting, String> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| format!("`{address}` is no address: {error}"))?
            .connect_timeout(limits::PEER_CONNECT_WAIT_MAX);
        let client = PeerServiceClient::new(endpoint.connect_lazy());
        self.hello_to(client, target, welcome).await
    }

    async fn hello_to(
        &self,
        mut client: PeerServiceClient<Channel>,
        target: NodeId,
        welcome: Option<DiskId>,
    ) -> Result<Greeting, String> {
        let request = HelloRequest {
            header: Some(self.me().header_to(target)),
            disk_id: disk_bytes(self.disk()),
            welcome_disk_id: welcome.map(disk_bytes).unwrap_or_default(),
            members: welcome.map(|_| self.members()).unwrap_or_default(),
        };
        let answer = timeout(limits::HELLO_WAIT_MAX, client.hello(request)).await;
        let answer = answer
            .map_err(|_| "it did not answer in time".to_owned())?
            .map_err(|status| describe(&status))?
            .into_inner();
        self.check_answer(target, answer.header.as_ref(), 0)?;
        Ok(Greeting {
            disk: disk_from(&answer.disk_id).ok_or("it did not say its disk")?,
            stage: answer.stage(),
            standing: answer.standing(),
        })
    }

    /// Where the members serve other nodes.
    fn members(&self) -> Vec<MemberAddress> {
        let members = self
            .broker()
            .as_ref()
            .map(|broker| broker.replica().status().members);
        let address = |(node, member): (NodeId, Member)| MemberAddress {
            node_id: node.0,
            peer_address: member.address.peer,
        };
        members
            .unwrap_or_default()
            .into_iter()
            .map(address)
            .collect()
    }

    /// Asks a member to have the log take this node's id for its disk.
    pub(crate) async fn admit(&self, target: NodeId) -> Result<(), Status> {
        let mut client = self
            .client(target)
            .ok_or_else(|| Status::unavailable("its address is not known"))?;
        let request = AdmitRequest {
            header: Some(self.me().header_to(target)),
            disk_id: disk_bytes(self.disk()),
        };
        let answer = timeout(limits::ADMIT_WAIT_MAX, client.admit(request)).await;
        answer.map_err(|_| Status::unavailable("it did not answer in time"))??;
        Ok(())
    }

    /// Hands a change of the members to the leader.
    pub(crate) async fn change_members(
        &self,
        leader: NodeId,
        wanted: &Wanted,
        wait: Duration,
    ) -> Result<MembersAnswer, Status> {
        let no_leader = || Problem::no_leader(limits::RETRY_AFTER).into_status();
        let mut client = self.client(leader).ok_or_else(no_leader)?;
        let timeout_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let request = ChangeMembersRequest {
            header: Some(self.me().header_to(leader)),
            timeout_ms,
            change: Some(to_peer(wanted)),
        };
        let answer = timeout(wait, client.change_members(request)).await;
        let answer = answer.map_err(|_| unknown().into_status())?;
        let answer = answer.map_err(|status| match status.code() {
            // Not the leader's own words: the way broke, before or after it was done.
            Code::Unavailable | Code::Unknown | Code::Cancelled if status.details().is_empty() => {
                unknown().into_status()
            }
            _ => status,
        })?;
        let answer = answer.into_inner();
        let leader = NodeId(answer.leader_node_id);
        Ok(MembersAnswer {
            unchanged: answer.unchanged,
            warnings: answer.warnings,
            leader: Some(leader).filter(|leader| leader.0 > 0),
        })
    }
}

fn unknown() -> Problem {
    let message = "whether the members were changed is not known; look at them, or ask again: \
                   what is done already is answered OK";
    Problem::new(Reason::OutcomeUnknown, message).retry_after(limits::RETRY_AFTER)
}

fn to_peer(wanted: &Wanted) -> Change {
    match wanted {
        Wanted::Add { node, address } => Change::Add(AddMember {
            node_id: node.0,
            client_address: address.client.clone(),
            peer_address: address.peer.clone(),
        }),
        Wanted::Other(MembersRequest::Promote(node)) => Change::Promote(node.0),
        Wanted::Other(MembersRequest::Demote(node)) => Change::Demote(node.0),
        Wanted::Other(MembersRequest::Remove(node)) => Change::Remove(node.0),
        Wanted::Other(MembersRequest::Transfer(to)) => Change::Transfer(to.map_or(0, |to| to.0)),
        // The leader asks for the disk itself.
        Wanted::Other(MembersRequest::Add { node, address, .. }) => to_peer(&Wanted::Add {
            node: *node,
            address: address.clone(),
        }),
    }
}

/// A disk id on its way.
pub(super) fn disk_bytes(disk: DiskId) -> Bytes {
    Bytes::copy_from_slice(&disk.0.to_be_bytes())
}

/// A disk id that came; none where it is not 16 bytes.
pub(super) fn disk_from(bytes: &Bytes) -> Option<DiskId> {
    let bytes: [u8; 16] = bytes[..].try_into().ok()?;
    Some(DiskId(u128::from_be_bytes(bytes)))
}
