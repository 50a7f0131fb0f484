//! The shipped containers: the cluster of `deploy/compose.yaml` from the image of `deploy/Dockerfile`, with clients outside,
//! the death of its leader, and an upgrade of one node after the other.

mod engine;
mod project;

use std::collections::BTreeSet;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use futures::future::try_join_all;
use ticketrail_client::{Client, Message, QueueSettings, SettleOutcome};
use ticketrail_tests::cluster::checks::conserved;
use ticketrail_tests::cluster::{secs, turn, until};
use tokio::time::timeout;

use crate::rolling::load::{Load, QUEUE};
use crate::{say_skipped, skipped};
use engine::Images;
use project::Project;

const TEST: &str = "containers";
/// Of the messages that outlive the leader.
const KEPT: &str = "kept";
const MESSAGES: usize = 3_000;
/// Published while a node is away.
const MISSED: usize = 500;
/// Messages per second during the upgrade.
const RATE: usize = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compose_cluster_survives_its_leader_and_is_upgraded_under_traffic() {
    if let Err(why) = engine::answers().await {
        return say_skipped(TEST, &format!("no Docker engine answers here: {why}"));
    }
    let (compose, base) = match (engine::compose().await, engine::base().await) {
        (Ok(compose), Ok(base)) => (compose, base),
        (Err(why), _) | (_, Err(why)) => return skipped(TEST, &why),
    };
    let name = format!("ticketrail-test-{:08x}", rand::random::<u32>());
    let images = Images::build(&base, &name, &["before", "after"]).await;
    let images = images.unwrap();
    let _alone = turn(true).await;
    let mut project = Project::new(compose, &name, images.tag(0));
    let mut step = Steps::begin();
    project.up().await;
    for id in project.ids() {
        project.ready(id).await;
    }
    for id in project.ids() {
        project.healthy(id).await;
    }
    step.done("up and healthy");
    outlive_the_leader(&project).await;
    step.done("the leader killed, everything consumed, caught up");

    project.set_image(images.tag(1));
    upgrade(&project).await;
    step.done("upgraded under traffic");
    a_client_of_the_node_that_stops_goes_on(&project).await;
    step.done("a client of one node only, which stopped");
    same_state(&project).await;
    project.down().await;
    step.done("down");
}

/// What was published through node 1 is consumed through another node, though the leader was killed; who was killed catches
/// up.
async fn outlive_the_leader(project: &Project) {
    let first = project.client(1);
    let settings = QueueSettings::default();
    first.create_queue(KEPT, settings).await.unwrap();
    let mut expected = publish(&first, 0..MESSAGES).await;
    let leader = first.cluster().await.unwrap().leader_node_id;
    let ids = project.ids();
    let other = ids.into_iter().rfind(|id| *id != leader && *id != 1);
    let other = other.expect("three nodes");
    println!("node {leader} leads and is killed, node {other} is consumed from");
    let asked = SystemTime::now();
    project.kill(leader).await;
    assert_eq!(project.ends_since(asked).await, [(leader, 128 + 9)]);
    let second = project.client(other);
    expected.extend(publish(&second, MESSAGES..MESSAGES + MISSED).await);
    let consumed = consume(&second, expected.len()).await;
    assert!(consumed == expected, "what was confirmed, and nothing else");

    let target = second.cluster().await.unwrap().commit_index;
    project.start(leader).await;
    let back = project.client(leader);
    until(
        "the killed node to catch up",
        secs(60),
        async || match back.cluster().await {
            Ok(view) if view.applied_index >= target => Ok(()),
            Ok(view) => Err(format!("at {} of {target}", view.applied_index)),
            Err(error) => Err(error.to_string()),
        },
    )
    .await;
    project.ready(leader).await;
    same_state(project).await;
    let stats = back.queue_stats(KEPT).await.unwrap();
    assert_eq!(stats.acknowledged, expected.len() as u64);
    conserved(KEPT, &stats);
}

