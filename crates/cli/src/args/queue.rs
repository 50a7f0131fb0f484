//! `queue ...`

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::units::parse_duration;

#[derive(Debug, Subcommand)]
pub(crate) enum Queue {
    /// Create a queue; one that exists with the same settings is left as it is
    Create {
        /// The name
        name: String,
        #[command(flatten)]
        settings: QueueOptions,
    },
    /// List the queues with their counts
    #[command(alias = "ls")]
    List,
    /// Show the settings and counts of a queue
    Show {
        /// The name
        name: String,
    },
    /// Change settings of a queue; those that are not named stay
    Update {
        /// The name
        name: String,
        #[command(flatten)]
        settings: QueueOptions,
        /// No dead-letter queue any more
        #[arg(long, conflicts_with = "dead_letter")]
        no_dead_letter: bool,
        /// No wait before a failed message is ready again
        #[arg(long, conflicts_with_all = ["backoff", "backoff_factor", "backoff_max"])]
        no_backoff: bool,
    },
    /// Delete a queue and all its messages
    #[command(alias = "rm")]
    Delete {
        /// The name
        name: String,
    },
    /// Remove the ready messages of a queue for good
    Purge {
        /// The name
        name: String,
        /// Remove delayed messages, too
        #[arg(long)]
        include_delayed: bool,
    },
    Peek(Peek),
    /// Stop granting messages; publishing goes on
    Pause {
        /// The name
        name: String,
    },
    /// Grant messages again
    Resume {
        /// The name
        name: String,
    },
}

/// Look at messages without taking them.
#[derive(Debug, Clone, Args)]
pub(crate) struct Peek {
    /// The queue
    pub(crate) name: String,
    /// At most so many messages
    #[arg(long, short = 'n', default_value_t = 20, value_name = "N")]
    pub(crate) count: u32,
    /// Begin at this offset
    #[arg(long, default_value_t = 0, value_name = "OFFSET")]
    pub(crate) from: u64,
    /// Only messages in this state; may be given more than once
    #[arg(long, value_enum)]
    pub(crate) state: Vec<State>,
    /// Leave the bodies out
    #[arg(long)]
    pub(crate) no_bodies: bool,
}

/// What a message in a queue is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    Ready,
    InFlight,
    Delayed,
    Parked,
}

/// The settings of a queue.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct QueueOptions {
    /// How long a lease lasts [default for a new queue: 30s]
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) lease: Option<Duration>,
    /// Dead-letter a message after so many deliveries; 0 is never [default for a new queue: 10]
    #[arg(long, value_name = "N")]
    pub(crate) max_deliveries: Option<u32>,
    /// Where messages go that the queue gives up on; without it they are dropped and counted
    #[arg(long, value_name = "QUEUE")]
    pub(crate) dead_letter: Option<String>,
    /// How long a failed message waits before it is ready again [default for a new queue: not at all]
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) backoff: Option<Duration>,
    /// What each further wait is multiplied with [default: 2]
    #[arg(long, requires = "backoff", value_name = "FACTOR")]
    pub(crate) backoff_factor: Option<f64>,
    /// The longest wait [default: 12h]
    #[arg(long, requires = "backoff", value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) backoff_max: Option<Duration>,
    /// How much of a wait may be taken off, so that failures do not come back together [default: 25]
    #[arg(long, requires = "backoff", value_name = "PERCENT",
          value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(crate) backoff_jitter: Option<u32>,
}
