//! How long apply waits for a survey of live bodies, and how long a survey takes: `cargo run --release -p ticketrail-core
//! --example survey`. Ten million messages in one queue, published in batches and one by one, with every tenth range broken
//! up; and 100,000 queues with ten each.

use std::time::{Duration, Instant};

use ticketrail_core::command::{Bootstrap, CreateQueue, Publish, PublishRun, Receive};
use ticketrail_core::{Command, Entry, QueueSettings, Stamps, State};

/// What the checkpoint's worker asks for at a time.
const STEPS: usize = 256;

fn main() {
    look("10 M in batches of 200", &filled(1, 50_000, 200, false));
    look(
        "10 M in batches of 200, broken up",
        &filled(1, 50_000, 200, true),
    );
    look("2 M one by one", &filled(1, 2_000_000, 1, false));
    look("100,000 queues of 10", &filled(100_000, 1, 10, false));
}

fn look(what: &str, state: &State) {
    let mut calls: Vec<Duration> = Vec::new();
    let (mut runs, mut messages) = (0_u64, 0_u64);
    let mut at = Some(ticketrail_core::SurveyCursor::default());
    while let Some(from) = at {
        let start = Instant::now();
        at = state.survey(from, STEPS, &mut |run| {
            runs += 1;
            messages += u64::from(run.count);
        });
        calls.push(start.elapsed());
    }
    let whole: Duration = calls.iter().sum();
    let start = Instant::now();
    let (live, _) = state.live_in(0, u64::MAX, usize::MAX);
    let counted = start.elapsed();
    println!(
        "{what}: {messages} messages in {runs} runs; {} calls, longest {:?}, all {whole:?}; counting {} live: {counted:?}",
        calls.len(),
        calls.iter().max().unwrap_or(&Duration::ZERO),
        live.messages,
    );
}

fn filled(queues: u64, entries: u64, batch: u32, broken_up: bool) -> State {
    let mut state = State::new();
    let mut index = 0;
    let mut apply = |command: Command| {
        index += 1;
        let entry = Entry {
            stamps: Stamps::default(),
            commands: vec![command],
        };
        state.apply(index, &entry).expect("the state goes on");
    };
    apply(Command::Bootstrap(Bootstrap {
        cluster_id: 1,
        hash_seed: 1,
    }));
    for queue in 0..queues {
        apply(Command::CreateQueue(CreateQueue {
            namespace: "default".to_owned(),
            queue: format!("q{queue}"),
            settings: QueueSettings {
                lease_ms: 3_600_000,
                ..QueueSettings::default()
            },
        }));
        for entry in 0..entries {
            apply(Command::Publish(Publish {
                namespace: "default".to_owned(),
                producer: None,
                atomic: true,
                runs: vec![PublishRun {
                    routing_key: format!("q{queue}"),
                    count: batch,
                    bytes: 100 * u64::from(batch),
                    mandatory: true,
                }],
            }));
            if broken_up && entry % 10 == 0 {
                apply(Command::Receive(Receive {
                    namespace: "default".to_owned(),
                    queue: format!("q{queue}"),
                    max_messages: 7,
                    lease_ms: None,
                    attempt: entry.to_string().into_bytes(),
                }));
            }
        }
    }
    state
}
