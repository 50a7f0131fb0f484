//! Nodes that come back too late for the log, or without their state, or with a wrong one.
#![allow(clippy::unwrap_used)]

mod harness;

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use harness::{Cluster, ack, check_bodies, entry, eventually, publish, receive};
use ticketrail_core::NodeId;
use ticketrail_raft::{DIGEST_EVERY, PeerRequest, ReplicaConfig};

/// Everything small, so that a log is soon too short.
fn small(config: &mut ReplicaConfig) {
    config.rejoin_from = (1..=3).map(NodeId).collect();
    config.checkpoint_every = Duration::from_millis(30);
    config.snapshot_bytes = 48 << 10;
    config.log_bytes_kept = 0;
    config.recycle_every = Duration::from_millis(30);
}

/// As `small`, with snapshots that take seconds.
fn slow(config: &mut ReplicaConfig) {
    small(config);
    config.fetch_bytes_per_second = 256 << 10;
    config.snapshot_piece_bytes = 32 << 10;
}

fn follower_of(leader: NodeId) -> NodeId {
    NodeId(leader.0 % 3 + 1)
}

/// Publishes, and consumes a half of it, until the leader's log begins behind `index`.
async fn outgrow(cluster: &Cluster, index: u64) {
    let mut round = 0;
    loop {
        let leader = cluster.leader().await;
        if cluster.replica(leader).status().purged_index > Some(index) && round >= 20 {
            return;
        }
        for _ in 0..5 {
            cluster.insist(&[publish(40)]).await;
        }
        let attempt = format!("{index}-{round}");
        let received = cluster.insist(&[receive(100, &attempt)]).await;
        cluster.insist(&[ack(&received[0])]).await;
        round += 1;
    }
}

async fn away_beyond_the_log(cluster: &mut Cluster) -> NodeId {
    let away = follower_of(cluster.leader().await);
    cluster.insist(&[publish(40)]).await;
    cluster.agreed().await;
    let last = cluster.replica(away).status().last_log_index.unwrap();
    cluster.stop(away).await;
    outgrow(cluster, last).await;
    away
}

