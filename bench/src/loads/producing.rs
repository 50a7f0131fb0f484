//! Publishers with a window.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use anyhow::Result;
use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::{BATCH, WINDOW};
use crate::drivers::{Broker, Confirm, Publisher};

/// What publishers of one load share.
#[derive(Clone)]
pub(super) struct Producing {
    pub(super) body: Bytes,
    /// Messages that may still be sent.
    pub(super) left: Arc<AtomicU64>,
    /// A permit for each message that may be in the system; none where it does not matter.
    pub(super) in_system: Option<Arc<Semaphore>>,
    pub(super) confirmed: Arc<AtomicU64>,
    pub(super) stop: watch::Receiver<bool>,
}

impl Producing {
    /// Starts so many; each ends when it is told to stop or nothing is left, with all confirmed.
    pub(super) async fn start<B: Broker>(
        &self,
        broker: &B,
        queue: &str,
        publishers: usize,
    ) -> Result<JoinSet<Result<()>>> {
        let mut tasks = JoinSet::new();
        for place in 0..publishers {
            let publisher = broker.publisher(queue, place).await?;
            tasks.spawn(self.clone().run(publisher));
        }
        Ok(tasks)
    }

    async fn run(self, mut publisher: impl Publisher) -> Result<()> {
        let window = Semaphore::new(WINDOW as usize);
        let (sent, confirms) = mpsc::channel(WINDOW as usize);
        // Only borrowed: some libraries end what is unconfirmed together with their publisher.
        let sending = self.send(&mut publisher, &window, sent);
        tokio::try_join!(sending, self.count(&window, confirms))?;
        Ok(())
    }

    async fn send(
        &self,
        publisher: &mut impl Publisher,
        window: &Semaphore,
        sent: mpsc::Sender<(u32, Confirm)>,
    ) -> Result<()> {
        let mut stop = self.stop.clone();
        loop {
            let room = async {
                window.acquire_many(BATCH).await?.forget();
                if let Some(in_system) = &self.in_system {
                    in_system.acquire_many(BATCH).await?.forget();
                }
                anyhow::Ok(())
            };
            tokio::select! {
                room = room => room?,
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            }
            let count = self.take();
            if count == 0 || *self.stop.borrow() {
                return Ok(());
            }
            let bodies = vec![self.body.clone(); count as usize];
            let confirm = publisher.publish(bodies).await?;
            if sent.send((count, confirm)).await.is_err() {
                return Ok(());
            }
        }
    }

    /// So many of those that are left may be sent now.
    fn take(&self) -> u32 {
        let take = |left: u64| Some(left.saturating_sub(BATCH.into()));
        let before = self.left.fetch_update(Relaxed, Relaxed, take).unwrap_or(0);
        before.min(BATCH.into()) as u32
    }

    async fn count(
        &self,
        window: &Semaphore,
        mut confirms: mpsc::Receiver<(u32, Confirm)>,
    ) -> Result<()> {
        while let Some((count, confirm)) = confirms.recv().await {
            confirm.await?;
            self.confirmed.fetch_add(count.into(), Relaxed);
            window.add_permits(count as usize);
        }
        Ok(())
    }
}

/// A body that does not compress, so that none gains by it.
pub(super) fn body(bytes: usize) -> Bytes {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    noise.take(bytes).collect()
}

/// Publishes so many messages, or fewer until the deadline; returns when they are confirmed.
pub(super) async fn fill<B: Broker>(
    broker: &B,
    queue: &str,
    messages: u64,
    body: Bytes,
    confirmed: &Arc<AtomicU64>,
    deadline: Instant,
) -> Result<()> {
    let (told, stop) = watch::channel(false);
    let producing = Producing {
        body,
        left: Arc::new(AtomicU64::new(messages)),
        in_system: None,
        confirmed: Arc::clone(confirmed),
        stop,
    };
    let tasks = producing.start(broker, queue, super::CLIENTS).await?;
    let mut ended = std::pin::pin!(all(tasks));
    tokio::select! {
        ended = &mut ended => return ended,
        () = tokio::time::sleep_until(deadline.into()) => { told.send_replace(true); }
    }
    ended.await
}

/// Waits for all of them; the first failure is the failure of all.
pub(super) async fn all(mut tasks: JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}
