//! Takes messages and acknowledges them call by call, the simplest way: `receive QUEUE`; Ctrl-C ends it.
//!
//! A lease is an answer of `receive`, and its receipt settles it, on any node, also from another process. What is not
//! settled before its lease ends comes again, so the work must bear being done twice.
//!
//! The nodes are those of `ticketrail dev`, or what TICKETRAIL_NODES says. The queue must exist.

use std::time::Duration;

use anyhow::Context;
use ticketrail_client::{Client, SettleOutcome, Wanted};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr);
    log.init();
    let queue = std::env::args().nth(1).context("usage: receive QUEUE")?;

    let nodes = std::env::var("TICKETRAIL_NODES").unwrap_or("127.0.0.1:7400,7401,7402".into());
    let client = Client::connect([nodes]).await?;
    loop {
        // Waits for the first message, and takes what else is there.
        let wanted = Wanted::up_to(10).wait(Duration::from_secs(10));
        let deliveries = client.receive(&queue, wanted).await?;
        for delivery in &deliveries {
            println!("worked on {}", text(delivery.body()));
        }

        // `settle` would give back, reject or extend.
        let receipts = deliveries.iter().map(|delivery| delivery.receipt());
        let outcomes = client.ack(&queue, receipts).await?;
        for (delivery, outcome) in deliveries.iter().zip(outcomes) {
            let fate = match outcome {
                SettleOutcome::Ok | SettleOutcome::AlreadySettled => "acknowledged",
                _ => "comes again:",
            };
            println!("{fate} {}", text(delivery.body()));
        }
    }
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}