/// Replaces one node after the other, while users of the client library go on.
async fn upgrade(project: &Project) {
    let all = Client::connect(project.urls()).await.unwrap();
    let settings = QueueSettings::default();
    all.create_queue(QUEUE, settings).await.unwrap();
    // The first producer knows of one node only: when that stops, it goes where it is told, from outside.
    let load = Load::streams_to(&project.urls(), RATE).await;
    load.flows_while("before", || project.ids()).await;
    for id in project.ids() {
        assert_eq!(project.version(id).await, "before");
        let led = all.cluster().await.unwrap().leader_node_id == id;
        let (asked, began) = (Instant::now(), SystemTime::now());
        project.replace(id).await;
        assert_eq!(project.ends_since(began).await, [(id, 0)]);
        assert_eq!(project.version(id).await, "after");
        project.ready(id).await;
        let back = asked.elapsed();
        load.flows_while("after an upgrade", || project.ids()).await;
        println!(
            "node {id}{}: upgraded and ready after {back:?}, longest gap in confirms {:?}",
            if led { " (leader)" } else { "" },
            load.gaps.longest_since(asked)
        );
        load.nothing_failed();
    }
    let report = load.finish_by(async || all.queue_stats(QUEUE).await.unwrap());
    println!("{}", report.await);
    project.healthy(3).await;
    let stats = all.queue_stats(QUEUE).await.unwrap();
    assert_eq!(stats.acknowledged, stats.published);
    conserved(QUEUE, &stats);
}

/// What a node that stops tells its clients is of use to those outside.
async fn a_client_of_the_node_that_stops_goes_on(project: &Project) {
    let client = project.client(1);
    let producer = client.producer().start().await.unwrap();
    let published = async |body: &'static str| {
        let confirm = producer.publish(KEPT, Message::new(body)).await.unwrap();
        let confirm = timeout(secs(20), confirm).await;
        confirm.expect("a confirm in time").unwrap();
    };
    published("before the stop").await;
    let began = SystemTime::now();
    project.stop(1).await;
    assert_eq!(project.ends_since(began).await, [(1, 0)]);
    published("while its node is down").await;
    producer.close().await.unwrap();
    project.start(1).await;
    project.ready(1).await;
}

async fn publish(client: &Client, numbers: std::ops::Range<usize>) -> BTreeSet<Bytes> {
    let bodies: Vec<Bytes> = numbers.map(|n| format!("order {n}").into()).collect();
    let producer = client.producer().start().await.unwrap();
    let mut confirms = Vec::new();
    for body in &bodies {
        let message = Message::new(body.clone());
        confirms.push(producer.publish(KEPT, message).await.unwrap());
    }
    let all = timeout(secs(60), try_join_all(confirms)).await;
    all.expect("confirms in time").unwrap();
    producer.close().await.unwrap();
    bodies.into_iter().collect()
}

/// Takes and acknowledges so many messages.
async fn consume(client: &Client, count: usize) -> BTreeSet<Bytes> {
    let consumer = client.consumer(KEPT).prefetch(500);
    let mut consumer = consumer.start().await.unwrap();
    let (mut bodies, mut settling) = (BTreeSet::new(), Vec::new());
    while bodies.len() < count {
        let next = timeout(secs(30), consumer.next()).await;
        let delivery = next.unwrap_or_else(|_| panic!("{} of {count}", bodies.len()));
        let delivery = delivery.expect("a consumer goes on").unwrap();
        assert!(bodies.insert(delivery.body().clone()), "none comes twice");
        settling.push(delivery.ack());
    }
    let outcomes = timeout(secs(30), try_join_all(settling)).await;
    let outcomes = outcomes.expect("acknowledged in time").unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == SettleOutcome::Ok));
    consumer.close().await.unwrap();
    bodies
}

/// Waits until all nodes stand at one index with nothing left to apply; their digests are equal there.
async fn same_state(project: &Project) {
    until("all nodes to stand at one index", secs(30), async || {
        let mut seen = Vec::new();
        for id in project.ids() {
            let view = project.client(id).cluster().await;
            let view = view.map_err(|error| error.to_string())?;
            let digest = view.digest.unwrap_or_default();
            if view.applied_index != view.commit_index || digest.index != view.applied_index {
                return Err(format!("node {id} applies: {digest:?}"));
            }
            seen.push((digest.index, digest.value));
        }
        if seen.iter().any(|one| one.0 != seen[0].0) {
            return Err(format!("{seen:?}"));
        }
        assert!(seen.iter().all(|one| *one == seen[0]), "differ: {seen:?}");
        Ok(())
    })
    .await;
}

/// How long each part took.
struct Steps(Instant);

impl Steps {
    fn begin() -> Self {
        Self(Instant::now())
    }

    fn done(&mut self, what: &str) {
        println!("{what}: {:.1?}", self.0.elapsed());
        self.0 = Instant::now();
    }
}
