//! The client: endpoints, a namespace, and how long a call may take.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::transport::Channel;

use crate::consumer::ConsumerBuilder;
use crate::endpoints::parse_endpoints;
use crate::error::{Error, Result};
use crate::pool::Pool;
use crate::producer::ProducerBuilder;
use crate::retry::RetryBudget;
use ticketrail_proto::v1::cluster_service_client::ClusterServiceClient;
use ticketrail_proto::v1::consumer_service_client::ConsumerServiceClient;
use ticketrail_proto::v1::publisher_service_client::PublisherServiceClient;
use ticketrail_proto::v1::queue_admin_service_client::QueueAdminServiceClient;
use ticketrail_proto::v1::topology_service_client::TopologyServiceClient;

/// How long a call may take with all its retries, unless said otherwise.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// The largest answer that is accepted; above what the server sends, so that it is the server that refuses.
const DECODE_BYTES_MAX: usize = 20 * 1024 * 1024;

/// A connection to a cluster. Cheap to clone; clones share their connections.
///
/// Each call goes to the next endpoint in turn. Any node serves any call, so it does not matter which one
/// answers. Calls that fail because a node is gone or has no leader are repeated, on another node, until
/// [`ClientOptions::timeout`], but only where a repetition does no harm: see [`Error::is_outcome_unknown`].
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    pub(crate) namespace: String,
    pub(crate) timeout: Duration,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) pool: Pool,
    /// Of calls.
    pub(crate) budget: RetryBudget,
    /// Of streams, which are opened again more slowly when it is spent.
    pub(crate) stream_budget: RetryBudget,
}

/// How a [`Client`] behaves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientOptions {
    /// The namespace of all queues; `default` at first.
    pub namespace: String,
    /// How long a call may take with all its retries, from the first attempt; 15 s at first. Waiting for messages comes on top. A call
    /// ends sooner, after 4 s, if no endpoint accepts a connection.
    pub timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            namespace: String::new(),
            timeout: CALL_TIMEOUT,
        }
    }
}

impl ClientOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the namespace of all queues.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Sets how long a call may take with all its retries.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Makes a client that connects when it is first used.
    ///
    /// # Errors
    ///
    /// `INVALID_ENDPOINT`.
    pub fn connect_lazy<E: AsRef<str>>(
        self,
        endpoints: impl IntoIterator<Item = E>,
    ) -> Result<Client> {
        let listed: Vec<_> = endpoints
            .into_iter()
            .map(|one| one.as_ref().to_owned())
            .collect();
        let endpoints = parse_endpoints(&listed.join(","))?;
        let shared = Shared {
            pool: Pool::new(&endpoints)?,
            budget: RetryBudget::new(Instant::now()),
            stream_budget: RetryBudget::new(Instant::now()),
        };
        Ok(Client {
            shared: Arc::new(shared),
            namespace: self.namespace,
            timeout: self.timeout,
        })
    }
}

impl Client {
    /// Connects with the default options, and returns when a node has answered.
    ///
    /// # Errors
    ///
    /// `INVALID_ENDPOINT`; `CONNECT_FAILED` and its like when no node answers in time.
    pub async fn connect<E: AsRef<str>>(endpoints: impl IntoIterator<Item = E>) -> Result<Self> {
        let client = ClientOptions::default().connect_lazy(endpoints)?;
        client.cluster().await?;
        Ok(client)
    }

    /// The same connections with another namespace.
    #[must_use]
    pub fn with_namespace(&self, namespace: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            ..self.clone()
        }
    }

    /// The namespace of all queues; empty is `default`.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The endpoints, in their order.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.shared.pool.endpoints()
    }

    /// Publishes many messages with confirms, each stored once. See [`crate::Producer`].
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder::new(self.clone())
    }

    /// Consumes a queue over a stream. See [`crate::Consumer`].
    pub fn consumer(&self, queue: impl Into<String>) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone(), queue.into())
    }

    pub(crate) fn publisher(channel: Channel) -> PublisherServiceClient<Channel> {
        PublisherServiceClient::new(channel).max_decoding_message_size(DECODE_BYTES_MAX)
    }

    pub(crate) fn consumer_service(channel: Channel) -> ConsumerServiceClient<Channel> {
        ConsumerServiceClient::new(channel).max_decoding_message_size(DECODE_BYTES_MAX)
    }

    pub(crate) fn topology(channel: Channel) -> TopologyServiceClient<Channel> {
        TopologyServiceClient::new(channel).max_decoding_message_size(DECODE_BYTES_MAX)
    }

    pub(crate) fn admin(channel: Channel) -> QueueAdminServiceClient<Channel> {
        QueueAdminServiceClient::new(channel).max_decoding_message_size(DECODE_BYTES_MAX)
    }

    pub(crate) fn cluster_service(channel: Channel) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(channel).max_decoding_message_size(DECODE_BYTES_MAX)
    }

    /// Says which endpoints did not answer, where one error stands for all of them.
    pub(crate) fn none_answered(&self, last: Error) -> Error {
        let endpoints: Vec<_> = self.endpoints().collect();
        let message = match endpoints.as_slice() {
            [_] => last.message().to_owned(),
            all => format!(
                "none of {} answered; the last: {}",
                all.join(", "),
                last.message()
            ),
        };
        last.with_message(message)
    }
}
