//! The Rust client of Ticketrail, a clustered, replicated message broker.
//!
//! Everything here can be done with a stub that is generated from the protos. What this library adds is the care that a
//! stub leaves to its user: several endpoints, reconnecting, retries that are only made where they are harmless,
//! batching, back pressure, leases that last as long as the work. It holds no promise of its own, and never caches what
//! the cluster knows.
//!
//! ```no_run
//! use ticketrail_client::{Client, Failure, Message, QueueSettings};
//!
//! # async fn cook(_: &[u8]) -> Result<(), Failure> { Ok(()) }
//! #[tokio::main]
//! async fn main() -> ticketrail_client::Result<()> {
//!     let client = Client::connect(["http://127.0.0.1:7400", "http://127.0.0.1:7401"]).await?;
//!     client.create_queue("orders", QueueSettings::default()).await?;
//!
//!     // Publish: each message is stored once, whatever breaks on the way.
//!     let producer = client.producer().start().await?;
//!     let confirm = producer.publish("orders", Message::new("one coffee").header("table", 7)).await?;
//!     let published = confirm.await?; // fsynced on a majority of the nodes
//!     println!("message {}", published.message_id);
//!     producer.close().await?;
//!
//!     // Work: sixteen at a time, acknowledged when the handler says `Ok`; Ctrl-C drains.
//!     let mut worker = client
//!         .consumer("orders")
//!         .concurrency(16)
//!         .handle(|job| async move { cook(job.body()).await })
//!         .await?;
//!     let summary = worker.run_until(tokio::signal::ctrl_c()).await?;
//!     println!("{} orders served", summary.acknowledged);
//!     Ok(())
//! }
//! ```
//!
//! # Connecting
//!
//! [`Client::connect`] takes the addresses of some nodes, or of one: any node serves any call, and nodes that stop tell of
//! the others. A [`Producer`] streams to the leader where that is one of the addresses, written as the node advertises
//! it, which spares each message a way through another node; up to 256 of a client do. A leader that does not open the
//! stream within half a second is not waited for: the stream stays at the node that did, for as long as it lasts.
//!
//! A [`Client`] is cheap to clone, and clones share their connections, one per node. [`ClientOptions`] sets the namespace and how long a call may take with all its retries. A runtime of tokio is needed.
//!
//! # Queues
//!
//! A queue is made by whoever runs the cluster (`ticketrail queue create`), or here; creating it again with the same
//! settings does nothing.
//!
//! ```no_run
//! use ticketrail_client::{Client, DeadLetterTarget, QueueSettings, prost_types};
//!
//! # async fn example(client: Client) -> ticketrail_client::Result<()> {
//! client.create_queue("orders.dead", QueueSettings::default()).await?;
//! let settings = QueueSettings {
//!     lease_duration: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
//!     max_deliveries: Some(3),
//!     dead_letter: Some(DeadLetterTarget {
//!         routing_key: Some("orders.dead".to_owned()),
//!         ..DeadLetterTarget::default()
//!     }),
//!     ..QueueSettings::default()
//! };
//! client.create_queue("orders", settings).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Publishing
//!
//! A [`Producer`] sends messages in order over a stream, up to 1,024 of them unconfirmed. [`Producer::publish`] waits for
//! room among these and gives a [`Confirm`], a future of its own: await it now, later, many together, or never.
//! Whatever breaks, the producer goes on at another node with what is unconfirmed; the cluster knows the producer's
//! sequence numbers and stores each message once.
//!
//! - Across restarts of the process, [give it a name](ProducerBuilder::name), and publish from
//!   [`last_sequence`](OpenedProducer::last_sequence) on. An older process of that name is fenced.
//! - [`Client::publish`] sends one batch, all or nothing, without a producer. It is not repeated where its outcome is
//!   unknown; [`Client::publish_sequenced`] is.
//!
//! # Consuming
//!
//! A delivery is a lease: the right to work on a message for a while (the queue's `lease_duration`, 30 s by default). It is
//! ended by one settlement: *ack* (done), *nack* (failed; it comes back to its old place), *reject* (hopeless; to the
//! dead letters) or *release* (not begun; it comes back, and is not counted). There are three ways, the first for most:
//!
//! | | settled by | the lease is extended | several at a time |
//! | --- | --- | --- | --- |
//! | a handler: [`ConsumerBuilder::handle`] | what the handler returns | always | [`concurrency`](ConsumerBuilder::concurrency) |
//! | a stream: [`ConsumerBuilder::start`] | [`Leased::ack`] and its like | on request: [`auto_extend`](ConsumerBuilder::auto_extend) | as you spawn them |
//! | calls: [`Client::receive`] | [`Client::ack`] and [`Client::settle`], by receipt, on any node, also from another process | by hand | as you call |
//!
//! A consumer takes its leases along when its stream breaks or its node stops: work goes on, and nobody else gets the
//! message. Where that cannot be, [`Job::lease_lost`] and [`Leased::lease_lost`] tell the work to stop.
//!
//! # What is guaranteed
//!
//! - A confirm means that the message is fsynced on a majority of the nodes.
//! - Delivery is **at least once**: a message comes until it is acknowledged, dead-lettered, or removed by its owner.
//!   [`delivery_count`](Delivery::delivery_count) above 1 says that it was worked on before. Handlers must bear that;
//!   [`message_id`](Delivery::message_id) is a good key to recognize what was done.
//! - A message is never leased to two holders at once, and an acknowledgement that is answered with
//!   [`SettleOutcome::Ok`] is final. One that comes too late changes nothing and says [`SettleOutcome::LeaseLost`].
//! - Order is that of the queue, as far as one consumer takes one after the other: `concurrency(1)`. What fails takes its
//!   old place again.
//!
//! # Errors
//!
//! [`Error`] says what is wrong (a [stable reason](Error::reason), the [field](Error::field)), whether it was done
//! ([`is_outcome_unknown`](Error::is_outcome_unknown)) and whether to try again ([`is_retryable`](Error::is_retryable),
//! [`is_safe_to_retry`](Error::is_safe_to_retry)). Calls are tried again by the client itself where that is harmless:
//!
//! - at another node, until [`ClientOptions::timeout`] (15 s) is over; a node that is not there or stops is passed over
//!   at once, other failures wait for a random part of a time that doubles from 50 ms to 2 s;
//! - after the time that the cluster asks for (`RetryInfo`), if that is within the timeout;
//! - as long as the client's *retry budget* lasts: 100 retries, of which successes earn one in ten back, and each second
//!   ten. So a cluster in trouble is not hammered by all its clients. Streams are opened again all the same, at the
//!   slowest pace.
//!
//! Producers and consumers end for good when the cluster refuses them (a deleted queue, a fenced producer) or when
//! nothing works for 60 s (`give_up_after`).
//!
//! # Shutting down
//!
//! - [`Worker::run_until`] and [`Worker::drain`] stop taking, give back what was not begun, let handlers end within
//!   [`drain_timeout`](ConsumerBuilder::drain_timeout), settle, and say what was done. Drain at
//!   SIGTERM as well as at Ctrl-C: it is what Kubernetes, systemd and Docker send. The example `work` does.
//! - [`Consumer::close`] settles what was asked for and gives the rest back, uncounted.
//! - [`Producer::close`] waits until everything is confirmed or refused.
//!
//! All three are tasks of the runtime: a handle that is dropped does the same in the background, if the runtime lives long
//! enough. All futures of this crate may be cancelled; what that means is said where it is not obvious.
//!
//! # Tuning
//!
//! | what | where | when |
//! | --- | --- | --- |
//! | [`concurrency`](ConsumerBuilder::concurrency) | handlers | how much work fits into this process; 1 at first |
//! | [`prefetch`](ConsumerBuilder::prefetch) | consumers | low for slow work, so that it spreads over processes; some hundreds for work of a millisecond, since a place is free again when its settlement is committed |
//! | [`lease`](ConsumerBuilder::lease) | consumers | how long a message is stuck with a process that hangs; one that dies is noticed by its connection |
//! | unawaited [`Confirm`]s | producers | throughput: many fit into one fsync |
//!
//! # Logs
//!
//! Events and spans go to [`tracing`](https://docs.rs/tracing) with targets under `ticketrail_client`; nothing is logged
//! at INFO. Bodies and headers are never logged.
//!
//! | level | spans | events, with their fields |
//! | --- | --- | --- |
//! | ERROR | | a handler panicked: `queue`, `message_id`, `delivery_count`, `panic`, `then` |
//! | WARN | | a handler failed: the same with `error`; a stream broke and another one is opened: `error`, `reason`, `pause_ms`; leases were lost: `leases`, `reason`; a producer or consumer ended; the retry budget is spent; handlers did not end in time |
//! | DEBUG | `call` (`request`), `producer` (`name`, `epoch`), `consumer` and `worker` (`queue`), `job` (`queue`, `message_id`, `delivery_count`) around each call of a handler | a call is tried again: `endpoint`, `reason`, `pause_ms`; a stream was opened: `endpoint`, `resumed`; a node stops; a producer is told to wait |
//! | TRACE | | frames: `messages`, `ranges`, `first_sequence`, `through_sequence`; a handler ended |
//!
//! # Examples
//!
//! Programs of one page each, in the folder
//! [`examples`](https://github.com/ticketrail/ticketrail/tree/main/crates/client/examples): `publish`, `work`, `receive`,
//! `dead_letters`.
#![deny(missing_docs, rustdoc::broken_intra_doc_links)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

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
/// The durations and times of the generated types.
pub use prost_types;
pub use tokio_util::sync::CancellationToken;
pub use tonic::Code;
