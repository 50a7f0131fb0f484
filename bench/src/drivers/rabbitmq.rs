//! RabbitMQ by lapin: publisher confirms, several connections with a channel for each publisher or consumer,
//! and `multiple` acknowledgements.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer};

use super::slots::Slots;
use super::{Broker, Confirm, Publisher, RECEIVED_MAX, Subscriber};

/// RabbitMQ's number for a message that outlives a restart; quorum queues treat all so.
const PERSISTENT: u8 = 2;

pub(crate) struct Rabbitmq {
    channel: Channel,
    _connection: Connection,
    publishing: Slots<Connection>,
    consuming: Slots<Connection>,
}

async fn connect(endpoint: String) -> Result<Connection> {
    let uri = format!("amqp://guest:guest@{endpoint}/%2f");
    Ok(Connection::connect(&uri, ConnectionProperties::default()).await?)
}

impl Broker for Rabbitmq {
    type Publisher = RabbitmqPublisher;
    type Subscriber = RabbitmqSubscriber;

    async fn connect(endpoints: &[String]) -> Result<Self> {
        let connection = connect(endpoints[0].clone()).await?;
        Ok(Self {
            channel: connection.create_channel().await?,
            _connection: connection,
            // The node that leads the queue: this saves each message a way, as RabbitMQ's guide says.
            publishing: Slots::new(&endpoints[..1]),
            consuming: Slots::new(&endpoints[..1]),
        })
    }

    async fn create_queue(&self, queue: &str) -> Result<()> {
        let mut arguments = FieldTable::default();
        let quorum = AMQPValue::LongString(LongString::from("quorum"));
        arguments.insert("x-queue-type".into(), quorum);
        arguments.insert("x-quorum-initial-group-size".into(), AMQPValue::LongInt(3));
        // On the node of this connection, where `leader` says it is.
        let here = AMQPValue::LongString(LongString::from("client-local"));
        arguments.insert("x-queue-leader-locator".into(), here);
        self.channel
            .queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments)
            .await?;
        Ok(())
    }

    async fn delete_queue(&self, queue: &str) -> Result<()> {
        self.channel
            .queue_delete(queue.into(), QueueDeleteOptions::default())
            .await?;
        Ok(())
    }

    async fn leader(&self, _: &str) -> Result<usize> {
        // A queue that was just made is led by the node through which it was made.
        Ok(0)
    }

    async fn publisher(&self, queue: &str, place: usize) -> Result<RabbitmqPublisher> {
        let connection = self.publishing.get(place, connect).await?;
        let channel = connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        Ok(RabbitmqPublisher {
            channel,
            queue: queue.into(),
        })
    }

    async fn subscriber(
        &self,
        queue: &str,
        place: usize,
        prefetch: u16,
    ) -> Result<RabbitmqSubscriber> {
        let connection = self.consuming.get(place, connect).await?;
        let channel = connection.create_channel().await?;
        channel
            .basic_qos(prefetch, BasicQosOptions::default())
            .await?;
        let tag: ShortString = format!("consumer-{place}").into();
        let consumer = channel
            .basic_consume(
                queue.into(),
                tag,
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await?;
        Ok(RabbitmqSubscriber {
            channel,
            consumer,
            last: None,
        })
    }
}

pub(crate) struct RabbitmqPublisher {
    channel: Channel,
    queue: ShortString,
}

impl Publisher for RabbitmqPublisher {
    async fn publish(&mut self, bodies: Vec<Bytes>) -> Result<Confirm> {
        let mut confirms = Vec::with_capacity(bodies.len());
        for body in bodies {
            let sent = self.channel.basic_publish(
                ShortString::default(),
                self.queue.clone(),
                // So that what reaches no queue is no success.
                BasicPublishOptions {
                    mandatory: true,
                    ..Default::default()
                },
                &body,
                BasicProperties::default().with_delivery_mode(PERSISTENT),
            );
            confirms.push(sent.await?);
        }
        Ok(Box::pin(async move {
            for confirm in confirms {
                let confirmation = confirm.await?;
                ensure!(
                    confirmation == Confirmation::Ack(None),
                    "not stored: {confirmation:?}"
                );
            }
            Ok(())
        }))
    }
}

pub(crate) struct RabbitmqSubscriber {
    channel: Channel,
    consumer: Consumer,
    /// The newest delivery that is not acknowledged.
    last: Option<u64>,
}

impl Subscriber for RabbitmqSubscriber {
    async fn receive(&mut self) -> Result<Vec<Bytes>> {
        let mut bodies = Vec::new();
        let mut delivery = self.consumer.next().await.context("the consumer ended")??;
        loop {
            self.last = Some(delivery.delivery_tag);
            bodies.push(delivery.data.into());
            if bodies.len() >= RECEIVED_MAX {
                break;
            }
            match self.consumer.next().now_or_never() {
                Some(Some(next)) => delivery = next?,
                _ => break,
            }
        }
        Ok(bodies)
    }

    async fn acknowledge(&mut self) -> Result<()> {
        if let Some(last) = self.last.take() {
            let up_to_it = BasicAckOptions { multiple: true };
            self.channel.basic_ack(last, up_to_it).await?;
        }
        Ok(())
    }

    async fn close(self) -> Result<()> {
        Ok(self.channel.close(200, "done".into()).await?)
    }
}
