//! Namespaces, queues, producers: what is declared, changed and removed.

use ticketrail_core::command::{
    CreateNamespace, CreateQueue, DeleteNamespace, DeleteQueue, OpenProducer, PurgeQueue,
    UpdateQueue,
};
use ticketrail_core::limits::{DEFAULT_NAMESPACE, PURGE_SPANS_MAX};
use ticketrail_core::{
    Command, Outcome, Position, ProducerId, QueueChanges, QueueId, QueueSettings,
};
use ticketrail_proto::error::Problem;
use tokio::time::Instant;

use crate::broker::Broker;
use crate::publish::{Producer, unexpected};

/// A queue after a declaration or change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueInfo {
    /// Its incarnation.
    pub id: QueueId,
    /// Its revision.
    pub revision: u64,
    /// Made by this call.
    pub created: bool,
}

/// What a mutation answers: where it stands, and its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written<T> {
    /// Commit position; `None` where nothing had to be written.
    pub position: Option<Position>,
    /// The result.
    pub value: T,
}

/// The namespace that is meant.
pub(crate) fn namespace_or_default(namespace: &str) -> &str {
    if namespace.is_empty() {
        DEFAULT_NAMESPACE
    } else {
        namespace
    }
}

impl Broker {
    async fn write<T>(
        &self,
        command: Command,
        deadline: Instant,
        take: impl FnOnce(&Outcome) -> Option<T>,
    ) -> Result<Written<T>, Problem> {
        let (position, outcome) = self.inner.submit(&command, &[], deadline).await?;
        let value = take(&outcome).ok_or_else(|| unexpected(&outcome))?;
        Ok(Written {
            position: Some(position),
            value,
        })
    }

    /// Makes a namespace, or finds it made.
    ///
    /// # Errors
    /// Bad name; too many.
    pub async fn create_namespace(
        &self,
        namespace: &str,
        deadline: Instant,
    ) -> Result<Written<()>, Problem> {
        let namespace = namespace.to_owned();
        let command = Command::CreateNamespace(CreateNamespace { namespace });
        self.write(command, deadline, done).await
    }

    /// Removes an empty namespace.
    ///
    /// # Errors
    /// Not found; not empty; the default one.
    pub async fn delete_namespace(
        &self,
        namespace: &str,
        deadline: Instant,
    ) -> Result<Written<()>, Problem> {
        let namespace = namespace_or_default(namespace).to_owned();
        let command = Command::DeleteNamespace(DeleteNamespace { namespace });
        self.write(command, deadline, done).await
    }

    /// Makes a queue, or finds it made with the same settings, which writes nothing.
    ///
    /// # Errors
    /// Bad name or setting; no such namespace; there with other settings; too many.
    pub async fn create_queue(
        &self,
        namespace: &str,
        queue: &str,
        settings: QueueSettings,
        deadline: Instant,
    ) -> Result<Written<QueueInfo>, Problem> {
        let namespace = namespace_or_default(namespace);
        let same = |state: &ticketrail_core::State| {
            let view = state.queue(namespace, queue)?;
            let info = QueueInfo {
                id: view.id,
                revision: view.revision,
                created: false,
            };
            // Whether granting is paused is not a matter of declaring.
            let same = QueueSettings {
                paused: view.settings.paused,
                ..settings.clone()
            };
            (*view.settings == same).then_some(info)
        };
        if self.inner.replica.with_state(same).is_some() {
            self.inner.read_barrier(deadline).await?;
            if let Some(value) = self.inner.replica.with_state(same) {
                return Ok(Written {
                    position: None,
                    value,
                });
            }
        }
        let (namespace, queue) = (namespace.to_owned(), queue.to_owned());
        let command = Command::CreateQueue(CreateQueue {
            namespace,
            queue,
            settings,
        });
        self.write(command, deadline, queue_info).await
    }

