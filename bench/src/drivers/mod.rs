//! How each system's client library publishes and consumes. One thin trait, so that all systems are put
//! under the same loads by the same code; what differs is what each library's manual recommends.

mod floor;
mod nats;
mod rabbitmq;
mod redis;
mod slots;
mod ticketrail;

use std::future::Future;

use anyhow::Result;
use bytes::Bytes;
use futures::future::BoxFuture;

pub(crate) use floor::Floor;
pub(crate) use nats::Nats;
pub(crate) use rabbitmq::Rabbitmq;
pub(crate) use redis::{Redis, RedisWait};
pub(crate) use ticketrail::Ticketrail;

/// Becomes ready when the messages of one call of [`Publisher::publish`] are confirmed.
pub(crate) type Confirm = BoxFuture<'static, Result<()>>;

/// Connections to a system.
pub(crate) trait Broker: Sized + Send + Sync + 'static {
    type Publisher: Publisher;
    type Subscriber: Subscriber;

    /// Uses these endpoints and no others; fails if the first of them does not answer.
    fn connect(endpoints: &[String]) -> impl Future<Output = Result<Self>> + Send;

    /// Makes a durable queue, on as many nodes as the system has.
    fn create_queue(&self, queue: &str) -> impl Future<Output = Result<()>> + Send;

    fn delete_queue(&self, queue: &str) -> impl Future<Output = Result<()>> + Send;

    /// The place among the endpoints of the node that leads this queue, which was made through this object.
    fn leader(&self, queue: &str) -> impl Future<Output = Result<usize>> + Send;

    /// The publisher with this number, from 0.
    fn publisher(
        &self,
        queue: &str,
        place: usize,
    ) -> impl Future<Output = Result<Self::Publisher>> + Send;

    /// The subscriber with this number, from 0, which has at most `prefetch` unacknowledged messages.
    fn subscriber(
        &self,
        queue: &str,
        place: usize,
        prefetch: u16,
    ) -> impl Future<Output = Result<Self::Subscriber>> + Send;
}

pub(crate) trait Publisher: Send + 'static {
    /// Hands these messages to the library.
    fn publish(&mut self, bodies: Vec<Bytes>) -> impl Future<Output = Result<Confirm>> + Send;
}

pub(crate) trait Subscriber: Send + 'static {
    /// Waits for a message; gives those that are there, at most [`RECEIVED_MAX`].
    fn receive(&mut self) -> impl Future<Output = Result<Vec<Bytes>>> + Send;

    /// Acknowledges what [`receive`](Subscriber::receive) gave, in the background where the library can.
    fn acknowledge(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// Returns when all acknowledgements are sent.
    fn close(self) -> impl Future<Output = Result<()>> + Send;
}

/// Messages that are acknowledged together, where a system can.
const RECEIVED_MAX: usize = 100;
