//! Calling a handler with each delivery: a handle, and a task that takes, calls and settles.

mod dispatcher;
mod failure;
mod job;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::consumer::{Consumer, Shared, WorkSummary};
use crate::error::{Error, Result};
use dispatcher::Dispatcher;
pub use failure::Failure;
pub use job::Job;

/// Calls a handler with each delivery of a queue, so many at a time, and settles the delivery by what it returns.
///
/// ```no_run
/// use std::time::Duration;
/// use ticketrail_client::{Client, Failure};
///
/// # async fn send_mail(_: &[u8]) -> std::io::Result<()> { Ok(()) }
/// # async fn example(client: Client) -> ticketrail_client::Result<()> {
/// let mut worker = client
///     .consumer("mail")
///     .concurrency(16)
///     .handle(|job| async move {
///         let address = std::str::from_utf8(job.body()).map_err(Failure::reject)?;
///         send_mail(address.as_bytes())
///             .await
///             .map_err(|error| Failure::retry_after(error, Duration::from_secs(60)))?;
///         Ok(())
///     })
///     .await?;
/// let summary = worker.run_until(tokio::signal::ctrl_c()).await?;
/// println!("{} mails sent", summary.acknowledged);
/// # Ok(())
/// # }
/// ```
///
/// | the handler | its message |
/// | --- | --- |
/// | returns `Ok(())` | is acknowledged |
/// | returns `Err` | is given back as failed, to its old place, after the queue's backoff or the [`Failure`]'s own delay; or goes to the dead letters if the `Failure` says so |
/// | panics | is given back as failed; the worker goes on |
/// | works longer than a lease | stays leased: the lease is extended every third of its length |
/// | loses its lease | is not settled; [`Job::lease_lost`] tells the handler |
///
/// Each call runs in a task of its own, so that one that panics harms no other, unless the program is built with
/// `panic = "abort"`; what blocks its thread belongs into
/// `tokio::task::spawn_blocking`. A settlement is not waited for: the next delivery is taken as soon as a handler has
/// ended, and settlements travel many in a frame. What becomes of them is in the [`summary`](Worker::summary).
///
/// Delivery is at least once: a handler must bear to see a message again, above all after it lost a lease or the
/// process died.
///
/// # Stopping
///
/// [`drain`](Worker::drain) and [`run_until`](Worker::run_until) take nothing more, give back at once what no handler
/// has begun, without counting it, let running handlers end within
/// [`drain_timeout`](crate::ConsumerBuilder::drain_timeout), settle, and end the session. A worker that is dropped does
/// the same in the background, if the runtime lives long enough; one that dies leaves its leases to the grace of its
/// session.
///
/// A process is asked to end by Ctrl-C at a terminal, and by SIGTERM from Kubernetes, systemd or Docker; that one ends
/// a process at once that does not watch for it. Drain at both, as the example `work` does.
#[derive(Debug)]
pub struct Worker {
    stop: CancellationToken,
    shared: Arc<Shared>,
    state: State,
}

#[derive(Debug)]
enum State {
    Running(JoinHandle<Result<()>>),
    Ended(Result<()>),
}

impl Worker {
    pub(crate) fn start<H, F>(
        consumer: Consumer,
        queue: Arc<str>,
        (concurrency, drain_timeout): (usize, Duration),
        handler: H,
    ) -> Self
    where
        H: Fn(Job) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let shared = consumer.shared().clone();
        let span = tracing::debug_span!("worker", queue = &*queue);
        let dispatcher = Dispatcher::new(consumer, queue, concurrency, drain_timeout, handler);
        let task = tokio::spawn(dispatcher.run(stop.clone()).instrument(span));
        let state = State::Running(task);
        Self {
            stop,
            shared,
            state,
        }
    }

    /// What it did so far.
    pub fn summary(&self) -> WorkSummary {
        self.shared.summary()
    }

    /// Works until `stop` is over, whatever it says, or until nothing more can be consumed; then drains.
    ///
    /// Cancelling this future stops nothing: the worker goes on, and this may be called again.
    ///
    /// # Errors
    ///
    /// What ended the worker before its time, after its handlers ended: `QUEUE_NOT_FOUND` where the queue was deleted,
    /// or that no node was to be reached for [`give_up_after`](crate::ConsumerBuilder::give_up_after). Or that the
    /// drain could not be finished; `CLOSED` where no node answered in time.
    /// [`summary`](Worker::summary) tells of the work all the same.
    pub async fn run_until(&mut self, stop: impl Future) -> Result<WorkSummary> {
        tokio::select! {
            _ = stop => {}
            _ = self.ended() => {}
        }
        self.drain().await
    }

    /// Stops, and returns when all is settled. It takes [`drain_timeout`](crate::ConsumerBuilder::drain_timeout) and
    /// 11 s at most.
    ///
    /// Cancelling this future does not cancel the drain.
    ///
    /// # Errors
    ///
    /// As [`run_until`](Worker::run_until). A settlement that got no answer is not one of them by itself: look at
    /// [`unanswered`](WorkSummary::unanswered).
    pub async fn drain(&mut self) -> Result<WorkSummary> {
        self.stop.cancel();
        self.ended().await?;
        Ok(self.summary())
    }

    async fn ended(&mut self) -> Result<()> {
        if let State::Running(task) = &mut self.state {
            let result = task.await.unwrap_or_else(|_| Err(Error::closed("worker")));
            self.state = State::Ended(result);
        }
        match &self.state {
            State::Ended(result) => result.clone(),
            State::Running(_) => unreachable!("it was awaited"),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
