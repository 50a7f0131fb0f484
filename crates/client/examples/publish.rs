//! Publishes numbered messages, each stored once: `publish QUEUE COUNT`
//!
//! Many messages are under way at a time; their confirms come in order. The producer has a name, and message n is its
//! sequence n: started again, whatever ended it, the program goes on where it stopped.
//!
//! The nodes are those of `ticketrail dev`, or what TICKETRAIL_NODES says. The queue must exist.

use anyhow::Context;
use ticketrail_client::{Client, Confirm};
use tokio::sync::mpsc;

/// As many as a producer has unconfirmed at most.
const UNDER_WAY: usize = 1_024;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr);
    log.init();
    let mut arguments = std::env::args().skip(1);
    let queue = arguments.next().context("usage: publish QUEUE COUNT")?;
    let count: u64 = arguments.next().context("which COUNT?")?.parse()?;

    let nodes = std::env::var("TICKETRAIL_NODES").unwrap_or("127.0.0.1:7400,7401,7402".into());
    let client = Client::connect([nodes]).await?;
    let name = format!("numbers-{queue}");
    // Strict: no sequence ever passes from a refused message to the next one.
    let producer = client.producer().name(name).strict(true).start().await?;

    let (sent, confirms) = mpsc::channel(UNDER_WAY);
    let telling = tokio::spawn(tell(confirms));
    for number in producer.opened().last_sequence() + 1..=count {
        let confirm = producer
            .publish(&queue, format!("message {number}"))
            .await?;
        if sent.send((number, confirm)).await.is_err() {
            break; // it failed, and says why below
        }
    }
    drop(sent);
    telling.await??;
    producer.close().await?;
    Ok(())
}

/// Each is stored, on the disks of a majority of the nodes, when its confirm comes.
async fn tell(mut confirms: mpsc::Receiver<(u64, Confirm)>) -> anyhow::Result<()> {
    while let Some((number, confirm)) = confirms.recv().await {
        confirm.await?;
        println!("confirmed message {number}");
    }
    Ok(())
}
