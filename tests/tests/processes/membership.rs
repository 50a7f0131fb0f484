//! Who belongs to the cluster changes while it works: nothing that was confirmed is lost, and no node
//! ever comes back as somebody that it is not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use ticketrail_proto::v1::PublishRequest;
use ticketrail_tests::cluster::checks::{agreed, conserved};
use ticketrail_tests::cluster::members::Entrance;
use ticketrail_tests::cluster::producer::{item, publish};
use ticketrail_tests::cluster::{
    Clients, Cluster, NodeId, Producer, Refused, from_proto, invites_retry, millis, secs, until,
    within,
};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Publishes batch after batch through any node until it is told to stop.
struct Traffic {
    stop: Arc<AtomicBool>,
    task: JoinHandle<BTreeSet<Bytes>>,
}

impl Traffic {
    async fn start(cluster: &Cluster, nodes: Vec<Clients>) -> Self {
        let mut producer = Producer::open(cluster, "traffic").await;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut confirmed = BTreeSet::new();
            let mut round = 0;
            while !stopped.load(Ordering::Relaxed) {
                let bodies: Vec<Bytes> = (0..10).map(|k| format!("{round} {k}").into()).collect();
                let items = bodies.iter().map(|body| item("orders", body.clone()));
                confirm(&nodes, producer.batch(items.collect())).await;
                confirmed.extend(bodies);
                round += 1;
            }
            confirmed
        });
        Self { stop, task }
    }

    /// Every body that was confirmed.
    async fn stop(self) -> BTreeSet<Bytes> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// Publishes a batch through one node after the other until one confirms it.
async fn confirm(nodes: &[Clients], request: PublishRequest) {
    let deadline = Instant::now() + secs(30);
    for turn in 0.. {
        let mut publisher = nodes[turn % nodes.len()].publisher.clone();
        match publisher.publish(within(secs(5), request.clone())).await {
            Ok(_) => return,
            Err(status) if invites_retry(&status) && Instant::now() < deadline => {
                tokio::time::sleep(millis(5)).await;
            }
            Err(status) => panic!("a publish was refused: {}", Refused::from(&status)),
        }
    }
}

/// All that was confirmed is there once, byte by byte, and the nodes agree.
async fn holds(cluster: &Cluster, confirmed: BTreeSet<Bytes>) {
    let there = cluster.peek_all("orders").await;
    let bodies: Vec<Bytes> = there
        .into_iter()
        .map(|peeked| peeked.message.unwrap().body)
        .collect();
    assert_eq!(bodies.len(), confirmed.len(), "nothing lost, nothing twice");
    assert_eq!(bodies.into_iter().collect::<BTreeSet<_>>(), confirmed);
    conserved("orders", &cluster.stats("orders").await);
    agreed(cluster).await;
}

async fn says(cluster: &Cluster, id: NodeId, words: &str) {
    until(
        &format!("node {id} to say `{words}`"),
        secs(20),
        async || {
            let log = cluster.log_text(id);
            if log.contains(words) { Ok(()) } else { Err(()) }
        },
    )
    .await;
}

/// Asks for a leader until it leads: a busy machine may elect another first, and the command says so.
async fn hand_over_to(cluster: &Cluster, node: NodeId) {
    until(&format!("node {node} to lead"), secs(30), async || {
        let output = cluster
            .ticketrail(&["cluster", "transfer", &node.to_string()])
            .await;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        let leads = said.contains(&format!("node {node} leads"));
        let refused = said.contains("TRANSFER_FAILED");
        assert!(
            leads == output.status.success() && (leads || refused),
            "{said}"
        );
        if leads { Ok(()) } else { Err(said) }
    })
    .await;
}

