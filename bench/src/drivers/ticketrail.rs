//! Ticketrail by its own client: an idempotent producer, and a consumer whose acknowledgements go in the
//! background.

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::FutureExt;
use ticketrail_client::{Client, Consumer, Leased, Producer, QueueSettings};

use super::{Broker, Confirm, Publisher, RECEIVED_MAX, Subscriber};

pub(crate) struct Ticketrail {
    client: Client,
    endpoints: Vec<String>,
}

impl Broker for Ticketrail {
    type Publisher = TicketrailPublisher;
    type Subscriber = TicketrailSubscriber;

    async fn connect(endpoints: &[String]) -> Result<Self> {
        let client = Client::connect(endpoints).await?;
        Ok(Self {
            client,
            endpoints: endpoints.to_vec(),
        })
    }

    async fn create_queue(&self, queue: &str) -> Result<()> {
        self.client
            .create_queue(queue, QueueSettings::default())
            .await?;
        Ok(())
    }

    async fn delete_queue(&self, queue: &str) -> Result<()> {
        // A queue that holds many is to be purged before it goes.
        self.client.purge_queue(queue, false).await?;
        self.client.delete_queue(queue).await?;
        Ok(())
    }

    async fn leader(&self, _: &str) -> Result<usize> {
        let cluster = self.client.cluster().await?;
        let leader = cluster
            .nodes
            .iter()
            .find(|node| node.node_id == cluster.leader_node_id)
            .context("no leader")?;
        let place = |endpoint: &String| endpoint.ends_with(&leader.client_address);
        self.endpoints
            .iter()
            .position(place)
            .context("the leader is none of the endpoints")
    }

    async fn publisher(&self, queue: &str, _: usize) -> Result<TicketrailPublisher> {
        Ok(TicketrailPublisher {
            producer: self.client.producer().start().await?,
            queue: queue.to_owned(),
        })
    }

    async fn subscriber(
        &self,
        queue: &str,
        _: usize,
        prefetch: u16,
    ) -> Result<TicketrailSubscriber> {
        let consumer = self.client.consumer(queue).prefetch(prefetch.into());
        Ok(TicketrailSubscriber {
            consumer: consumer.start().await?,
            held: Vec::new(),
        })
    }
}

pub(crate) struct TicketrailPublisher {
    producer: Producer,
    queue: String,
}

impl Publisher for TicketrailPublisher {
    async fn publish(&mut self, bodies: Vec<Bytes>) -> Result<Confirm> {
        let mut confirms = Vec::with_capacity(bodies.len());
        for body in bodies {
            confirms.push(self.producer.publish(self.queue.as_str(), body).await?);
        }
        Ok(Box::pin(async move {
            for confirm in confirms {
                confirm.await?;
            }
            Ok(())
        }))
    }
}

pub(crate) struct TicketrailSubscriber {
    consumer: Consumer,
    held: Vec<Leased>,
}

impl Subscriber for TicketrailSubscriber {
    async fn receive(&mut self) -> Result<Vec<Bytes>> {
        let first = self.consumer.next().await.context("the consumer ended")??;
        self.held.push(first);
        while self.held.len() < RECEIVED_MAX
            && let Some(Some(next)) = self.consumer.next().now_or_never()
        {
            self.held.push(next?);
        }
        Ok(self.held.iter().map(|held| held.body().clone()).collect())
    }

    async fn acknowledge(&mut self) -> Result<()> {
        for held in self.held.drain(..) {
            // Not awaited: it travels with others, and the consumer repeats it until it is committed.
            drop(held.ack());
        }
        Ok(())
    }

    async fn close(self) -> Result<()> {
        Ok(self.consumer.close().await?)
    }
}
