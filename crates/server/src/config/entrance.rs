//! How a node with an empty folder comes into a cluster.

use std::collections::BTreeMap;

use ticketrail_core::NodeId;
use ticketrail_raft::PeerAddress;
use xxhash_rust::xxh3::xxh3_128;

use super::validated::{ConfigError, address, invalid, is_address};
use super::written::WrittenConfig;

/// How a node with an empty folder comes into a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// As one of the first members of a new one.
    Bootstrap(Bootstrap),
    /// Through members of one that is there.
    Join {
        /// Where these serve clients.
        endpoints: Vec<String>,
        /// It is to vote when it has caught up.
        votes: bool,
    },
    /// It is not said: the folder is not empty, or an operator adds the node.
    None,
}

/// A new cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// Identity of the cluster; never 0.
    pub cluster_id: u128,
    /// All members and where they are reached; this node is one of them.
    pub members: BTreeMap<NodeId, PeerAddress>,
}

impl Entrance {
    pub(super) fn validate(
        written: &WrittenConfig,
        node: NodeId,
        cluster_id: Option<u128>,
    ) -> Result<Self, ConfigError> {
        if written.join.is_none() && written.learner.is_some() {
            return Err(ConfigError::Missing("join"));
        }
        match (&written.bootstrap, &written.join) {
            (Some(list), None) => Ok(Self::Bootstrap(bootstrap(node, list, cluster_id)?)),
            (None, Some(list)) => Ok(Self::Join {
                endpoints: endpoints(list)?,
                votes: !written.learner.unwrap_or(false),
            }),
            (None, None) => Ok(Self::None),
            (Some(_), Some(list)) => Err(invalid("join", "without `bootstrap`", list)),
        }
    }
}

fn endpoints(list: &str) -> Result<Vec<String>, ConfigError> {
    let endpoint = |text: &str| {
        let bare = text
            .trim()
            .trim_start_matches("http://")
            .trim_end_matches('/');
        let must = "a list of `host:port` with commas";
        is_address(bare)
            .then(|| bare.to_owned())
            .ok_or_else(|| invalid("join", must, list))
    };
    list.split(',').map(endpoint).collect()
}

fn bootstrap(node: NodeId, list: &str, given: Option<u128>) -> Result<Bootstrap, ConfigError> {
    let members = members(list)?;
    if !members.contains_key(&node) {
        return Err(invalid(
            "bootstrap",
            format!("a list with this node, {node}"),
            list,
        ));
    }
    Ok(Bootstrap {
        cluster_id: given.unwrap_or_else(|| made_from(&members)),
        members,
    })
}

/// Reads a list of members.
pub(crate) fn members(list: &str) -> Result<BTreeMap<NodeId, PeerAddress>, ConfigError> {
    let mut members = BTreeMap::new();
    for (node, address) in list.split(',').map(member).collect::<Result<Vec<_>, _>>()? {
        if members.insert(node, address).is_some() {
            return Err(invalid("bootstrap", "a list with each id once", list));
        }
    }
    Ok(members)
}

/// One of such a list.
pub(crate) fn member_text((node, address): (&NodeId, &PeerAddress)) -> String {
    format!("{node}={}@{}", address.peer, address.client)
}

pub(super) fn cluster_id(text: &str) -> Result<u128, ConfigError> {
    match u128::from_str_radix(text, 16) {
        Ok(id) if id != 0 && text.len() == 32 => Ok(id),
        _ => Err(invalid(
            "cluster_id",
            "32 hexadecimal digits, not all 0",
            text,
        )),
    }
}

/// The same on all members, whatever the order in which the list was written.
fn made_from(members: &BTreeMap<NodeId, PeerAddress>) -> u128 {
    let lines = members.iter().map(|member| member_text(member) + "\n");
    xxh3_128(lines.collect::<String>().as_bytes()).max(1)
}

fn member(text: &str) -> Result<(NodeId, PeerAddress), ConfigError> {
    let wrong = || {
        invalid(
            "bootstrap",
            "a list of `ID=PEER_HOST:PORT@CLIENT_HOST:PORT` with commas",
            text,
        )
    };
    let (id, addresses) = text.trim().split_once('=').ok_or_else(wrong)?;
    let (peer, client) = addresses.split_once('@').ok_or_else(wrong)?;
    let node = NodeId(id.parse().ok().filter(|id| *id > 0).ok_or_else(wrong)?);
    let one = |text: &str| address("bootstrap", text.to_owned()).map_err(|_| wrong());
    let address = PeerAddress {
        peer: one(peer)?,
        client: one(client)?,
    };
    Ok((node, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_members_make_the_same_cluster_id_from_the_list() {
        let id = |list: &str| bootstrap(NodeId(2), list, None).unwrap().cluster_id;
        assert_eq!(id("1=a:1@a:2,2=b:1@b:2"), id("2=b:1@b:2, 1=a:1@a:2"));
        assert_ne!(id("1=a:1@a:2,2=b:1@b:2"), id("1=a:1@a:2,2=b:1@b:3"));
    }
}
