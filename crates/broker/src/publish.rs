//! Publishing a batch: all or nothing.

use bytes::Bytes;
use ticketrail_core::command::{ProducerSequence, Publish, PublishRun};
use ticketrail_core::outcome::{AcceptedRange, RefusedItem};
use ticketrail_core::{Command, Outcome, Position, ProducerId};
use ticketrail_proto::error::{Problem, Reason};
use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;

use crate::broker::Broker;
use crate::topology::namespace_or_default;

/// A message to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMessage {
    /// On the default exchange the queue's name.
    pub routing_key: String,
    /// Refuse it when it reaches no queue.
    pub mandatory: bool,
    /// The encoded `store.v1.Message`.
    pub message: Bytes,
    /// What a retry must repeat, where `message` holds more than the client gave: the encoded
    /// message without what the node added.
    pub given: Option<Bytes>,
}

/// An open idempotent producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Its id.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: u32,
}

/// What became of a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Commit position.
    pub position: Position,
    /// Accepted items, ascending.
    pub accepted: Vec<AcceptedRange>,
    /// Refused items, ascending. An all-or-nothing publish has either these or the others.
    pub refused: Vec<RefusedItem>,
}

impl Broker {
    /// Stores a batch whole or not at all. With a producer, `first_sequence` is the first
    /// message's sequence, and the call may be repeated on any node.
    ///
    /// # Errors
    /// Overloaded; no such namespace; no leader in time; outcome unknown. A refused item is not an error but
    /// in [`Published::refused`].
    pub async fn publish(
        &self,
        namespace: &str,
        producer: Option<(Producer, u64)>,
        messages: Vec<NewMessage>,
        deadline: Instant,
    ) -> Result<Published, Problem> {
        self.inner.admission.check_publish()?;
        let (command, bodies) = command(namespace, producer, true, messages);
        let (position, outcome) = self.inner.submit(&command, &bodies, deadline).await?;
        published(position, outcome)
    }
}

/// The command of some messages, and their bytes.
pub(crate) fn command(
    namespace: &str,
    producer: Option<(Producer, u64)>,
    atomic: bool,
    messages: Vec<NewMessage>,
) -> (Command, Vec<Bytes>) {
    let producer = producer.map(|(producer, first_sequence)| ProducerSequence {
        id: producer.id,
        epoch: producer.epoch,
        first_sequence,
        digests: messages.iter().map(digest).collect(),
    });
    let mut runs: Vec<PublishRun> = Vec::new();
    let mut bodies = Vec::with_capacity(messages.len());
    for NewMessage {
        routing_key,
        mandatory,
        message,
        given: _,
    } in messages
    {
        let bytes = message.len() as u64;
        match runs.last_mut() {
            Some(run) if run.routing_key == routing_key && run.mandatory == mandatory => {
                run.count += 1;
                run.bytes += bytes;
            }
            _ => runs.push(PublishRun {
                routing_key,
                count: 1,
                bytes,
                mandatory,
            }),
        }
        bodies.push(message);
    }
    let namespace = namespace_or_default(namespace).to_owned();
    (
        Command::Publish(Publish {
            namespace,
            producer,
            atomic,
            runs,
        }),
        bodies,
    )
}

/// What a retry of the same message must repeat.
fn digest(message: &NewMessage) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&(message.routing_key.len() as u64).to_le_bytes());
    hash.update(message.routing_key.as_bytes());
    hash.update(&[u8::from(message.mandatory)]);
    hash.update(message.given.as_ref().unwrap_or(&message.message));
    hash.digest()
}

/// The answer to a publish.
pub(crate) fn published(position: Position, outcome: Outcome) -> Result<Published, Problem> {
    match outcome {
        Outcome::Published { accepted, refused } => Ok(Published {
            position,
            accepted,
            refused,
        }),
        other => Err(unexpected(&other)),
    }
}

/// An outcome of another command's kind: a broken invariant of ours.
pub(crate) fn unexpected(outcome: &Outcome) -> Problem {
    tracing::error!(?outcome, "an outcome does not fit its command");
    Problem::new(
        Reason::Internal,
        "the outcome does not fit the request; please report this",
    )
}
