//! One life's way into the network: what `raft` and `broker` send through.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use ticketrail_broker::{Forward, Link, LinkError};
use ticketrail_core::{BootId, NodeId};
use ticketrail_raft::{PeerRequest, PeerResponse, Transport, TransportError};
use tokio::sync::oneshot;

use super::network::{Letter, Network, Wall, lose};
use super::runtime::Life;

/// As the server waits for a peer to take commands.
const FORWARD_WAIT: Duration = Duration::from_secs(2);

/// See the module.
pub(crate) struct Port {
    pub(crate) from: u64,
    pub(crate) network: Arc<Network>,
    pub(crate) life: Arc<Life>,
    pub(crate) wall: Arc<Wall>,
}

impl Transport for Port {
    fn call(
        &self,
        target: NodeId,
        request: PeerRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<PeerResponse, TransportError>> {
        let (answer, answered) = oneshot::channel();
        let way = (self.from, target.0);
        let letter = Letter {
            request,
            from: self.from,
            wall_ms: self.wall.now_ms(),
        };
        let arrivals = self.network.arrivals(way);
        if let Some(again) = arrivals.get(1) {
            let (unheard, _) = oneshot::channel();
            let again = self
                .network
                .clone()
                .carry(way, *again, letter.clone(), unheard);
            drop(tokio::spawn(again));
        }
        match arrivals.first() {
            Some(arrival) => {
                let carry = self.network.clone().carry(way, *arrival, letter, answer);
                drop(tokio::spawn(carry));
            }
            None => drop(tokio::spawn(lose(answer))),
        }
        let (network, from, life) = (self.network.clone(), self.from, self.life.clone());
        Box::pin(async move {
            let Ok(Ok(result)) = tokio::time::timeout(timeout, answered).await else {
                return Err(TransportError::TimedOut { target });
            };
            let heard = result.as_ref().ok().and_then(PeerResponse::header);
            if let (Some(header), false) = (heard, life.is_dead())
                && let (Some(me), Some(peer)) = (network.node(from), network.node(target.0))
            {
                let boot = BootId(header.boot_id);
                me.broker.observe_peer(target, boot, peer.wall.now_ms());
            }
            result
        })
    }
}

impl Link for Port {
    fn forward(
        &self,
        leader: NodeId,
        forward: Forward,
    ) -> BoxFuture<'static, Result<(), LinkError>> {
        let answered = self.network.forward((self.from, leader.0), forward);
        Box::pin(async move {
            match tokio::time::timeout(FORWARD_WAIT, answered).await {
                Ok(Ok(result)) => result,
                // The connection broke; whether it arrived is not known.
                Ok(Err(_)) | Err(_) => Err(LinkError::Broken),
            }
        })
    }
}
