//! The process: gRPC services for clients, the peer transport, configuration, health, start and
//! stop. The only room that opens sockets or reads the wall clock.
//!
//! `cli` calls [`run`] with a validated [`ServerConfig`]. A call of a client is checked and
//! converted (`convert`), done by `ticketrail-broker`, and converted back (`services`); this room
//! decides nothing about messages and keeps nothing of them. What bounds a connection is in
//! `listen`, what nodes say to each other in `peer`, what watchers are told in `metrics`, every
//! number in `limits`.
//!
//! Start reading at [`run`], then `services::publisher` for the way of a call, then
//! `services::consume_stream`.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod alone;
pub mod backup;
mod config;
mod convert;
mod data_folder;
mod limits;
mod listen;
mod machine;
mod members;
mod metrics;
mod node;
mod peer;
mod run;
mod services;
mod spans;
mod stopping;

pub use config::{
    Bootstrap, ConfigError, Entrance, LogConfig, LogFormat, MessageLimits, MetricsConfig,
    OverloadLimits, ServerConfig, Snapshots, WrittenConfig, WrittenLimits, WrittenLog,
    WrittenMetrics, WrittenSnapshots, WrittenStop, WrittenTracing,
};
pub use run::{DiskOf, Listeners, Machine, RunError, run, run_on, run_with};
