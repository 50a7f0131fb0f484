//! What a backlog costs in the state machine: bytes per message by a counting allocator, held to a bound
//! each, and CPU time per message; then what it costs to write the state as rows, to read it back and to
//! purge the queue. `TICKETRAIL_BACKLOG_MESSAGES=10000000 cargo test --release -p ticketrail-core --test
//! backlog -- --nocapture` is the long form.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ticketrail_core::command::*;
use ticketrail_core::*;

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator; only sizes are added up.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// CPU time of this process, where the system tells it (in steps of 10 ms): on a busy machine it is the
/// figure that holds still.
fn cpu() -> Duration {
    static SINCE: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let told = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = told.rsplit(')').next().unwrap_or_default();
    let user_and_system = after_name.split_whitespace().skip(11).take(2);
    let ticks: Vec<u64> = user_and_system.flat_map(str::parse).collect();
    if ticks.is_empty() {
        return SINCE.get_or_init(Instant::now).elapsed();
    }
    Duration::from_millis(ticks.iter().sum::<u64>() * 10)
}

struct Bench {
    state: State,
    index: u64,
    before: usize,
    began: Duration,
    /// By the last entry.
    took: Duration,
}

impl Bench {
    fn new(queues: u64) -> Self {
        let before = HELD.load(Relaxed);
        let mut bench = Self {
            state: State::new(),
            index: 0,
            before,
            began: cpu(),
            took: Duration::ZERO,
        };
        bench.apply(vec![Command::Bootstrap(Bootstrap {
            cluster_id: 1,
            hash_seed: 1,
        })]);
        for queue in 0..queues {
            bench.apply(vec![Command::CreateQueue(CreateQueue {
                namespace: "default".into(),
                queue: name(queue),
                settings: QueueSettings::default(),
            })]);
        }
        bench.state.drain_changes(|_, _| {});
        bench.began = cpu();
        bench
    }

    fn apply(&mut self, commands: Vec<Command>) -> Applied {
        self.index += 1;
        let stamps = Stamps {
            lease_now: LeaseTime(self.index / 10),
            wall_now: WallTime(1_700_000_000_000 + self.index),
        };
        let entry = Entry { stamps, commands };
        let began = Instant::now();
        let applied = self.state.apply(self.index, &entry);
        self.took = began.elapsed();
        if self.index.is_multiple_of(1_000) {
            self.state.drain_changes(|_, _| {});
        }
        applied.expect("the benchmark breaks no invariant")
    }

    /// Publishes `messages` in batches, of which an entry holds so many, to queues in turn.
    fn publish(&mut self, messages: u64, batch: u32, entry: u64, queues: u64) {
        let publishes = messages / u64::from(batch);
        let mut sent = 0;
        while sent < publishes {
            let now = entry.min(publishes - sent);
            let commands = (sent..sent + now).map(|k| publish(k % queues, batch));
            self.apply(commands.collect());
            sent += now;
        }
    }

    /// Leases all that is ready, so many at a time, and hands over what was granted.
    fn lease_all(&mut self, at_once: u32, mut granted: impl FnMut(&mut Self, Grant)) {
        loop {
            let attempt = self.index.to_be_bytes().to_vec();
            let applied = self.apply(vec![Command::Receive(Receive {
                namespace: "default".into(),
                queue: name(0),
                max_messages: at_once,
                lease_ms: Some(limits::LEASE_MS_MAX),
                attempt,
            })]);
            let [Outcome::Received { grants }] = &applied.outcomes[..] else {
                panic!("{:?}", applied.outcomes);
            };
            if grants.is_empty() {
                return;
            }
            for grant in grants.clone() {
                granted(self, grant);
            }
        }
    }

    fn settle(&mut self, ranges: Vec<SettleRange>) {
        if !ranges.is_empty() {
            self.apply(vec![Command::Settle(Settle { ranges })]);
        }
    }

    /// Removes all that is ready or delayed in the first queue; the time of the slowest command.
    fn purge(&mut self) -> Duration {
        let (mut rest, mut slowest) = (None, Duration::ZERO);
        loop {
            let applied = self.apply(vec![Command::PurgeQueue(PurgeQueue {
                namespace: "default".into(),
                queue: name(0),
                include_delayed: true,
                rest,
            })]);
            slowest = slowest.max(self.took);
            let [Outcome::Purged { rest: left, .. }] = &applied.outcomes[..] else {
                panic!("{:?}", applied.outcomes);
            };
            rest = *left;
            if rest.is_none() {
                return slowest;
            }
        }
    }

