//! The deterministic simulation. `TICKETRAIL_SIM_SEEDS=1000` runs so many seeds instead of a few,
//! `TICKETRAIL_SIM_HOURS=24` seeds until so much virtual time has passed, `TICKETRAIL_SIM_FIRST` says
//! from which on, `TICKETRAIL_SIM_SECONDS` how long each has trouble; `TICKETRAIL_SIM_KILLS=100`
//! kills so many nodes in the middle of snapshots; `TICKETRAIL_SIM_LOG=debug` prints what the nodes
//! log.
#![allow(clippy::unwrap_used)]

use std::env;
use std::panic::resume_unwind;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use ticketrail_tests::sim::counts::Counts;
use ticketrail_tests::sim::faults::Fault;
use ticketrail_tests::sim::planted::Planted;
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
    Options {
        trouble: Duration::from_secs(number("TICKETRAIL_SIM_SECONDS", 10)),
        traced: false,
        ..Options::new(seed)
    }
}

/// A run that takes longer, in real time, does not come to its end: it spins.
const RUN_MAX: Duration = Duration::from_secs(120);

/// Runs a simulation, and fails where it does not end.
fn run_in_time(options: Options) -> Report {
    let (seed, planted) = (options.seed, options.planted);
    let (done, ended) = mpsc::channel();
    let began = Instant::now();
    let running = thread::spawn(move || drop(done.send(run(options))));
    // As long as the trouble takes, too, where somebody asked for much of it.
    let limit = RUN_MAX + Duration::from_secs(number("TICKETRAIL_SIM_SECONDS", 0)) * 10;
    match ended.recv_timeout(limit) {
        Ok(report) => report,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!(
            "seed {seed} with {planted:?} does not end: it runs for {:.0?}",
            began.elapsed()
        ),
        Err(mpsc::RecvTimeoutError::Disconnected) => match running.join() {
            Err(panic) => resume_unwind(panic),
            Ok(_) => panic!("seed {seed} gave no report"),
        },
    }
}

/// Runs a seed that must show no violation.
fn clean(options: Options) -> Counts {
    tried(options).unwrap_or_else(|failed| panic!("{failed}"))
}

/// Runs a seed; one that shows a violation once more, for its trace.
fn tried(options: Options) -> Result<Counts, String> {
    let seed = options.seed;
    let report = run_in_time(options.clone());
    if report.violations.is_empty() {
        return Ok(report.counts);
    }
    let traced = run_in_time(Options {
        traced: true,
        ..options
    });
    let path = env::temp_dir().join(format!("ticketrail-sim-{seed}.trace"));
    std::fs::write(&path, &traced.trace).unwrap();
    Err(format!(
        "seed {seed}: {:#?}\ntrace: {}",
        report.violations,
        path.display()
    ))
}

/// What is still to be run.
struct Plan {
    next_seed: u64,
    seeds: u64,
    virtual_ms: u64,
    done: Counts,
    /// What the seeds with violations say: the others go on, up to a point.
    failed: Vec<String>,
}

/// So many seeds with violations are enough to look at.
const FAILED_MAX: usize = 10;

impl Plan {
    fn next(&mut self) -> Option<u64> {
        let done = match self.virtual_ms {
            0 => self.seeds == 0,
            enough => self.done.virtual_ms >= enough,
        } || self.failed.len() >= FAILED_MAX;
        (!done).then(|| {
            self.seeds = self.seeds.saturating_sub(1);
            self.next_seed += 1;
            self.next_seed - 1
        })
    }
}

#[test]
fn a_seed_gives_the_same_trace_twice() {
    let (first, second) = (run_in_time(Options::new(1)), run_in_time(Options::new(1)));
    assert!(
        first.trace == second.trace,
        "one seed gave two different traces"
    );
    assert_eq!(first, second);
    assert!(
        first.trace.lines().count() > 300,
        "too little happened to compare"
    );
}