fn installed(cluster: &Cluster, node: NodeId) -> u64 {
    let counts = cluster.replica(node).transfer_counts();
    counts.installed.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_beyond_the_log_comes_back_by_snapshot() {
    let mut cluster = Cluster::start_with(3, small).await;
    let away = away_beyond_the_log(&mut cluster).await;
    cluster.boot(away).await;
    cluster.agreed().await;
    assert!(installed(&cluster, away) >= 1);
    assert!(*cluster.nodes[&away].heard.replaced.lock().unwrap() >= 1);
    let counted = check_bodies(cluster.replica(away));
    assert!(counted > 1_000, "{counted} messages");

    // It goes on as any other: restarts, follows, leads, purges.
    cluster.stop(away).await;
    cluster.insist(&[publish(40)]).await;
    cluster.boot(away).await;
    cluster.agreed().await;
    check_bodies(cluster.replica(away));
    eventually("the node leads", async || {
        let leader = cluster.leader().await;
        if leader == away {
            return Some(());
        }
        cluster.replica(leader).transfer_leadership(away).await;
        None
    })
    .await;
    let index = cluster.replica(away).status().last_log_index.unwrap();
    outgrow(&cluster, index).await;
    cluster.agreed().await;
    for node in cluster.nodes.values() {
        check_bodies(&node.replica);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_or_a_sender_that_stops_in_the_middle_costs_nothing() {
    let mut cluster = Cluster::start_with(3, slow).await;
    let away = away_beyond_the_log(&mut cluster).await;
    for round in 0..3 {
        cluster.boot(away).await;
        let fetching = async || {
            let progress = cluster.replica(away).status().fetching?;
            (progress.bytes_done > 0).then_some(())
        };
        eventually("a fetch", fetching).await;
        if round == 1 {
            let sender = cluster.leader().await;
            cluster.stop(sender).await;
            cluster.boot(sender).await;
        }
        cluster.stop(away).await;
    }
    cluster.boot(away).await;
    cluster.agreed().await;
    check_bodies(cluster.replica(away));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_line_is_taken_up_where_it_broke() {
    let mut cluster = Cluster::start_with(3, slow).await;
    let away = away_beyond_the_log(&mut cluster).await;
    cluster.boot(away).await;
    eventually("a fetch", async || {
        let progress = cluster.replica(away).status().fetching?;
        (progress.bytes_done > 0).then_some(())
    })
    .await;
    cluster.wires.cut(away);
    eventually("reads to be lost", async || {
        let lost = cluster.wires.reads_lost.load(Ordering::Relaxed);
        (lost >= 3).then_some(())
    })
    .await;
    cluster.wires.heal();
    cluster.agreed().await;
    assert_eq!(installed(&cluster, away), 1);
    let counts = cluster.replica(away).transfer_counts();
    assert_eq!(counts.failed.load(Ordering::Relaxed), 0);
    check_bodies(cluster.replica(away));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_state_but_not_its_log_rejoins() {
    let mut cluster = Cluster::start_with(3, small).await;
    let victim = follower_of(cluster.leader().await);
    outgrow(&cluster, 10).await;
    cluster.agreed().await;
    eventually("its log is purged", async || {
        cluster.replica(victim).status().purged_index
    })
    .await;
    cluster.stop(victim).await;
    for folder in ["checkpoint", "snapshots"] {
        std::fs::remove_dir_all(cluster.folder(victim).join(folder)).unwrap();
    }
    cluster.insist(&[publish(40)]).await;
    cluster.boot(victim).await;
    cluster.agreed().await;
    check_bodies(cluster.replica(victim));
}

/// The second node applies one entry otherwise.
fn second_differs(config: &mut ReplicaConfig) {
    small(config);
    if config.node_id == NodeId(2) {
        config.planted_divergence = Some(DIGEST_EVERY + 500);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_differs_stops_and_comes_back_with_the_state_of_the_others() {
    let mut cluster = Cluster::start_with(3, second_differs).await;
    let differs = NodeId(2);
    let mut committed = 0;
    let has_failed = || cluster.replica(differs).failure().borrow().is_some();
    while !has_failed() {
        let leader = cluster.leader().await;
        let replica = cluster.replica(leader);
        let term = replica.leadership().borrow().term;
        let some = (0..100).map(|_| replica.propose(term, entry(&[publish(1)])));
        committed += join_all(some).await.iter().flatten().count() as u64;
        assert!(committed < 20 * DIGEST_EVERY, "it was not found out");
        // One that lagged would get a snapshot over the entry that it is to apply otherwise.
        eventually("it has applied as much, or was found out", async || {
            let leader = cluster.leader().await;
            let applied = |node| cluster.replica(node).status().applied_index;
            (applied(differs) >= applied(leader) || has_failed()).then_some(())
        })
        .await;
    }
    let reason = cluster.replica(differs).failed().await;
    assert!(reason.starts_with("DIVERGED"), "{reason}");
    cluster.stop(differs).await;
    cluster.insist(&[publish(40)]).await;
    cluster.boot(differs).await;
    cluster.agreed().await;
    check_bodies(cluster.replica(differs));
    for node in cluster.nodes.values() {
        assert!(node.replica.failure().borrow().is_none());
    }
    // Nor at the start after that.
    cluster.stop(differs).await;
    cluster.boot(differs).await;
    cluster.agreed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_of_an_old_leader_and_reads_of_nothing_are_refused() {
    use ticketrail_proto::peer;
    let cluster = Cluster::start_with(3, small).await;
    let leader = cluster.leader().await;
    let follower = follower_of(leader);
    let replica = cluster.replica(follower);
    let header = Some(peer::Header {
        cluster_id: harness::CLUSTER.to_be_bytes().to_vec().into(),
        sender_node_id: leader.0,
        target_node_id: follower.0,
        ..Default::default()
    });
    let offer = |term, committed| {
        PeerRequest::OfferSnapshot(peer::OfferSnapshotRequest {
            header: header.clone(),
            vote: Some(peer::Vote {
                term,
                node_id: leader.0,
                committed,
            }),
            last_log_id: Some(peer::LogId {
                term: 0,
                index: 1_000_000,
            }),
        })
    };
    let answer = replica.handle(offer(0, true)).await.unwrap();
    let ticketrail_raft::PeerResponse::OfferSnapshot(answer) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(answer.outcome(), peer::OfferOutcome::HigherVote);
    assert!(answer.vote.unwrap().term > 0);
    assert!(replica.handle(offer(9, false)).await.is_err());
    let read = PeerRequest::ReadSnapshot(peer::ReadSnapshotRequest {
        header: header.clone(),
        snapshot_id: 7,
        place: Some(peer::read_snapshot_request::Place::FileOffset(0)),
    });
    let answer = replica.handle(read).await.unwrap();
    let gone = format!("{answer:?}");
    assert!(gone.contains("SNAPSHOT_GONE"), "{gone}");
    let open = PeerRequest::OpenSnapshot(peer::OpenSnapshotRequest {
        header,
        last_index_min: 1_000_000,
    });
    let answer = replica.handle(open).await.unwrap();
    let behind = format!("{answer:?}");
    assert!(behind.contains("SNAPSHOT_BEHIND"), "{behind}");
}
