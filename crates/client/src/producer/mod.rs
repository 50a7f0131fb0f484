//! Publishing many messages, each stored once: a handle, and a task that owns the stream.

mod driver;
mod setbacks;
mod window;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::message::Message;
use crate::publish::{Publication, Published};
use driver::Driver;
use setbacks::Counters;
pub use setbacks::Setbacks;

/// How many messages may wait for the driver on top of the unconfirmed ones.
const QUEUED_MAX: usize = 256;
/// How long a producer goes on without progress, unless said otherwise.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// A producer's identity: what makes a retry recognizable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedProducer {
    pub(crate) id: Bytes,
    pub(crate) epoch: u32,
    pub(crate) last_sequence: u64,
}

impl OpenedProducer {
    /// Its 16 bytes.
    pub fn id(&self) -> &Bytes {
        &self.id
    }

    /// From 1; grows with each opening of a named producer.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The last sequence that was stored when it was opened; 0 for a new producer.
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }
}

/// Makes a [`Producer`].
#[derive(Debug, Clone)]
pub struct ProducerBuilder {
    client: Client,
    name: String,
    opened: Option<OpenedProducer>,
    first_sequence: Option<u64>,
    give_up_after: Duration,
    strict: bool,
}

impl ProducerBuilder {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            name: String::new(),
            opened: None,
            first_sequence: None,
            give_up_after: GIVE_UP_AFTER,
            strict: false,
        }
    }

    /// Keeps the identity under a name (1..255 bytes), so that a process that starts again can go on where the last one
    /// stopped. Whoever used the name before is fenced.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Uses a producer that [`Client::open_producer`] gave.
    #[must_use]
    pub fn opened(mut self, opened: OpenedProducer) -> Self {
        self.opened = Some(opened);
        self
    }

    /// The sequence of the first message, from 1; the one after the last stored one where unset. A lower one sends
    /// messages again that may have been stored: they are answered as duplicates, and with
    /// `SEQUENCE_REUSED` if they are not the same.
    #[must_use]
    pub fn first_sequence(mut self, sequence: u64) -> Self {
        self.first_sequence = Some(sequence);
        self
    }

    /// How long to go on without any progress (no node to reach, no leader, a full queue) before all
    /// that is unconfirmed fails and the producer is over; 60 s where unset.
    #[must_use]
    pub fn give_up_after(mut self, duration: Duration) -> Self {
        self.give_up_after = duration;
        self
    }

    /// Ends the producer at the first refused message, instead of giving its sequence to the next one. Then
    /// each message keeps the sequence of its place in the input, and the same input can be sent again.
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// Opens the producer and starts it.
    ///
    /// # Errors
    ///
    /// Those of [`Client::open_producer`].
    pub async fn start(self) -> Result<Producer> {
        let opened = match self.opened {
            Some(opened) => opened,
            None => self.client.open_producer(&self.name).await?,
        };
        let first = self
            .first_sequence
            .unwrap_or(opened.last_sequence + 1)
            .max(1);
        let (commands, queue) = mpsc::channel(QUEUED_MAX);
        let failure = Arc::new(OnceLock::new());
        let behaviour = (self.give_up_after, self.strict);
        let setbacks = Arc::new(Counters::default());
        let driver = Driver::new(
            self.client,
            opened.clone(),
            first,
            behaviour,
            queue,
            (&failure, &setbacks),
        );
        let span = tracing::debug_span!("producer", name = self.name, epoch = opened.epoch);
        let task = tokio::spawn(driver.run().instrument(span));
        Ok(Producer {
            commands,
            failure,
            setbacks,
            task,
            opened,
        })
    }
}

type Reply = oneshot::Sender<Result<Published>>;

pub(crate) struct Command {
    item: ticketrail_proto::v1::PublishItem,
    reply: Reply,
}

/// Publishes messages in order over one stream, many under way at a time, each stored once.
///
/// The stream goes to the leader where the client knows its address, else to any node; it stays where it is for as
/// long as it lasts, also at a node that leads no more. When it breaks, the producer connects to any other node and
/// sends again from the first unconfirmed message; the cluster recognizes what it has. At most 1,024 messages are
/// unconfirmed: beyond that [`publish`](Producer::publish) waits.
///
/// A refused message (`UNROUTABLE`, say) fails alone; the others keep their order. A fenced
/// producer fails all, and is over.
#[derive(Debug)]
pub struct Producer {
    commands: mpsc::Sender<Command>,
    failure: Arc<OnceLock<Error>>,
    setbacks: Arc<Counters>,
    task: JoinHandle<()>,
    opened: OpenedProducer,
}

impl Producer {
    /// The identity, with the last sequence as it was when the producer was opened.
    pub fn opened(&self) -> &OpenedProducer {
        &self.opened
    }

    /// What it had to bear so far and made good by sending again.
    pub fn setbacks(&self) -> Setbacks {
        self.setbacks.now()
    }

    /// Sends a message to a queue; waits for room among the unconfirmed ones, but not for the confirm,
    /// which is the future that it gives. Calls that are made one after the other keep their order.
    /// Cancelled, it sent nothing.
    ///
    /// # Errors
    ///
    /// The error that ended the producer.
    pub async fn publish(
        &self,
        queue: impl Into<String>,
        message: impl Into<Message>,
    ) -> Result<Confirm> {
        self.send(Publication::to_queue(queue, message)).await
    }

    /// As [`publish`](Producer::publish), for a message that says itself where it goes.
    ///
    /// # Errors
    ///
    /// The error that ended the producer.
    pub async fn send(&self, publication: Publication) -> Result<Confirm> {
        let (reply, receiver) = oneshot::channel();
        let command = Command {
            item: publication.into(),
            reply,
        };
        if self.commands.send(command).await.is_err() {
            return Err(self
                .failure
                .get()
                .cloned()
                .unwrap_or_else(|| Error::closed("producer")));
        }
        Ok(Confirm {
            receiver,
            failure: self.failure.clone(),
        })
    }

    /// Waits until everything is decided, and ends the stream.
    ///
    /// # Errors
    ///
    /// The error that ended the producer before. Single refusals are told by their confirms.
    pub async fn close(self) -> Result<()> {
        drop(self.commands);
        if self.task.await.is_err() {
            return Err(Error::closed("producer"));
        }
        match self.failure.get() {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
}

/// The answer to one message, when it is committed. Dropping it takes nothing back.
///
/// # Errors
///
/// Why this message was refused (`UNROUTABLE`, `INVALID_FIELD`), while the producer goes on; or what ended the producer
/// (`PRODUCER_FENCED`, or that it gave up). [`Error::is_outcome_unknown`] tells whether it may be stored.
#[derive(Debug)]
pub struct Confirm {
    receiver: oneshot::Receiver<Result<Published>>,
    failure: Arc<OnceLock<Error>>,
}

impl Future for Confirm {
    type Output = Result<Published>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let failure = |this: &Self| {
            this.failure
                .get()
                .cloned()
                .unwrap_or_else(|| Error::closed("producer"))
        };
        Pin::new(&mut self.receiver)
            .poll(context)
            .map(|answer| answer.unwrap_or_else(|_| Err(failure(&self))))
    }
}
