//! Consuming over a stream: a handle that is a stream of deliveries, and a task that owns the connection.

mod driver;
mod finished;
mod leased;
mod leases;
mod ledger;
mod ranges;
mod session;
mod shared;
mod tally;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::worker::{Failure, Job, Worker};
use driver::Driver;
pub(crate) use leased::Worked;
pub use leased::{Leased, Settling};
pub(crate) use shared::Shared;
pub use tally::WorkSummary;

/// The most unsettled deliveries, unless said otherwise.
const PREFETCH: u32 = 100;
/// The most unsettled deliveries per handler that runs, unless said otherwise: one in work, one in reach.
const PREFETCH_PER_HANDLER: u32 = 2;
/// The most handlers that may run at a time.
const CONCURRENCY_MAX: u32 = 10_000;
/// How long handlers may take to end when their worker stops, unless said otherwise.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a consumer goes on without a stream, unless said otherwise.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
/// How long a clean end may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes a [`Consumer`], which is a stream of deliveries, or a [`Worker`], which calls a handler with each.
#[derive(Debug, Clone)]
pub struct ConsumerBuilder {
    client: Client,
    queue: String,
    name: String,
    prefetch: Option<u32>,
    lease: Option<Duration>,
    auto_extend: bool,
    give_up_after: Duration,
    concurrency: u32,
    drain_timeout: Duration,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client, queue: String) -> Self {
        Self {
            client,
            queue,
            name: String::new(),
            prefetch: None,
            lease: None,
            auto_extend: false,
            give_up_after: GIVE_UP_AFTER,
            concurrency: 1,
            drain_timeout: DRAIN_TIMEOUT,
        }
    }

    /// The most unsettled deliveries that this consumer holds: 1..10,000. Where unset, 100, and twice the
    /// [`concurrency`](Self::concurrency) for a handler. Slow work wants a low number, so that it spreads over many
    /// consumers; quick work wants a high one, since a settlement frees its place only when it is committed.
    #[must_use]
    pub fn prefetch(mut self, prefetch: u32) -> Self {
        self.prefetch = Some(prefetch);
        self
    }

    /// How long each lease lasts instead of the queue's `lease_duration`: 1 ms..12 h, whole milliseconds.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Extends every lease that is held until its [`Leased`] is settled or dropped, so that work may take
    /// longer than a lease; off where unset. A [`handle`](Self::handle)r's leases are always extended.
    #[must_use]
    pub fn auto_extend(mut self, auto_extend: bool) -> Self {
        self.auto_extend = auto_extend;
        self
    }

    /// A name for people, shown in statistics; up to 255 bytes.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How long to go on without any node to consume from before the consumer ends; 60 s where unset.
    #[must_use]
    pub fn give_up_after(mut self, duration: Duration) -> Self {
        self.give_up_after = duration;
        self
    }

    /// How many calls of a [`handle`](Self::handle)r may run at a time: 1..10,000; 1 where unset, which keeps the
    /// order of the queue. A [`prefetch`](Self::prefetch) below it bounds them further. A plain stream does not
    /// look at this.
    #[must_use]
    pub fn concurrency(mut self, concurrency: u32) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// How long a [`Worker`] that stops waits for handlers that run; 15 s where unset. Those that have not ended by
    /// then are dropped where they wait, and their messages given back as failed. Whoever ends the process should allow
    /// 11 s more, for the settlements: 26 s where unset, within the 30 s that Kubernetes gives. A plain stream does
    /// not look at this.
    ///
    /// What a handler gave to `spawn_blocking` or to a task of its own outlives it, while its message may already be
    /// worked on elsewhere.
    #[must_use]
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Calls a handler with each delivery, in tasks of their own, and settles the delivery by what it returns;
    /// returns when the queue is known to exist. See [`Worker`].
    ///
    /// # Errors
    ///
    /// `QUEUE_NOT_FOUND`, `INVALID_FIELD`, or that no node answers.
    pub async fn handle<H, F>(self, handler: H) -> Result<Worker>
    where
        H: Fn(Job) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let concurrency = self.concurrency;
        if !(1..=CONCURRENCY_MAX).contains(&concurrency) {
            let message =
                format!("`concurrency` is {concurrency}; it must be 1..{CONCURRENCY_MAX}");
            return Err(Error::invalid("INVALID_FIELD", message));
        }
        let wanted = concurrency * PREFETCH_PER_HANDLER;
        let prefetch = self.prefetch.unwrap_or(wanted.min(CONCURRENCY_MAX));
        let (queue, drain_timeout) = (self.queue.clone(), self.drain_timeout);
        let consumer = self.prefetch(prefetch).auto_extend(true).start().await?;
        let concurrency = concurrency.min(prefetch) as usize;
        let handling = (concurrency, drain_timeout);
        Ok(Worker::start(consumer, queue.into(), handling, handler))
    }

    /// Opens the stream; returns when the queue is known to exist.
    ///
    /// # Errors
    ///
    /// `QUEUE_NOT_FOUND`, `INVALID_FIELD`, or that no node answers.
    pub async fn start(self) -> Result<Consumer> {
        let shared = Arc::new(Shared::default());
        let (opened, is_open) = oneshot::channel();
        let span = tracing::debug_span!("consumer", queue = self.queue);
        let driver = Driver::new(self, shared.clone(), opened);
        let task = tokio::spawn(driver.run().instrument(span));
        let consumer = Consumer {
            shared,
            task: Some(task),
        };
        match is_open.await {
            Ok(Ok(())) => Ok(consumer),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::closed("consumer")),
        }
    }
}

