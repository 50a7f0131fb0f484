//! The core against the naive model, on random commands.
//!
//! `TICKETRAIL_MODEL_COMMANDS=10000000 cargo test --release -p ticketrail-tests --test model` is
//! the long form; `TICKETRAIL_MODEL_SEED` starts it elsewhere. A failure prints the seed of its
//! episode and the shortest script found.
#![allow(clippy::unwrap_used)]

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use ticketrail_tests::model::compare::{Pair, Script, shrink, words};
use ticketrail_tests::model::coverage::Coverage;
use ticketrail_tests::model::generate::Generator;
use ticketrail_tests::model::scenes::SCENES;

fn number(name: &str, otherwise: u64) -> u64 {
    let given = env::var(name).ok();
    given.map_or(otherwise, |text| text.replace('_', "").parse().unwrap())
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
        let entry = &script[script.len() - 1].1;
        let step = catch_unwind(AssertUnwindSafe(|| pair.step(index, entry)));
        let step = step.unwrap_or_else(|panic| Err(words(&*panic)));
        match step {
            Ok((outcomes, events)) => generator.observe(&outcomes, &events),
            Err(difference) => fail(seed, script, &difference),
        }
    }
    (commands, pair.coverage)
}

fn fail(seed: u64, script: Script, difference: &str) -> ! {
    let steps = script.len();
    eprintln!("seed {seed}, step {steps}: {difference}\nshrinking ...");
    let (short, now) = shrink(script);
    for (index, entry) in &short {
        eprintln!("{index}: {entry:?}");
    }
    panic!(
        "seed {seed}, step {steps}: shrunk to {} entries: {now}",
        short.len()
    );
}

#[test]
fn core_agrees_with_the_naive_model() {
    let wanted = number("TICKETRAIL_MODEL_COMMANDS", 300_000);
    let first = number("TICKETRAIL_MODEL_SEED", 1);
    println!("{wanted} commands from seed {first} on");
    let began = Instant::now();
    let mut coverage = Coverage::default();
    for (name, play) in SCENES {
        let played = play();
        coverage.join(played.unwrap_or_else(|difference| panic!("{name}: {difference}")));
    }
    println!("scenes played in {:.1?}", began.elapsed());
    let (mut done, mut seed) = (0, first);
    while done < wanted {
        let (commands, reached) = episode(seed);
        coverage.join(reached);
        done += commands;
        seed += 1;
    }
    println!("{}", coverage.table());
    println!(
        "{done} commands in {:.1?}, seeds {first}..{seed}",
        began.elapsed()
    );
    let missing = coverage.missing();
    assert!(
        missing.is_empty(),
        "the run is void, it never reached: {missing:#?}"
    );
}