#[test]
fn confirmed_messages_survive_whatever_happens() {
    let first = number("TICKETRAIL_SIM_FIRST", 2);
    let plan = Mutex::new(Plan {
        next_seed: first,
        seeds: number("TICKETRAIL_SIM_SEEDS", 4),
        virtual_ms: number("TICKETRAIL_SIM_HOURS", 0) * 3_600_000,
        done: Counts::default(),
        failed: Vec::new(),
    });
    let began = Instant::now();
    let work = || {
        loop {
            let Some(seed) = plan.lock().unwrap().next() else {
                return;
            };
            let tried = tried(options(seed));
            let mut plan = plan.lock().unwrap();
            match tried {
                Ok(counts) => {
                    println!("seed {seed}: {} entries", counts.entries);
                    plan.done.add(&counts);
                }
                Err(failed) => {
                    println!("{failed}");
                    plan.failed.push(failed);
                }
            }
        }
    };
    thread::scope(|scope| {
        let workers = thread::available_parallelism().map_or(1, |n| n.get());
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        for worker in running {
            worker.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
    });
    let Plan {
        next_seed,
        done,
        failed,
        ..
    } = plan.into_inner().unwrap();
    println!("{done:#?}");
    println!(
        "seeds {first} to {}: {:.2} virtual hours in {:.0?}",
        next_seed - 1,
        done.virtual_ms as f64 / 3_600_000.0,
        began.elapsed()
    );
    assert!(
        failed.is_empty(),
        "{} seeds failed:\n{}",
        failed.len(),
        failed.join("\n")
    );
    not_void(&done, next_seed - first);
}

/// Seeds that may pass without a kill.
const SEEDS_SPARE: u64 = 4;

/// Kills in the middle of snapshots while members come and go: in every role, and never a body lost or
/// exchanged, nor a membership forgotten.
#[test]
#[ignore = "minutes without optimisation: a long form, see CONTRIBUTING.md"]
fn a_snapshot_survives_the_death_of_all_who_take_part() {
    let (first, kills) = (
        number("TICKETRAIL_SIM_FIRST", 1),
        number("TICKETRAIL_SIM_KILLS", 100),
    );
    let mut done = Counts::default();
    let mut seed = first;
    let killed =
        |done: &Counts| done.senders_killed + done.receivers_killed + done.installers_killed;
    while killed(&done) < kills {
        assert!(
            seed - first < kills + SEEDS_SPARE,
            "void: {} kills in {} seeds",
            killed(&done),
            seed - first
        );
        let counts = clean(Options {
            only: &[Fault::SnapshotKills, Fault::SnapshotKills, Fault::Members],
            trouble: Duration::from_secs(number("TICKETRAIL_SIM_SECONDS", 60)),
            ..options(seed)
        });
        done.add(&counts);
        seed += 1;
    }
    println!("{done:#?}");
    println!("seeds {first} to {}: {} kills", seed - 1, killed(&done));
    let at_least = (kills / 10).max(1);
    for (what, times) in [
        ("senders", done.senders_killed),
        ("receivers", done.receivers_killed),
        ("installers", done.installers_killed),
        ("installs", done.installs),
        ("bodies in snapshots", done.bodies_sent),
        ("changes of the members", done.members_changed),
    ] {
        assert!(times >= at_least, "void: of {what} only {times}");
    }
}

/// Seeds that showed a bug of the product, with the seconds of trouble that it took.
///
/// * 20006: a follower whose disk was full said that it has a snapshot's entries, which it had applied
///   and never synced; the leader panicked when it heard otherwise.
/// * 60101: a compaction that ended while a peer fetched a snapshot took bodies from it that had died
///   since the snapshot was made.
/// * 71008: bodies that came with a snapshot were read before its state had taken its place; those that
///   the old state still referred to were not in them.
/// * 101031: an entry that had gathered behind an outage was larger than a segment of the log, and the
///   leader stopped.
const FAILED_ONCE: &[(u64, u64)] = &[(20_006, 5), (60_101, 27), (71_008, 26), (101_031, 32)];

#[test]
fn seeds_that_failed_once_do_not_fail_again() {
    for (seed, seconds) in FAILED_ONCE {
        clean(Options {
            trouble: Duration::from_secs(*seconds),
            ..options(*seed)
        });
    }
}

/// Enough of everything happened, per seed.
fn not_void(done: &Counts, seeds: u64) {
    let reached = [
        ("entries", done.entries, 100),
        ("acks", done.acked, 50),
        ("deliveries", done.delivered, 50),
        ("consumers", done.consumers, 2),
        ("leases that ended", done.expired, 2),
        ("redeliveries", done.redelivered, 2),
        ("dead letters", done.dead_lettered, 1),
        ("repeated publishes", done.duplicates, 1),
        ("leaders", done.leaders, 2),
        ("crashes", done.crashes, 1),
    ];
    for (what, times, at_least) in reached {
        assert!(
            // One seed alone may have drawn nothing but faults that do not lead there.
            seeds < 4 || times >= at_least * seeds,
            "void: of {what} only {times} in {seeds} seeds"
        );
    }
    // Not every seed draws what leads to these.
    let reached_by_some = [
        ("changes of the members", done.members_changed),
        ("snapshots installed", done.installs),
        ("compactions", done.compactions),
        ("kills of senders", done.senders_killed),
        ("kills of receivers", done.receivers_killed),
        ("kills of installers", done.installers_killed),
        ("lost disks", done.disks_lost),
    ];
    for (what, times) in reached_by_some {
        assert!(
            times * 10 >= seeds || seeds < MANY_SEEDS,
            "void: of {what} only {times} in {seeds} seeds"
        );
    }
}

/// From so many on, chance is no excuse.
const MANY_SEEDS: u64 = 50;

/// Whether one of so many seeds shows a planted bug by a violation that says so, where only these
/// faults happen.
fn caught(planted: Planted, only: &'static [Fault], seeds: u64, signs: &[&str]) {
    let found = (1..=seeds).find_map(|seed| {
        let options = Options {
            planted: Some(planted),
            only,
            traced: false,
            ..Options::new(seed)
        };
        let violations = run_in_time(options).violations;
        let shown = violations
            .into_iter()
            .find(|violation| signs.iter().any(|sign| violation.contains(sign)));
        shown.map(|violation| (seed, violation))
    });
    println!("{planted:?} caught: {found:?}");
    assert!(found.is_some(), "no seed of {seeds} caught {planted:?}");
}

/// The bug for which `enable_leader_restore` is off: a leader that restarts in its old term uses log
/// ids again of entries which its crash took and its followers have.
#[test]
fn a_leader_that_returns_without_an_election_is_caught() {
    let signs = ["with digest", "are lost", "the log has", "stopped itself"];
    caught(Planted::LeaderRestore, &[Fault::LeaderBlinks], 50, &signs);
}

#[test]
fn a_vote_that_is_answered_before_it_is_on_the_disk_is_caught() {
    let signs = ["both lead term", "with digest", "does not start"];
    caught(
        Planted::VoteUnsynced,
        &[Fault::NodeCrashes, Fault::AllCrash],
        50,
        &signs,
    );
}

#[test]
fn a_follower_that_answers_before_its_sync_is_caught() {
    let signs = ["with digest", "are lost", "the log has", "stored twice"];
    let only = &[Fault::FollowersForget];
    caught(Planted::AckBeforeSync, only, 20, &signs);
}

#[test]
fn a_log_whose_syncs_do_nothing_is_caught() {
    let signs = ["with digest", "are lost", "does not start"];
    caught(
        Planted::LogUnsynced,
        &[Fault::NodeCrashes, Fault::AllCrash],
        50,
        &signs,
    );
}

#[test]
fn a_forward_that_is_taken_twice_is_caught() {
    let signs = ["stored twice", "was answered"];
    caught(Planted::ForwardTwice, &[Fault::Transfer], 20, &signs);
}

#[test]
fn a_node_that_applies_half_an_entry_is_caught() {
    caught(Planted::HalfEntry, &[Fault::Transfer], 20, &["with digest"]);
}

#[test]
fn reads_without_a_read_index_are_caught() {
    let only = &[Fault::Isolated, Fault::OneWay];
    caught(Planted::StaleReads, only, 20, &["a read on n"]);
}
