//! The Rust client of Ticketrail, a replicated message broker.
//!
//! Linked into the process of whoever publishes or consumes; `ticketrail-cli` is one such user. It holds
//! no promise of its own: everything that it does can be done with a generated stub. What it adds is the
//! care that a stub leaves to its user: several endpoints, reconnecting with backoff, retries that are
//! only made where they are safe, batching, and back pressure. It never caches what the cluster knows.
//!
//! ```no_run
//! use ticketrail_client::{Client, Message, QueueSettings, Wanted};
//!
//! # async fn example() -> ticketrail_client::Result<()> {
//! let client = Client::connect(["http://127.0.0.1:7400", "http://127.0.0.1:7401"]).await?;
//! client.create_queue("orders", QueueSettings::default()).await?;
//!
//! // Publish: each message is stored once, whatever breaks on the way.
//! let producer = client.producer().start().await?;
//! let confirm = producer.publish("orders", Message::new("one coffee").header("table", 7)).await?;
//! let published = confirm.await?; // fsynced on a majority of the nodes
//! println!("message {}", published.message_id);
//! producer.close().await?;
//!
//! // Consume: a stream of deliveries, each settled once.
//! let mut consumer = client.consumer("orders").prefetch(50).start().await?;
//! if let Some(delivery) = consumer.next().await {
//!     let delivery = delivery?;
//!     println!("{:?}", delivery.body());
//!     delivery.ack().await?; // or without `.await`: settled in the background, many in one frame
//! }
//! consumer.close().await?;
//!
//! // Or without a stream: take some, settle them by receipt, on any node.
//! for delivery in client.receive("orders", Wanted::up_to(10)).await? {
//!     client.ack("orders", [delivery.receipt()]).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Start reading at [`Client`], then [`Producer`] and [`Consumer`]; [`Error`] says what went wrong and
//! whether anything was done.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod admin;
mod backup;
mod call;
mod client;
mod consumer;
mod convert;
mod delivery;
mod endpoints;
mod error;
mod health;
mod members;
mod message;
mod pool;
mod producer;
mod publish;
mod receive;
mod retry;
mod topology;
mod worker;

pub use backup::{Backup, BackupPart};
pub use client::{Client, ClientOptions};
pub use consumer::{Consumer, ConsumerBuilder, Leased, Settling, WorkSummary};
pub use delivery::{Delivery, Receipt};
pub use endpoints::parse_endpoints;
pub use error::{Error, Result};
pub use health::HealthOf;
pub use message::{HeaderValue, Message};
pub use producer::{Confirm, OpenedProducer, Producer, ProducerBuilder, Setbacks};
pub use publish::{Publication, Published};
pub use receive::{Settlement, Wanted};
pub use worker::{Failure, Job, Worker};

/// The generated types of package `ticketrail.v1`, which the thin calls take and give.
pub use ticketrail_proto::v1 as proto;

pub use ticketrail_proto::error::Reason;
pub use ticketrail_proto::v1::{
    DeadLetterTarget, DeathReason, DeathRecord, MessageState, QueueKind, QueueSettings, QueueStats,
    RetryBackoff, SettleKind, SettleOutcome,
};

pub use bytes::Bytes;
