//! `ticketrail bench`: how fast a cluster is, as a user of the client library sees it.
//!
//! A run makes its queues, loads them, measures, and deletes them. Each body carries the time when it was
//! published, so a consumer of the same process knows how long it took.
//!
//! Start reading at [`run`], then `load` (the run), `plan` (what it shall do) and `report` (the figures).

mod compare;
mod consuming;
mod counts;
mod load;
mod pace;
mod plan;
mod producing;
mod progress;
mod queues;
mod report;
mod stamp;
mod usage;

use std::sync::Arc;

use tokio::sync::watch;

use super::Context;
use crate::args::Bench;
use crate::failure::{Effect, Failure, Result};
use crate::show::remark;
use crate::signals;
use load::LoadRun;
use plan::Plan;
use queues::Queues;
use report::Report;
use usage::Usage;

pub(super) async fn run(context: &Context, verb: Bench) -> Result {
    if let Bench::Compare { a, b } = &verb {
        return compare::run(context.show, a, b);
    }
    let Some(plan) = Plan::of(verb)? else {
        return Ok(());
    };
    Usage::check(&plan.pids, plan.device.as_deref())?;
    let interrupted = interruption();
    let cluster = context.client.cluster().await;
    let cluster = cluster.map_err(|error| Failure::from(error).with_effect(Effect::Nothing))?;
    let plan = Arc::new(plan);
    let queues = Queues::prepare(&context.client, &plan).await;
    let queues = queues.map_err(|failure| failure.with_effect(Effect::Repeatable))?;
    let load = LoadRun::new(context, &plan, interrupted);
    let counts = Arc::clone(&load.counts);
    let outcome = load.run().await;
    let report = Report {
        plan: &plan,
        cluster: &cluster,
        counts: &counts,
        measured: &outcome.measured,
        interrupted: outcome.interrupted,
        // Without them the figures are still worth telling.
        broker: queues.counted().await.ok(),
    };
    // A run that failed before it measured anything has nothing to tell but that.
    let told = match &outcome.failure {
        Some(_) if outcome.measured.seconds == 0.0 => Ok(()),
        _ => report.tell(context.show),
    };
    // Whatever else failed, the queues go.
    let removed = queues.remove(plan.keep).await;
    if let Some(failure) = outcome.failure {
        if let Err(left) = removed {
            left.lines().iter().for_each(|line| remark(line));
        }
        return Err(failure.with_effect(Effect::Repeatable));
    }
    told?;
    removed?;
    report::lost(&counts)
}

/// Becomes true at the first request to end; a second one ends the process at once.
fn interruption() -> watch::Receiver<bool> {
    let (told, interrupted) = watch::channel(false);
    tokio::spawn(async move {
        signals::to_stop_or_end().await;
        told.send_replace(true);
        // Who waits must not see the end of the channel.
        std::future::pending::<()>().await;
    });
    interrupted
}
