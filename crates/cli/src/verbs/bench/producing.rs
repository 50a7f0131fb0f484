//! One producer of a run.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ticketrail_client::{Client, Confirm, OpenedProducer, Producer};
use tokio::sync::{Semaphore, mpsc, watch};

use super::counts::Counts;
use super::pace::{Pace, Turns};
use super::plan::Plan;
use super::stamp::Stamps;
use crate::failure::Result;

pub(super) struct Producing {
    pub(super) client: Client,
    pub(super) opened: OpenedProducer,
    /// Among the producers, from 0.
    pub(super) place: usize,
    pub(super) plan: Arc<Plan>,
    pub(super) counts: Arc<Counts>,
    pub(super) stamps: Stamps,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) give_up_after: Duration,
}

/// A message that is under way.
struct Sent {
    at: u64,
    confirm: Confirm,
}

impl Producing {
    /// Publishes until it is told to stop or all is published, and waits for the confirms.
    pub(super) async fn run(self) -> Result {
        let builder = self.client.producer().opened(self.opened.clone());
        let producer = builder.give_up_after(self.give_up_after).start().await?;
        let window = Semaphore::new(self.plan.window as usize);
        let (sent, confirms) = mpsc::channel(self.plan.window as usize);
        let (sending, counting) = tokio::join!(
            self.send(&producer, &window, sent),
            self.count(&window, confirms)
        );
        let setbacks = producer.setbacks();
        let counts = &self.counts;
        counts
            .refused_for_load
            .fetch_add(setbacks.refused_for_load, Relaxed);
        counts
            .told_to_pause
            .fetch_add(setbacks.told_to_pause, Relaxed);
        counts.retried.fetch_add(setbacks.retried, Relaxed);
        counting?;
        sending?;
        Ok(producer.close().await?)
    }

    async fn send(
        &self,
        producer: &Producer,
        window: &Semaphore,
        sent: mpsc::Sender<Sent>,
    ) -> Result {
        let begun = self.counts.now();
        let pace = self.pace();
        let turns = pace.map(Turns::start).transpose()?;
        let mut stopped = self.stop.clone();
        let mut next_queue = self.place;
        for turn in 0.. {
            let due = pace.map(|pace| pace.due(turn));
            if let Some(turns) = &turns {
                tokio::select! {
                    () = turns.next() => {}
                    // Nobody is left to stop it: it is over.
                    _ = stopped.wait_for(|stop| *stop) => return Ok(()),
                }
            }
            if *self.stop.borrow() {
                return Ok(());
            }
            let count = self.counts.take(self.plan.batch);
            if count == 0 {
                return Ok(());
            }
            let Ok(permits) = window.acquire_many(count).await else {
                return Ok(());
            };
            permits.forget();
            for _ in 0..count {
                let at = match due {
                    Some(due) => begun + due.as_nanos() as u64,
                    None => self.counts.now(),
                };
                let queue = &self.plan.queues[next_queue % self.plan.queues.len()];
                next_queue += 1;
                let confirm = producer
                    .publish(queue.as_str(), self.stamps.body(at))
                    .await?;
                if sent.send(Sent { at, confirm }).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn pace(&self) -> Option<Pace> {
        Some(Pace {
            producers: self.plan.producers as u64,
            place: self.place as u64,
            batch: self.plan.batch.into(),
            rate: self.plan.rate?.into(),
        })
    }

    /// Looks at the confirms in their order, until the first refusal, which ends the run.
    async fn count(&self, window: &Semaphore, mut confirms: mpsc::Receiver<Sent>) -> Result {
        while let Some(Sent { at, confirm }) = confirms.recv().await {
            if let Err(error) = confirm.await {
                window.close();
                return Err(error.into());
            }
            self.counts.record(&self.counts.confirm, self.place, at);
            self.counts.published.fetch_add(1, Relaxed);
            window.add_permits(1);
        }
        Ok(())
    }
}
