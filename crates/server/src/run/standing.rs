//! Whether this node still belongs to the cluster: one that was removed while it was away is not told by the
//! log, since nobody sends it any.

use std::time::Duration;

use futures::future::join_all;
use ticketrail_raft::Replica;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::enter::{is_gone, used};
use crate::limits;
use crate::peer::Peers;

/// While no leader is heard of, asks the members whether this node is still one; fails the replica if not.
pub(super) async fn watch(replica: Replica, peers: Peers, stop: CancellationToken) {
    let mut look = tokio::time::interval(limits::STANDING_LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = stop.cancelled() => return,
        }
        let status = replica.status();
        let leads = status.leader == Some(status.node_id);
        let silence = status.leader_contact_ms_ago.map(Duration::from_millis);
        let is_led = silence.is_some_and(|silence| silence < limits::LEADER_SILENCE_MAX);
        if leads || is_led || !replica.is_initialized() {
            continue;
        }
        let others = peers.others();
        let greetings = join_all(others.into_iter().map(|node| {
            let peers = &peers;
            async move { (node, peers.hello(node).await) }
        }));
        for (node, greeting) in greetings.await {
            if let Ok(greeting) = greeting
                && is_gone(greeting.standing)
            {
                return replica.fail(&used(status.node_id, node, greeting.standing));
            }
        }
    }
}
