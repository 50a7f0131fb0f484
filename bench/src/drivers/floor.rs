//! The floor by bare gRPC: a stream for each publisher and consumer, a frame for each batch.

use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use ticketrail_proto::v1;
use ticketrail_proto::v1::consume_request::Frame as ConsumeRequest;
use ticketrail_proto::v1::consume_response::Frame as ConsumeAnswer;
use ticketrail_proto::v1::consumer_service_client::ConsumerServiceClient;
use ticketrail_proto::v1::publish_stream_request::Frame as Request;
use ticketrail_proto::v1::publish_stream_response::Frame as Answer;
use ticketrail_proto::v1::publisher_service_client::PublisherServiceClient;
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::slots::Slots;
use super::{Broker, Confirm, Publisher, Subscriber};

/// Frames between a publisher and its connection.
const FRAMES_MAX: usize = 4;

pub(crate) struct Floor {
    publishing: Slots<Channel>,
    consuming: Slots<Channel>,
}

impl Broker for Floor {
    type Publisher = FloorPublisher;
    type Subscriber = FloorSubscriber;

    async fn connect(endpoints: &[String]) -> Result<Self> {
        Ok(Self {
            publishing: Slots::new(endpoints),
            consuming: Slots::new(endpoints),
        })
    }

    /// It has none.
    async fn create_queue(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn delete_queue(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn leader(&self, _: &str) -> Result<usize> {
        Ok(0)
    }

    async fn publisher(&self, queue: &str, place: usize) -> Result<FloorPublisher> {
        let channel = channel(&self.publishing, place).await?;
        let (frames, requests) = mpsc::channel(FRAMES_MAX);
        frames
            .send(request(Request::Open(v1::PublishOpen::default())))
            .await?;
        let answers = PublisherServiceClient::new(channel)
            .publish_stream(ReceiverStream::new(requests))
            .await?;
        let confirmed = Confirmed {
            answers: answers.into_inner(),
            through_sequence: 0,
        };
        Ok(FloorPublisher {
            queue: queue.to_owned(),
            frames,
            next_sequence: 1,
            confirmed: Arc::new(Mutex::new(confirmed)),
        })
    }

    async fn subscriber(&self, _: &str, place: usize, _: u16) -> Result<FloorSubscriber> {
        let channel = channel(&self.consuming, place).await?;
        let (frames, requests) = mpsc::channel(FRAMES_MAX);
        let answers = ConsumerServiceClient::new(channel)
            .consume(ReceiverStream::new(requests))
            .await?;
        Ok(FloorSubscriber {
            frames,
            answers: answers.into_inner(),
            received: 0,
            acknowledged: 0,
        })
    }
}

async fn channel(channels: &Slots<Channel>, place: usize) -> Result<Channel> {
    let connect = |endpoint| async { Ok(Endpoint::from_shared(endpoint)?.connect().await?) };
    Ok(channels.get(place, connect).await?.clone())
}

fn request(frame: Request) -> v1::PublishStreamRequest {
    v1::PublishStreamRequest { frame: Some(frame) }
}

pub(crate) struct FloorPublisher {
    queue: String,
    frames: mpsc::Sender<v1::PublishStreamRequest>,
    next_sequence: u64,
    confirmed: Arc<Mutex<Confirmed>>,
}

struct Confirmed {
    answers: Streaming<v1::PublishStreamResponse>,
    through_sequence: u64,
}

impl Publisher for FloorPublisher {
    async fn publish(&mut self, bodies: Vec<Bytes>) -> Result<Confirm> {
        let items = bodies.into_iter().map(|body| v1::PublishItem {
            routing_key: self.queue.clone(),
            message: Some(v1::Message {
                body,
                ..Default::default()
            }),
            ..Default::default()
        });
        let batch = v1::PublishBatch {
            first_sequence: self.next_sequence,
            items: items.collect(),
        };
        self.next_sequence += batch.items.len() as u64;
        self.frames.send(request(Request::Batch(batch))).await?;
        let (last, confirmed) = (self.next_sequence - 1, Arc::clone(&self.confirmed));
        Ok(Box::pin(async move {
            let mut confirmed = confirmed.lock().await;
            while confirmed.through_sequence < last {
                let answer = confirmed.answers.message().await?;
                let answer = answer.context("the stream ended")?;
                if let Some(Answer::Confirm(confirm)) = answer.frame {
                    confirmed.through_sequence = confirm.through_sequence;
                }
            }
            Ok(())
        }))
    }
}

pub(crate) struct FloorSubscriber {
    frames: mpsc::Sender<v1::ConsumeRequest>,
    answers: Streaming<v1::ConsumeResponse>,
    received: u64,
    acknowledged: u64,
}

impl Subscriber for FloorSubscriber {
    async fn receive(&mut self) -> Result<Vec<Bytes>> {
        loop {
            let answer = self.answers.message().await?;
            let answer = answer.context("the stream ended")?;
            if let Some(ConsumeAnswer::Deliveries(frame)) = answer.frame {
                self.received += frame.deliveries.len() as u64;
                let messages = frame.deliveries.into_iter().map(|one| one.message);
                return Ok(messages.map(|one| one.unwrap_or_default().body).collect());
            }
        }
    }

    async fn acknowledge(&mut self) -> Result<()> {
        let range = v1::SettleRange {
            first_delivery_id: self.acknowledged + 1,
            last_delivery_id: self.received,
            kind: v1::SettleKind::Ack.into(),
            ..Default::default()
        };
        self.acknowledged = self.received;
        let settlement = v1::ConsumeSettlement {
            ranges: vec![range],
        };
        let frame = Some(ConsumeRequest::Settlement(settlement));
        Ok(self.frames.send(v1::ConsumeRequest { frame }).await?)
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}
