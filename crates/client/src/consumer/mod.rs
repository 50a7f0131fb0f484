//! Consuming over a stream: a handle that is a stream of deliveries, and a task that owns the connection.

mod driver;
mod ledger;
mod ranges;

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use futures::task::AtomicWaker;
use ticketrail_proto::v1::SettleOutcome;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::delivery::{Delivery, Receipt};
use crate::error::{Error, Result};
use crate::receive::Settlement;
use driver::Driver;
use ledger::{Key, Ledger, Wish};

/// The most unsettled deliveries, unless said otherwise.
const PREFETCH: u32 = 100;
/// How long a consumer goes on without a stream, unless said otherwise.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
/// How long a clean end may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes a [`Consumer`].
#[derive(Debug, Clone)]
pub struct ConsumerBuilder {
    client: Client,
    queue: String,
    name: String,
    prefetch: u32,
    lease: Option<Duration>,
    auto_extend: bool,
    give_up_after: Duration,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client, queue: String) -> Self {
        Self {
            client,
            queue,
            name: String::new(),
            prefetch: PREFETCH,
            lease: None,
            auto_extend: false,
            give_up_after: GIVE_UP_AFTER,
        }
    }

    /// The most unsettled deliveries that this consumer holds: 1..10,000; 100 where unset. Slow work wants
    /// a low number, so that it spreads over many workers.
    #[must_use]
    pub fn prefetch(mut self, prefetch: u32) -> Self {
        self.prefetch = prefetch;
        self
    }

    /// How long each lease lasts instead of the queue's `lease_duration`.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Extends every lease that is held until its [`Leased`] is settled or dropped, so that work may take
    /// longer than a lease.
    #[must_use]
    pub fn auto_extend(mut self, auto_extend: bool) -> Self {
        self.auto_extend = auto_extend;
        self
    }

    /// A name for people, shown in statistics.
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

    /// Opens the stream; returns when the queue is known to exist.
    ///
    /// # Errors
    ///
    /// `QUEUE_NOT_FOUND`, `INVALID_FIELD`, or that no node answers.
    pub async fn start(self) -> Result<Consumer> {
        let shared = Arc::new(Shared::default());
        let (opened, is_open) = oneshot::channel();
        let driver = Driver::new(self, shared.clone(), opened);
        let task = tokio::spawn(driver.run());
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

/// What the handle, its deliveries and the driver share.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Wakes whoever waits for a delivery.
    delivered: AtomicWaker,
    /// Wakes the driver.
    wished: Notify,
}

#[derive(Debug, Default)]
struct State {
    ledger: Ledger,
    prefetch: Option<u32>,
    closing: bool,
    ended: bool,
    error: Option<Error>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds this lock")
    }

    fn end(&self, error: Option<Error>) {
        let mut state = self.lock();
        state.ended = true;
        state.error = error;
        for wish in state.ledger.take_all() {
            let _ = wish
                .reply
                .map(|reply| reply.send(Err(Error::closed("consumer"))));
        }
        drop(state);
        self.delivered.wake();
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
    /// # Errors
    ///
    /// The error that ended the consumer before.
    pub async fn close(mut self) -> Result<()> {
        self.begin_close();
        if let Some(mut task) = self.task.take()
            && tokio::time::timeout(CLOSE_TIMEOUT, &mut task)
                .await
                .is_err()
        {
            task.abort();
            return Err(Error::closed("consumer"));
        }
        match self.shared.lock().error.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
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
            return Poll::Ready(Some(Ok(Leased {
                key,
                delivery,
                shared,
                settled: false,
            })));
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

/// A delivery that this consumer holds. It dereferences to [`Delivery`].
///
/// Settle it once. The settling methods do not need to be awaited: settlements travel in the background, many
/// in one frame; await one to know that it is committed. A `Leased` that is dropped keeps its lease
/// until it ends by itself, and then counts as failed.
#[derive(Debug)]
pub struct Leased {
    key: Key,
    delivery: Delivery,
    shared: Arc<Shared>,
    settled: bool,
}

impl Leased {
    /// Done: the message is removed for good.
    pub fn ack(self) -> Settling {
        self.settle(Settlement::Ack)
    }

    /// Failed: back to its old place in the queue, after the queue's backoff.
    pub fn nack(self) -> Settling {
        self.settle(Settlement::Nack(None))
    }

    /// Failed: back to its old place in the queue, after this time.
    pub fn nack_after(self, delay: Duration) -> Settling {
        self.settle(Settlement::Nack(Some(delay)))
    }

    /// Hopeless: to the dead-letter queue.
    pub fn reject(self) -> Settling {
        self.settle(Settlement::Reject)
    }

    /// Not started: back to its old place, and not counted.
    pub fn release(self) -> Settling {
        self.settle(Settlement::Release)
    }

    /// Settles it in this way; an [`Settlement::Extend`] only lets go of it.
    pub fn settle(mut self, settlement: Settlement) -> Settling {
        self.settled = true;
        self.wish(settlement)
    }

    /// Not done yet: the lease lasts so long from now.
    pub fn extend(&self, lease: Duration) -> Settling {
        self.wish(Settlement::Extend(lease))
    }

    fn wish(&self, settlement: Settlement) -> Settling {
        let (reply, answer) = oneshot::channel();
        let receipt: Receipt = self.delivery.receipt().clone();
        let mut state = self.shared.lock();
        // After the end the reply is dropped with the wish, and says so.
        if !state.ended {
            state.ledger.wish(Wish {
                key: self.key,
                receipt,
                settlement,
                reply: Some(reply),
            });
        }
        drop(state);
        self.shared.wished.notify_one();
        Settling { answer }
    }
}

impl Deref for Leased {
    type Target = Delivery;

    fn deref(&self) -> &Delivery {
        &self.delivery
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if !self.settled {
            self.shared
                .lock()
                .ledger
                .forget(self.key, self.delivery.receipt());
        }
    }
}

/// The answer to a settlement, when it is committed. Dropping it takes nothing back.
///
/// [`SettleOutcome::LeaseLost`] means that the message may be worked on again by someone else.
#[derive(Debug)]
pub struct Settling {
    answer: oneshot::Receiver<Result<SettleOutcome>>,
}

impl Future for Settling {
    type Output = Result<SettleOutcome>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.answer).poll(context);
        answer.map(|answer| answer.unwrap_or_else(|_| Err(Error::closed("consumer"))))
    }
}
