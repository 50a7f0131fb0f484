//! The binary `ticketrail`: the server, a local cluster for a try, and a verb for every noun.
//!
//! Called by people and scripts. It never holds broker logic: `serve` hands a configuration to
//! `ticketrail-server`, every other verb is a user of `ticketrail-client` like any other program.
//!
//! Start reading at [`args`], then `verbs/`; [`failure`] has the exit codes, `show/` how things look.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
mod dev;
mod failure;
mod logging;
mod records;
mod serve;
mod show;
mod signals;
mod units;
mod verbs;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = args::Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failure::Failure::from(error).report(),
    };
    let result = runtime.block_on(verbs::run(arguments));
    // A blocking read of the terminal must not hold up the end.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Half of the cores, at least one. The others are for the log's writer, checkpoints and the kernel's share; and workers that
/// have no core of their own wake each other more often than they help (with three nodes on two cores: a quarter of the
/// latency and a tenth of the CPU of a message).
fn workers() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).max(1)
}
