//! Changes of the members: brought to the leader, wherever it is.

use std::time::Duration;

use ticketrail_broker::{Broker, MembersAnswer, MembersRequest};
use ticketrail_core::NodeId;
use ticketrail_proto::error::{Problem, Reason};
use ticketrail_raft::PeerAddress;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};

use crate::limits;
use crate::node::Node;
use crate::peer::Peers;

/// What a client asks for. The leader alone asks a node that is to be added for its disk.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    /// A learner, or new addresses of a member.
    Add {
        /// The node.
        node: NodeId,
        /// Where it is reached.
        address: PeerAddress,
    },
    /// Anything else.
    Other(MembersRequest),
}

/// Makes a change through whoever leads; also when the leader hands over because of it.
pub(crate) async fn change(
    node: &Node,
    wanted: &Wanted,
    deadline: Instant,
) -> Result<MembersAnswer, Status> {
    let mut leadership = node.broker.leadership();
    let leader_until = Instant::now() + LEADER_WAIT_MAX;
    loop {
        let leader = leadership.borrow_and_update().leader;
        let made = match leader {
            Some(leader) if leader == node.id => {
                change_here(&node.broker, &node.peers, wanted, deadline).await
            }
            Some(leader) => {
                let wait = deadline.saturating_duration_since(Instant::now());
                node.peers.change_members(leader, wanted, wait).await
            }
            None => Err(Problem::no_leader(limits::RETRY_AFTER).into_status()),
        };
        match made {
            Err(status) if is_elsewhere(&status) => {}
            made => return made,
        }
        // Nothing was done. Whoever leads is known soon.
        let until = deadline.min(Instant::now() + LOOK_AGAIN);
        let _ = timeout_at(until, leadership.changed()).await;
        // A node that knows of no leader for so long says so: the client has others to ask.
        let now = Instant::now();
        let hopeless = leader.is_none() && now >= leader_until;
        if now >= deadline || hopeless {
            return Err(Problem::no_leader(limits::RETRY_AFTER).into_status());
        }
    }
}

/// Pause before the leader is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How long a leader may be unknown: longer than an election.
const LEADER_WAIT_MAX: Duration = Duration::from_secs(2);

/// Makes a change, as the leader.
pub(crate) async fn change_here(
    broker: &Broker,
    peers: &Peers,
    wanted: &Wanted,
    deadline: Instant,
) -> Result<MembersAnswer, Status> {
    let (node, address) = match wanted {
        Wanted::Other(request) => {
            return Ok(broker.change_members(request.clone(), deadline).await?);
        }
        Wanted::Add { node, address } => (*node, address),
    };
    if node == peers.me().node {
        return Ok(itself(broker, node, address)?);
    }
    let greeting = peers.hello_at(node, &address.peer, None).await;
    let greeting = greeting.map_err(|why| unreachable(node, &address.peer, &why))?;
    let request = MembersRequest::Add {
        node,
        address: address.clone(),
        disk: greeting.disk,
    };
    let answer = broker.change_members(request, deadline).await?;
    // A node that waits to be added may take part now. If this is lost, it asks or is added again.
    let welcome = peers.hello_at(node, &address.peer, Some(greeting.disk));
    if let Err(why) = welcome.await {
        return Err(unreachable(node, &address.peer, &why).into_status());
    }
    Ok(answer)
}

/// The leader cannot ask itself whether it is reached elsewhere; were it not, nobody would reach it.
fn itself(broker: &Broker, node: NodeId, address: &PeerAddress) -> Result<MembersAnswer, Problem> {
    let status = broker.replica().status();
    if status.members.get(&node).map(|member| &member.address) == Some(address) {
        return Ok(MembersAnswer {
            unchanged: true,
            leader: status.leader,
            ..MembersAnswer::default()
        });
    }
    let must =
        "another node than the one that leads, where an address changes: transfer leadership first";
    Err(Problem::invalid_field("node_id", must))
}

fn unreachable(node: NodeId, address: &str, why: &str) -> Problem {
    let message = format!(
        "node {node} does not answer at `{address}` as a node of this cluster ({why}); start it with --join, or with \
         --cluster-id and an empty data folder, and check the address"
    );
    Problem::new(Reason::NodeUnreachable, message).with("node_id", node)
}

/// Nothing was done because another node leads, or none is known to.
fn is_elsewhere(status: &Status) -> bool {
    let reason = reason_of(status);
    reason == Some(Reason::NotLeader) || reason == Some(Reason::NoLeader)
}

/// The stable reason of a status of ours.
pub(crate) fn reason_of(status: &Status) -> Option<Reason> {
    use tonic_types::StatusExt;
    if status.code() == Code::Ok {
        return None;
    }
    Reason::parse(&status.get_details_error_info()?.reason)
}
