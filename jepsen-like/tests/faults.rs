//! The long forms in small, and faults of a single machine: a disk that refuses to sync, a wrong clock.
#![allow(clippy::unwrap_used)]

use std::env;
use std::time::Instant;

use ticketrail_jepsen_like::power_cuts;
use ticketrail_proto::v1::{GetQueueStatsRequest, SettleKind};
use ticketrail_tests::cluster::checks::{agreed, conserved};
use ticketrail_tests::cluster::consumer::{receive, settle};
use ticketrail_tests::cluster::producer::{batch, item, publish};
use ticketrail_tests::cluster::{
    Clients, Cluster, Producer, Program, Traffic, millis, secs, until, within,
};
use tonic::Code;

const HOUR_MS: i64 = 3_600_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_confirmed_message_survives_power_cuts() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse().unwrap());
    let runs = number("TICKETRAIL_POWER_CUTS").unwrap_or(15) as u32;
    let seed = number("TICKETRAIL_POWER_CUTS_SEED").unwrap_or_else(rand::random);
    let report = power_cuts::run(runs, seed).await;
    println!("{report}");
    assert!(report.cuts.len() >= 2, "cuts of several sizes: {report}");
}

/// The test of the test: where syncs lie, a power cut must be seen to lose what was confirmed. If it is
/// not, the runs above prove nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_lies_about_its_syncs_is_found_out_by_a_power_cut() {
    let cluster = Cluster::builder().program(Program::Faulty).start().await;
    cluster.queue("orders").create().await;
    cluster
        .ids()
        .into_iter()
        .for_each(|id| cluster.set_fault(id, "fsync-lies", ""));
    let nodes = [cluster.on(1)];
    let mut producer = Producer::open(&cluster, "").await;
    for k in 0..50 {
        publish(
            &nodes,
            &producer.batch(vec![item("orders", format!("message {k}"))]),
        )
        .await;
    }
    cluster.kill_all();
    for id in cluster.ids() {
        cluster.clear_fault(id, "fsync-lies");
        cluster.spawn(id);
    }
    let leader = cluster.on(1);
    let left = until("the loss to show", secs(20), async || {
        // A node may see by itself that its log ends before its checkpoint, and refuse to start.
        let refuses = |id: &u64| cluster.has_ended(*id).is_some();
        if let Some(id) = cluster.ids().into_iter().find(refuses) {
            let log = cluster.log_text(id);
            let why = log.lines().find(|line| line.starts_with("error"));
            let why = why.unwrap_or_default();
            println!("node {id} says: {why}");
            assert!(why.contains("DATA_LOSS"), "it refuses because of the loss");
            return Ok(None);
        }
        let queue = "orders".to_owned();
        let request = GetQueueStatsRequest {
            queue,
            ..GetQueueStatsRequest::default()
        };
        let answer = leader
            .admin
            .clone()
            .get_queue_stats(within(secs(2), request))
            .await;
        match answer {
            Ok(answer) => Ok(Some(answer.into_inner().stats.unwrap().published)),
            Err(status) if status.code() == Code::NotFound => Ok(Some(0)),
            Err(status) => Err(status.to_string()),
        }
    })
    .await;
    println!("of 50 confirmed messages {left:?} are left (None: a node refuses to start)");
    assert!(
        left.is_none_or(|left| left < 50),
        "nothing was lost: power cuts cut nothing"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_refuses_to_sync_stops_its_node_and_confirms_nothing() {
    let cluster = Cluster::builder()
        .program(Program::Faulty)
        .alone()
        .start()
        .await;
    cluster.queue("orders").create().await;
    for round in 0..2 {
        // First the leader's disk, then a follower's.
        let victim = if round == 0 {
            cluster.leader().await
        } else {
            cluster.follower().await
        };
        let mut node = cluster.on(victim);
        let others: Vec<Clients> = cluster
            .ids()
            .into_iter()
            .filter(|id| *id != victim)
            .map(|id| cluster.on(id))
            .collect();
        let mut producer = Producer::open(&cluster, "").await;
        publish(
            &others,
            &producer.batch(vec![item("orders", format!("{round} before"))]),
        )
        .await;
        cluster.set_fault(victim, "fsync-fails", "");
        let failed = Instant::now();
        let through = producer.batch(vec![item("orders", format!("{round} through"))]);
        let answer = node
            .publisher
            .publish(within(secs(5), through.clone()))
            .await;
        let status = cluster.ended(victim, secs(5)).await;
        let after = failed.elapsed();
        assert!(
            !status.success(),
            "the node ends with an error, not {status}"
        );
        assert!(after <= secs(1), "the node stopped only after {after:?}");
        if round == 0 {
            assert!(
                answer.is_err(),
                "a leader that cannot sync confirmed {answer:?}"
            );
        }
        assert!(
            cluster.log_text(victim).contains("os error 5"),
            "its log says why"
        );
        println!("node {victim} stopped {after:?} after its disk refused to sync");

        // The others go on; the same sequence is stored once, whatever became of the first attempt.
        publish(&others, &through).await;
        publish(
            &others,
            &producer.batch(vec![item("orders", format!("{round} after"))]),
        )
        .await;
        cluster.clear_fault(victim, "fsync-fails");
        cluster.restart(victim).await;
        let stats = cluster.stats("orders").await;
        assert_eq!(stats.published, 3 * (round + 1));
        conserved("orders", &stats);
        agreed(&cluster).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_no_disk_that_syncs_nothing_is_confirmed() {
    let cluster = Cluster::builder().program(Program::Faulty).start().await;
    cluster.queue("orders").create().await;
    cluster
        .ids()
        .into_iter()
        .for_each(|id| cluster.set_fault(id, "fsync-fails", ""));
    for id in cluster.ids() {
        let request = batch(vec![item("orders", format!("through {id}"))]);
        let answer = cluster
            .on(id)
            .publisher
            .publish(within(secs(2), request))
            .await;
        assert!(answer.is_err(), "confirmed without a sync: {answer:?}");
    }
    cluster.kill_all();
    for id in cluster.ids() {
        cluster.clear_fault(id, "fsync-fails");
        cluster.spawn(id);
    }
    for id in cluster.ids() {
        cluster.serves(id).await;
    }
    // What was never confirmed may be gone; what is there was published.
    assert!(cluster.stats("orders").await.published <= 3);
    agreed(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_wall_clock_that_steps_by_an_hour_expires_nothing() {
    let cluster = Cluster::builder().program(Program::Faulty).start().await;
    let lease = secs(4);
    cluster.queue("orders").lease(lease).create().await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    for (victim, offset) in [(leader, HOUR_MS), (leader, -HOUR_MS), (follower, HOUR_MS)] {
        let node = cluster.on(follower);
        let request = batch(vec![item("orders", format!("{victim} {offset}"))]);
        node.publisher
            .clone()
            .publish(within(secs(10), request))
            .await
            .unwrap();
        let asked = Instant::now();
        let first = receive(&node, "orders", 1).await.unwrap().remove(0);
        let before = wall_seconds(&cluster, follower).await;
        cluster.set_fault(victim, "wall-clock-offset-ms", offset);
        let second = until("the message to come back", secs(20), async || {
            receive(&node, "orders", 1)
                .await
                .unwrap()
                .into_iter()
                .next()
                .ok_or("nothing")
        })
        .await;
        let after = asked.elapsed();
        assert!(
            after >= lease.mul_f64(0.95),
            "a wrong clock shortened the lease to {after:?}"
        );
        assert!(
            after <= lease + secs(4),
            "a wrong clock stretched the lease to {after:?}"
        );
        assert_eq!(
            (second.message_id, second.delivery_count),
            (first.message_id, 2)
        );
        let moved = wall_seconds(&cluster, follower).await - before;
        assert!(
            (0..60).contains(&moved),
            "replicated time moved by {moved} s"
        );
        settle(&node, "orders", &[second.receipt], SettleKind::Ack)
            .await
            .unwrap();
        cluster.clear_fault(victim, "wall-clock-offset-ms");
    }
    agreed(&cluster).await;
}

/// A step of an hour, forwards and backwards, on the node that stamps the entries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leaders_clock_steps_by_an_hour_under_traffic() {
    let cluster = Cluster::builder().program(Program::Faulty).start().await;
    cluster.queue("orders").lease(secs(5)).create().await;
    let traffic = Traffic::start(&cluster, "orders", 3, 3).await;
    for offset in [HOUR_MS, -HOUR_MS, 0] {
        traffic.confirms(200).await;
        let leader = cluster.leader().await;
        let before = wall_seconds(&cluster, leader).await;
        cluster.set_fault(leader, "wall-clock-offset-ms", offset);
        traffic.confirms(200).await;
        let moved = wall_seconds(&cluster, leader).await - before;
        assert!(
            (0..60).contains(&moved),
            "replicated time moved by {moved} s"
        );
    }
    println!("clock steps: {}", traffic.finish(&cluster).await);
}

/// Syncs that hang are not failures: the node waits for them, and the others go on without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn syncs_that_hang_hold_up_nobody_but_their_node() {
    let seconds = env::var("TICKETRAIL_HUNG_SECONDS").ok();
    let hang = secs(seconds.map_or(3, |text| text.parse().unwrap()));
    let cluster = Cluster::builder().program(Program::Faulty).start().await;
    cluster.queue("orders").lease(secs(5)).create().await;
    let traffic = Traffic::start(&cluster, "orders", 3, 3).await;
    traffic.confirms(200).await;
    for of_the_leader in [false, true] {
        let victim = match of_the_leader {
            true => cluster.leader().await,
            false => cluster.follower().await,
        };
        traffic.forget_gap();
        let hung = Instant::now();
        cluster.set_fault(victim, "fsync-hangs", "");
        while hung.elapsed() < hang {
            traffic.confirms(50).await;
        }
        println!(
            "node {victim} (leads: {of_the_leader}) hung for {:?}",
            hung.elapsed()
        );
        cluster.clear_fault(victim, "fsync-hangs");
        traffic.confirms(200).await;
        cluster.serves(victim).await;
    }
    let tally = traffic.finish(&cluster).await;
    println!("hung syncs: {tally}");
    assert!(tally.longest_gap < hang, "{tally}");
    assert!(
        cluster
            .ids()
            .iter()
            .all(|id| cluster.has_ended(*id).is_none())
    );
}

/// Replicated UTC time as a node holds it.
async fn wall_seconds(cluster: &Cluster, id: u64) -> i64 {
    until("a view of the cluster", millis(5_000), async || {
        cluster
            .view(id)
            .await
            .map(|view| view.wall_now.unwrap_or_default().seconds)
    })
    .await
}
