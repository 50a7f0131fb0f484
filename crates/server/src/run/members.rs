//! Which cluster a node belongs to, and who else is in it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ticketrail_core::NodeId;
use ticketrail_raft::{PeerAddress, Replica};
use ticketrail_storage::{OsDisk, identity};
use tokio_util::sync::CancellationToken;

use super::{RunError, join, known_members};
use crate::config::{Entrance, ServerConfig};
use crate::limits;
use crate::peer::Peers;

/// The cluster that the folder belongs to, or that shall be made in it.
pub(super) async fn cluster_id(config: &ServerConfig) -> Result<u128, RunError> {
    let folder = config.data_dir.join("log");
    let found = if folder.is_dir() {
        let disk = OsDisk::new(&folder)
            .map_err(|error| RunError::Start(format!("`{}`: {error}", folder.display())))?;
        identity::read(&disk)?
    } else {
        None
    };
    let shown = config.data_dir.display().to_string();
    let found = found.map(|identity| identity.cluster_id);
    let given = config.cluster_id;
    match (found, given) {
        (Some(found), Some(given)) if found != given => Err(RunError::OtherCluster {
            folder: shown,
            found,
            given,
        }),
        (Some(found), _) => Ok(found),
        (None, _) => match &config.entrance {
            Entrance::Bootstrap(bootstrap) => Ok(bootstrap.cluster_id),
            Entrance::Join { endpoints, .. } => {
                let found = join::cluster_id(endpoints).await?;
                match given.filter(|given| *given != found) {
                    Some(given) => Err(RunError::JoinsOther { found, given }),
                    None => Ok(found),
                }
            }
            Entrance::None => given.ok_or(RunError::NotBootstrapped { folder: shown }),
        },
    }
}

/// Tells where the members are reached.
pub(super) fn set_addresses(
    peers: &Peers,
    members: &BTreeMap<NodeId, PeerAddress>,
) -> Result<(), RunError> {
    let addresses = members
        .iter()
        .map(|(node, address)| (*node, address.peer.clone()))
        .collect();
    peers.set_addresses(&addresses).map_err(RunError::Start)
}

/// Keeps the ways to the others as the log says that they are, and writes them down, until the node stops.
pub(super) async fn follow_members(
    replica: Replica,
    peers: Peers,
    data_dir: PathBuf,
    stop: CancellationToken,
) {
    let (mut known, mut told) = (BTreeMap::new(), false);
    let mut leadership = replica.leadership();
    let mut look = tokio::time::interval(limits::MEMBERS_LOOK);
    loop {
        let members = replica.status().members;
        let members: BTreeMap<_, _> = members
            .into_iter()
            .map(|(node, member)| (node, member.address))
            .collect();
        if !members.is_empty() && members != known {
            if let Err(error) = set_addresses(&peers, &members) {
                tracing::error!(%error, "a member cannot be reached at its address");
            }
            let (data_dir, written) = (data_dir.clone(), members.clone());
            let write = move || known_members::write(&data_dir, &written);
            match tokio::task::spawn_blocking(write).await {
                Ok(Err(error)) if !told => {
                    tracing::warn!(%error, "the members cannot be written down; it is tried again");
                    told = true;
                }
                Ok(Err(_)) => {}
                Ok(Ok(())) | Err(_) => (known, told) = (members, false),
            }
        }
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() { return },
            _ = look.tick() => {}
            () = stop.cancelled() => return,
        }
    }
}
