//! Idempotent producers on the raw interface: one by one with retries on any node, or in a pipeline.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use ticketrail_proto::v1::publish_exception::Kind;
use ticketrail_proto::v1::publish_stream_request::Frame as Ask;
use ticketrail_proto::v1::publish_stream_response::Frame as Answer;
use ticketrail_proto::v1::{
    Message, OpenProducerRequest, ProducerSequence, PublishBatch, PublishConfirm, PublishItem,
    PublishOpen, PublishRequest, PublishResponse, PublishStreamRequest, Refusal,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Clients, Cluster, Refused, invites_retry, secs, until, within};

/// One message for a queue of the default namespace.
#[must_use]
pub fn item(queue: &str, body: impl Into<Bytes>) -> PublishItem {
    PublishItem {
        routing_key: queue.to_owned(),
        mandatory: true,
        message: Some(Message {
            body: body.into(),
            ..Message::default()
        }),
        ..PublishItem::default()
    }
}

/// A batch without a producer.
#[must_use]
pub fn batch(items: Vec<PublishItem>) -> PublishRequest {
    PublishRequest {
        items,
        ..PublishRequest::default()
    }
}

/// An open idempotent producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Its id.
    pub id: Bytes,
    /// Its epoch.
    pub epoch: u32,
    /// The sequence that its next message gets.
    pub next: u64,
}

impl Producer {
    /// Opens a producer; an empty name is a new one. Through whichever node answers.
    pub async fn open(cluster: &Cluster, name: &str) -> Self {
        until("a producer to be opened", secs(20), async || {
            let mut last = None;
            for id in cluster.running() {
                let name = name.to_owned();
                let request = within(
                    secs(5),
                    OpenProducerRequest {
                        name,
                        ..Default::default()
                    },
                );
                match cluster.on(id).publisher.open_producer(request).await {
                    Ok(answer) => {
                        let answer = answer.into_inner();
                        let next = answer.last_sequence + 1;
                        return Ok(Self {
                            id: answer.producer_id,
                            epoch: answer.epoch,
                            next,
                        });
                    }
                    Err(status) => last = Some(Refused::from(&status).to_string()),
                }
            }
            Err(last)
        })
        .await
    }

    /// A batch at a sequence.
    #[must_use]
    pub fn batch_at(&self, first_sequence: u64, items: Vec<PublishItem>) -> PublishRequest {
        let (producer_id, epoch) = (self.id.clone(), self.epoch);
        let producer = Some(ProducerSequence {
            producer_id,
            epoch,
            first_sequence,
        });
        PublishRequest {
            items,
            producer,
            ..PublishRequest::default()
        }
    }

    /// The next batch; takes its sequences.
    pub fn batch(&mut self, items: Vec<PublishItem>) -> PublishRequest {
        let request = self.batch_at(self.next, items);
        self.next += request.items.len() as u64;
        request
    }
}

/// Publishes a batch, again and again on one node after the other, until one confirms it. Only for
/// batches of a producer, which make that safe.
///
/// # Panics
/// When it is refused in a way that invites no retry, or not confirmed in time.
pub async fn publish(nodes: &[Clients], request: &PublishRequest) -> PublishResponse {
    let mut turn = 0;
    until("a publish to be confirmed", secs(30), async || {
        let mut clients = nodes[turn % nodes.len()].clone();
        turn += 1;
        match clients
            .publisher
            .publish(within(secs(5), request.clone()))
            .await
        {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) if invites_retry(&status) => Err(Refused::from(&status).to_string()),
            Err(status) => panic!("a publish was refused: {}", Refused::from(&status)),
        }
    })
    .await
}

/// Messages that are published in a pipeline, over as many streams as it takes.
#[derive(Debug)]
pub struct Pipeline {
    /// Who publishes; `next` is the sequence of the first item.
    pub producer: Producer,
    /// What, in order.
    pub items: Vec<PublishItem>,
    /// Messages of a frame.
    pub batch: usize,
    /// A frame at most so often; zero is as fast as the credit allows.
    pub pace: Duration,
    /// The message id of each confirmed item, by sequence; 0 where the server no longer knew it.
    pub ids: BTreeMap<u64, u64>,
    /// Items that were confirmed as stored before.
    pub duplicates: u64,
}

