//! The product as it is shipped: three processes, real files, real sockets, real kills.
//!
//! Each file is one promise. Everything here runs in `cargo test` in a small size; the long forms:
//!
//! | variable | default | long form | what |
//! | --- | --- | --- | --- |
//! | `TICKETRAIL_REAL_INPUT` | `small` (3,000 stanzas) | `full` (all, about 60,000) | `real_input` |
//! | `TICKETRAIL_LEADER_KILLS` | `3` | `10` | leader kills of `dedup` and `failover` |
//! | `TICKETRAIL_POWER_CUTS` | `15` | `200` | runs of the test `faults` in package `ticketrail-jepsen-like` |
//! | `TICKETRAIL_POWER_CUTS_SEED` | random, printed | a number | where the dice of `power_cuts` begin |
//! | `TICKETRAIL_KEEP_DATA` | | `1` | keeps the nodes' folders and prints where they are |
//! | `TICKETRAIL_BIN` | | path | tests this program instead of building one |
#![allow(clippy::unwrap_used, missing_docs)]

mod bad_input;
mod dead_letters;
mod dedup;
mod failover;
mod leases;
mod partitions;
mod python;
mod real_input;

use std::env;

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
