//! Whether there is a sync for each confirm: counted from outside, whatever a system says of itself.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::time::sleep;

use super::sync::SyncLoad;
use super::syscalls::{Seen, Trace};
use super::{CLIENTS, flow, producing};
use crate::drivers::Broker;
use crate::results::{Figures, Fsyncs, Syncing};
use crate::servers::Servers;

pub(super) const SECONDS: Duration = Duration::from_secs(3);
/// Load before the count, under strace already.
const SETTLE: Duration = Duration::from_secs(1);
const QUEUE: &str = "fsyncs";

pub(super) async fn measure<B: Broker>(servers: &Servers) -> Result<Figures> {
    let broker = B::connect(&servers.endpoints()).await?;
    broker.create_queue(QUEUE).await?;
    let load = SyncLoad::start(&broker, QUEUE, 1).await?;
    let one_by_one = traced(servers, || load.confirmed()).await?;
    load.end().await?;

    let (told, stop) = watch::channel(false);
    let producing = flow::producing_for_ever(stop);
    let tasks = producing.start(&broker, QUEUE, CLIENTS).await?;
    let many = traced(servers, || producing.confirmed.load(Relaxed)).await?;
    told.send_replace(true);
    producing::all(tasks).await.context("a publisher")?;
    broker.delete_queue(QUEUE).await?;

    let mut calls = one_by_one.1.calls;
    for (name, count) in many.1.calls {
        *calls.entry(name).or_default() += count;
    }
    Ok(Figures {
        seconds: one_by_one.0.seconds + many.0.seconds,
        messages: one_by_one.0.confirmed + many.0.confirmed,
        fsyncs: Some(Fsyncs {
            one_by_one: one_by_one.0,
            many: many.0,
            calls,
            synchronous_files: one_by_one.1.synchronous_files.max(many.1.synchronous_files),
        }),
        ..Figures::default()
    })
}

async fn traced(servers: &Servers, confirmed: impl Fn() -> u64) -> Result<(Syncing, Seen)> {
    let trace = Trace::start(servers).await?;
    sleep(SETTLE).await;
    let (from, before) = (SystemTime::now(), confirmed());
    sleep(SECONDS).await;
    let (until, after) = (SystemTime::now(), confirmed());
    let seen = trace.end(from, until).await?;
    let syncing = Syncing {
        seconds: until.duration_since(from)?.as_secs_f64(),
        confirmed: after - before,
        calls: seen.syncs.clone(),
    };
    Ok((syncing, seen))
}
