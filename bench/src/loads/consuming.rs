//! Consumers that acknowledge all that they get.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::Result;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;

use super::PREFETCH;
use crate::drivers::{Broker, Subscriber};

/// What consumers of one load share.
#[derive(Clone)]
pub(super) struct Consuming {
    /// Given back for each message.
    pub(super) in_system: Option<Arc<Semaphore>>,
    /// Received, and told to be acknowledged.
    pub(super) received: Arc<AtomicU64>,
    /// Told after each reception.
    pub(super) progress: Arc<Notify>,
    pub(super) stop: watch::Receiver<bool>,
}

impl Consuming {
    pub(super) async fn start<B: Broker>(
        &self,
        broker: &B,
        queue: &str,
        subscribers: usize,
    ) -> Result<JoinSet<Result<()>>> {
        let mut tasks = JoinSet::new();
        for place in 0..subscribers {
            let subscriber = broker.subscriber(queue, place, PREFETCH).await?;
            tasks.spawn(self.clone().run(subscriber));
        }
        Ok(tasks)
    }

    async fn run(mut self, mut subscriber: impl Subscriber) -> Result<()> {
        loop {
            let received = tokio::select! {
                received = subscriber.receive() => received?,
                _ = self.stop.wait_for(|stop| *stop) => break,
            };
            subscriber.acknowledge().await?;
            self.received.fetch_add(received.len() as u64, Relaxed);
            if let Some(in_system) = &self.in_system {
                in_system.add_permits(received.len());
            }
            self.progress.notify_one();
        }
        subscriber.close().await
    }
}
