//! Ticketrail beside other brokers: each system's servers are started on this machine, put under the same
//! loads by the same program, measured and ended again.
//!
//! `run` measures and appends to a file of results; `report` makes the page from that file. Start reading at
//! [`run`], then `loads` (what is measured), `drivers` (how each system's client does it), `servers` (how each
//! system is started) and `page` (what is told).

mod drivers;
mod floor;
mod fsync_cost;
mod latencies;
mod loads;
mod machine;
mod page;
mod process_tree;
mod results;
mod run;
mod servers;
mod system;
mod versions;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use loads::Load;
use system::System;

/// Measures Ticketrail beside RabbitMQ, NATS and Redis on this machine.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Measures, appends each figure to the results as soon as it is there, and writes the page.
    Run(RunArguments),
    /// A process of the system `floor`; `run` starts them.
    #[command(hide = true)]
    FloorNode(floor::Node),
    /// Writes the page from the results.
    Report(Files),
}

#[derive(clap::Args)]
struct RunArguments {
    /// What to measure, in this order within a round.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = System::ALL)]
    systems: Vec<System>,
    /// Which loads.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Load::ALL)]
    loads: Vec<Load>,
    /// How often all of it is done; `queued` and `fsyncs` are done in the first round only.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Measured seconds of each load that has no end of its own.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Seconds of the same load before that.
    #[arg(long, default_value_t = 2)]
    warm_up_seconds: u64,
    /// The program of Ticketrail, a release build.
    #[arg(long, default_value = "../target/release/ticketrail")]
    ticketrail: PathBuf,
    /// The program of NATS.
    #[arg(long, default_value = "target/servers/bin/nats-server")]
    nats: PathBuf,
    /// Where servers keep their data while they run: up to 15 GB. On the disk to be measured, never in memory.
    #[arg(long, default_value = "target/data")]
    data: PathBuf,
    #[command(flatten)]
    files: Files,
}

#[derive(clap::Args)]
struct Files {
    /// The figures.
    #[arg(long, default_value = "results.json")]
    results: PathBuf,
    /// The page for people.
    #[arg(long, default_value = "RESULTS.md")]
    page: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().verb {
        Verb::Run(arguments) => run::run(arguments).await,
        Verb::FloorNode(node) => floor::serve(node).await,
        Verb::Report(files) => page::write(&files.results, &files.page),
    }
}
