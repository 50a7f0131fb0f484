//! The load itself: starts producers and consumers, measures, and ends them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value;
use ticketrail_client::{Client, ClientOptions, OpenedProducer};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::consuming::Consuming;
use super::counts::Counts;
use super::plan::{Extent, Mode, Plan};
use super::producing::Producing;
use super::progress::Progress;
use super::stamp::Stamps;
use super::usage::Usage;
use crate::failure::{Effect, Failure, Result};
use crate::verbs::Context;

/// How often it is looked whether a part of the run is over.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A run in which nothing moves for so long is over: longer than a lease, after which a lost message comes again.
const STALLED_AFTER: Duration = Duration::from_secs(60);
/// How long tasks may take to end when nothing is waited for any more.
const END_WITHIN: Duration = Duration::from_secs(12);
/// How many producers or consumers are opened at a time.
const OPEN_AT_ONCE: usize = 16;

pub(super) struct LoadRun<'a> {
    context: &'a Context,
    plan: Arc<Plan>,
    pub(super) counts: Arc<Counts>,
    stamps: Stamps,
    interrupted: watch::Receiver<bool>,
    producers: JoinSet<Result>,
    consumers: JoinSet<Result>,
    stop_producers: watch::Sender<bool>,
    stop_consumers: watch::Sender<bool>,
    progress: Progress,
}

/// What was measured.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub(super) seconds: f64,
    pub(super) messages: u64,
    pub(super) usage: Value,
    /// Messages and seconds of the filling, before a drain.
    pub(super) filled: Option<(u64, f64)>,
}

/// How a run ended; what was measured until then is told in any case.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) measured: Measured,
    pub(super) interrupted: bool,
    pub(super) failure: Option<Failure>,
}

/// Why a wait was cut short.
enum Cut {
    Interrupted,
    Failed(Failure),
}

impl<'a> LoadRun<'a> {
    pub(super) fn new(
        context: &'a Context,
        plan: &Arc<Plan>,
        interrupted: watch::Receiver<bool>,
    ) -> Self {
        let messages = match plan.extent {
            Extent::For { .. } => u64::MAX,
            Extent::Messages(count) => count,
        };
        Self {
            context,
            plan: Arc::clone(plan),
            counts: Arc::new(Counts::new(messages)),
            stamps: Stamps::new(plan.size),
            interrupted,
            producers: JoinSet::new(),
            consumers: JoinSet::new(),
            stop_producers: watch::Sender::new(false),
            stop_consumers: watch::Sender::new(false),
            progress: Progress::new(),
        }
    }

    pub(super) async fn run(mut self) -> Outcome {
        let mut measured = Measured::default();
        let cut = match self.load(&mut measured).await {
            Ok(()) => self.finish().await,
            Err(cut) => Err(cut),
        };
        self.counts.measure(false);
        let ended = self.end_tasks().await;
        let (interrupted, failure) = match cut {
            Ok(()) => (false, ended.err()),
            Err(Cut::Interrupted) => (true, None),
            Err(Cut::Failed(failure)) => (false, Some(failure)),
        };
        Outcome {
            measured,
            interrupted,
            failure,
        }
    }

    async fn load(&mut self, measured: &mut Measured) -> Result<(), Cut> {
        if self.plan.mode == Mode::Drain {
            return self.fill_and_drain(measured).await;
        }
        self.start_consumers().await?;
        self.start_producers().await?;
        match self.plan.extent {
            Extent::For { warmup, duration } => {
                self.wait_for("warm-up", warmup).await?;
                let begun = self.begin();
                let cut = self.wait_for("measuring", duration).await;
                self.end(begun, measured);
                cut
            }
            Extent::Messages(count) => {
                let begun = self.begin();
                let cut = self.wait_until("measuring", count).await;
                self.end(begun, measured);
                cut
            }
        }
    }

