//! To whom the Rust client's producers stream: to the leader where they know its address and it takes them, else to
//! whom they know.

use std::time::Duration;

use ticketrail_client::{Client, Producer};
use ticketrail_tests::cluster::{Behaviour, Cluster, millis, secs, until};
use tokio::time::Instant;

use super::Watched;

const STREAMS: &str = "ticketrail_calls_in_flight{method=\"PublisherService/PublishStream\"}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producers_publish_at_the_leader_that_they_know() {
    let watched = Watched::start().await;
    let cluster = &watched.cluster;
    cluster.queue("orders").create().await;
    let endpoints = cluster.ids().into_iter().map(|id| cluster.address(id));
    let client = Client::connect(endpoints).await.unwrap();
    let leader = cluster.leader().await;
    let others: Vec<_> = cluster
        .ids()
        .into_iter()
        .filter(|id| *id != leader)
        .collect();

    // In turn, so that one of three would be there by chance; on a slow machine the leader may let one wait too long.
    let producers = publishing_three(&client).await;
    let at_leader = watched.reaches_at_least(leader, STREAMS, 2.0).await;

    let knows_one = Client::connect([cluster.address(others[0])]).await.unwrap();
    let at_follower = watched.value(others[0], STREAMS).await.unwrap();
    let _through_it = publishing(&knows_one).await;
    watched.reaches(others[0], STREAMS, at_follower + 1.0).await;

    client.transfer_leadership(others[1]).await.unwrap();
    for producer in &producers {
        publish(producer).await;
    }
    watched.reaches(leader, STREAMS, at_leader).await;
    let _at_the_next = publishing_three(&client).await;
    watched.reaches_at_least(others[1], STREAMS, 2.0).await;
}

/// A leader that answers its members but not this client, as behind a broken firewall.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producers_do_not_wait_for_a_leader_that_they_do_not_reach() {
    let watched = Watched::start_with(Cluster::builder().client_links()).await;
    let cluster = &watched.cluster;
    cluster.queue("orders").create().await;
    let endpoints = cluster.ids().into_iter();
    let endpoints = endpoints.map(|id| cluster.client_link(id).address());
    let client = Client::connect(endpoints).await.unwrap();
    let leader = cluster.leader().await;
    let link = cluster.client_link(leader);

    // No stream is opened before there is something to send.
    let mut producers = Vec::new();
    for _ in 0..3 {
        producers.push(client.producer().start().await.unwrap());
    }
    link.behave(Behaviour {
        drop_answers: true,
        ..Behaviour::FINE
    });
    let mut waits = Vec::new();
    for producer in &producers {
        waits.push(publish(producer).await);
    }
    waits.sort();
    // One of three asked the leader first, in its turn: that one waits until another node is asked.
    assert!(waits[1] < millis(2_500), "{waits:?}");
    assert!(waits[2] < secs(8), "{waits:?}");
    for producer in &producers {
        let wait = publish(producer).await;
        assert!(wait < millis(2_500), "where it was, {wait:?}");
    }

    link.heal();
    let before = watched.value(leader, STREAMS).await.unwrap();
    let mut later = Vec::new();
    until("streams at the leader again", secs(30), async || {
        later.push(publishing(&client).await);
        later.push(publishing(&client).await);
        let now = watched.value(leader, STREAMS).await?;
        (now >= before + 2.0).then_some(()).ok_or(now.to_string())
    })
    .await;
}

/// Producers whose streams are open.
async fn publishing_three(client: &Client) -> [Producer; 3] {
    [
        publishing(client).await,
        publishing(client).await,
        publishing(client).await,
    ]
}

async fn publishing(client: &Client) -> Producer {
    let producer = client.producer().start().await.unwrap();
    publish(&producer).await;
    producer
}

/// How long the confirm took.
async fn publish(producer: &Producer) -> Duration {
    let started = Instant::now();
    let confirm = producer.publish("orders", "here").await.unwrap();
    confirm.await.unwrap();
    started.elapsed()
}
