//! Long runs of faults against real processes.

use clap::{Parser, Subcommand};
use ticketrail_jepsen_like::power_cuts;

/// Long runs of faults against real processes; ends with 0 only if no promise was broken.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Kills one, two or all nodes at random instants under load, un-synced bytes dropped, and
    /// compares every confirmed message by bytes.
    PowerCuts {
        /// How many kills.
        #[arg(long, default_value_t = 200)]
        runs: u32,
        /// Where the dice begin; printed, so that a run can be had again.
        #[arg(long, default_value_t = rand::random())]
        seed: u64,
    },
}

#[tokio::main]
async fn main() {
    match Arguments::parse().what {
        What::PowerCuts { runs, seed } => {
            let report = power_cuts::run(runs, seed).await;
            println!("{report}");
        }
    }
}
