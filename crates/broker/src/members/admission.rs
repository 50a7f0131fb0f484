//! This node's id and disk, as the log knows them.

use ticketrail_core::command::AdmitNode;
use ticketrail_core::row::NodeRow;
use ticketrail_core::{Command, DiskId, NodeId};
use ticketrail_proto::error::{Problem, Reason};
use tokio::time::Instant;

use crate::broker::{Broker, Inner};

/// What this node's state says of an id and a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Never taken, as far as this node knows.
    Unknown,
    /// Taken, for this disk.
    Admitted,
    /// Taken, for another disk.
    OtherDisk,
    /// Removed.
    Retired,
}

impl Broker {
    /// What this node's state says of an id and a disk.
    #[must_use]
    pub fn standing(&self, node: NodeId, disk: DiskId) -> Standing {
        self.inner.standing(node, disk)
    }

    /// Has the log take an id for a disk; for a node that has no part in the cluster yet.
    ///
    /// # Errors
    /// `NODE_ID_USED`; no leader in time.
    pub async fn admit(
        &self,
        node: NodeId,
        disk: DiskId,
        deadline: Instant,
    ) -> Result<(), Problem> {
        let admit = Command::AdmitNode(AdmitNode { node, disk });
        self.inner.submit(&admit, &[], deadline).await.map(drop)
    }
}

impl Inner {
    fn standing(&self, node: NodeId, disk: DiskId) -> Standing {
        match self.replica.with_state(|state| state.node(node)) {
            None => Standing::Unknown,
            Some(NodeRow { retired: true, .. }) => Standing::Retired,
            Some(known) if known.disk == disk => Standing::Admitted,
            Some(_) => Standing::OtherDisk,
        }
    }
}

/// Has the log take this node's id for its disk, if that was not done before it started: the first
/// members of a cluster start before there is a log. One attempt; `Ok` when it is done, or when this
/// node has failed because it may not be what it says.
pub(crate) async fn admit_self(inner: &Inner, deadline: Instant) -> Result<(), Problem> {
    let (node, disk) = (inner.config.node, inner.config.disk);
    if inner.standing(node, disk) == Standing::Admitted {
        return Ok(());
    }
    let admit = Command::AdmitNode(AdmitNode { node, disk });
    match inner.submit(&admit, &[], deadline).await {
        Ok(_) => Ok(()),
        Err(problem) if problem.reason() == Reason::NodeIdUsed => {
            inner.replica.fail(problem.message());
            Ok(())
        }
        Err(problem) => Err(problem),
    }
}
