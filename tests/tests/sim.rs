//! The deterministic simulation. `TICKETRAIL_SIM_SEEDS=1000` runs so many seeds instead of a few,
//! `TICKETRAIL_SIM_FIRST` says from which on, `TICKETRAIL_SIM_SECONDS` how long each has trouble;
//! `TICKETRAIL_SIM_LOG=debug` prints what the nodes log.
#![allow(clippy::unwrap_used)]

use std::env;
use std::time::Duration;

use ticketrail_tests::sim::run::{Options, Report, run};

fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |value| value.parse().unwrap())
}

fn options(seed: u64) -> Options {
    if let Ok(filter) = env::var("TICKETRAIL_SIM_LOG") {
        // An error: it is set already.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .without_time()
            .with_ansi(false)
            .try_init();
    }
    let trouble = Duration::from_secs(number("TICKETRAIL_SIM_SECONDS", 4));
    Options {
        trouble,
        ..Options::new(seed)
    }
}

fn expect_clean(seed: u64, report: &Report) {
    if !report.violations.is_empty() {
        let path = env::temp_dir().join(format!("ticketrail-sim-{seed}.trace"));
        std::fs::write(&path, &report.trace).unwrap();
        panic!(
            "seed {seed}: {:#?}\ntrace: {}",
            report.violations,
            path.display()
        );
    }
}

#[test]
fn a_seed_gives_the_same_trace_twice() {
    let (first, second) = (run(Options::new(1)), run(Options::new(1)));
    assert!(
        first.trace == second.trace,
        "one seed gave two different traces"
    );
    assert_eq!(first, second);
    assert!(
        first.trace.lines().count() > 1_000,
        "too little happened to compare"
    );
}

#[test]
fn confirmed_messages_survive_whatever_happens() {
    let first = number("TICKETRAIL_SIM_FIRST", 2);
    let seeds = number("TICKETRAIL_SIM_SEEDS", 3);
    let mut crashes = 0;
    for seed in first..first + seeds {
        let report = run(options(seed));
        println!("seed {seed}: {:?}", report.counts);
        expect_clean(seed, &report);
        let counts = report.counts;
        assert!(
            counts.confirmed >= 100 && counts.acked >= 10,
            "seed {seed} did too little: {counts:?}"
        );
        crashes += counts.crashes;
    }
    assert!(crashes >= seeds, "too few crashes to prove anything");
}

/// The bug for which `enable_leader_restore` is off: a leader that restarts in its old term uses log
/// ids again of entries which its crash took and its followers have.
#[test]
fn a_leader_that_returns_without_an_election_is_caught() {
    let caught = (1..=50).find_map(|seed| {
        let options = Options {
            planted_leader_restore: true,
            ..Options::new(seed)
        };
        let violations = run(options).violations;
        let shown = violations
            .into_iter()
            .find(|violation| violation.contains("with digest") || violation.contains("are lost"));
        shown.map(|violation| (seed, violation))
    });
    println!("caught: {caught:?}");
    assert!(caught.is_some(), "no seed of fifty caught the planted bug");
}