impl Pipeline {
    /// Will publish these items.
    #[must_use]
    pub fn new(producer: Producer, items: Vec<PublishItem>) -> Self {
        let (ids, duplicates) = (BTreeMap::new(), 0);
        Self {
            producer,
            items,
            batch: 50,
            pace: Duration::ZERO,
            ids,
            duplicates,
        }
    }

    /// Publishes over one stream of one node from the first item on that is not confirmed, until all
    /// are or the stream breaks. `confirmed` is told how many are.
    ///
    /// # Errors
    /// How the stream broke.
    ///
    /// # Panics
    /// When an item is refused.
    pub async fn run(
        &mut self,
        clients: &Clients,
        confirmed: &watch::Sender<usize>,
    ) -> Result<(), Status> {
        let first = self.producer.next;
        let (asks, requests) = mpsc::channel(16);
        let open = PublishOpen {
            producer_id: self.producer.id.clone(),
            epoch: self.producer.epoch,
            ..PublishOpen::default()
        };
        send(&asks, Ask::Open(open)).await?;
        let mut client = clients.publisher.clone();
        let mut answers = client
            .publish_stream(ReceiverStream::new(requests))
            .await?
            .into_inner();
        let mut credit = 0;
        let mut sent = self.ids.len();
        let mut pace = interval(self.pace.max(Duration::from_micros(1)));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.ids.len() < self.items.len() {
            let end = self.items.len().min(sent + self.batch);
            let may_send = end > sent && end - self.ids.len() <= credit;
            tokio::select! {
                answer = answers.message() => match answer?.and_then(|answer| answer.frame) {
                    Some(Answer::Opened(opened)) => credit = opened.credit_messages as usize,
                    Some(Answer::Flow(flow)) => credit = flow.credit_messages as usize,
                    Some(Answer::Confirm(confirm)) => {
                        self.take(confirm);
                        confirmed.send_replace(self.ids.len());
                    }
                    Some(Answer::GoAway(_)) => {
                        return Err(Status::unavailable("the node stops"));
                    }
                    None => return Err(Status::unavailable("the stream ended early")),
                },
                _ = pace.tick(), if may_send => {
                    let first_sequence = first + sent as u64;
                    let items = self.items[sent..end].to_vec();
                    send(&asks, Ask::Batch(PublishBatch { first_sequence, items })).await?;
                    sent = end;
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, confirm: PublishConfirm) {
        for range in confirm.ranges {
            for k in 0..u64::from(range.count) {
                self.ids
                    .insert(range.first_sequence + k, range.first_message_id + k);
            }
        }
        for exception in confirm.exceptions {
            match exception.kind.expect("an exception has a kind") {
                Kind::Result(result) => {
                    assert!(
                        result.duplicate,
                        "a mandatory message reached no queue: {result:?}"
                    );
                    self.duplicates += 1;
                    self.ids.insert(exception.sequence, result.message_id);
                }
                Kind::Refusal(refusal) => refused(exception.sequence, &refusal),
            }
        }
        let expected = confirm.through_sequence + 1 - self.producer.next;
        assert_eq!(
            self.ids.len() as u64,
            expected,
            "a confirm tells of every message"
        );
    }
}

fn refused(sequence: u64, refusal: &Refusal) -> ! {
    panic!(
        "sequence {sequence} was refused: {} {}",
        refusal.reason, refusal.message
    )
}

async fn send(asks: &mpsc::Sender<PublishStreamRequest>, frame: Ask) -> Result<(), Status> {
    let request = PublishStreamRequest { frame: Some(frame) };
    asks.send(request)
        .await
        .map_err(|_| Status::unavailable("the stream is closed"))
}
