use bytes::Bytes;
use ticketrail_core::{BootId, NodeId};
use ticketrail_proto::error::Problem;
use ticketrail_proto::peer::Header;
use ticketrail_raft::GROUP;

/// Who this process is among its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Me {
    /// The cluster.
    pub(crate) cluster_id: u128,
    /// The node.
    pub(crate) node: NodeId,
    /// This run of its process.
    pub(crate) boot: BootId,
}

impl Me {
    /// The header of a message to `target`.
    pub(crate) fn header_to(&self, target: NodeId) -> Header {
        Header {
            cluster_id: Bytes::copy_from_slice(&self.cluster_id.to_be_bytes()),
            sender_node_id: self.node.0,
            target_node_id: target.0,
            group_id: GROUP,
            boot_id: self.boot.0,
        }
    }

    /// Whether a message is for this node, of this cluster; who sent it.
    pub(crate) fn check(&self, header: Option<&Header>) -> Result<(NodeId, BootId), Problem> {
        let Some(header) = header else {
            return Err(Problem::wrong_cluster("it has no header"));
        };
        if header.cluster_id[..] != self.cluster_id.to_be_bytes() {
            let own = self.cluster_id;
            return Err(Problem::wrong_cluster(format!(
                "this is cluster {own:032x}, it is of another"
            )));
        }
        if header.target_node_id != self.node.0 {
            let (own, meant) = (self.node, header.target_node_id);
            return Err(Problem::wrong_cluster(format!(
                "this is node {own}, it is for node {meant}"
            )));
        }
        if header.sender_node_id == self.node.0 || header.sender_node_id == 0 {
            let sender = header.sender_node_id;
            return Err(Problem::wrong_cluster(format!(
                "it says that node {sender} sent it to itself"
            )));
        }
        if header.group_id != GROUP {
            let group = header.group_id;
            return Err(Problem::wrong_cluster(format!(
                "there is no group {group} here"
            )));
        }
        Ok((NodeId(header.sender_node_id), BootId(header.boot_id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ticketrail_proto::error::Reason;

    const A: Me = Me {
        cluster_id: 7,
        node: NodeId(1),
        boot: BootId(11),
    };
    const B: Me = Me {
        cluster_id: 7,
        node: NodeId(2),
        boot: BootId(22),
    };

    #[test]
    fn only_messages_of_this_cluster_for_this_node_pass() {
        let good = A.header_to(NodeId(2));
        assert_eq!(B.check(Some(&good)), Ok((NodeId(1), BootId(11))));
        let bad = [
            Header {
                cluster_id: Bytes::new(),
                ..good.clone()
            },
            Header {
                cluster_id: Bytes::copy_from_slice(&8_u128.to_be_bytes()),
                ..good.clone()
            },
            Header {
                target_node_id: 3,
                ..good.clone()
            },
            Header {
                sender_node_id: 2,
                ..good.clone()
            },
            Header {
                sender_node_id: 0,
                ..good.clone()
            },
            Header {
                group_id: 1,
                ..good
            },
        ];
        for header in bad.iter().map(Some).chain([None]) {
            assert_eq!(
                B.check(header).unwrap_err().reason(),
                Reason::WrongCluster,
                "{header:?}"
            );
        }
    }
}
