//! Emptying a queue of small messages.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::consuming::Consuming;
use super::measured::Begun;
use super::{CLIENTS, producing};
use crate::drivers::Broker;
use crate::results::Figures;
use crate::servers::Servers;

pub(super) const MESSAGES: u64 = 100_000;
pub(super) const BODY_BYTES: usize = 100;
const FILL_MAX: Duration = Duration::from_secs(60);
/// How long nothing may come.
const STALLED_AFTER: Duration = Duration::from_secs(20);
const QUEUE: &str = "drain";

pub(super) async fn measure<B: Broker>(servers: &Servers) -> Result<Figures> {
    let broker = B::connect(&servers.endpoints()).await?;
    broker.create_queue(QUEUE).await?;
    let confirmed = Arc::default();
    let body = producing::body(BODY_BYTES);
    let deadline = Instant::now() + FILL_MAX;
    producing::fill(&broker, QUEUE, MESSAGES, body, &confirmed, deadline).await?;
    let queued = confirmed.load(Relaxed);

    let (told, stop) = watch::channel(false);
    let consuming = Consuming {
        in_system: None,
        received: Arc::default(),
        progress: Arc::new(Notify::new()),
        stop,
    };
    let received = || consuming.received.load(Relaxed);
    let begun = Begun::now(servers, 0);
    let consumers = consuming.start(&broker, QUEUE, CLIENTS).await?;
    let mut first = None;
    while received() < queued {
        let progress = timeout(STALLED_AFTER, consuming.progress.notified()).await;
        progress.with_context(|| format!("{} of {queued} came, then none", received()))?;
        first.get_or_insert_with(|| (Instant::now(), received()));
    }
    let mut figures = begun.end(servers, received(), BODY_BYTES);
    let (at, count) = first.context("nothing was queued")?;
    figures.seconds = at.elapsed().as_secs_f64();
    figures.set_rate((queued - count) as f64 / figures.seconds, BODY_BYTES);
    told.send_replace(true);
    producing::all(consumers).await.context("a consumer")?;
    broker.delete_queue(QUEUE).await?;
    Ok(figures)
}
