//! NATS JetStream by async-nats: publishes whose acknowledgements are awaited later, and one durable pull
//! consumer that all subscribers share.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use async_nats::jetstream::consumer::{self, AckPolicy, PullConsumer};
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::stream::{Config, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, Message, context};
use async_nats::{Client, ConnectOptions};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};

use super::slots::Slots;
use super::{Broker, Confirm, Publisher, RECEIVED_MAX, Subscriber};

const REPLICAS: usize = 3;
/// Of all subscribers of a queue together.
const UNACKNOWLEDGED_MAX: i64 = 100_000;
/// Above what is measured: the window is bounded by who publishes.
const UNCONFIRMED_MAX: usize = 20_000;
const TIMEOUT: Duration = Duration::from_secs(15);

pub(crate) struct Nats {
    context: Context,
    endpoints: Vec<String>,
    publishing: Slots<Client>,
    consuming: Slots<Client>,
}

async fn connect(endpoint: String) -> Result<Client> {
    // Stays with the node that it was given, so that clients are spread over the nodes in the same way for all.
    let options = ConnectOptions::new().ignore_discovered_servers();
    Ok(options.connect(format!("nats://{endpoint}")).await?)
}

fn context(client: Client) -> Context {
    ContextBuilder::new()
        .timeout(TIMEOUT)
        .max_ack_inflight(UNCONFIRMED_MAX)
        .build(client)
}

impl Broker for Nats {
    type Publisher = NatsPublisher;
    type Subscriber = NatsSubscriber;

    async fn connect(endpoints: &[String]) -> Result<Self> {
        Ok(Self {
            context: context(connect(endpoints[0].clone()).await?),
            endpoints: endpoints.to_vec(),
            publishing: Slots::new(endpoints),
            consuming: Slots::new(endpoints),
        })
    }

    async fn create_queue(&self, queue: &str) -> Result<()> {
        let config = Config {
            name: queue.to_owned(),
            subjects: vec![queue.to_owned()],
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::File,
            num_replicas: REPLICAS,
            ..Default::default()
        };
        let stream = self.context.create_stream(config).await?;
        let shared = consumer::pull::Config {
            durable_name: Some(queue.to_owned()),
            ack_policy: AckPolicy::Explicit,
            max_ack_pending: UNACKNOWLEDGED_MAX,
            ..Default::default()
        };
        stream.create_consumer(shared).await?;
        Ok(())
    }

    async fn delete_queue(&self, queue: &str) -> Result<()> {
        self.context.delete_stream(queue).await?;
        Ok(())
    }

    async fn leader(&self, queue: &str) -> Result<usize> {
        let stream = self.context.get_stream(queue).await?;
        let cluster = stream.cached_info().cluster.as_ref();
        let leader = cluster.and_then(|cluster| cluster.leader.clone());
        let number = leader
            .as_deref()
            .and_then(|name| name.strip_prefix("node-"));
        let number: usize = number.context("the stream has no leader")?.parse()?;
        (1..=self.endpoints.len())
            .position(|node| node == number)
            .context("the leader is none of the endpoints")
    }

    async fn publisher(&self, queue: &str, place: usize) -> Result<NatsPublisher> {
        let client = self.publishing.get(place, connect).await?;
        Ok(NatsPublisher {
            context: context(client.clone()),
            queue: queue.to_owned(),
        })
    }

    async fn subscriber(&self, queue: &str, place: usize, prefetch: u16) -> Result<NatsSubscriber> {
        let client = self.consuming.get(place, connect).await?;
        let stream = context(client.clone()).get_stream(queue).await?;
        let consumer: PullConsumer = stream
            .get_consumer(queue)
            .await
            .map_err(|error| anyhow!("{error}"))?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(prefetch.into())
            .messages()
            .await?;
        Ok(NatsSubscriber {
            client: client.clone(),
            messages,
            held: Vec::new(),
        })
    }
}

pub(crate) struct NatsPublisher {
    context: Context,
    queue: String,
}

impl Publisher for NatsPublisher {
    async fn publish(&mut self, bodies: Vec<Bytes>) -> Result<Confirm> {
        let mut confirms: Vec<context::PublishAckFuture> = Vec::with_capacity(bodies.len());
        for body in bodies {
            confirms.push(self.context.publish(self.queue.clone(), body).await?);
        }
        Ok(Box::pin(async move {
            for confirm in confirms {
                confirm.await?;
            }
            Ok(())
        }))
    }
}

pub(crate) struct NatsSubscriber {
    client: Client,
    messages: consumer::pull::Stream,
    held: Vec<Message>,
}

impl Subscriber for NatsSubscriber {
    async fn receive(&mut self) -> Result<Vec<Bytes>> {
        let first = self.messages.next().await.context("the consumer ended")??;
        self.held.push(first);
        while self.held.len() < RECEIVED_MAX
            && let Some(Some(next)) = self.messages.next().now_or_never()
        {
            self.held.push(next?);
        }
        Ok(self.held.iter().map(|held| held.payload.clone()).collect())
    }

    async fn acknowledge(&mut self) -> Result<()> {
        for held in self.held.drain(..) {
            held.ack().await.map_err(|error| anyhow!("{error}"))?;
        }
        Ok(())
    }

    async fn close(self) -> Result<()> {
        Ok(self.client.flush().await?)
    }
}
