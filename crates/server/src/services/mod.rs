//! The public services, one file each. Each call: check and convert, ask the broker, convert back.

mod backup;
mod cluster;
mod consume_stream;
mod consumer;
mod flow;
mod health;
mod members;
mod publish_stream;
mod publisher;
mod queue_admin;
mod stream;
mod topology;

pub(crate) use cluster::Cluster;
pub(crate) use consumer::Consumer;
pub(crate) use health::{Health, has_quorum, health, quorum_lost_for, watch as watch_health};
pub(crate) use publisher::Publisher;
pub(crate) use queue_admin::QueueAdmin;
pub(crate) use topology::Topology;
