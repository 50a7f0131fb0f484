//! Publishers that wait for each confirm.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::measured::Begun;
use super::{BODY_BYTES, Span, producing};
use crate::drivers::{Broker, Publisher};
use crate::latencies::Latencies;
use crate::results::Figures;
use crate::servers::Servers;

pub(super) const MANY: usize = 64;
const QUEUE: &str = "sync";

pub(super) async fn many<B: Broker>(servers: &Servers, span: Span) -> Result<Figures> {
    measure::<B>(servers, span, MANY).await
}

pub(super) async fn one<B: Broker>(servers: &Servers, span: Span) -> Result<Figures> {
    measure::<B>(servers, span, 1).await
}

async fn measure<B: Broker>(servers: &Servers, span: Span, publishers: usize) -> Result<Figures> {
    let broker = B::connect(&servers.endpoints()).await?;
    broker.create_queue(QUEUE).await?;
    let load = SyncLoad::start(&broker, QUEUE, publishers).await?;
    sleep(span.warm_up).await;
    load.shared.measuring.store(true, Relaxed);
    let begun = Begun::now(servers, load.confirmed());
    sleep(span.measured).await;
    let mut figures = begun.end(servers, load.confirmed(), BODY_BYTES);
    load.shared.measuring.store(false, Relaxed);
    figures.latency_ms = Some(load.end().await?.quantiles());
    broker.delete_queue(QUEUE).await?;
    Ok(figures)
}

/// Running publishers.
pub(super) struct SyncLoad {
    shared: Arc<Shared>,
    tasks: JoinSet<Result<Latencies>>,
}

#[derive(Default)]
struct Shared {
    confirmed: AtomicU64,
    measuring: AtomicBool,
    stop: AtomicBool,
}

impl SyncLoad {
    pub(super) async fn start<B: Broker>(
        broker: &B,
        queue: &str,
        publishers: usize,
    ) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let body = producing::body(BODY_BYTES);
        let mut tasks = JoinSet::new();
        for place in 0..publishers {
            let publisher = broker.publisher(queue, place).await?;
            tasks.spawn(run(publisher, body.clone(), Arc::clone(&shared)));
        }
        Ok(Self { shared, tasks })
    }

    pub(super) fn confirmed(&self) -> u64 {
        self.shared.confirmed.load(Relaxed)
    }

    /// Stops them; gives what took how long while it was measured.
    pub(super) async fn end(mut self) -> Result<Latencies> {
        self.shared.stop.store(true, Relaxed);
        let mut all = Latencies::new();
        while let Some(ended) = self.tasks.join_next().await {
            all.add(&ended?.context("a publisher")?);
        }
        Ok(all)
    }
}

async fn run(mut publisher: impl Publisher, body: Bytes, shared: Arc<Shared>) -> Result<Latencies> {
    let mut latencies = Latencies::new();
    while !shared.stop.load(Relaxed) {
        let begun = Instant::now();
        publisher.publish(vec![body.clone()]).await?.await?;
        shared.confirmed.fetch_add(1, Relaxed);
        if shared.measuring.load(Relaxed) {
            latencies.record(begun.elapsed());
        }
    }
    Ok(latencies)
}
