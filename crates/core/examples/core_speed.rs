//! How long the state machine takes per message on its hot path: publish, grant to attached
//! consumers, ack in ranges. Where a backlog is drained, per message acknowledged.
//!
//! `cargo run --release -p ticketrail-core --example core_speed`

use std::time::Instant;

use ticketrail_core::command::*;
use ticketrail_core::*;

struct Bench {
    state: State,
    index: u64,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self {
            state: State::new(),
            index: 0,
        };
        bench.apply(vec![Command::Bootstrap(Bootstrap {
            cluster_id: 1,
            hash_seed: 1,
        })]);
        bench.apply(vec![Command::CreateQueue(CreateQueue {
            namespace: "default".into(),
            queue: "q".into(),
            settings: QueueSettings::default(),
        })]);
        bench
    }

    fn apply(&mut self, commands: Vec<Command>) -> Applied {
        self.index += 1;
        let stamps = Stamps {
            lease_now: LeaseTime(self.index),
            wall_now: WallTime(self.index),
        };
        let entry = Entry { stamps, commands };
        self.state
            .apply(self.index, &entry)
            .expect("the benchmark breaks no invariant")
    }

    fn attach(&mut self, session: u128, prefetch: u32) -> Applied {
        self.apply(vec![Command::AttachConsumer(AttachConsumer {
            namespace: "default".into(),
            queue: "q".into(),
            session: SessionId(session),
            owner: Owner::default(),
            prefetch,
            lease_ms: None,
        })])
    }
}

fn publish(count: u32, sequence: Option<u64>) -> Command {
    Command::Publish(Publish {
        namespace: "default".into(),
        producer: sequence.map(|first_sequence| ProducerSequence {
            id: ProducerId(1),
            epoch: 1,
            first_sequence,
            digests: (0..u64::from(count)).map(|k| first_sequence + k).collect(),
        }),
        atomic: false,
        runs: vec![PublishRun {
            routing_key: "q".into(),
            count,
            bytes: u64::from(count) * 1_024,
            mandatory: true,
        }],
    })
}

fn acks(applied: &Applied) -> Command {
    let ranges = applied.events.iter().filter_map(|event| match event {
        Event::Delivered { grant, .. } => Some(SettleRange {
            queue: grant.queue,
            first_offset: grant.first_offset,
            count: grant.count,
            first_fence: grant.first_fence,
            kind: SettleKind::Ack,
        }),
        _ => None,
    });
    Command::Settle(Settle {
        ranges: ranges.collect(),
    })
}

/// Publishes batches to consumers that ack everything at once; rows are drained now and then, as a
/// checkpoint does. Only `apply` is timed.
fn run(name: &str, batch: u32, consumers: u128, producer: bool, backlog: u32) {
    let mut bench = Bench::new();
    if producer {
        bench.apply(vec![Command::OpenProducer(OpenProducer {
            namespace: "default".into(),
            name: None,
            fresh_id: ProducerId(1),
        })]);
    }
    for _ in 0..backlog {
        bench.apply(vec![publish(1_000, None)]);
    }
    let mut first = Applied::default();
    for session in 1..=consumers {
        first.events.extend(bench.attach(session, 256).events);
    }
    let rounds = 400_000 / batch;
    let mut spent = std::time::Duration::ZERO;
    let mut sequence = 1;
    let mut settle = (!first.events.is_empty()).then(|| acks(&first));
    for round in 0..rounds {
        let mut commands = vec![publish(batch, producer.then_some(sequence))];
        sequence += u64::from(batch);
        commands.extend(settle.take());
        let started = Instant::now();
        let applied = bench.apply(commands);
        spent += started.elapsed();
        let acks = acks(&applied);
        if !matches!(&acks, Command::Settle(settle) if settle.ranges.is_empty()) {
            settle = Some(acks);
        }
        if round % 1_000 == 999 {
            bench.state.drain_changes(|_, _| {});
        }
    }
    let queue = bench.state.queue("default", "q").expect("it was created");
    let published = u64::from(rounds) * u64::from(batch);
    let messages = published.max(queue.counters.acknowledged);
    println!(
        "{name:<52} {:>6.0} ns per message ({} acknowledged, {} ready)",
        spent.as_nanos() as f64 / messages as f64,
        queue.counters.acknowledged,
        queue.ready,
    );
}

fn main() {
    run("100 per publish, 1 consumer", 100, 1, false, 0);
    run("100 per publish, 8 consumers", 100, 8, false, 0);
    run("100 per publish, 8 consumers, idempotent", 100, 8, true, 0);
    run("16 per publish, 8 consumers, idempotent", 16, 8, true, 0);
    run("1 per publish, 8 consumers", 1, 8, false, 0);
    run(
        "100 per publish, no consumer (growing backlog)",
        100,
        0,
        false,
        0,
    );
    run(
        "100 per publish, 8 consumers, behind 10 M",
        100,
        8,
        false,
        10_000,
    );
}
