//! One message, leased to this client.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use prost_types::Timestamp;
use ticketrail_proto::v1;
use tokio::time::Instant;

use crate::message::Message;

/// The token of a lease: opaque, and valid on any node until the lease ends.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Receipt(Bytes);

impl Receipt {
    /// A receipt that was kept as bytes.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// Its bytes, to keep it elsewhere.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receipt({} bytes)", self.0.len())
    }
}

/// A message and the lease on it.
#[derive(Debug, Clone)]
pub struct Delivery {
    message: Message,
    receipt: Receipt,
    lease_end: Instant,
    rest: v1::Delivery,
}

impl Delivery {
    pub(crate) fn new(mut delivery: v1::Delivery, lease_end: Instant) -> Self {
        Self {
            message: delivery.message.take().unwrap_or_default().into(),
            receipt: Receipt(std::mem::take(&mut delivery.receipt)),
            lease_end,
            rest: delivery,
        }
    }

    /// The payload.
    pub fn body(&self) -> &Bytes {
        self.message.body()
    }

    /// Body, headers and properties.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Settles the message, on any node.
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// Unique in the cluster, growing within a namespace.
    pub fn message_id(&self) -> u64 {
        self.rest.message_id
    }

    /// The message's place in its queue, from 0.
    pub fn offset(&self) -> u64 {
        self.rest.offset
    }

    /// How many times the message was granted, this time included: above 1, it was worked on before.
    pub fn delivery_count(&self) -> u32 {
        self.rest.delivery_count
    }

    /// How long the lease still lasts as it was delivered; settle or extend it before this is over. Extensions are
    /// not in it.
    pub fn lease_remaining(&self) -> Duration {
        self.lease_end.saturating_duration_since(Instant::now())
    }

    /// When it was committed, in the cluster's time.
    pub fn published_at(&self) -> Option<&Timestamp> {
        self.rest.published_at.as_ref()
    }

    /// Where it was committed to this queue.
    pub fn position(&self) -> Option<&v1::CommitPosition> {
        self.rest.position.as_ref()
    }

    /// The exchange that it was published to; empty is the default exchange.
    pub fn exchange(&self) -> &str {
        &self.rest.exchange
    }

    /// The routing key that it was published with.
    pub fn routing_key(&self) -> &str {
        &self.rest.routing_key
    }

    /// Its earlier deaths, oldest first; empty for a message that was never dead-lettered.
    pub fn deaths(&self) -> &[v1::DeathRecord] {
        &self.rest.deaths
    }
}
