//! Gentle traffic for `dev --demo`: orders and tasks, a few a second, of which some fail.

use std::time::Duration;

use serde_json::json;
use ticketrail_client::{
    Client, ClientOptions, DeadLetterTarget, Leased, Message, QueueSettings, Result, RetryBackoff,
};
use tokio::task::{JoinHandle, JoinSet};

use super::say;

const ORDERS: &str = "orders";
const TASKS: &str = "tasks";
const DEAD: &str = "orders.dead";
/// Between two orders; a task comes with every second one.
const ORDER_EVERY: Duration = Duration::from_millis(350);
/// The demo outlives any outage that its user makes.
const GIVE_UP_AFTER: Duration = Duration::from_secs(3_600);
/// Between two tries to set everything up.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// One delivery in so many is given back, and one in so many rejected.
const NACK_ONE_IN: u32 = 12;
const REJECT_ONE_IN: u32 = 60;

/// Runs until it is aborted.
pub(super) fn start(endpoints: Vec<String>) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            if let Err(error) = traffic(&endpoints).await {
                // The terminal may be gone; the traffic goes on.
                let _ = say(&format!("the demo pauses: {error}"));
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    })
}

async fn traffic(endpoints: &[String]) -> Result<()> {
    let client = ClientOptions::new()
        .timeout(Duration::from_secs(10))
        .connect_lazy(endpoints)?;
    for (name, settings) in queues() {
        match client.create_queue(name, settings).await {
            // Its user has changed it, which is his right.
            Err(error) if error.reason() == "ALREADY_EXISTS" => {}
            other => drop(other?),
        }
    }
    let _ = say(&format!(
        "the demo publishes to {ORDERS} and {TASKS}; rejected orders go to {DEAD}"
    ));
    let mut work = JoinSet::new();
    work.spawn(produce(client.clone()));
    for queue in [ORDERS, ORDERS, TASKS] {
        work.spawn(consume(client.clone(), queue));
    }
    // The first that ends, ends all: they start again together.
    match work.join_next().await {
        Some(Ok(result)) => result,
        _ => Ok(()),
    }
}

fn queues() -> [(&'static str, QueueSettings); 3] {
    let second = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let orders = QueueSettings {
        max_deliveries: Some(5),
        dead_letter: Some(DeadLetterTarget {
            exchange: String::new(),
            routing_key: Some(DEAD.to_owned()),
        }),
        retry_backoff: Some(RetryBackoff {
            base: second(1),
            factor: Some(2.0),
            max: second(30),
            jitter_percent: None,
        }),
        ..Default::default()
    };
    [
        (DEAD, QueueSettings::default()),
        (ORDERS, orders),
        (TASKS, QueueSettings::default()),
    ]
}

async fn produce(client: Client) -> Result<()> {
    let producer = client
        .producer()
        .give_up_after(GIVE_UP_AFTER)
        .start()
        .await?;
    let mut every = tokio::time::interval(ORDER_EVERY);
    for number in 1_u64.. {
        every.tick().await;
        producer.publish(ORDERS, order(number)).await?;
        if number.is_multiple_of(2) {
            producer
                .publish(TASKS, format!("resize photo {number}"))
                .await?;
        }
    }
    producer.close().await
}

fn order(number: u64) -> Message {
    const ITEMS: [&str; 5] = ["coffee", "tea", "cake", "soup", "bread"];
    let item = ITEMS[rand::random_range(0..ITEMS.len())];
    let body = json!({ "order": number, "item": item, "amount": rand::random_range(1..5) });
    Message::new(body.to_string())
        .content_type("application/json")
        .header("shop", "demo")
}

async fn consume(client: Client, queue: &'static str) -> Result<()> {
    let builder = client
        .consumer(queue)
        .prefetch(4)
        .name("demo")
        .give_up_after(GIVE_UP_AFTER);
    let mut consumer = builder.start().await?;
    while let Some(delivery) = consumer.next().await {
        // As if it were work.
        tokio::time::sleep(Duration::from_millis(rand::random_range(20..250))).await;
        settle(queue, delivery?).await?;
    }
    Ok(())
}

async fn settle(queue: &str, delivery: Leased) -> Result<()> {
    let outcome = match queue {
        ORDERS if rand::random_ratio(1, REJECT_ONE_IN) => delivery.reject(),
        ORDERS if rand::random_ratio(1, NACK_ONE_IN) => delivery.nack(),
        _ => delivery.ack(),
    };
    // A lost lease only means that the message comes again.
    outcome.await.map(drop)
}
