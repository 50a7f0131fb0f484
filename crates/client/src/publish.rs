//! Publishing without a stream: one batch, all or nothing.

use ticketrail_proto::v1;

use crate::call::Repeat;
use crate::client::Client;
use crate::error::Result;
use crate::message::Message;
use crate::producer::OpenedProducer;

/// One message and where it goes.
#[derive(Debug, Clone)]
pub struct Publication(v1::PublishItem);

impl Publication {
    /// To the queue of this name; refused with `UNROUTABLE` if it does not exist.
    pub fn to_queue(queue: impl Into<String>, message: impl Into<Message>) -> Self {
        Self(v1::PublishItem {
            exchange: String::new(),
            routing_key: queue.into(),
            mandatory: true,
            message: Some(message.into().into()),
        })
    }

    /// Drops the message, and counts it, where no queue takes it.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.0.mandatory = false;
        self
    }
}

impl From<Publication> for v1::PublishItem {
    fn from(publication: Publication) -> Self {
        publication.0
    }
}

/// What became of a message: it is fsynced on a majority of the nodes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Published {
    /// Unique in the cluster, growing within a namespace. 0 for a duplicate whose first publish is too
    /// long ago for its id to be remembered.
    pub message_id: u64,
    /// How many queues took it.
    pub queues: u32,
    /// It had been stored before, and was not stored again.
    pub duplicate: bool,
    /// The producer's sequence; 0 without one.
    pub sequence: u64,
    /// Where it was committed; absent for a duplicate on a stream.
    pub position: Option<v1::CommitPosition>,
}

impl Client {
    /// Publishes a batch of 1..100 messages and up to 4 MiB, all or nothing; one result per message, in their order.
    ///
    /// It is not repeated when the outcome is unknown, since that might store it twice: use a
    /// [`crate::Producer`], or [`Client::publish_sequenced`], where that matters.
    ///
    /// # Errors
    ///
    /// `UNROUTABLE`, `QUEUE_FULL`, `OVERLOADED`, `INVALID_FIELD`; and what any call may end with: see [`Error`](crate::Error).
    /// One refused message refuses the batch; the [field](crate::Error::field) names it.
    pub async fn publish(
        &self,
        batch: impl IntoIterator<Item = Publication>,
    ) -> Result<Vec<Published>> {
        self.publish_request(Repeat::IfNothingDone, batch, None)
            .await
    }

    /// Publishes a batch as the messages `first_sequence`, `first_sequence` + 1 and so on of a producer, so that
    /// it is stored once however often it is tried.
    ///
    /// # Errors
    ///
    /// As [`publish`](Client::publish); `PRODUCER_FENCED`, `UNKNOWN_PRODUCER`, `SEQUENCE_REUSED`,
    /// `OUT_OF_SEQUENCE` (metadata `expected_sequence`).
    pub async fn publish_sequenced(
        &self,
        producer: &OpenedProducer,
        first_sequence: u64,
        batch: impl IntoIterator<Item = Publication>,
    ) -> Result<Vec<Published>> {
        let sequence = v1::ProducerSequence {
            producer_id: producer.id.clone(),
            epoch: producer.epoch,
            first_sequence,
        };
        self.publish_request(Repeat::Always, batch, Some(sequence))
            .await
    }

    /// Opens a producer. With a name it keeps its id and last sequence, and whoever opened it before is
    /// fenced; without one it is new.
    ///
    /// # Errors
    ///
    /// `TOO_MANY_PRODUCERS`, `INVALID_FIELD`; and what any call may end with: see [`Error`](crate::Error).
    pub async fn open_producer(&self, name: impl Into<String>) -> Result<OpenedProducer> {
        let request = v1::OpenProducerRequest {
            namespace: self.namespace.clone(),
            name: name.into(),
        };
        let response = self
            .call(Repeat::Always, request, async |channel, request| {
                Self::publisher(channel).open_producer(request).await
            })
            .await?;
        Ok(OpenedProducer {
            id: response.producer_id,
            epoch: response.epoch,
            last_sequence: response.last_sequence,
        })
    }

    async fn publish_request(
        &self,
        repeat: Repeat,
        batch: impl IntoIterator<Item = Publication>,
        producer: Option<v1::ProducerSequence>,
    ) -> Result<Vec<Published>> {
        let first_sequence = producer.as_ref().map(|producer| producer.first_sequence);
        let request = v1::PublishRequest {
            namespace: self.namespace.clone(),
            items: batch.into_iter().map(Into::into).collect(),
            producer,
            request_id: String::new(),
        };
        let response = self
            .call(repeat, request, async |channel, request| {
                Self::publisher(channel).publish(request).await
            })
            .await?;
        let position = response.position;
        let results = (0..).zip(response.results);
        let published = results.map(|(place, result)| Published {
            message_id: result.message_id,
            queues: result.queues,
            duplicate: result.duplicate,
            sequence: first_sequence.map_or(0, |first| first + place),
            position,
        });
        Ok(published.collect())
    }
}