    /// Measures what is there now; `bound` is in bytes per message.
    fn report(mut self, what: &str, messages: u64, bound: f64) {
        let took = cpu() - self.began;
        self.state.drain_changes(|_, _| {});
        let held = HELD.load(Relaxed) - self.before;
        let began = cpu();
        let rows = self.state.rows();
        let (count, written) = (rows.len(), cpu() - began);
        let began = cpu();
        let restored = State::restore(rows).expect("rows of a state");
        let read = cpu() - began;
        assert_eq!(restored.digest(), self.state.digest());
        drop(restored);
        let slowest = self.purge();
        println!(
            "{what:<42} {:>7.2} B/msg {:>6.0} ns/msg {count:>9} rows, {:>5} ms to rows, \
             {:>5} ms back, {:.1} ms a purge at most",
            held as f64 / messages as f64,
            took.as_nanos() as f64 / messages as f64,
            written.as_millis(),
            read.as_millis(),
            slowest.as_secs_f64() * 1e3,
        );
        let most = bound * messages as f64 + FIXED_BYTES;
        assert!(
            held as f64 <= most,
            "{what}: {held} bytes for {messages} messages"
        );
    }
}

fn name(queue: u64) -> String {
    format!("queue {queue}")
}

fn publish(queue: u64, count: u32) -> Command {
    Command::Publish(Publish {
        namespace: "default".into(),
        producer: None,
        atomic: false,
        runs: vec![PublishRun {
            routing_key: name(queue),
            count,
            bytes: u64::from(count) * 120,
            mandatory: true,
        }],
    })
}

fn settle(grant: &Grant, skip: u32, count: u32, kind: SettleKind) -> SettleRange {
    SettleRange {
        queue: grant.queue,
        first_offset: grant.first_offset.plus(u64::from(skip)),
        count,
        first_fence: Fence(grant.first_fence.0 + u64::from(skip)),
        kind,
    }
}

/// What a state takes that is not per message.
const FIXED_BYTES: f64 = 64.0 * 1024.0;

const NACK: SettleKind = SettleKind::Nack { delay_ms: None };

#[test]
fn a_message_costs_little() {
    let given = std::env::var("TICKETRAIL_BACKLOG_MESSAGES").ok();
    let n: u64 = given.map_or(20_000, |n| n.parse().unwrap());
    as_it_was_published(n);
    leased(n);
    returned(n);
}

fn as_it_was_published(n: u64) {
    let mut bench = Bench::new(1);
    bench.publish(n, 50, 100, 1);
    bench.report("batches of 50, 100 an entry", n, 0.5);

    let mut bench = Bench::new(1);
    bench.publish(n, 1, 200, 1);
    bench.report("one by one, 200 an entry", n, 0.5);

    let mut bench = Bench::new(1);
    bench.publish(n, 1, 1, 1);
    bench.report("one by one, an entry each", n, 8.0);

    let mut bench = Bench::new(7);
    bench.publish(n, 1, 3, 7);
    bench.report("one by one to 7 queues, 3 an entry", n, 8.0);

    let queues = n / 10;
    let mut bench = Bench::new(queues);
    bench.publish(n, 1, 200, queues);
    bench.report("queues of 10", n, 120.0);
}

fn leased(n: u64) {
    let mut bench = Bench::new(1);
    bench.publish(n, 50, 100, 1);
    bench.lease_all(1_000, |_, _| {});
    bench.report("leased, 1,000 at a time", n, 1.0);

    let mut bench = Bench::new(1);
    bench.publish(n, 50, 100, 1);
    bench.lease_all(1, |_, _| {});
    // Mostly the receive attempts that are remembered.
    bench.report("leased one by one", n, 250.0);

    let mut bench = Bench::new(1);
    bench.publish(n, 1, 200, 1);
    bench.lease_all(200, |bench, grant| {
        bench.settle(vec![settle(&grant, 0, grant.count, SettleKind::Ack)]);
    });
    bench.report("published one by one, drained", n, 4.0);
}

fn returned(n: u64) {
    let mut bench = Bench::new(1);
    bench.publish(n, 50, 100, 1);
    let mut back = Vec::new();
    bench.lease_all(1_000, |_, grant| {
        back.push(settle(&grant, 0, grant.count, NACK))
    });
    for ranges in back.chunks(100) {
        bench.settle(ranges.to_vec());
    }
    drop(back);
    bench.report("all granted once and nacked", n, 4.0);

    let mut bench = Bench::new(1);
    bench.publish(n, 50, 100, 1);
    let later = SettleKind::Nack {
        delay_ms: Some(3_600_000),
    };
    let mut back = Vec::new();
    bench.lease_all(1_000, |_, grant| {
        back.push(settle(&grant, 0, grant.count, later))
    });
    for ranges in back.chunks(100) {
        bench.settle(ranges.to_vec());
    }
    drop(back);
    bench.report("all nacked with a delay", n, 4.0);

    let mut bench = Bench::new(1);
    bench.publish(n, 50, 100, 1);
    let mut rest = Vec::new();
    bench.lease_all(1_000, |bench, grant| {
        let second = |k: u32| settle(&grant, 2 * k, 1, SettleKind::Ack);
        bench.settle((0..grant.count / 2).map(second).collect());
        let first = |k: u32| settle(&grant, 2 * k + 1, 1, NACK);
        rest.extend((0..grant.count / 2).map(first));
    });
    for ranges in rest.chunks(1_000) {
        bench.settle(ranges.to_vec());
    }
    drop(rest);
    bench.report("every second acked, the rest nacked", n / 2, 200.0);
}
