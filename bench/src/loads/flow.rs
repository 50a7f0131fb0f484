//! As many messages as there can be: with consumers, and without.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::consuming::Consuming;
use super::measured::Begun;
use super::producing::{self, Producing};
use super::{BODY_BYTES, CLIENTS, Span};
use crate::drivers::Broker;
use crate::results::Figures;
use crate::servers::Servers;

/// Published and not received: keeps publishers from running away from consumers, which would measure two
/// things at once. Far above what is under way where they keep up.
pub(super) const IN_SYSTEM_MAX: usize = 30_000;
/// How long what is confirmed may take to be received at the end.
const REST: Duration = Duration::from_secs(20);
const QUEUE: &str = "flow";

pub(super) async fn end_to_end<B: Broker>(servers: &Servers, span: Span) -> Result<Figures> {
    let broker = B::connect(&servers.endpoints()).await?;
    broker.create_queue(QUEUE).await?;
    let in_system = Arc::new(Semaphore::new(IN_SYSTEM_MAX));
    let (stop_consuming, stop) = watch::channel(false);
    let consuming = Consuming {
        in_system: Some(Arc::clone(&in_system)),
        received: Arc::default(),
        progress: Arc::new(Notify::new()),
        stop,
    };
    let consumers = consuming.start(&broker, QUEUE, CLIENTS).await?;
    let (stop_producing, stop) = watch::channel(false);
    let producing = Producing {
        in_system: Some(in_system),
        ..producing_for_ever(stop)
    };
    let producers = producing.start(&broker, QUEUE, CLIENTS).await?;

    sleep(span.warm_up).await;
    let begun = Begun::now(servers, consuming.received.load(Relaxed));
    sleep(span.measured).await;
    let mut figures = begun.end(servers, consuming.received.load(Relaxed), BODY_BYTES);

    stop_producing.send_replace(true);
    producing::all(producers).await.context("a publisher")?;
    let confirmed = producing.confirmed.load(Relaxed);
    // What does not come in time is told as missing.
    let _ = timeout(REST, async {
        while consuming.received.load(Relaxed) < confirmed {
            consuming.progress.notified().await;
        }
    })
    .await;
    figures.missing = Some(confirmed.saturating_sub(consuming.received.load(Relaxed)));
    stop_consuming.send_replace(true);
    producing::all(consumers).await.context("a consumer")?;
    broker.delete_queue(QUEUE).await?;
    Ok(figures)
}

pub(super) async fn publish<B: Broker>(servers: &Servers, span: Span) -> Result<Figures> {
    let broker = B::connect(&servers.endpoints()).await?;
    broker.create_queue(QUEUE).await?;
    let (stop_producing, stop) = watch::channel(false);
    let producing = producing_for_ever(stop);
    let producers = producing.start(&broker, QUEUE, CLIENTS).await?;

    sleep(span.warm_up).await;
    let begun = Begun::now(servers, producing.confirmed.load(Relaxed));
    sleep(span.measured).await;
    let figures = begun.end(servers, producing.confirmed.load(Relaxed), BODY_BYTES);

    stop_producing.send_replace(true);
    producing::all(producers).await.context("a publisher")?;
    broker.delete_queue(QUEUE).await?;
    Ok(figures)
}

/// Until they are told to stop.
pub(super) fn producing_for_ever(stop: watch::Receiver<bool>) -> Producing {
    Producing {
        body: producing::body(BODY_BYTES),
        left: Arc::new(AtomicU64::new(u64::MAX)),
        in_system: None,
        confirmed: Arc::default(),
        stop,
    }
}
