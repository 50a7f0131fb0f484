//! `bench ...`: how fast a cluster is.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::units::parse_duration;

/// Measure a cluster: messages per second, latency, CPU
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Bench {
    /// Publish into queues that grow
    Publish(Timed),
    /// Publish, deliver and acknowledge at once
    E2e(Timed),
    /// Fill queues, then measure how fast they are emptied
    Drain(Drain),
    /// As e2e, with each message to the next of many queues
    Fanout(Timed),
    /// Compare two results that --save wrote
    Compare {
        /// The result to compare with
        a: PathBuf,
        /// The result to judge
        b: PathBuf,
    },
}

/// A run that lasts for a time, or for so many messages.
#[derive(Debug, Clone, Args)]
pub(crate) struct Timed {
    #[command(flatten)]
    pub(crate) load: Load,
    /// Measure for so long
    #[arg(long, short, value_parser = parse_duration, default_value = "10s", value_name = "DURATION")]
    pub(crate) duration: Duration,
    /// Load before measuring
    #[arg(long, value_parser = parse_duration, default_value = "2s", value_name = "DURATION")]
    pub(crate) warmup: Duration,
    /// Publish so many messages in all and measure all of them, instead of for a time
    #[arg(long, short = 'n', conflicts_with_all = ["duration", "warmup"], value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) count: Option<u64>,
}

/// A run that empties what it filled.
#[derive(Debug, Clone, Args)]
pub(crate) struct Drain {
    #[command(flatten)]
    pub(crate) load: Load,
    /// Fill the queues with so many messages
    #[arg(long, short = 'n', default_value_t = 200_000, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) count: u64,
}

/// What the load looks like.
#[derive(Debug, Clone, Args)]
pub(crate) struct Load {
    /// Bytes of each body; the first 16 hold a stamp
    #[arg(long, short, default_value_t = 1024, value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(16..=64 * 1024 * 1024))]
    pub(crate) size: u32,
    /// Producers, each on a connection of its own
    #[arg(long, short, default_value_t = 8, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub(crate) producers: u16,
    /// Consumers, each on a connection of its own; at least one for each queue is started
    #[arg(long, short, default_value_t = 8, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub(crate) consumers: u16,
    /// Queues, which messages go to in turn [default: 1; with fanout: 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub(crate) queues: Option<u16>,
    /// Unconfirmed messages of one producer: 1..1024 [default: 500, fewer where bodies are large]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub(crate) window: Option<u32>,
    /// Messages that a producer sends in one go [default: 50; with --rate: 1]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub(crate) batch: Option<u32>,
    /// Unsettled messages of one consumer: 1..10000 [default: 1000, fewer where bodies are large]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) prefetch: Option<u32>,
    /// Messages per second of all producers together; latency then counts from when a message was due
    /// [default: as fast as it goes]
    #[arg(long, short, value_name = "MESSAGES", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// The queues are PREFIX.1, PREFIX.2 and so on; it makes and deletes them
    #[arg(long, default_value = "bench", value_name = "PREFIX")]
    pub(crate) queue_prefix: String,
    /// Leave the queues and what is in them
    #[arg(long)]
    pub(crate) keep: bool,
    /// Use queues that exist, if they are empty; they are not deleted
    #[arg(long)]
    pub(crate) reuse: bool,
    /// Processes of nodes on this machine, separated by commas: their CPU and memory are read from /proc
    #[arg(long, value_delimiter = ',', value_name = "PID")]
    pub(crate) pids: Vec<u32>,
    /// The disk of the nodes on this machine, as in /proc/diskstats: all that is written to it is counted
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    /// Write the result to this file, for `bench compare`
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
}