/// Waits until the leader has not heard of a node for longer than one that answers may be silent.
async fn missed(cluster: &Cluster, id: NodeId) {
    until(&format!("node {id} to be missed"), secs(20), async || {
        let leader = cluster.leader().await;
        let view = cluster.view(leader).await.map_err(|why| why.to_string())?;
        let node = view.nodes.iter().find(|node| node.node_id == id);
        let silence = from_proto(node.and_then(|node| node.last_contact.as_ref()));
        match silence {
            Some(silence) if silence < millis(1_500) => Err(format!("{silence:?}")),
            _ => Ok(()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_one_to_three_to_five_and_back_under_traffic() {
    let mut cluster = Cluster::builder().nodes(1).start().await;
    cluster.queue("orders").create().await;
    for id in 2..=5 {
        cluster.prepare_node(id, Entrance::Join);
    }
    let nodes = cluster.ids().into_iter().map(|id| cluster.on(id)).collect();
    let traffic = Traffic::start(&cluster, nodes).await;
    for (newcomers, voters) in [([2, 3], vec![1, 2, 3]), ([4, 5], vec![1, 2, 3, 4, 5])] {
        for id in newcomers {
            cluster.spawn(id);
        }
        cluster.voters_are(&voters).await;
        for id in newcomers {
            cluster.serves(id).await;
        }
    }
    // Back to three: the leader first, then whoever leads next.
    let mut left: Vec<NodeId> = cluster.ids();
    for _ in 0..2 {
        let leader = cluster.leader().await;
        let said = cluster
            .ok(&["cluster", "remove", &leader.to_string()])
            .await;
        assert!(said.contains("is removed"), "{said}");
        left.retain(|id| *id != leader);
        cluster.voters_are(&left).await;
        // The removed node hears of it and ends by itself.
        let ended = cluster.ended(leader, secs(30)).await;
        assert!(!ended.success());
        says(&cluster, leader, "was removed from the cluster").await;
        cluster.forget(leader);
    }
    assert_eq!(cluster.members().await.len(), 3);
    let confirmed = traffic.stop().await;
    assert!(
        confirmed.len() > 100,
        "there was traffic: {}",
        confirmed.len()
    );
    holds(&cluster, confirmed.clone()).await;

    // The log knows who belongs to it, not the configuration.
    cluster.stop().await;
    for id in cluster.ids() {
        cluster.spawn(id);
    }
    for id in cluster.ids() {
        cluster.serves(id).await;
    }
    cluster.voters_are(&left).await;
    holds(&cluster, confirmed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_disk_is_replaced_under_a_new_id_and_never_under_the_old_one() {
    let mut cluster = Cluster::start().await;
    cluster.queue("orders").create().await;
    cluster.prepare_node(4, Entrance::Join);
    let nodes = cluster.ids().into_iter().map(|id| cluster.on(id)).collect();
    let traffic = Traffic::start(&cluster, nodes).await;
    let lost = cluster.follower().await;
    // The log has taken its id for its disk.
    says(&cluster, lost, "broker: serving").await;
    cluster.kill(lost);
    cluster.wipe(lost);
    cluster.spawn(lost);
    let ended = cluster.ended(lost, secs(30)).await;
    assert!(!ended.success());
    says(&cluster, lost, "under a new id with --join").await;

    cluster.spawn(4);
    cluster.voters_are(&[1, 2, 3, 4]).await;
    let said = cluster.ok(&["cluster", "remove", &lost.to_string()]).await;
    assert!(said.contains("is removed"), "{said}");
    let mut voters: Vec<NodeId> = vec![1, 2, 3, 4];
    voters.retain(|id| *id != lost);
    cluster.voters_are(&voters).await;

    // Removed now, and empty still: no.
    cluster.spawn(lost);
    let ended = cluster.ended(lost, secs(30)).await;
    assert!(!ended.success());
    says(&cluster, lost, "was removed from the cluster").await;
    cluster.forget(lost);

    // The new node's vote counts: one of the old ones may go.
    let leader = cluster.kill_leader().await;
    cluster.leader().await;
    cluster.restart(leader).await;
    holds(&cluster, traffic.stop().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_would_do_harm_is_refused() {
    let mut cluster = Cluster::builder().nodes(1).start().await;
    cluster.queue("orders").create().await;
    let says = |refusal: &str, words: &[&str]| {
        for word in words {
            assert!(refusal.contains(word), "`{word}` in: {refusal}");
        }
    };
    let refused = cluster.refused(&["cluster", "remove", "1"]).await;
    says(&refused, &["NO_MAJORITY", "only voter"]);
    let refused = cluster.refused(&["cluster", "promote", "9"]).await;
    says(&refused, &["NODE_NOT_FOUND", "node 9"]);
    let nowhere = [
        "cluster",
        "add",
        "2",
        "--peer",
        "127.0.0.1:1",
        "--client",
        "127.0.0.1:2",
    ];
    says(&cluster.refused(&nowhere).await, &["NODE_UNREACHABLE"]);

    // One that waits is added by hand; one that says `learner` does not vote by itself.
    cluster.prepare_node(2, Entrance::Wait);
    cluster.prepare_node(3, Entrance::JoinAsLearner);
    let (peer, client) = (
        cluster.peer_address(2).to_owned(),
        cluster.address(2).to_owned(),
    );
    cluster.spawn(2);
    until("node 2 to wait", secs(20), async || {
        let log = cluster.log_text(2);
        if log.contains("ticketrail cluster add 2") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
    let add = [
        "cluster", "add", "2", "--peer", &peer, "--client", &client, "--wait",
    ];
    says(&cluster.ok(&add).await, &["node 2 is a learner"]);
    says(&cluster.ok(&add).await, &["node 2 is a member already"]);
    cluster.spawn(3);
    cluster.serves(2).await;
    cluster.serves(3).await;
    let refused = cluster.refused(&["cluster", "transfer", "3"]).await;
    says(&refused, &["NOT_A_VOTER", "promote it"]);
    // Another node at that address.
    let impostor = ["cluster", "add", "3", "--peer", &peer, "--client", &client];
    says(
        &cluster.refused(&impostor).await,
        &["NODE_UNREACHABLE", "this is node 2"],
    );

    let said = cluster.ok(&["cluster", "promote", "2", "--wait"]).await;
    says(&said, &["node 2 votes", "the loss of none"]);
    // A voter that is down: the others are all there is.
    cluster.kill(3);
    missed(&cluster, 3).await;
    let refused = cluster.refused(&["cluster", "promote", "3"]).await;
    says(&refused, &["NODE_UNREACHABLE", "node 3"]);
    cluster.restart(3).await;
    cluster.ok(&["cluster", "promote", "3", "--wait"]).await;
    cluster.voters_are(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    let down = cluster.follower().await;
    let other = 6 - leader - down;
    cluster.kill(down);
    missed(&cluster, down).await;
    let demote = ["cluster", "demote", &other.to_string()];
    let named = format!("node {down}");
    says(&cluster.refused(&demote).await, &["NO_MAJORITY", &named]);
    cluster.restart(down).await;
    hand_over_to(&cluster, other).await;
    assert_eq!(cluster.leader().await, other);
    // The leader itself: it hands over and follows.
    cluster.ok(&["cluster", "demote", &other.to_string()]).await;
    assert!(!cluster.members().await[&other]);
    agreed(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_nodes_may_come_up_one_after_the_other() {
    let cluster = Cluster::builder().prepared().await;
    cluster.spawn(1);
    says(&cluster, 1, "waiting for a majority of the first members").await;
    cluster.spawn(2);
    cluster.serves(1).await;
    cluster.serves(2).await;
    cluster.queue("orders").create().await;
    let node = cluster.on(1);
    let mut producer = Producer::open(&cluster, "early").await;
    let request = producer.batch(vec![item("orders", "before the third")]);
    publish(&[node], &request).await;
    // Much later, and it has never been there: the cluster takes it in.
    cluster.spawn(3);
    cluster.serves(3).await;
    holds(&cluster, BTreeSet::from(["before the third".into()])).await;
}
