//! Shows the dead letters of a queue and puts them back to where they died: `dead_letters QUEUE`
//!
//! Give it the queue where the dead letters are. Each is published again to the queue that gave up on it, and only when
//! that is confirmed acknowledged here: none is lost, and one may come twice if the program is ended between the two.
//!
//! The nodes are those of `ticketrail dev`, or what TICKETRAIL_NODES says.

use std::time::Duration;

use anyhow::Context;
use ticketrail_client::{Client, Delivery, Producer, Wanted};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr);
    log.init();
    let dead = std::env::args()
        .nth(1)
        .context("usage: dead_letters QUEUE")?;

    let nodes = std::env::var("TICKETRAIL_NODES").unwrap_or("127.0.0.1:7400,7401,7402".into());
    let client = Client::connect([nodes]).await?;
    let producer = client.producer().start().await?;
    loop {
        let wanted = Wanted::up_to(100).wait(Duration::from_secs(1));
        let letters = client.receive(&dead, wanted).await?;
        if letters.is_empty() {
            break;
        }
        for letter in &letters {
            put_back(&producer, letter).await?;
        }
        let receipts = letters.iter().map(|letter| letter.receipt());
        client.ack(&dead, receipts).await?;
    }
    producer.close().await?;
    Ok(())
}

async fn put_back(producer: &Producer, letter: &Delivery) -> anyhow::Result<()> {
    let text = String::from_utf8_lossy(letter.body());
    let death = letter.deaths().last().context("not a dead letter")?;
    let (reason, queue) = (death.reason(), &death.queue);
    println!("{text}: {reason:?} in {queue}, {} times", death.count);

    let confirm = producer.publish(queue, letter.message().clone()).await?;
    let published = confirm.await?;
    println!(
        "{text}: back in {queue} as message {}",
        published.message_id
    );
    Ok(())
}