    async fn fill_and_drain(&mut self, measured: &mut Measured) -> Result<(), Cut> {
        let Extent::Messages(count) = self.plan.extent else {
            unreachable!("a drain has a count");
        };
        let filling = Instant::now();
        self.start_producers().await?;
        let published = |counts: &Counts| counts.published.load(Relaxed);
        self.wait("filling", |counts, _| {
            (published(counts), share(published(counts), count))
        })
        .await?;
        measured.filled = Some((count, filling.elapsed().as_secs_f64()));
        let begun = self.begin();
        let cut = match self.start_consumers().await {
            Ok(()) => self.wait_until("draining", count).await,
            cut => cut,
        };
        self.end(begun, measured);
        cut
    }

    /// What the figures count: what went all the way.
    fn done(&self) -> u64 {
        done(self.plan.mode, &self.counts)
    }

    fn begin(&self) -> (Instant, u64, Usage) {
        self.counts.measure(true);
        (Instant::now(), self.done(), self.usage())
    }

    fn end(&self, (begun, before, usage): (Instant, u64, Usage), measured: &mut Measured) {
        let seconds = begun.elapsed().as_secs_f64();
        self.counts.measure(false);
        let messages = self.done() - before;
        let bytes = messages * self.plan.size as u64;
        measured.usage = self.usage().since(&usage, seconds, messages, bytes);
        measured.seconds = seconds;
        measured.messages = messages;
    }

    fn usage(&self) -> Usage {
        Usage::now(&self.plan.pids, self.plan.device.as_deref())
    }

    /// Publishes no more, and waits until all that was published is confirmed and acknowledged.
    async fn finish(&mut self) -> Result<(), Cut> {
        self.stop_producers.send_replace(true);
        self.wait("finishing", |counts, producers| {
            let share = if producers == 0 { 1.0 } else { 0.0 };
            (counts.movement(), share)
        })
        .await?;
        if self.plan.mode == Mode::Publish {
            return Ok(());
        }
        let published = self.counts.published.load(Relaxed);
        self.wait_until("finishing", published).await
    }

    /// Ends what still runs: cleanly, or after a time not at all.
    async fn end_tasks(&mut self) -> Result {
        self.progress.phase("ending", 0);
        self.stop_producers.send_replace(true);
        self.stop_consumers.send_replace(true);
        let all = async {
            let mut failed = None;
            while let Some(ended) = self.producers.join_next().await {
                failed = failed.or(ended_well(ended).err());
            }
            while let Some(ended) = self.consumers.join_next().await {
                failed = failed.or(ended_well(ended).err());
            }
            failed
        };
        match tokio::time::timeout(END_WITHIN, all).await {
            Ok(None) => Ok(()),
            Ok(Some(failure)) => Err(failure),
            Err(_) => {
                self.producers.shutdown().await;
                self.consumers.shutdown().await;
                Err(Failure::Refused(
                    "producers or consumers did not end in time: see `ticketrail cluster status`"
                        .to_owned(),
                ))
            }
        }
    }

    // --- waiting -------------------------------------------------------------------------------

    async fn wait_for(&mut self, phase: &'static str, time: Duration) -> Result<(), Cut> {
        let begun = Instant::now();
        let mode = self.plan.mode;
        self.wait(phase, |counts, _| {
            let share = begun.elapsed().as_secs_f64() / time.as_secs_f64().max(1e-9);
            (done(mode, counts), share)
        })
        .await
    }

    async fn wait_until(&mut self, phase: &'static str, count: u64) -> Result<(), Cut> {
        let mode = self.plan.mode;
        self.wait(phase, |counts, _| {
            let done = done(mode, counts);
            (done, share(done, count))
        })
        .await
    }

    /// Until the share is 1; `look` gives the count to show, and the share. Its second argument is how many producers run.
    async fn wait(
        &mut self,
        phase: &'static str,
        look: impl Fn(&Counts, usize) -> (u64, f64),
    ) -> Result<(), Cut> {
        self.progress.phase(phase, look(&self.counts, usize::MAX).0);
        let mut moved = (Instant::now(), self.counts.movement());
        let mut interrupted = self.interrupted.clone();
        loop {
            let (count, share) = look(&self.counts, self.producers.len());
            if share >= 1.0 {
                return Ok(());
            }
            self.progress.at(share, count);
            let movement = self.counts.movement();
            if movement != moved.1 {
                moved = (Instant::now(), movement);
            } else if moved.0.elapsed() >= STALLED_AFTER {
                return Err(Cut::Failed(stalled()));
            }
            let ended = tokio::select! {
                _ = interrupted.wait_for(|stop| *stop) => return Err(Cut::Interrupted),
                Some(ended) = self.producers.join_next() => ended,
                Some(ended) = self.consumers.join_next() => ended,
                () = tokio::time::sleep(LOOK_EVERY) => continue,
            };
            ended_well(ended).map_err(Cut::Failed)?;
        }
    }

