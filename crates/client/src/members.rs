//! Who belongs to the cluster, and changes of it. Any node takes them; each but a transfer is repeated until it is
//! answered: what is done already is answered OK.

use ticketrail_proto::v1;

use crate::call::Repeat;
use crate::client::Client;
use crate::error::Result;

impl Client {
    /// Makes a running node with an empty disk a learner, or sets the addresses of a member.
    ///
    /// # Errors
    ///
    /// `NODE_ID_USED`, `NODE_UNREACHABLE`, `CHANGE_IN_PROGRESS`, `TOO_MANY_NODES`; and what any call may end with: see [`Error`](crate::Error).
    pub async fn add_node(
        &self,
        node_id: u64,
        client_address: impl Into<String>,
        peer_address: impl Into<String>,
    ) -> Result<v1::AddNodeResponse> {
        let request = v1::AddNodeRequest {
            node_id,
            client_address: client_address.into(),
            peer_address: peer_address.into(),
        };
        self.call(Repeat::Always, request, async |channel, request| {
            Self::cluster_service(channel).add_node(request).await
        })
        .await
    }

    /// Makes a learner a voter.
    ///
    /// # Errors
    ///
    /// `NODE_NOT_FOUND`, `NODE_LAGS`, `NODE_UNREACHABLE`, `NO_MAJORITY`, `CHANGE_IN_PROGRESS`;
    /// and what any call may end with: see [`Error`](crate::Error).
    pub async fn promote_node(&self, node_id: u64) -> Result<v1::PromoteNodeResponse> {
        let request = v1::PromoteNodeRequest { node_id };
        self.call(Repeat::Always, request, async |channel, request| {
            Self::cluster_service(channel).promote_node(request).await
        })
        .await
    }

    /// Makes a voter a learner.
    ///
    /// # Errors
    ///
    /// `NODE_NOT_FOUND`, `NO_MAJORITY`, `CHANGE_IN_PROGRESS`; and what any call may end with: see [`Error`](crate::Error).
    pub async fn demote_node(&self, node_id: u64) -> Result<v1::DemoteNodeResponse> {
        let request = v1::DemoteNodeRequest { node_id };
        self.call(Repeat::Always, request, async |channel, request| {
            Self::cluster_service(channel).demote_node(request).await
        })
        .await
    }

    /// Removes a node for good, up or down.
    ///
    /// # Errors
    ///
    /// `NODE_NOT_FOUND`, `NO_MAJORITY`, `CHANGE_IN_PROGRESS`; and what any call may end with: see [`Error`](crate::Error).
    pub async fn remove_node(&self, node_id: u64) -> Result<v1::RemoveNodeResponse> {
        let request = v1::RemoveNodeRequest { node_id };
        self.call(Repeat::Always, request, async |channel, request| {
            Self::cluster_service(channel).remove_node(request).await
        })
        .await
    }

    /// Makes a voter the leader; 0 for the most complete of the others.
    ///
    /// # Errors
    ///
    /// `NODE_NOT_FOUND`, `NOT_A_VOTER`, `NODE_LAGS`, `TRANSFER_FAILED`; and what any call may end with: see [`Error`](crate::Error).
    /// Not repeated where the outcome is unknown.
    pub async fn transfer_leadership(
        &self,
        node_id: u64,
    ) -> Result<v1::TransferLeadershipResponse> {
        let request = v1::TransferLeadershipRequest { node_id };
        self.call(Repeat::IfNothingDone, request, async |channel, request| {
            Self::cluster_service(channel)
                .transfer_leadership(request)
                .await
        })
        .await
    }
}
