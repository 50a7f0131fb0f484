//! The client library against real nodes: what unit tests of its parts cannot show.

use std::time::Duration;

use ticketrail_client::{
    Client, ClientOptions, Message, QueueSettings, SettleOutcome, Settlement, Wanted,
};

use crate::dev::{Dev, base_port};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn promises_of_the_library() {
    let folder = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(folder.path(), base_port());
    let client = Client::connect([&dev.endpoints]).await.unwrap();
    for queue in ["pipeline", "fenced", "close", "attempts", "session"] {
        client
            .create_queue(queue, QueueSettings::default())
            .await
            .unwrap();
    }
    a_refused_message_fails_alone_and_the_others_keep_their_order(&client).await;
    a_named_producer_is_fenced_by_the_next_one(&client).await;
    closing_gives_back_without_counting(&client).await;
    a_repeated_attempt_gets_the_same_leases(&client).await;
    a_session_outlives_its_node(&client, &mut dev).await;
}

async fn a_refused_message_fails_alone_and_the_others_keep_their_order(client: &Client) {
    let producer = client.producer().start().await.unwrap();
    let mut confirms = Vec::new();
    for number in 0..500 {
        let queue = if number == 200 { "nowhere" } else { "pipeline" };
        confirms.push(producer.publish(queue, number.to_string()).await.unwrap());
    }
    let mut refused = Vec::new();
    for (number, confirm) in confirms.into_iter().enumerate() {
        if let Err(error) = confirm.await {
            refused.push((number, error.reason().to_owned()));
        }
    }
    assert_eq!(refused, [(200, "UNROUTABLE".to_owned())]);
    producer.close().await.unwrap();

    let mut consumer = client.consumer("pipeline").start().await.unwrap();
    for number in (0..500).filter(|number| *number != 200) {
        let delivery = next(&mut consumer).await;
        assert_eq!(*delivery.body(), number.to_string());
        delivery.ack();
    }
    consumer.close().await.unwrap();
    assert_eq!(
        client.queue_stats("pipeline").await.unwrap().acknowledged,
        499
    );
}

async fn a_named_producer_is_fenced_by_the_next_one(client: &Client) {
    let first = client.producer().name("shop").start().await.unwrap();
    let stored = first.publish("fenced", "one").await.unwrap().await.unwrap();
    assert_eq!(
        (stored.sequence, stored.queues, stored.duplicate),
        (1, 1, false)
    );

    let second = client.producer().name("shop").start().await.unwrap();
    assert_eq!(second.opened().last_sequence(), 1);
    let error = first
        .publish("fenced", "late")
        .await
        .unwrap()
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "PRODUCER_FENCED");
    assert_eq!(first.close().await.unwrap_err().reason(), "PRODUCER_FENCED");
    second
        .publish("fenced", "two")
        .await
        .unwrap()
        .await
        .unwrap();
    second.close().await.unwrap();

    // The same sequence once more, as a process that crashed before its confirm would send it.
    let third = client.open_producer("shop").await.unwrap();
    assert_eq!(third.last_sequence(), 2);
    let again = client
        .producer()
        .opened(third)
        .first_sequence(2)
        .start()
        .await
        .unwrap();
    assert!(
        again
            .publish("fenced", "two")
            .await
            .unwrap()
            .await
            .unwrap()
            .duplicate
    );
    again.close().await.unwrap();
    assert_eq!(client.queue_stats("fenced").await.unwrap().published, 2);
}

async fn closing_gives_back_without_counting(client: &Client) {
    let producer = client.producer().start().await.unwrap();
    for number in 0..20 {
        producer.publish("close", number.to_string()).await.unwrap();
    }
    producer.close().await.unwrap();

    let mut consumer = client.consumer("close").prefetch(10).start().await.unwrap();
    let first = next(&mut consumer).await;
    let held = next(&mut consumer).await;
    first.ack();
    consumer.close().await.unwrap();
    assert!(held.ack().await.is_err(), "its consumer is closed");

    let all = client
        .receive("close", Wanted::up_to(100).wait(PATIENCE))
        .await
        .unwrap();
    assert_eq!(all.len(), 19);
    assert!(all.iter().all(|delivery| delivery.delivery_count() == 1));
    assert_eq!(*all[0].body(), "1");
}

