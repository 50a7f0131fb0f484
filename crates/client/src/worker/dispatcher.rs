//! The task behind a worker: takes deliveries, runs their handlers, and ends when all is settled.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{Failure, Job};
use crate::consumer::{Consumer, Leased, Worked};
use crate::delivery::Delivery;
use crate::error::Result;
use crate::receive::Settlement;

/// How long a handler that is dropped may take to come to a point where it waits.
const DROP_MAX: Duration = Duration::from_secs(1);

pub(super) struct Dispatcher<H> {
    consumer: Consumer,
    queue: Arc<str>,
    concurrency: usize,
    drain_timeout: Duration,
    handler: Arc<H>,
    /// The handlers that run, one task each.
    running: JoinSet<()>,
}

impl<H, F> Dispatcher<H>
where
    H: Fn(Job) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    pub(super) fn new(
        consumer: Consumer,
        queue: Arc<str>,
        concurrency: usize,
        drain_timeout: Duration,
        handler: H,
    ) -> Self {
        Self {
            consumer,
            queue,
            concurrency,
            drain_timeout,
            handler: Arc::new(handler),
            running: JoinSet::new(),
        }
    }

    /// Works until it is told to stop or the consumer ends, and drains. The error that ended the consumer.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<()> {
        let taken = self.take_until(stop).await;
        self.consumer.shared().stop();
        self.end_handlers().await;
        let closed = self.consumer.close().await;
        taken.and(closed)
    }

    async fn take_until(&mut self, stop: CancellationToken) -> Result<()> {
        let mut stopped = std::pin::pin!(stop.cancelled());
        let shared = self.consumer.shared().clone();
        let mut consumer_ended = std::pin::pin!(shared.ended());
        loop {
            let has_room = self.running.len() < self.concurrency;
            tokio::select! {
                biased;
                () = &mut stopped => return Ok(()),
                // Also while all are busy; `close` says why.
                () = &mut consumer_ended => return Ok(()),
                Some(_) = self.running.join_next() => {}
                delivery = self.consumer.next(), if has_room => match delivery {
                    Some(delivery) => self.begin(delivery?),
                    None => return Ok(()),
                },
            }
        }
    }

    fn begin(&mut self, leased: Leased) {
        let about = About {
            queue: self.queue.clone(),
            message_id: leased.message_id(),
            delivery_count: leased.delivery_count(),
        };
        let span = about.span();
        // Here, since a task that is dropped before it ran still has to give its message back.
        let (delivery, worked) = leased.split();
        let work = work(self.handler.clone(), delivery, worked, about);
        self.running.spawn(work.instrument(span));
    }

    /// Waits for the handlers that run, and drops those that do not end in time.
    async fn end_handlers(&mut self) {
        if timeout(self.drain_timeout, ended(&mut self.running))
            .await
            .is_ok()
        {
            return;
        }
        let handlers = self.running.len();
        tracing::warn!(
            handlers,
            "handlers did not end in time; given back as failed"
        );
        self.running.abort_all();
        // One that blocks its thread is not waited for: its lease ends with the session.
        let _ = timeout(DROP_MAX, ended(&mut self.running)).await;
    }
}

async fn ended(running: &mut JoinSet<()>) {
    while running.join_next().await.is_some() {}
}

/// Which delivery, for the log.
struct About {
    queue: Arc<str>,
    message_id: u64,
    delivery_count: u32,
}

/// One call of the handler.
async fn work<H, F>(handler: Arc<H>, delivery: Delivery, worked: Worked, about: About)
where
    H: Fn(Job) -> F,
    F: Future<Output = Result<(), Failure>>,
{
    let job = Job::new(delivery, worked.shared().clone());
    // Also where it panics before it has made its future.
    let called = async { handler(job).await };
    match AssertUnwindSafe(called).catch_unwind().await {
        Ok(Ok(())) => about.handled(worked.settle(Settlement::Ack, false)),
        Ok(Err(failure)) => {
            let is_settled = worked.settle(failure.settlement(), false);
            about.failed(&failure, is_settled);
        }
        Err(panic) => {
            let is_settled = worked.settle(Settlement::Nack(None), true);
            about.panicked(text_of(&*panic), is_settled);
        }
    }
}

impl About {
    fn span(&self) -> tracing::Span {
        let Self {
            queue,
            message_id,
            delivery_count,
        } = self;
        tracing::debug_span!("job", queue = &**queue, message_id, delivery_count)
    }

    fn handled(&self, is_settled: bool) {
        let (queue, message_id) = (&*self.queue, self.message_id);
        match is_settled {
            true => tracing::trace!(queue, message_id, "handled"),
            false => tracing::warn!(queue, message_id, "handled, but the lease was lost before"),
        }
    }

    fn failed(&self, failure: &Failure, is_settled: bool) {
        tracing::warn!(
            queue = &*self.queue,
            message_id = self.message_id,
            delivery_count = self.delivery_count,
            error = failure.chain(),
            then = then(failure.settlement(), is_settled),
            "handler failed"
        );
    }

    fn panicked(&self, text: &str, is_settled: bool) {
        tracing::error!(
            queue = &*self.queue,
            message_id = self.message_id,
            delivery_count = self.delivery_count,
            panic = text,
            then = then(Settlement::Nack(None), is_settled),
            "handler panicked"
        );
    }
}

/// What becomes of a message that was not handled.
fn then(settlement: Settlement, is_settled: bool) -> &'static str {
    match settlement {
        _ if !is_settled => "lease lost",
        Settlement::Reject => "rejected",
        _ => "given back",
    }
}

/// What a panic says, as far as it is text.
fn text_of(panic: &(dyn Any + Send)) -> &str {
    let literal = panic.downcast_ref::<&str>().copied();
    let text = || panic.downcast_ref::<String>().map(String::as_str);
    literal.or_else(text).unwrap_or("not text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use std::future::pending;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_handler_that_is_dropped_before_it_ran_gives_its_message_back() {
        let mut consumer = Consumer::holding(1);
        let leased = consumer.next().await.unwrap().unwrap();
        let shared = consumer.shared().clone();
        let handler = |_| pending();
        let mut dispatcher = Dispatcher::new(consumer, "orders".into(), 1, SECOND, handler);
        dispatcher.begin(leased);
        dispatcher.running.abort_all();
        ended(&mut dispatcher.running).await;
        shared.end(None);
        let summary = shared.summary();
        assert_eq!((summary.begun, summary.unanswered), (1, 1), "it was asked");
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_consumer_is_noticed_while_all_handlers_are_busy() {
        let consumer = Consumer::holding(1);
        let shared = consumer.shared().clone();
        let handler = |_| pending();
        let dispatcher = Dispatcher::new(consumer, "orders".into(), 1, SECOND, handler);
        let running = tokio::spawn(dispatcher.run(CancellationToken::new()));
        while shared.summary().begun == 0 {
            tokio::task::yield_now().await;
        }
        shared.end(Some(Error::invalid("QUEUE_NOT_FOUND", "it was deleted")));
        let ended = timeout(2 * SECOND, running).await.unwrap().unwrap();
        assert_eq!(ended.unwrap_err().reason(), "QUEUE_NOT_FOUND");
        assert_eq!(shared.summary().lost, 1);
    }
}
