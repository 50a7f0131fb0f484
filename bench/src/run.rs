//! One call of `run`: rounds of all systems, one after the other, so that whatever changes on the machine
//! meanwhile touches all of them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};

use crate::drivers::{Broker, Floor, Nats, Publisher, Rabbitmq, Redis, RedisWait, Ticketrail};
use crate::loads::{self, Load, Span};
use crate::machine::Machine;
use crate::results::{Figures, Measurement, Outcome, Results, Run};
use crate::servers::{Programs, Servers};
use crate::system::System;
use crate::versions::versions;
use crate::{RunArguments, page};

/// How long servers may take until they serve.
const READY_WITHIN: Duration = Duration::from_secs(120);
const ATTEMPT: Duration = Duration::from_secs(20);
/// Between two loads: what the last one left behind goes.
const PAUSE: Duration = Duration::from_secs(1);
/// What a load may take on top of its measured time.
const LOAD_MAX: Duration = Duration::from_secs(240);

pub(crate) async fn run(arguments: RunArguments) -> Result<()> {
    tokio::select! {
        done = all(&arguments) => done?,
        _ = tokio::signal::ctrl_c() => bail!("interrupted; what was measured before is in the results"),
    }
    page::write(&arguments.files.results, &arguments.files.page)
}

async fn all(arguments: &RunArguments) -> Result<()> {
    std::fs::create_dir_all(&arguments.data)?;
    let programs = Programs {
        ticketrail: arguments.ticketrail.clone(),
        nats: arguments.nats.clone(),
    };
    let mut results = Results::load(&arguments.files.results)?;
    results.runs.push(Run {
        begun_at: now(),
        machine: Machine::look(&arguments.data)?,
        versions: versions(&arguments.systems, &programs.ticketrail, &programs.nats),
        seconds: arguments.seconds,
        warm_up_seconds: arguments.warm_up_seconds,
    });
    for round in 0..arguments.rounds {
        let loads = arguments.loads.iter().copied();
        let loads: Vec<_> = loads
            .filter(|load| round == 0 || !load.is_done_once())
            .collect();
        for system in &arguments.systems {
            eprintln!(
                "round {} of {}: {}",
                round + 1,
                arguments.rounds,
                system.title()
            );
            let mut session = Session {
                system: *system,
                programs: &programs,
                arguments,
                results: &mut results,
            };
            match system {
                System::Ticketrail => session.measure::<Ticketrail>(&loads).await?,
                System::Rabbitmq => session.measure::<Rabbitmq>(&loads).await?,
                System::NatsSync | System::Nats => session.measure::<Nats>(&loads).await?,
                System::Floor => session.measure::<Floor>(&loads).await?,
                System::Redis => session.measure::<Redis>(&loads).await?,
                System::RedisWait => session.measure::<RedisWait>(&loads).await?,
            }
        }
    }
    Ok(())
}

/// One system in one round.
struct Session<'a> {
    system: System,
    programs: &'a Programs,
    arguments: &'a RunArguments,
    results: &'a mut Results,
}

impl Session<'_> {
    async fn measure<B: Broker>(&mut self, loads: &[Load]) -> Result<()> {
        let mut running = None;
        for load in loads {
            if !self.system.does(*load) {
                continue;
            }
            // After a failure nobody knows what is left of them.
            let kept = running.take().filter(|_| !load.wants_new_servers());
            let mut servers = match kept {
                Some(servers) => servers,
                None => self.start::<B>().await?,
            };
            let span = Span {
                warm_up: Duration::from_secs(self.arguments.warm_up_seconds),
                measured: Duration::from_secs(self.arguments.seconds),
            };
            let measuring = loads::measure::<B>(*load, &mut servers, span);
            let measured = timeout(LOAD_MAX + span.warm_up + span.measured, measuring).await;
            let measured = measured
                .context("took too long")
                .and_then(|measured| measured);
            let measured = servers.check().and(measured);
            match measured {
                Ok(figures) => {
                    for one in figures {
                        eprintln!("  {}: {}", load.title(), one.line());
                        self.keep(*load, Outcome::Figures(Box::new(one)))?;
                    }
                    running = Some(servers);
                    sleep(PAUSE).await;
                }
                Err(error) => {
                    eprintln!("  {}: failed: {error:#}", load.title());
                    self.keep(*load, Outcome::Failed(format!("{error:#}")))?;
                }
            }
        }
        Ok(())
    }

    async fn start<B: Broker>(&self) -> Result<Servers> {
        // SAFETY: takes and gives nothing. What others left unwritten shall not be written meanwhile.
        unsafe { libc::sync() };
        let mut servers = Servers::start(self.system, self.programs, &self.arguments.data)?;
        ready::<B>(&mut servers).await?;
        sleep(PAUSE).await;
        Ok(servers)
    }

    fn keep(&mut self, load: Load, outcome: Outcome) -> Result<()> {
        self.results.measurements.push(Measurement {
            system: self.system,
            load,
            at: now(),
            outcome,
        });
        self.results.save(&self.arguments.files.results)
    }
}

/// Returns when each node answers and a queue of all of them confirms what comes by each.
pub(crate) async fn ready<B: Broker>(servers: &mut Servers) -> Result<()> {
    let begun = Instant::now();
    let mut attempt = 0;
    loop {
        attempt += 1;
        let tried = timeout(ATTEMPT, probe::<B>(servers, &format!("ready-{attempt}"))).await;
        let tried = tried.context("no answer").and_then(|tried| tried);
        servers.check()?;
        match tried {
            Ok(()) => return Ok(()),
            Err(error) if begun.elapsed() > READY_WITHIN => return Err(error).context("not ready"),
            Err(_) => sleep(Duration::from_millis(250)).await,
        }
    }
}

async fn probe<B: Broker>(servers: &Servers, queue: &str) -> Result<()> {
    let endpoints = servers.endpoints();
    let broker = B::connect(&endpoints).await?;
    broker.create_queue(queue).await?;
    for endpoint in &endpoints {
        // A node that is not of this cluster does not know the queue.
        let only = B::connect(std::slice::from_ref(endpoint)).await?;
        let mut publisher = only.publisher(queue, 0).await?;
        let confirm = publisher
            .publish(vec![Bytes::from_static(b"ready")])
            .await?;
        confirm.await?;
    }
    broker.delete_queue(queue).await
}

impl Figures {
    /// For whoever watches.
    fn line(&self) -> String {
        let mut parts = Vec::new();
        if let Some(rate) = self.messages_per_second {
            parts.push(format!("{rate:.0} messages/s"));
        }
        if let Some(cpu) = self.server_cpu_us_per_message {
            parts.push(format!("{cpu:.1} us of server CPU each"));
        }
        if let Some(latency) = self.latency_ms {
            parts.push(format!(
                "p50 {:.2} ms, p99 {:.2} ms",
                latency.p50, latency.p99
            ));
        }
        if let Some(seconds) = self.failover_seconds {
            parts.push(format!("{seconds:.2} s"));
        }
        if !self.resident_mib.is_empty() {
            parts.push(format!(
                "{:.0} MiB resident",
                self.resident_mib.iter().sum::<f64>()
            ));
        }
        if let Some(fsyncs) = &self.fsyncs {
            let (one, many) = (&fsyncs.one_by_one, &fsyncs.many);
            parts.push(format!(
                "{} confirms, syncs {:?}; {} confirms, syncs {:?}",
                one.confirmed, one.calls, many.confirmed, many.calls
            ));
        }
        parts.join(", ")
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
