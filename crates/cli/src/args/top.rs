//! `top`: what the cluster does now.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::units::parse_duration;

/// Watch nodes and queues in the terminal: who leads, how far behind, how deep, how fast
///
/// Keys: q quits, ? tells the others. Any node will do, and it goes on when that node is lost. With --output json it
/// needs no terminal and prints one object for each look.
#[derive(Debug, Clone, Args)]
pub(crate) struct Top {
    /// Print one frame as text (one object with --output json) and end
    #[arg(long)]
    pub(crate) once: bool,
    /// How often to look; rates are those between two looks
    #[arg(long, value_parser = parse_duration, default_value = "1s", value_name = "DURATION")]
    pub(crate) interval: Duration,
    /// Only queues whose names contain this
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "TEXT"
    )]
    pub(crate) filter: String,
    /// What the queues are sorted by
    #[arg(long, value_enum, default_value_t = SortBy::Depth)]
    pub(crate) sort: SortBy,
    /// Show the counts of so many queues at most, the first by name that fit the filter
    #[arg(long, default_value_t = 500, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=5_000))]
    pub(crate) queues: u16,
}

/// What queues are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SortBy {
    /// Ready messages, most first
    Depth,
    /// Leased messages, most first
    InFlight,
    /// Messages published per second, most first
    Published,
    /// Messages acknowledged per second, most first
    Acked,
    /// Age of the oldest ready message, oldest first
    Age,
    Name,
}
