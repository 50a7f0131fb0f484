//! The core against the naive model, on random commands.
//!
//! `TICKETRAIL_MODEL_COMMANDS=10000000 cargo test --release -p ticketrail-tests --test model --
//! --nocapture` is the long form; `TICKETRAIL_MODEL_SEED` starts it elsewhere. A failure prints
//! the seed of its episode and the shortest script found.
#![allow(clippy::unwrap_used)]

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;
use std::time::Instant;

use ticketrail_core::command::{Command, Entry, SetVersion, Stamps};
use ticketrail_core::state::{STATE_VERSION, State};
use ticketrail_tests::model::compare::{Difference, Pair, Script, shrink, words};
use ticketrail_tests::model::coverage::Coverage;
use ticketrail_tests::model::dice::Dice;
use ticketrail_tests::model::generate::{Generator, wild};
use ticketrail_tests::model::lies::{LIES, Lie};
use ticketrail_tests::model::scenes::SCENES;

fn number(name: &str, otherwise: u64) -> u64 {
    let given = env::var(name).ok();
    given.map_or(otherwise, |text| text.replace('_', "").parse().unwrap())
}

/// One step; a panic in it is a difference like any other.
fn step<T>(step: impl FnOnce() -> Result<T, Difference>) -> Result<T, Difference> {
    catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|panic| Err(words(&*panic)))
}

fn fail(seed: u64, script: Script, difference: &str) -> ! {
    let steps = script.len();
    eprintln!("seed {seed}, step {steps}: {difference}\nshrinking ...");
    let (short, now) = shrink(script);
    for (index, entry) in &short {
        eprintln!("{index}: {entry:?}");
    }
    let entries = short.len();
    panic!("seed {seed}, step {steps}: shrunk to {entries} entries: {now}");
}

/// Plays one episode; answers how many commands it had and what they reached.
fn episode(seed: u64) -> (u64, Coverage) {
    let mut generator = Generator::new(seed);
    let mut pair = Pair::new();
    let mut script = Script::new();
    let (mut index, mut commands) = (0, 0);
    while commands < generator.length() {
        index += generator.index_step();
        let entry = generator.entry(&pair.model);
        commands += entry.commands.len() as u64;
        script.push((index, entry));
        let (_, entry) = script.last().unwrap();
        match step(|| pair.step(index, entry)) {
            Ok((outcomes, events)) => generator.observe(&outcomes, &events),
            Err(difference) => fail(seed, script, &difference),
        }
    }
    (commands, pair.coverage)
}

/// Every `workers`-th episode from `seed` on, until there were so many commands.
fn episodes(mut seed: u64, workers: u64, wanted: u64) -> (u64, Coverage) {
    let mut coverage = Coverage::default();
    let mut done = 0;
    while done < wanted {
        let (commands, reached) = episode(seed);
        coverage.join(reached);
        done += commands;
        seed += workers;
    }
    (done, coverage)
}

#[test]
fn core_agrees_with_the_naive_model() {
    let wanted = number("TICKETRAIL_MODEL_COMMANDS", 300_000);
    let first = number("TICKETRAIL_MODEL_SEED", 1);
    let workers = thread::available_parallelism().map_or(1, |n| n.get() as u64);
    println!("{wanted} commands from seed {first} on, {workers} at a time");
    let began = Instant::now();
    let mut coverage = Coverage::default();
    for (name, play) in SCENES {
        let played = play();
        coverage.join(played.unwrap_or_else(|difference| panic!("{name}: {difference}")));
    }
    let mut done = 0;
    thread::scope(|scope| {
        let share = wanted.div_ceil(workers);
        let start = |worker| scope.spawn(move || episodes(first + worker, workers, share));
        let running: Vec<_> = (0..workers).map(start).collect();
        for worker in running {
            let ended = worker.join();
            let (commands, reached) = ended.unwrap_or_else(|panic| resume_unwind(panic));
            coverage.join(reached);
            done += commands;
        }
    });
    println!("{}", coverage.table());
    println!("{done} commands in {:.1?}", began.elapsed());
    let missing = coverage.missing();
    assert!(missing.is_empty(), "void, it never reached: {missing:#?}");
}

#[test]
fn no_field_values_make_the_core_panic_or_differ() {
    let first = number("TICKETRAIL_MODEL_SEED", 1);
    let entries = number("TICKETRAIL_MODEL_COMMANDS", 300_000) / 10;
    println!("{entries} entries from seed {first} on");
    for seed in first..first + entries.div_ceil(2_000) {
        let mut dice = Dice::new(seed);
        let mut pair = Pair::new();
        let mut script = Script::new();
        let mut index = 0_u64;
        for _ in 0..2_000 {
            // The index may leap, but not so far that none is left.
            index += 1 + if dice.one_in(50) {
                dice.bits() >> 12
            } else {
                0
            };
            script.push((index, wild::entry(&mut dice)));
            let (_, entry) = script.last().unwrap();
            if let Err(difference) = step(|| pair.step(index, entry)) {
                fail(seed, script, &difference);
            }
        }
    }
}

/// Plays an episode and lies when it can after some steps: `None` if there was no occasion, else
/// whether the lie was found.
fn lie_is_found(seed: u64, lie: Lie) -> Option<bool> {
    let mut generator = Generator::new(seed);
    let mut pair = Pair::new();
    let mut told = false;
    for index in 1..1_500 {
        let entry = generator.entry(&pair.model);
        match step(|| pair.step(index, &entry)) {
            Ok((outcomes, events)) => generator.observe(&outcomes, &events),
            Err(difference) => {
                assert!(told, "seed {seed} differs before any lie: {difference}");
                return Some(true);
            }
        }
        if index > 100 && !told {
            told = lie(&mut pair.model);
        }
    }
    told.then_some(false)
}

#[test]
fn every_lie_is_found() {
    for (name, lie) in LIES {
        let found = (1..40).find(|seed| lie_is_found(*seed, lie) == Some(true));
        assert!(found.is_some(), "never found in 40 episodes: {name}");
    }
}

#[test]
fn an_unknown_version_stops_the_node_with_nothing_applied() {
    let mut state = State::new();
    let version = STATE_VERSION + 1;
    let entry = Entry {
        stamps: Stamps::default(),
        commands: vec![Command::SetVersion(SetVersion { version })],
    };
    let before = state.rows();
    assert!(state.apply(1, &entry).is_err());
    assert_eq!(state.rows(), before);
}
