//! What a client asks of us, on any protocol: admission, batching, waiting and waking, sessions,
//! and the clock.
//!
//! Called by `server`, one call or stream per client request. Never speaks a protocol, never
//! touches a disk, never decides what a command does (that is `core`).
//!
//! The way of a command: a call encodes it with an *origin* (this node, this boot, a number) and
//! waits under that number ([`hub`]); the [`route`] task hands it to the local [`proposer`] or to
//! the leader; it comes back to every node as part of a committed entry; the hub completes who
//! waits here and hands deliveries to the sessions that are connected here. So an answer is always
//! one's own applied state, and a command whose term ended without it is known to be lost and is
//! tried again ([`submit`]).
//!
//! What is let in, and what is refused while a node is short of something, says [`Admission`].
//!
//! Start reading at `hub`, then `submit`, then the calls: `publish`, `receive`, `consume`.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod admission;
mod bodies;
mod broker;
mod clock;
mod consume;
mod counts;
mod deliver;
mod farewell;
mod hub;
mod lane;
mod lost_nodes;
mod members;
mod proposer;
mod publish;
mod publish_stream;
mod receive;
mod route;
mod sessions;
mod settle;
mod submit;
mod topology;
mod view;
mod waiters;

pub use admission::{
    Admission, AdmissionConfig, Blocked, Bound, Budget, Level, PublishBudget, Purse, RefusalCounts,
    Share, blocked_problem,
};
pub use broker::{Broker, BrokerConfig, Enclose, Entropy, StartError, WallClockSource};
pub use consume::{ConsumeRequest, Consumer, ConsumerEnd, ConsumerEvent, ConsumerHandle};
pub use counts::BrokerFigures;
pub use deliver::Delivery;
pub use members::{LAG_ENTRIES_MAX, MembersAnswer, MembersRequest, Standing};
pub use proposer::ACKS_HELD_MAX;
pub use publish::{NewMessage, Producer, Published};
pub use publish_stream::{Confirm, PublishStream, UNCONFIRMED_MAX};
pub use receive::ReceiveRequest;
pub use route::{Forward, Haste, Link, LinkError};
pub use settle::{SETTLE_MESSAGES_MAX, Settled};
pub use ticketrail_proto::error::Problem;
pub use ticketrail_raft::HistogramCounts;
pub use topology::{QueueInfo, Written};
pub use view::{ClusterView, NodeView, PeekedMessage};
