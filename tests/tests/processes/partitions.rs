//! A leader that is cut off confirms nothing, and what it took is stored once or never.

use ticketrail_tests::cluster::checks::{agreed, conserved};
use ticketrail_tests::cluster::producer::{item, publish};
use ticketrail_tests::cluster::{
    Behaviour, Clients, Cluster, CommittedLog, Producer, millis, secs, until, within,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_only_clients_reach_confirms_nothing() {
    let cluster = Cluster::builder().links().start().await;
    cluster.queue("orders").create().await;
    let mut producer = Producer::open(&cluster, "partitioned").await;
    let rounds = 3;
    for round in 0..rounds {
        let leader = cluster.leader().await;
        let mut alone = cluster.on(leader);
        let others: Vec<Clients> = cluster
            .ids()
            .into_iter()
            .filter(|id| *id != leader)
            .map(|id| cluster.on(id))
            .collect();
        let before = producer.batch(vec![item("orders", format!("{round} before"))]);
        publish(std::slice::from_ref(&alone), &before).await;

        cluster.links_of(leader, Behaviour::CUT);
        let through = producer.batch(vec![item("orders", format!("{round} through"))]);
        let answer = alone
            .publisher
            .publish(within(secs(2), through.clone()))
            .await;
        assert!(answer.is_err(), "confirmed without a majority: {answer:?}");
        publish(&others, &through).await;
        publish(
            &others,
            &producer.batch(vec![item("orders", format!("{round} after"))]),
        )
        .await;

        cluster.links_of(leader, Behaviour::FINE);
        until("the old leader to follow", secs(20), async || {
            let view = cluster
                .view(leader)
                .await
                .map_err(|refused| refused.to_string())?;
            let follows = view.leader_node_id != leader && view.leader_node_id != 0;
            if follows {
                Ok(())
            } else {
                Err(format!("leader {}", view.leader_node_id))
            }
        })
        .await;
        // Once more through the old leader: it forwards now, and knows it as stored.
        let again = publish(std::slice::from_ref(&alone), &through).await;
        assert!(again.results[0].duplicate, "stored once");
    }
    let stats = cluster.stats("orders").await;
    assert_eq!(stats.published, 3 * rounds);
    conserved("orders", &stats);
    let agreement = agreed(&cluster).await;
    cluster.stop().await;
    let replay = CommittedLog::read(&cluster, 1, agreement).replay();
    assert_eq!(
        (replay.stored, replay.state.digest()),
        (3 * rounds, agreement.digest)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_or_deaf_follower_holds_nobody_up() {
    let cluster = Cluster::builder().links().start().await;
    cluster.queue("orders").create().await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let node = cluster.on(leader);
    let mut producer = Producer::open(&cluster, "").await;
    let deaf = Behaviour {
        drop_answers: true,
        ..Behaviour::FINE
    };
    for (what, behaviour) in [
        (
            "slow",
            Behaviour {
                delay: millis(40),
                ..Behaviour::FINE
            },
        ),
        ("deaf", deaf),
        ("cut off", Behaviour::CUT),
    ] {
        cluster.links_of(follower, behaviour);
        for k in 0..50 {
            let request = producer.batch(vec![item("orders", format!("{what} {k}"))]);
            publish(std::slice::from_ref(&node), &request).await;
        }
    }
    cluster.links_of(follower, Behaviour::FINE);
    cluster.serves(follower).await;
    let stats = cluster.stats("orders").await;
    assert_eq!(stats.published, 150);
    conserved("orders", &stats);
    agreed(&cluster).await;
}
