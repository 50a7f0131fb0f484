//! Shows the dead letters of a queue and puts them back to where they died: `dead_letters QUEUE`
//!
//! Give it the queue where the dead letters are. Each is published again to the queue that gave up on it, and only when
//! that is confirmed acknowledged here: none is lost, and one may come twice if the program is ended between the two.
//!
//! The nodes are those of `ticketrail dev`, or what TICKETRAIL_NODES says.

use std::borrow::Cow;
use std::time::Duration;

use anyhow::Context;
use ticketrail_client::{Client, Delivery, Producer, SettleOutcome, Settlement, Wanted};

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
    // As many as there are now: what dies again in the meantime is left for the next time.
    let mut left = client.queue_stats(&dead).await?.ready;
    // No dead letters: held until the end, since they would come first again.
    let mut others = Vec::new();
    while left > 0 {
        let at_most = left.min(100);
        let wanted = Wanted::up_to(u32::try_from(at_most)?).wait(Duration::from_secs(1));
        let letters = client.receive(&dead, wanted).await?;
        if letters.is_empty() {
            break;
        }
        left = left.saturating_sub(letters.len() as u64);
        let mut back = Vec::new();
        for letter in letters {
            match put_back(&producer, &letter).await? {
                true => back.push(letter),
                false => others.push((letter.receipt().clone(), Settlement::Release)),
            }
        }
        let receipts = back.iter().map(|letter| letter.receipt());
        let outcomes = client.ack(&dead, receipts).await?;
        for (letter, outcome) in back.iter().zip(outcomes) {
            if !matches!(outcome, SettleOutcome::Ok | SettleOutcome::AlreadySettled) {
                println!("{}: the lease was lost; it may come twice", text(letter));
            }
        }
    }
    client.settle(&dead, others).await?;
    producer.close().await?;
    Ok(())
}

/// Whether it is stored where it died; a message that died nowhere stays.
async fn put_back(producer: &Producer, letter: &Delivery) -> anyhow::Result<bool> {
    let text = text(letter);
    let Some(death) = letter.deaths().last() else {
        println!("{text}: not a dead letter; it stays");
        return Ok(false);
    };
    let (reason, queue) = (death.reason(), &death.queue);
    println!("{text}: {reason:?} in {queue}, {} times", death.count);

    let confirm = producer.publish(queue, letter.message().clone()).await?;
    let published = confirm.await?;
    println!(
        "{text}: back in {queue} as message {}",
        published.message_id
    );
    Ok(true)
}

fn text(letter: &Delivery) -> Cow<'_, str> {
    String::from_utf8_lossy(letter.body())
}
