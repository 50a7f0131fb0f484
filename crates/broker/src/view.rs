//! Reading: linearizable views of the state.

use std::time::Duration;

use bytes::Bytes;
use ticketrail_core::view::{MessageState, Peeked};
use ticketrail_core::{NodeId, Offset, QueueId};
use ticketrail_proto::error::{Problem, Reason};
use ticketrail_raft::{Source, Status};
use tokio::time::{Instant, timeout_at};

use crate::broker::Broker;
use crate::topology::namespace_or_default;

/// Who asks for a copy and gets none asks again after so long.
const EXPORT_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A message as a browser sees it.
#[derive(Clone, Debug)]
pub struct PeekedMessage {
    /// Where it is and what state it is in.
    pub peeked: Peeked,
    /// The routing key that it was published with.
    pub routing_key: String,
    /// The encoded `store.v1.StoredMessage`.
    pub message: Bytes,
}

/// One node, as the node that answers sees it.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// The node.
    pub node: NodeId,
    /// Milliseconds since it was heard of; `None`: never, or it is the node that answers.
    pub silent_ms: Option<u64>,
}

/// The cluster, as the node that answers sees it.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// Its identity.
    pub cluster_id: u128,
    /// Raft's side.
    pub status: Status,
    /// The nodes.
    pub nodes: Vec<NodeView>,
    /// Replicated lease time, ms.
    pub lease_now_ms: u64,
    /// Replicated wall time, ms since 1970.
    pub wall_now_ms: u64,
    /// Digest of all outcomes up to the applied index.
    pub digest: u64,
    /// State machine version.
    pub version: u32,
}

impl Broker {
    /// A linearizable read: `read` sees everything that was confirmed before this call.
    ///
    /// # Errors
    /// No leader in time.
    pub async fn read<T>(
        &self,
        deadline: Instant,
        read: impl FnOnce(&ticketrail_core::State) -> T,
    ) -> Result<T, Problem> {
        self.inner.read_barrier(deadline).await?;
        Ok(self.inner.replica.with_state(read))
    }

    /// A linearizable read of one queue.
    ///
    /// # Errors
    /// No such namespace or queue; no leader in time.
    pub async fn read_queue<T>(
        &self,
        namespace: &str,
        queue: &str,
        deadline: Instant,
        read: impl FnOnce(&ticketrail_core::State, ticketrail_core::view::QueueView<'_>) -> T,
    ) -> Result<T, Problem> {
        let named = namespace_or_default(namespace);
        let found = self
            .read(deadline, |state| {
                state.queue(named, queue).map(|view| read(state, view))
            })
            .await?;
        found.ok_or_else(|| self.inner.not_found(namespace, queue))
    }

    /// Browses messages of a queue from an offset on, without changing anything.
    ///
    /// # Errors
    /// No such namespace or queue; no leader in time; bytes that cannot be read here.
    pub async fn peek(
        &self,
        namespace: &str,
        queue: &str,
        filter: Option<MessageState>,
        from: Offset,
        limit: usize,
        deadline: Instant,
    ) -> Result<(QueueId, Vec<PeekedMessage>), Problem> {
        let (id, peeked) = self
            .read_queue(namespace, queue, deadline, |state, view| {
                (view.id, state.peek(view.id, filter, from, limit))
            })
            .await?;
        let with_bytes = |peeked: Peeked| {
            let found = self.inner.bodies.message(id, peeked.offset, peeked.body)?;
            Ok(found.map(|(routing_key, message)| PeekedMessage {
                peeked,
                routing_key,
                message,
            }))
        };
        Ok((
            id,
            peeked
                .into_iter()
                .filter_map(|peeked| with_bytes(peeked).transpose())
                .collect::<Result<_, Problem>>()?,
        ))
    }

    /// A consistent copy of this node's state and bodies, to be read in pieces, with everything in it that
    /// was confirmed before this call.
    ///
    /// # Errors
    /// No leader in time; too many copies are made already, or this one was not made in time.
    pub async fn export(&self, deadline: Instant) -> Result<Source, Problem> {
        self.inner.read_barrier(deadline).await?;
        let export = timeout_at(deadline, self.inner.replica.export()).await;
        let export = export.unwrap_or_else(|_| Err("it was not ready in time".to_owned()));
        export.map_err(|why| {
            let message =
                format!("no copy can be made here now: {why}; try again, or ask another node");
            Problem::new(Reason::Overloaded, message).retry_after(EXPORT_AGAIN_AFTER)
        })
    }

    /// The cluster as this node sees it; never waits.
    #[must_use]
    pub fn cluster(&self) -> ClusterView {
        let status = self.inner.replica.status();
        let me = self.inner.hub.owner().node;
        let silent = |node: NodeId| {
            let (_, silence) = self.inner.peers.silence(node)?;
            (node != me).then_some(u64::try_from(silence.as_millis()).unwrap_or(u64::MAX))
        };
        let node = |&node: &NodeId| NodeView {
            node,
            silent_ms: silent(node),
        };
        let nodes = status.members.keys().map(node).collect();
        self.inner.replica.with_state(|state| ClusterView {
            cluster_id: self.inner.config.cluster_id,
            nodes,
            lease_now_ms: state.lease_now().0,
            wall_now_ms: state.wall_now().0,
            digest: state.digest(),
            version: state.version(),
            status,
        })
    }
}
