//! The queues of a run: made by it, and deleted by it.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use ticketrail_client::{Client, Error, QueueSettings, QueueStats};
use tokio::time::Instant;

use super::plan::Plan;
use crate::failure::{Failure, Result};

/// How many queues are made, or asked, at a time.
const AT_ONCE: usize = 16;
/// How long one queue may take to be deleted: it may hold many messages.
const DELETE_WITHIN: Duration = Duration::from_secs(120);
/// The same while no node answers.
const DELETE_UNANSWERED: Duration = Duration::from_secs(10);
/// The pause after a deletion that failed.
const DELETE_PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Queues {
    client: Client,
    names: Vec<String>,
    /// What this run made, and nothing else.
    made: Vec<String>,
    /// The counts before the run, of queues that existed.
    before: Vec<QueueStats>,
}

/// What the broker counted during the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) published: u64,
    pub(super) acknowledged: u64,
    pub(super) granted: u64,
    /// Still in the queues, in whatever state.
    pub(super) held: u64,
}

impl Queues {
    /// Makes what is missing. What was made before something failed is deleted again.
    pub(super) async fn prepare(client: &Client, plan: &Plan) -> Result<Self> {
        let mut queues = Self {
            client: client.clone(),
            names: plan.queues.clone(),
            made: Vec::new(),
            before: Vec::new(),
        };
        queues.look(plan.reuse).await?;
        if let Err(failure) = queues.make(plan.reuse).await {
            // The first failure is the one to tell.
            let _ = queues.remove(false).await;
            return Err(failure);
        }
        Ok(queues)
    }

    /// Refuses to touch what it must not.
    async fn look(&mut self, reuse: bool) -> Result {
        let client = &self.client;
        let found: Vec<Option<QueueStats>> = stream::iter(&self.names)
            .map(|name| async move {
                match client.queue_stats(name).await {
                    Ok(stats) => Ok(Some(stats)),
                    Err(error) if error.reason() == "QUEUE_NOT_FOUND" => Ok(None),
                    Err(error) => Err(error),
                }
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        for (name, stats) in self.names.iter().zip(found) {
            let Some(stats) = stats else {
                self.before.push(QueueStats::default());
                continue;
            };
            if !reuse {
                return Err(exists(name));
            }
            if held(&stats) > 0 || stats.consumers > 0 {
                return Err(Failure::Refused(format!(
                    "queue `{name}` is in use: --reuse takes empty queues without consumers, because it \
                     acknowledges all that it gets"
                )));
            }
            self.before.push(stats);
        }
        Ok(())
    }

    async fn make(&mut self, reuse: bool) -> Result {
        // A lease that ends in an overloaded run is a delivery more, and never a lost message.
        let settings = QueueSettings {
            max_deliveries: Some(0),
            ..Default::default()
        };
        let existed = |stats: &QueueStats| stats.position.is_some();
        let missing: Vec<String> = (self.names.iter().zip(&self.before))
            .filter(|(_, stats)| !existed(stats))
            .map(|(name, _)| name.clone())
            .collect();
        let (client, settings) = (&self.client, &settings);
        let mut making = stream::iter(missing)
            .map(|name| async move {
                let answer = client.create_queue(&name, settings.clone()).await;
                (name, answer)
            })
            .buffered(AT_ONCE);
        let mut failed = None;
        // To the end, so that it is known what was made.
        while let Some((name, answer)) = making.next().await {
            match answer {
                Ok(answer) if answer.already_existed && !reuse => {
                    failed.get_or_insert(exists(&name));
                }
                Ok(answer) if answer.already_existed => {}
                Ok(_) => self.made.push(name),
                Err(error) => {
                    failed.get_or_insert(error.into());
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// What the broker counted since the beginning.
    pub(super) async fn counted(&self) -> Result<Counted, Error> {
        let now: Vec<QueueStats> = stream::iter(&self.names)
            .map(|name| self.client.queue_stats(name))
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let mut sum = Counted::default();
        for (now, before) in now.iter().zip(&self.before) {
            sum.published += now.published.saturating_sub(before.published);
            sum.acknowledged += now.acknowledged.saturating_sub(before.acknowledged);
            sum.granted += now.granted.saturating_sub(before.granted);
            sum.held += held(now);
        }
        Ok(sum)
    }

    /// Deletes what it made, if it shall not be kept.
    pub(super) async fn remove(&self, keep: bool) -> Result {
        let made = if keep { &[][..] } else { &self.made };
        for name in made {
            delete(&self.client, name).await.map_err(|error| {
                let hint = format!("its queues may be left: ticketrail queue delete {name}");
                Failure::from(error).hint(hint)
            })?;
        }
        Ok(())
    }
}

async fn delete(client: &Client, name: &str) -> Result<(), Error> {
    let begun = Instant::now();
    loop {
        match client.delete_queue(name).await {
            Ok(_) => return Ok(()),
            Err(error) if error.reason() == "QUEUE_NOT_FOUND" => return Ok(()),
            Err(error) if begun.elapsed() >= patience(&error) => return Err(error),
            // A deletion of many messages that was cut off goes on where it was.
            Err(error) if error.is_retryable() || error.is_outcome_unknown() => {
                tokio::time::sleep(error.retry_after().unwrap_or(DELETE_PAUSE)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn patience(error: &Error) -> Duration {
    match error.reason() {
        "CONNECT_FAILED" | "NO_LEADER" => DELETE_UNANSWERED,
        _ => DELETE_WITHIN,
    }
}

fn held(stats: &QueueStats) -> u64 {
    stats.ready + stats.delayed + stats.in_flight + stats.parked
}

fn exists(name: &str) -> Failure {
    Failure::Refused(format!(
        "queue `{name}` exists: choose another --queue-prefix, say --reuse if it is yours to empty, or: \
         ticketrail queue delete {name}"
    ))
}