    /// Changes a queue's settings.
    ///
    /// # Errors
    /// Not found; bad setting; changed meanwhile (where `revision` is given).
    pub async fn update_queue(
        &self,
        namespace: &str,
        queue: &str,
        changes: QueueChanges,
        revision: Option<u64>,
        deadline: Instant,
    ) -> Result<Written<QueueInfo>, Problem> {
        let namespace = namespace_or_default(namespace).to_owned();
        let queue = queue.to_owned();
        let command = Command::UpdateQueue(UpdateQueue {
            namespace,
            queue,
            changes,
            revision,
        });
        self.write(command, deadline, queue_info).await
    }

    /// Removes a queue; how many messages went with it. One that holds many is purged first, so that the
    /// command that removes it is short.
    ///
    /// # Errors
    /// Not found; not empty (where `if_empty`). Whatever the error, a part of the messages may be gone
    /// (not where `if_empty`).
    pub async fn delete_queue(
        &self,
        namespace: &str,
        queue: &str,
        if_empty: bool,
        deadline: Instant,
    ) -> Result<Written<u64>, Problem> {
        let purged = match self.holds_many(namespace, queue) && !if_empty {
            true => {
                self.purge_queue(namespace, queue, true, deadline)
                    .await?
                    .value
            }
            false => 0,
        };
        let command = Command::DeleteQueue(DeleteQueue {
            namespace: namespace_or_default(namespace).to_owned(),
            queue: queue.to_owned(),
            if_empty,
        });
        self.write(command, deadline, |outcome| match outcome {
            Outcome::Deleted { messages } => Some(purged + messages),
            _ => None,
        })
        .await
    }

    /// Whether a queue has more than one purge removes, as far as this node knows: it costs time if that
    /// is old, nothing else.
    fn holds_many(&self, namespace: &str, queue: &str) -> bool {
        self.replica().with_state(|state| {
            let view = state.queue(namespace_or_default(namespace), queue);
            view.is_some_and(|view| view.ready + view.delayed > PURGE_SPANS_MAX as u64)
        })
    }

    /// Removes a queue's ready (and delayed) messages; how many. Many of them take several commands,
    /// between which others have their turn; the position is that of the last.
    ///
    /// # Errors
    /// Not found. Whatever the error, a part may have been removed; asking again removes the rest.
    pub async fn purge_queue(
        &self,
        namespace: &str,
        queue: &str,
        include_delayed: bool,
        deadline: Instant,
    ) -> Result<Written<u64>, Problem> {
        let namespace = namespace_or_default(namespace);
        let (mut purged, mut rest) = (0, None);
        loop {
            let command = Command::PurgeQueue(PurgeQueue {
                namespace: namespace.to_owned(),
                queue: queue.to_owned(),
                include_delayed,
                rest,
            });
            let part = self.write(command, deadline, |outcome| match outcome {
                Outcome::Purged { messages, rest } => Some((*messages, *rest)),
                _ => None,
            });
            let Written { position, value } = part.await?;
            purged += value.0;
            rest = value.1;
            if rest.is_none() {
                return Ok(Written {
                    position,
                    value: purged,
                });
            }
        }
    }

    /// Opens a producer: by name, fencing who had it, or a new one. Also its last sequence.
    ///
    /// # Errors
    /// Bad name; no such namespace; too many.
    pub async fn open_producer(
        &self,
        namespace: &str,
        name: Option<String>,
        deadline: Instant,
    ) -> Result<Written<(Producer, u64)>, Problem> {
        let namespace = namespace_or_default(namespace).to_owned();
        let fresh_id = ProducerId((self.inner.config.entropy)());
        let command = Command::OpenProducer(OpenProducer {
            namespace,
            name,
            fresh_id,
        });
        self.write(command, deadline, |outcome| match *outcome {
            Outcome::Producer {
                id,
                epoch,
                last_sequence,
            } => Some((Producer { id, epoch }, last_sequence)),
            _ => None,
        })
        .await
    }
}

fn done(outcome: &Outcome) -> Option<()> {
    matches!(outcome, Outcome::Done).then_some(())
}

fn queue_info(outcome: &Outcome) -> Option<QueueInfo> {
    match *outcome {
        Outcome::Queue {
            id,
            revision,
            created,
        } => Some(QueueInfo {
            id,
            revision,
            created,
        }),
        _ => None,
    }
}
