//! `--join`: a node with a new id asks the members to take it in, and to make it a voter when it has
//! caught up. All of it can be repeated: after a crash the next start goes on where this one was.

use std::io;
use std::path::{Path, PathBuf};

use ticketrail_core::NodeId;
use ticketrail_proto::error::Reason;
use ticketrail_proto::v1;
use ticketrail_proto::v1::cluster_service_client::ClusterServiceClient;
use ticketrail_raft::{PeerAddress, Replica};
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::RunError;
use super::enter::Told;
use crate::limits;
use crate::members::reason_of;
use crate::peer::Peers;

/// Says, in the data folder, that the node is still to become a voter: one that an operator demotes
/// later is not promoted again by a restart.
const TO_VOTE: &str = "becoming-a-voter";

/// What a node that joins needs to know.
pub(super) struct Joining {
    /// Where members serve clients.
    pub(super) endpoints: Vec<String>,
    /// It is to vote.
    pub(super) votes: bool,
    /// Where this node is reached.
    pub(super) address: PeerAddress,
    /// This node's folder.
    pub(super) folder: PathBuf,
}

/// The identity of the cluster that is to be joined, from the first member that answers.
pub(super) async fn cluster_id(endpoints: &[String]) -> Result<u128, RunError> {
    let mut told = Told::default();
    loop {
        for endpoint in endpoints {
            let answer = async {
                let mut client = client(endpoint)?;
                let asked = client.get_cluster(v1::GetClusterRequest {});
                Ok::<_, Status>(timed(asked).await?.into_inner().cluster_id)
            };
            match answer.await {
                Ok(id) => match <[u8; 16]>::try_from(&id[..]) {
                    Ok(id) => return Ok(u128::from_be_bytes(id)),
                    Err(_) => {
                        let message = format!("`{endpoint}` answers without a cluster id");
                        return Err(RunError::Start(message));
                    }
                },
                Err(status) => told.again(|| {
                    tracing::info!(
                        endpoint,
                        why = status.message(),
                        "no member to join answers yet"
                    );
                }),
            }
        }
        sleep(limits::ENTER_AGAIN).await;
    }
}

/// Brings this node into the cluster, and among the voters if it is to be.
pub(super) async fn join(replica: &Replica, peers: &Peers, joining: Joining) {
    let me = peers.me().node;
    let to_vote = joining.folder.join(TO_VOTE);
    if !replica.is_initialized()
        && joining.votes
        && let Err(error) = note(&joining.folder, &to_vote).await
    {
        return replica.fail(&format!("`{}`: {error}", to_vote.display()));
    }
    let add = |mut client: ClusterServiceClient<Channel>| {
        let request = v1::AddNodeRequest {
            node_id: me.0,
            client_address: joining.address.client.clone(),
            peer_address: joining.address.peer.clone(),
        };
        async move { timed(client.add_node(in_time(request))).await.map(drop) }
    };
    if !until_done(replica, &joining.endpoints, me, "join the cluster", add).await {
        return;
    }
    peers.gate().open();
    if !to_vote.exists() {
        return;
    }
    let promote = |mut client: ClusterServiceClient<Channel>| {
        let request = v1::PromoteNodeRequest { node_id: me.0 };
        async move { timed(client.promote_node(in_time(request))).await.map(drop) }
    };
    if until_done(replica, &joining.endpoints, me, "become a voter", promote).await {
        tracing::info!("this node votes");
        if let Err(error) = tokio::fs::remove_file(&to_vote).await {
            tracing::warn!(%error, file = %to_vote.display(), "a file that says that this node is to vote stays");
        }
    }
}

/// Makes an empty file that is there after a power cut, too.
async fn note(folder: &Path, file: &Path) -> io::Result<()> {
    tokio::fs::File::create(file).await?.sync_all().await?;
    tokio::fs::File::open(folder).await?.sync_all().await
}

/// Asks the members in turn until one answers OK; `false` when none ever will, which fails the replica.
async fn until_done<F: Future<Output = Result<(), Status>>>(
    replica: &Replica,
    endpoints: &[String],
    me: NodeId,
    what: &str,
    ask: impl Fn(ClusterServiceClient<Channel>) -> F,
) -> bool {
    let mut told = Told::default();
    loop {
        // Also those that this node has got to know: the others may be gone by now.
        let members = replica.status().members;
        let known = members.iter().filter(|(node, _)| **node != me);
        let known = known.map(|(_, member)| &member.address.client);
        for endpoint in endpoints.iter().chain(known) {
            let asked = async { ask(client(endpoint)?).await };
            let Err(status) = asked.await else {
                tracing::info!(node = %me, "done: {what}");
                return true;
            };
            match reason_of(&status) {
                Some(Reason::NodeIdUsed | Reason::InvalidField | Reason::TooManyNodes) => {
                    replica.fail(&format!("node {me} cannot {what}: {}", status.message()));
                    return false;
                }
                _ => told.again(|| {
                    let why = status.message();
                    tracing::info!(endpoint, why, "waiting to {what}");
                }),
            }
        }
        sleep(limits::ENTER_AGAIN).await;
    }
}

fn in_time<T>(request: T) -> Request<T> {
    let mut request = Request::new(request);
    request.set_timeout(limits::JOIN_WAIT_MAX);
    request
}

async fn timed<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let answer = timeout(limits::JOIN_WAIT_MAX, call).await;
    answer.unwrap_or_else(|_| Err(Status::unavailable("no answer in time")))
}

fn client(endpoint: &str) -> Result<ClusterServiceClient<Channel>, Status> {
    let url = match endpoint.contains("://") {
        true => endpoint.to_owned(),
        false => format!("http://{endpoint}"),
    };
    let endpoint = Endpoint::from_shared(url)
        .map_err(|error| Status::invalid_argument(error.to_string()))?
        .connect_timeout(limits::PEER_CONNECT_WAIT_MAX);
    Ok(ClusterServiceClient::new(endpoint.connect_lazy()))
}