/// A stream of deliveries from one queue. Each is to be settled: see [`Leased`].
///
/// When the stream breaks, the consumer connects to any other node and takes its leases along, so work that is
/// under way goes on. It ends with an error when the queue is deleted, or when no node is to be reached for
/// [`give_up_after`](ConsumerBuilder::give_up_after).
///
/// Call [`close`](Consumer::close) at the end. A consumer that is dropped does the same in the background, if
/// the runtime lives long enough; one that dies leaves its leases to the grace of its session.
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
}

impl Consumer {
    /// The next delivery; `None` after the end.
    pub async fn next(&mut self) -> Option<Result<Leased>> {
        std::future::poll_fn(|context| self.poll_delivery(context)).await
    }

    /// Changes the most unsettled deliveries. Lowering it takes nothing back.
    pub fn set_prefetch(&self, prefetch: u32) {
        self.shared.lock().prefetch = Some(prefetch);
        self.shared.wished.notify_one();
    }

    /// Settles what was asked for, gives back all that is unsettled without counting it, and ends the
    /// session.
    ///
    /// Cancelled, it goes on in the background.
    ///
    /// # Errors
    ///
    /// The error that ended the consumer before; `CLOSED` where that could not be finished within 10 s: then what was
    /// asked for may or may not be settled.
    pub async fn close(mut self) -> Result<()> {
        self.begin_close();
        if let Some(mut task) = self.task.take()
            && tokio::time::timeout(CLOSE_TIMEOUT, &mut task)
                .await
                .is_err()
        {
            task.abort();
            // What was asked for is not answered any more.
            self.shared.end(None);
            return Err(Error::closed("consumer"));
        }
        match self.shared.lock().error.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn begin_close(&self) {
        self.shared.lock().closing = true;
        self.shared.wished.notify_one();
    }

    fn poll_delivery(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Leased>>> {
        self.shared.delivered.register(context.waker());
        let mut state = self.shared.lock();
        if let Some((key, delivery)) = state.ledger.take() {
            let shared = self.shared.clone();
            return Poll::Ready(Some(Ok(Leased::new(key, delivery, shared))));
        }
        if !state.ended {
            return Poll::Pending;
        }
        Poll::Ready(state.error.take().map(Err))
    }
}

impl Stream for Consumer {
    type Item = Result<Leased>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_delivery(context)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.begin_close();
    }
}

#[cfg(test)]
impl Consumer {
    /// A consumer that was given so many deliveries, and has no node.
    pub(crate) fn holding(deliveries: u64) -> Self {
        use ticketrail_proto::v1::Delivery;
        let delivery = |delivery_id: u64| Delivery {
            delivery_id,
            receipt: delivery_id.to_string().into(),
            ..Default::default()
        };
        let shared = Arc::new(Shared::default());
        let deliveries = (1..=deliveries).map(delivery).collect();
        let now = tokio::time::Instant::now();
        shared.lock().ledger.deliver(deliveries, now);
        Self { shared, task: None }
    }
}