async fn a_repeated_attempt_gets_the_same_leases(client: &Client) {
    let producer = client.producer().start().await.unwrap();
    for number in 0..4 {
        producer
            .publish("attempts", Message::new(vec![number, 0xff]))
            .await
            .unwrap();
    }
    producer.close().await.unwrap();
    let wanted = || Wanted::up_to(2).attempt_id("attempt-1");
    let first = client.receive("attempts", wanted()).await.unwrap();
    let again = client.receive("attempts", wanted()).await.unwrap();
    assert_eq!(first.len(), 2);
    let receipts = |all: &[ticketrail_client::Delivery]| -> Vec<_> {
        all.iter()
            .map(|delivery| delivery.receipt().clone())
            .collect()
    };
    assert_eq!(receipts(&first), receipts(&again));
    let items = receipts(&first)
        .into_iter()
        .map(|receipt| (receipt, Settlement::Ack));
    let outcomes = client.settle("attempts", items.clone()).await.unwrap();
    assert_eq!(outcomes, [SettleOutcome::Ok; 2]);
    let outcomes = client.settle("attempts", items).await.unwrap();
    assert_eq!(outcomes, [SettleOutcome::AlreadySettled; 2]);
}

/// The consumer is tied to node 1, which is killed while a delivery is being worked on; the others take the
/// session over.
async fn a_session_outlives_its_node(client: &Client, dev: &mut Dev) {
    let endpoints: Vec<_> = client.endpoints().map(str::to_owned).collect();
    let producer = client.producer().start().await.unwrap();
    for number in 0..3 {
        producer
            .publish("session", number.to_string())
            .await
            .unwrap();
    }
    producer.close().await.unwrap();

    let node_1 = ClientOptions::new().connect_lazy([&endpoints[0]]).unwrap();
    let leased = node_1.receive("session", Wanted::up_to(1)).await.unwrap();
    let mut consumer = client.consumer("session").start().await.unwrap();
    let working = next(&mut consumer).await;
    for node in 1..=3 {
        dev.press(&format!("k {node}"));
        dev.line(&format!("node {node} was killed"));
        dev.press(&format!("r {node}"));
        dev.line(&format!("node {node} started"));
        settled_cluster(client).await;
    }
    // Wherever the session lives now: the lease is the same one, and so is a lease by receipt.
    assert_eq!(working.ack().await.unwrap(), SettleOutcome::Ok);
    let outcomes = client.ack("session", [leased[0].receipt()]).await.unwrap();
    assert_eq!(outcomes, [SettleOutcome::Ok]);
    let last = next(&mut consumer).await;
    assert_eq!((&last.body()[..], last.delivery_count()), (&b"2"[..], 1));
    assert_eq!(last.ack().await.unwrap(), SettleOutcome::Ok);
    consumer.close().await.unwrap();
    assert_eq!(client.queue_stats("session").await.unwrap().acknowledged, 3);
}

async fn next(consumer: &mut ticketrail_client::Consumer) -> ticketrail_client::Leased {
    let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await;
    delivery
        .expect("a delivery comes in time")
        .expect("the consumer goes on")
        .unwrap()
}

/// Waits until every node answers and all of them follow one leader.
async fn settled_cluster(client: &Client) {
    let agreed = async {
        loop {
            let mut leaders = Vec::new();
            for endpoint in client.endpoints() {
                let node = ClientOptions::new()
                    .timeout(PATIENCE)
                    .connect_lazy([endpoint])
                    .unwrap();
                leaders.push(node.cluster().await.map_or(0, |seen| seen.leader_node_id));
            }
            if leaders[0] != 0 && leaders.iter().all(|leader| *leader == leaders[0]) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, agreed)
        .await
        .expect("the cluster agrees on a leader in time");
}
