//! Works on the messages of a queue, sixteen at a time: `work QUEUE`; Ctrl-C or SIGTERM drains and ends it.
//!
//! What the handler returns settles the message: `Ok` acknowledges it, `Err` gives it back, and a panic does, too. Each
//! message is worked on at least once, so the work must bear being done twice.
//!
//! The nodes are those of `ticketrail dev`, or what TICKETRAIL_NODES says. The queue must exist.

use std::time::Duration;

use anyhow::Context;
use ticketrail_client::{Client, Failure, Job};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr);
    log.init();
    let queue = std::env::args().nth(1).context("usage: work QUEUE")?;

    let nodes = std::env::var("TICKETRAIL_NODES").unwrap_or("127.0.0.1:7400,7401,7402".into());
    let client = Client::connect([nodes]).await?;
    // Watched before the first message is taken. SIGTERM is what Kubernetes, systemd and Docker send.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut worker = client
        .consumer(queue)
        .concurrency(16)
        // The work is quick: keep some in reach while settlements are on their way.
        .prefetch(200)
        .drain_timeout(Duration::from_secs(10))
        .handle(work)
        .await?;
    let stop = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let summary = worker.run_until(stop).await?;
    println!(
        "acknowledged {}, given back {}, rejected {}, lost {}; not begun {}",
        summary.acknowledged, summary.nacked, summary.rejected, summary.lost, summary.released
    );
    Ok(())
}

async fn work(job: Job) -> Result<(), Failure> {
    // What is no text will never be: to the dead letters.
    let text = std::str::from_utf8(job.body()).map_err(Failure::reject)?;
    println!("worked on {text}");
    Ok(())
}
