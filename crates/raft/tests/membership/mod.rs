//! Members that come and go, under the replica's own hand.

use ticketrail_core::command::RetireNode;
use ticketrail_core::{Command, NodeId};
use ticketrail_proto::peer::{Header, PreVoteRequest, Vote};
use ticketrail_raft::{ChangeError, MemberChange, PeerRefusal, PeerRequest};

use crate::harness::{self, Cluster, address, eventually, publish};

const ONE: NodeId = NodeId(1);

async fn join(cluster: &mut Cluster, leader: NodeId, node: NodeId) {
    cluster.boot(node).await;
    let change = MemberChange::AddLearner {
        node,
        address: address(node),
    };
    cluster
        .replica(leader)
        .change_members(change)
        .await
        .unwrap();
    cluster.agreed().await;
    let promote = MemberChange::Promote(node);
    cluster
        .replica(leader)
        .change_members(promote)
        .await
        .unwrap();
}

fn voters(cluster: &Cluster, at: NodeId) -> Vec<u64> {
    let members = cluster.replica(at).status().members;
    let voters = members.iter().filter(|(_, member)| member.voter);
    voters.map(|(node, _)| node.0).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_one_to_three_and_on_without_the_first() {
    let mut cluster = Cluster::start(1).await;
    cluster.propose(ONE, &[publish(3)]).await;
    join(&mut cluster, ONE, NodeId(2)).await;
    join(&mut cluster, ONE, NodeId(3)).await;
    assert_eq!(voters(&cluster, ONE), [1, 2, 3]);

    // The first leader goes: another one removes it.
    let leader = eventually("another leader", async || {
        let leader = cluster.leader().await;
        if leader != ONE {
            return Some(leader);
        }
        cluster.replica(ONE).transfer_leadership(NodeId(2)).await;
        None
    })
    .await;
    let change = async |change| {
        let changed = cluster.replica(leader).change_members(change).await;
        changed.unwrap();
    };
    change(MemberChange::Demote(ONE)).await;
    eventually("the old leader to hear of it", async || {
        (voters(&cluster, ONE) == [2, 3]).then_some(())
    })
    .await;
    change(MemberChange::RemoveLearner(ONE)).await;
    let retire = Command::RetireNode(RetireNode { node: ONE });
    cluster.propose(leader, &[retire]).await;
    assert_eq!(voters(&cluster, leader), [2, 3]);

    let term = cluster.replica(leader).status().term;
    let vote = PreVoteRequest {
        header: Some(Header {
            cluster_id: harness::CLUSTER.to_be_bytes().to_vec().into(),
            sender_node_id: 1,
            target_node_id: leader.0,
            ..Default::default()
        }),
        vote: Some(Vote {
            term: term + 9,
            node_id: 1,
            committed: false,
        }),
        last_log_id: None,
    };
    let refused = cluster.replica(leader).handle(PeerRequest::PreVote(vote));
    let expected = PeerRefusal::UnknownSender { sender: ONE };
    assert_eq!(refused.await, Err(expected), "it has no say any more");

    // All members start again: the membership is that of the log.
    cluster.stop(ONE).await;
    for node in [NodeId(2), NodeId(3)] {
        cluster.stop(node).await;
    }
    for node in [NodeId(2), NodeId(3)] {
        cluster.boot(node).await;
    }
    cluster.insist(&[publish(2)]).await;
    cluster.agreed().await;
    let leader = cluster.leader().await;
    assert_eq!(voters(&cluster, leader), [2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_that_make_no_sense_are_refused() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = NodeId(leader.0 % 3 + 1);
    let nobody = MemberChange::Promote(NodeId(9));
    let at_follower = cluster.replica(follower).change_members(nobody.clone());
    let elsewhere = ChangeError::NotLeader {
        leader: Some(leader),
    };
    assert_eq!(at_follower.await, Err(elsewhere));
    let at_leader = cluster.replica(leader).change_members(nobody).await;
    assert!(
        matches!(at_leader, Err(ChangeError::Refused(_))),
        "{at_leader:?}"
    );
    let voter = MemberChange::RemoveLearner(follower);
    let at_leader = cluster.replica(leader).change_members(voter).await;
    assert!(
        matches!(at_leader, Err(ChangeError::Refused(_))),
        "{at_leader:?}"
    );
}
