//! How long nothing is confirmed when the leader dies.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{BODY_BYTES, producing};
use crate::drivers::{Broker, Publisher};
use crate::results::Figures;
use crate::servers::Servers;

pub(super) const KILLS: usize = 2;
/// Between two messages.
pub(super) const EVERY: Duration = Duration::from_millis(10);
/// Confirms before the kill.
const BEFORE: usize = 50;
const LONGEST: Duration = Duration::from_secs(60);

/// When a message was sent, and that it is confirmed.
struct Confirmed {
    sent_at: Instant,
}

pub(super) async fn measure<B: Broker>(servers: &mut Servers) -> Result<Vec<Figures>> {
    let mut all = Vec::new();
    for number in 0..KILLS {
        all.push(kill::<B>(servers, &format!("failover-{number}")).await?);
        crate::run::ready::<B>(servers).await?;
    }
    Ok(all)
}

async fn kill<B: Broker>(servers: &mut Servers, queue: &str) -> Result<Figures> {
    let mut endpoints = servers.endpoints();
    let broker = B::connect(&endpoints).await?;
    broker.create_queue(queue).await?;
    let leader = broker.leader(queue).await?;
    endpoints.remove(leader);
    let survivors = B::connect(&endpoints).await?;
    let (confirmed, mut confirms) = mpsc::unbounded_channel();
    let pump = tokio::spawn(pump(survivors, queue.to_owned(), confirmed));
    for _ in 0..BEFORE {
        let next = timeout(LONGEST, confirms.recv()).await;
        next.context("nothing is confirmed before the kill")?;
    }
    let killed_at = Instant::now();
    servers.kill(leader)?;
    let after = async {
        while let Some(Confirmed { sent_at }) = confirms.recv().await {
            if sent_at >= killed_at {
                return Ok(killed_at.elapsed());
            }
        }
        anyhow::bail!("the publisher ended")
    };
    let took = timeout(LONGEST, after).await;
    pump.abort();
    servers.start_again(leader)?;
    Ok(Figures {
        failover_seconds: Some(
            took.context("nothing is confirmed after the kill")??
                .as_secs_f64(),
        ),
        ..Figures::default()
    })
}

/// Sends for ever; a publisher that fails is replaced.
async fn pump<B: Broker>(broker: B, queue: String, told: mpsc::UnboundedSender<Confirmed>) {
    let body = producing::body(BODY_BYTES);
    let mut clock = interval(EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        // Its error is that of a node which is about to be asked again.
        if let Ok(mut publisher) = broker.publisher(&queue, 0).await {
            while send(&mut publisher, &body, &told).await.is_ok() {
                clock.tick().await;
            }
        }
    }
}

async fn send(
    publisher: &mut impl Publisher,
    body: &Bytes,
    told: &mpsc::UnboundedSender<Confirmed>,
) -> Result<()> {
    let sent_at = Instant::now();
    let confirm = publisher.publish(vec![body.clone()]).await?;
    let told = told.clone();
    tokio::spawn(async move {
        // One that fails is followed by others.
        if confirm.await.is_ok() {
            let _ = told.send(Confirmed { sent_at });
        }
    });
    Ok(())
}