    // --- starting ------------------------------------------------------------------------------

    async fn start_producers(&mut self) -> Result<(), Cut> {
        let count = self.plan.producers;
        // Opened by other connections than those that publish, which so take the nodes in turn.
        let opening = stream::iter(0..count)
            .map(|_| self.context.client.open_producer(""))
            .buffered(OPEN_AT_ONCE)
            .try_collect::<Vec<OpenedProducer>>();
        let opened = opening
            .await
            .map_err(|error| Cut::Failed(Failure::from(error).with_effect(Effect::Nothing)))?;
        let clients = self.clients(count).map_err(Cut::Failed)?;
        for (place, (opened, client)) in opened.into_iter().zip(clients).enumerate() {
            let producing = Producing {
                client,
                opened,
                place,
                plan: Arc::clone(&self.plan),
                counts: Arc::clone(&self.counts),
                stamps: self.stamps.clone(),
                stop: self.stop_producers.subscribe(),
                give_up_after: self.context.global.timeout,
            };
            self.producers.spawn(producing.run());
        }
        Ok(())
    }

    async fn start_consumers(&mut self) -> Result<(), Cut> {
        let plan = &self.plan;
        let queue = |place: usize| plan.queues[place % plan.queues.len()].clone();
        let clients = self.clients(plan.consumers).map_err(Cut::Failed)?;
        let starting = stream::iter(clients.into_iter().enumerate()).map(|(place, client)| {
            client
                .consumer(queue(place))
                .prefetch(plan.prefetch)
                .name(format!("ticketrail bench ({})", std::process::id()))
                .give_up_after(self.context.global.timeout)
                .start()
        });
        let started = starting.buffered(OPEN_AT_ONCE).try_collect::<Vec<_>>();
        let started = started.await.map_err(|error| Cut::Failed(error.into()))?;
        for (place, consumer) in started.into_iter().enumerate() {
            let consuming = Consuming {
                consumer,
                queue: queue(place),
                place,
                prefetch: plan.prefetch,
                counts: Arc::clone(&self.counts),
                stamps: self.stamps.clone(),
                stop: self.stop_consumers.subscribe(),
            };
            self.consumers.spawn(consuming.run());
        }
        Ok(())
    }

    /// A connection for each of so many, spread over the nodes evenly: a client takes its endpoints in turn, so as many
    /// streams as there are endpoints share one, each of them to another node.
    fn clients(&self, count: usize) -> Result<Vec<Client>> {
        let nodes = self.context.client.endpoints().count().max(1);
        let mut clients = Vec::with_capacity(count);
        while clients.len() < count {
            let options = ClientOptions::new()
                .namespace(self.context.global.namespace.clone())
                .timeout(self.context.global.timeout);
            let client = options.connect_lazy([&self.context.global.endpoints])?;
            let more = nodes.min(count - clients.len());
            clients.extend(std::iter::repeat_n(client, more));
        }
        Ok(clients)
    }
}

fn done(mode: Mode, counts: &Counts) -> u64 {
    match mode {
        Mode::Publish => counts.published.load(Relaxed),
        Mode::E2e | Mode::Drain | Mode::Fanout => counts.acknowledged.load(Relaxed),
    }
}

fn share(done: u64, of: u64) -> f64 {
    if done >= of {
        1.0
    } else {
        done as f64 / of as f64
    }
}

fn ended_well(ended: std::result::Result<Result, tokio::task::JoinError>) -> Result {
    ended.map_err(|error| Failure::local("a task of the load", error))?
}

fn stalled() -> Failure {
    Failure::Refused(format!(
        "nothing moved for {}s: see `ticketrail cluster status` and `ticketrail queue list`",
        STALLED_AFTER.as_secs()
    ))
}
