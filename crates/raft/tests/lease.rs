//! A leader that no majority answers for a while, and that goes on leading in the same term.
#![allow(clippy::unwrap_used)]

mod harness;

use std::time::Duration;

use harness::{Cluster, entry, eventually, publish};
use ticketrail_core::NodeId;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_without_lease_waits_as_long_as_its_term() {
    let cluster = Cluster::start_with(3, |config| {
        (config.election_min_ms, config.election_max_ms) = (150, 300);
    })
    .await;
    let leader = cluster.leader().await;
    let replica = cluster.replica(leader);
    let term = replica.leadership().borrow().term;
    let still_leads = || {
        let lead = *replica.leadership().borrow();
        lead.is_leader && lead.term == term
    };
    for node in (1..=3).map(NodeId).filter(|node| *node != leader) {
        cluster.wires.cut(node);
    }
    eventually("the lease to end", async || {
        replica.status().quorum_ack_ms_ago.filter(|ago| *ago > 600)
    })
    .await;
    let mut proposal = Box::pin(replica.propose(term, entry(&[publish(1)])));
    // Far longer than any lease: refused now, it would be lost without a word to who waits for it.
    let early = tokio::time::timeout(Duration::from_secs(2), &mut proposal).await;
    assert!(early.is_err() && still_leads(), "{early:?}");
    cluster.wires.heal();
    let late = tokio::time::timeout(Duration::from_secs(60), proposal).await;
    let late = late.expect("an outcome once a majority answers");
    // Another node may have won the election after the healing; else it must be in.
    assert!(late.is_ok() || !still_leads(), "{late:?}");
    cluster.agreed().await;
}
