//! Three replicas over a channel transport and real folders: what a cluster must do.
#![allow(clippy::unwrap_used)]

mod harness;
mod membership;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use harness::{Cluster, ack, create_queue, entry, eventually, publish, receive};
use ticketrail_core::{NodeId, Outcome};
use ticketrail_raft::{PeerRefusal, PeerRequest, ProposeError};
use ticketrail_storage::StorageError;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_applies_the_same_everywhere() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    for _ in 0..20 {
        cluster.propose(leader, &[publish(5)]).await;
    }
    let received = cluster.propose(leader, &[receive(50, "a")]).await;
    let settled = cluster.propose(leader, &[ack(&received[0])]).await;
    assert!(matches!(&settled[..], [Outcome::Settled { exceptions }] if exceptions.is_empty()));
    cluster.agreed().await;
    for node in cluster.nodes.values() {
        let ready = node
            .replica
            .with_state(|state| state.queue("default", "q").unwrap().ready);
        assert_eq!(ready, 50);
        assert_eq!(*node.heard.commands.lock().unwrap(), 24);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_enter_the_log_in_the_order_of_the_calls() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let replica = cluster.replica(leader);
    let term = replica.leadership().borrow().term;
    let proposals: Vec<_> = (0..200)
        .map(|n| replica.propose(term, entry(&[publish(1 + n % 3)])))
        .collect();
    // Waited for in the reverse order: the calls decide, not the polls.
    let committed = join_all(proposals.into_iter().rev()).await;
    let indexes: Vec<u64> = committed
        .into_iter()
        .rev()
        .map(|committed| committed.unwrap().index)
        .collect();
    assert!(indexes.is_sorted_by(|a, b| a < b));
    cluster.agreed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_a_leader_loses_nothing() {
    let mut cluster = Cluster::start(3).await;
    let first = cluster.leader().await;
    cluster.propose(first, &[publish(10)]).await;
    cluster.stop(first).await;

    let second = cluster.leader().await;
    assert_ne!(second, first);
    cluster.insist(&[create_queue("after")]).await;
    cluster.boot(first).await;
    cluster.agreed().await;
    let counts = cluster.replica(first).with_state(|state| {
        (
            state.queue("default", "q").unwrap().ready,
            state.queue("default", "after").is_some(),
        )
    });
    assert_eq!(counts, (10, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_restart_with_what_they_had() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    for _ in 0..50 {
        cluster.propose(leader, &[publish(10)]).await;
    }
    let before = cluster.agreed().await;
    for id in 1..=3 {
        cluster.stop(NodeId(id)).await;
    }
    for id in 1..=3 {
        cluster.boot(NodeId(id)).await;
        assert!(cluster.replica(NodeId(id)).is_initialized());
    }
    let after = cluster.agreed().await;
    assert!(after.0 > before.0, "a new leader's first entry");
    for node in cluster.nodes.values() {
        let ready = node
            .replica
            .with_state(|state| state.queue("default", "q").unwrap().ready);
        assert_eq!(ready, 500);
        let body = node.replica.body(before.0).unwrap();
        assert_eq!(body, entry(&[publish(10)]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_checkpoint_is_rebuilt_from_snapshot_and_log() {
    let mut cluster = Cluster::start_with(3, |config| {
        config.checkpoint_every = Duration::from_millis(50);
        config.snapshot_bytes = 64 << 10;
        config.log_bytes_kept = 0;
        config.recycle_every = Duration::from_millis(50);
    })
    .await;
    let leader = cluster.leader().await;
    let victim = NodeId(leader.0 % 3 + 1);
    let attempts = AtomicU64::new(0);
    eventually("a purged log", async || {
        for _ in 0..10 {
            cluster.propose(leader, &[publish(40)]).await;
            let attempt = attempts.fetch_add(1, Ordering::Relaxed).to_string();
            let received = cluster.propose(leader, &[receive(40, &attempt)]).await;
            cluster.propose(leader, &[ack(&received[0])]).await;
        }
        cluster.replica(victim).status().purged_index
    })
    .await;
    eventually("recycled segments", async || {
        cluster.propose(leader, &[create_queue("q")]).await;
        let gone = cluster.replica(victim).body(3);
        matches!(gone, Err(StorageError::NoSuchEntry { .. })).then_some(())
    })
    .await;
    cluster.agreed().await;
    cluster.stop(victim).await;
    std::fs::remove_dir_all(cluster.folder(victim).join("checkpoint")).unwrap();
    cluster.insist(&[publish(3)]).await;
    cluster.boot(victim).await;
    cluster.agreed().await;
}

/// An answer that is late is none to a request of which openraft only thinks that it was sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_answer_confirms_no_read_of_a_leader_that_is_cut_off() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (first, second) = (NodeId(leader.0 % 3 + 1), NodeId((leader.0 + 1) % 3 + 1));
    cluster.wires.hold_answers(&[first, second]);
    let replica = cluster.replica(leader);
    let before = replica.status().committed_index;
    let term = replica.leadership().borrow().term;
    let proposed = tokio::spawn(replica.propose(term, entry(&[publish(1)])));
    let has_it = |node: NodeId| cluster.replica(node).status().last_log_index > before;
    eventually("the entry on both", async || {
        (has_it(first) && has_it(second)).then_some(())
    })
    .await;
    cluster.wires.cut(leader);
    let lost = cluster.wires.calls_lost.load(Ordering::Relaxed);
    let reader = replica.clone();
    let read = tokio::spawn(async move { reader.read_index().await });
    eventually("that the read asks", async || {
        (cluster.wires.calls_lost.load(Ordering::Relaxed) >= lost + 2).then_some(())
    })
    .await;
    // What they answered long ago commits the entry, of which the leader then wants to tell the second one.
    cluster.wires.hold_answers(&[second]);
    proposed.await.unwrap().unwrap();
    cluster.wires.hold_answers(&[]);
    assert!(read.await.unwrap().is_err(), "nobody was asked since");
    cluster.wires.heal();
    cluster.agreed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_confirms_reads_through_the_leader_and_an_isolated_node_does_not() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = NodeId(leader.0 % 3 + 1);
    for n in 0..20 {
        cluster
            .propose(leader, &[create_queue(&format!("n-{n}"))])
            .await;
        let reads = (0..10).map(|_| cluster.replica(follower).read_index());
        assert!(join_all(reads).await.iter().all(Result::is_ok));
        let name = format!("n-{n}");
        let found = cluster
            .replica(follower)
            .with_state(|s| s.queue("default", &name).is_some());
        assert!(found, "a confirmed read sees what was committed before");
    }
    cluster.wires.cut(leader);
    assert!(cluster.replica(leader).read_index().await.is_err());
    let replica = cluster.replica(leader);
    let term = replica.leadership().borrow().term;
    let lost = tokio::time::timeout(
        Duration::from_secs(5),
        replica.propose(term, entry(&[publish(1)])),
    );
    // No majority: refused for want of a lease, or unresolved; never committed.
    assert!(!matches!(lost.await, Ok(Ok(_))));
    cluster.wires.heal();
    cluster.agreed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sole_voter_goes_on_leading_whoever_is_asked_to() {
    let cluster = Cluster::start(1).await;
    let leader = cluster.leader().await;
    let replica = cluster.replica(leader);
    replica.transfer_leadership(NodeId(2)).await;
    let term = replica.leadership().borrow().term;
    let committed = replica.propose(term, entry(&[publish(1)])).await;
    assert!(committed.is_ok(), "{committed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_on_request() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.agreed().await;
    let next = NodeId(leader.0 % 3 + 1);
    cluster.replica(leader).transfer_leadership(next).await;
    eventually("the other leader", async || {
        cluster
            .replica(next)
            .leadership()
            .borrow()
            .is_leader
            .then_some(())
    })
    .await;
    assert_eq!(cluster.leader().await, next);
    let stale = cluster.replica(leader).leadership().borrow().term;
    let refused = cluster
        .replica(leader)
        .propose(stale, entry(&[publish(1)]))
        .await;
    assert!(
        matches!(refused, Err(ProposeError::NotLeader { .. })),
        "{refused:?}"
    );
    cluster.agreed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_for_this_node_is_refused() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let replica = cluster.replica(leader);
    let before = replica.status();
    let header = |cluster_id: u128, sender, target| ticketrail_proto::peer::Header {
        cluster_id: cluster_id.to_be_bytes().to_vec().into(),
        sender_node_id: sender,
        target_node_id: target,
        ..Default::default()
    };
    let vote = |header, candidate| {
        PeerRequest::Vote(ticketrail_proto::peer::VoteRequest {
            header: Some(header),
            vote: Some(ticketrail_proto::peer::Vote {
                term: 99,
                node_id: candidate,
                committed: false,
            }),
            ..Default::default()
        })
    };
    let other = leader.0 % 3 + 1;
    let cases = [
        (
            vote(header(1, other, leader.0), other),
            PeerRefusal::WrongTarget { node_id: leader },
        ),
        (
            vote(header(harness::CLUSTER, other, other), other),
            PeerRefusal::WrongTarget { node_id: leader },
        ),
        (
            vote(header(harness::CLUSTER, other, leader.0), 9),
            PeerRefusal::UnknownSender {
                sender: NodeId(other),
            },
        ),
    ];
    for (request, refusal) in cases {
        assert_eq!(replica.handle(request).await, Err(refusal));
    }
    assert_eq!(replica.status().term, before.term);
    let term = before.term;
    for payload in [
        Bytes::new(),
        Bytes::from_static(&[0]),
        vec![8; (32 << 10) + 1].into(),
    ] {
        assert_eq!(
            replica.propose(term, payload).await,
            Err(ProposeError::Invalid)
        );
    }
}
