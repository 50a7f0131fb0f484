//! The product as it is shipped: three processes, real files, real sockets, real kills.
//!
//! Each file is one promise. Everything here runs in `cargo test` in a small size; the long forms:
//!
//! | variable | default | long form | what |
//! | --- | --- | --- | --- |
//! | `TICKETRAIL_REAL_INPUT` | `small` (3,000 stanzas) | `full` (all, about 60,000) | `real_input` |
//! | `TICKETRAIL_LEADER_KILLS` | `3` | `10` | leader kills of `dedup` and `failover` |
//! | `TICKETRAIL_AWAY_MIB` | `96` | `2048` | what a node misses in `away` |
//! | `TICKETRAIL_BACKLOG_MESSAGES` | 40,000 of one shape | `10000000` (all shapes, with their bounds; release) | `backlog` |
//! | `TICKETRAIL_BACKLOG_NODES` | `3` | `1` | nodes of `backlog` |
//! | `TICKETRAIL_BACKUP_MIB` | `48` | `2048` (release) | bytes of the larger backup of `backup` |
//! | `TICKETRAIL_CUT_OFF_SECONDS` | `20` | `60` | how long a node is away in `cut_off` |
//! | `TICKETRAIL_ROLLING_RESTARTS` | `1` | `5` | rounds of `rolling` |
//! | `TICKETRAIL_ROLLING_RATE` | `1000` | `10000` (release) | messages per second of `rolling` |
//! | `TICKETRAIL_OVERLOAD_SECONDS` | does not run | `300` (1,000 stuck consumers, 10,000 idle connections) | `overload` |
//! | `TICKETRAIL_POWER_CUTS` | `15` | `200` | runs of the test `faults` in package `ticketrail-jepsen-like` |
//! | `TICKETRAIL_POWER_CUTS_SEED` | random, printed | a number | where the dice of `power_cuts` begin |
//! | `TICKETRAIL_KEEP_DATA` | | `1` | keeps the nodes' folders and prints where they are |
//! | `TICKETRAIL_BIN` | | path | tests this program instead of building one |
#![allow(clippy::unwrap_used, missing_docs)]

mod away;
mod backlog;
mod backup;
mod bad_input;
mod bench;
mod compose;
mod cut_off;
mod dead_letters;
mod dedup;
mod divergence;
mod docs;
mod examples;
mod failover;
mod full_disk;
mod handlers;
mod kubernetes;
mod leases;
mod membership;
mod observability;
mod overload;
mod partitions;
mod python;
mod real_input;
mod rolling;
mod settings;
mod stops;
mod systemd;
mod top;

use std::env;
use std::io::{self, Write as _};

/// Says that a test is skipped, on the standard error itself, which the test harness does not keep to itself.
///
/// # Panics
/// Where the gate runs: there it must not be skipped.
fn skipped(what: &str, why: &str) {
    assert!(env::var_os("CI").is_none(), "{what} cannot run: {why}");
    say_skipped(what, why);
}

/// The same for what the gate's machine need not have either.
fn say_skipped(what: &str, why: &str) {
    let _ = writeln!(io::stderr().lock(), "SKIPPED: {what}: {why}");
}

/// A number from the environment.
fn number(name: &str, otherwise: usize) -> usize {
    env::var(name)
        .ok()
        .map_or(otherwise, |text| text.parse().unwrap())
}

/// Leader kills of the tests that kill leaders.
fn leader_kills() -> usize {
    number("TICKETRAIL_LEADER_KILLS", 3)
}
