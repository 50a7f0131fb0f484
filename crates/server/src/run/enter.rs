//! How a node comes to have a part in a cluster.
//!
//! A node whose disk holds something goes on. One with an empty disk may be new, or may have lost its
//! disk and with it what it voted for and acknowledged; it must not vote or acknowledge again under
//! that id. So it stays before the gate (see `peer::Gate`) until one of these is sure:
//!
//! * the cluster is there, and its log has taken this id for this disk: asked of a member, where this
//!   node is one of the configured first members and comes late; by `AddNode`, where it joins;
//! * no cluster is there yet: a majority of the configured first members, this one included, answers
//!   and holds nothing but, perhaps, the list of them.

use std::collections::BTreeMap;

use futures::future::join_all;
use ticketrail_core::NodeId;
use ticketrail_proto::error::Reason;
use ticketrail_proto::peer::{Stage, Standing};
use ticketrail_raft::{BootstrapError, PeerAddress, Replica};
use tokio::time::{Instant, sleep};

use super::join::{self, Joining};
use crate::limits;
use crate::members::reason_of;
use crate::peer::Peers;

/// How an empty node comes in.
pub(super) enum Way {
    /// As one of the first members.
    Founding(BTreeMap<NodeId, PeerAddress>),
    /// By asking the members.
    Joining(Joining),
    /// By an operator's word.
    Waiting {
        /// Where it is reached.
        address: PeerAddress,
    },
}

/// Brings this node in and opens the gate. When it cannot be, the replica fails with the reason.
pub(super) async fn enter(replica: Replica, peers: Peers, way: Way) {
    if replica.is_initialized() {
        peers.gate().open();
    }
    match way {
        Way::Founding(_) | Way::Waiting { .. } if replica.is_initialized() => {}
        Way::Founding(members) => found_or_follow(&replica, &peers, members).await,
        Way::Joining(joining) => join::join(&replica, &peers, joining).await,
        Way::Waiting { address } => wait_to_be_added(&peers, &address).await,
    }
}

async fn found_or_follow(replica: &Replica, peers: &Peers, members: BTreeMap<NodeId, PeerAddress>) {
    let me = peers.me().node;
    let mut told = Told::default();
    loop {
        let others = members.keys().copied().filter(|node| *node != me);
        let greetings = join_all(others.map(|node| async move { (node, peers.hello(node).await) }));
        let mut founding = 1;
        // A member anywhere means that the cluster is there, and that it decides.
        let mut is_there = false;
        let mut waits_for = Vec::new();
        for (node, greeting) in greetings.await {
            match greeting {
                Ok(greeting) if is_gone(greeting.standing) => {
                    return replica.fail(&used(me, node, greeting.standing));
                }
                Ok(greeting) if greeting.stage == Stage::Member => match peers.admit(node).await {
                    Ok(()) => {
                        tracing::info!(%node, "the cluster is there and takes this node in");
                        return peers.gate().open();
                    }
                    Err(status) if reason_of(&status) == Some(Reason::NodeIdUsed) => {
                        return replica.fail(&used(me, node, Standing::OtherDisk));
                    }
                    Err(status) => {
                        is_there = true;
                        waits_for
                            .push(format!("node {node} is a member, and {}", status.message()));
                    }
                },
                Ok(_) => founding += 1,
                Err(why) => waits_for.push(format!("node {node}: {why}")),
            }
        }
        if founding * 2 > members.len() && !is_there {
            peers.gate().open();
            match replica.bootstrap(members).await {
                // Another member was quicker.
                Ok(()) | Err(BootstrapError::AlreadyInitialized) => return,
                Err(error) => return replica.fail(&error.to_string()),
            }
        }
        told.again(|| {
            tracing::info!(?waits_for, "this disk is empty: waiting for a majority of the first members, or for the cluster");
        });
        sleep(limits::ENTER_AGAIN).await;
    }
}

async fn wait_to_be_added(peers: &Peers, address: &PeerAddress) {
    let node = peers.me().node;
    let PeerAddress { peer, client } = address;
    tracing::info!(
        "this disk is empty: waiting to be added: ticketrail cluster add {node} --peer {peer} --client {client}"
    );
    peers.gate().opened().await;
    tracing::info!("the cluster takes this node in");
}

/// Whether a node id can never again be used with this disk.
pub(super) fn is_gone(standing: Standing) -> bool {
    matches!(standing, Standing::OtherDisk | Standing::Retired)
}

/// What an operator is told of an id that is used up.
pub(super) fn used(me: NodeId, by: NodeId, standing: Standing) -> String {
    match standing {
        Standing::Retired => format!(
            "node {me} was removed from the cluster (says node {by}) and its id is never used again; to come back, \
             start it with an empty data folder under a new id with --join"
        ),
        _ => format!(
            "this node's disk is not the one that the cluster (says node {by}) knows as node {me}, and what node {me} \
             promised was on that one; start it with an empty data folder under a new id with --join, then remove node {me}"
        ),
    }
}

/// Says the same not more than now and then.
#[derive(Default)]
pub(super) struct Told(Option<Instant>);

impl Told {
    pub(super) fn again(&mut self, tell: impl FnOnce()) {
        let now = Instant::now();
        let due = self
            .0
            .is_none_or(|last| now.saturating_duration_since(last) >= limits::ENTER_TELL);
        if due {
            self.0 = Some(now);
            tell();
        }
    }
}
