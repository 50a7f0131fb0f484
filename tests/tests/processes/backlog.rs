//! A backlog costs memory and time that are bounded: what each node holds per queued message, how fast messages come
//! and go beside a backlog as beside none, and how soon a node with one serves again.
//!
//! Figures are printed as a table. Wherever the machine is shared, ratios within one run and CPU per message are
//! what holds still.

mod load;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use load::{Fate, Messages, create_many, drain, drain_many, fill};
use ticketrail_tests::cluster::checks::conserved;
use ticketrail_tests::cluster::producer::{batch, item};
use ticketrail_tests::cluster::{Cluster, secs, until, within};

use crate::number;

const MIB: u64 = 1 << 20;
/// Of each node, in the long form.
const RESIDENT_BYTES_MAX: u64 = 512 * MIB;
/// Bytes that a node's memory may grow by a message once its caches are warm; bodies are on disk.
const GROWTH_BYTES_PER_MESSAGE_MAX: u64 = 256;
/// And what caches and allocator may still take by then.
const GROWTH_BYTES_MAX: u64 = 12 * MIB;
/// What a backlog may cost, in the long form: speed, or CPU time a message where the machine is shared...
const SPEED_RATIO_MIN: f64 = 0.8;
const CPU_RATIO_MAX: f64 = 1.25;
/// ...but never half of the speed.
const SPEED_RATIO_FLOOR: f64 = 0.5;
/// Measured so often in the long form, and the best counts: a round may take less than a second.
const ROUNDS: u32 = 3;
/// A kill -9 until the node serves again, in the long form.
const SERVES_WITHIN: Duration = secs(5);

/// What is queued.
struct Shape {
    name: &'static str,
    nodes: u64,
    queues: usize,
    messages: u64,
    body_bytes: usize,
    batch: u64,
    fate: Option<Fate>,
    /// Held to the bounds of the long form.
    is_long: bool,
}

impl Shape {
    /// `share` of the messages asked for.
    fn of(name: &'static str, share: f64, body_bytes: usize) -> Self {
        let asked = number("TICKETRAIL_BACKLOG_MESSAGES", 0);
        let small = 40_000.0 * share.max(0.5);
        Self {
            name,
            nodes: number("TICKETRAIL_BACKLOG_NODES", 3) as u64,
            queues: 1,
            messages: if asked > 0 {
                asked as f64 * share
            } else {
                small
            } as u64,
            body_bytes,
            batch: 50,
            fate: None,
            is_long: asked > 0,
        }
    }

    fn names(&self, prefix: &str, count: usize) -> Vec<String> {
        (0..count).map(|k| format!("{prefix}-{k}")).collect()
    }
}

/// Whether only the long form was asked for a shape that the short one leaves out.
fn is_long_form() -> bool {
    let asked = number("TICKETRAIL_BACKLOG_MESSAGES", 0) > 0;
    if !asked {
        println!("skipped: set TICKETRAIL_BACKLOG_MESSAGES to run it");
    }
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backlog_of_small_messages() {
    Bench::run(Shape::of("100 B", 1.0, 100)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backlog_of_1_kib_messages() {
    if is_long_form() {
        Bench::run(Shape::of("1 KiB", 0.1, 1_024)).await;
    }
}

/// A log of 4 GiB where ten million are asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backlog_of_a_long_log() {
    if is_long_form() {
        Bench::run(Shape {
            nodes: 1,
            ..Shape::of("long log, 4 KiB", 0.1, 4_096)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backlog_of_many_queues() {
    if is_long_form() {
        let shape = Shape::of("queues of 10", 0.1, 100);
        let queues = shape.messages as usize / 10;
        Bench::run(Shape { queues, ..shape }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backlog_of_single_messages_in_mixed_queues() {
    if is_long_form() {
        let shape = Shape::of("one by one, 7 queues", 0.1, 100);
        Bench::run(Shape {
            queues: 7,
            batch: 1,
            ..shape
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backlog_of_which_every_second_was_acked() {
    if is_long_form() {
        Bench::run(Shape {
            fate: Some(Fate::AckEverySecond),
            ..Shape::of("every second acked", 0.1, 100)
        })
        .await;
    }
}

/// One step of a run.
#[derive(Clone, Copy)]
struct Line {
    per_second: f64,
    /// Of all nodes together, per message.
    cpu_us: f64,
}

impl Line {
    /// The better of each.
    fn or_better(self, other: Self) -> Self {
        Self {
            per_second: self.per_second.max(other.per_second),
            cpu_us: self.cpu_us.min(other.cpu_us),
        }
    }
}

/// Publishing, draining, and both at once beside.
type Traffic = [Line; 3];

struct Bench {
    shape: Shape,
    cluster: Cluster,
    queues: Arc<Vec<String>>,
    resident_max: BTreeMap<u64, u64>,
}

impl Bench {
    async fn run(shape: Shape) {
        let builder = Cluster::builder().alone().nodes(shape.nodes);
        let cluster = builder.start().await;
        let queues = match shape.queues {
            1 => vec!["work".to_owned()],
            count => shape.names("work", count),
        };
        let mut bench = Self {
            shape,
            cluster,
            queues: Arc::new(queues),
            resident_max: BTreeMap::new(),
        };
        println!(
            "\n{}: {} messages, {} nodes\n  {:<36} {:>8} {:>10} {:>24}",
            bench.shape.name,
            bench.shape.messages,
            bench.shape.nodes,
            "",
            "msgs/s",
            "CPU us/msg",
            "confirm p50 p99 p99.9 ms"
        );
        create_many(&bench.cluster, &["live".to_owned()]).await;
        if !bench.has_many_queues() {
            create_many(&bench.cluster, &bench.queues).await;
        }
        let empty = bench.traffic("empty").await;
        bench.backlog().await;
        let backlog = bench.traffic("backlog").await;
        let before = bench.counts().await;
        bench.restart().await;
        assert_eq!(bench.counts().await, before);
        bench.purge().await;
        bench.report(empty, backlog);
    }

    /// Publishes and drains a part of the messages in their own shape, then both at once in a queue of its own.
    async fn traffic(&mut self, beside_what: &str) -> Traffic {
        let slice = (self.shape.messages / 10).clamp(5_000, 500_000);
        let beside = Messages::to("live", self.shape.body_bytes, 50);
        // Many queues are measured in fresh ones, so that there is a backlog beside them or none.
        let queues = if self.has_many_queues() {
            let names = self.shape.names(beside_what, slice as usize / 10);
            create_many(&self.cluster, &names).await;
            Arc::new(names)
        } else {
            self.queues.clone()
        };
        // Warm connections and caches, not measured.
        fill(&self.cluster, &beside, 1_000).await;
        drain(&self.cluster, "live", 1_000, Fate::Ack).await;
        let mut best: Option<Traffic> = None;
        for _ in 0..if self.shape.is_long { ROUNDS } else { 1 } {
            let [publish, drained] = self.own_slice(slice, &queues, beside_what).await;
            let (began, before) = (Instant::now(), self.cpu());
            let (times, ()) = tokio::join!(
                fill(&self.cluster, &beside, slice),
                drain(&self.cluster, "live", slice, Fate::Ack)
            );
            let what = format!("publish and drain beside, {beside_what}");
            let both = self.line(&what, slice, began, before, Some(times)).await;
            let round = [publish, drained, both];
            best = Some(match best {
                Some(best) => std::array::from_fn(|at| best[at].or_better(round[at])),
                None => round,
            });
        }
        best.expect("there is a round")
    }

    async fn own_slice(
        &mut self,
        slice: u64,
        queues: &Arc<Vec<String>>,
        beside_what: &str,
    ) -> [Line; 2] {
        let messages = Messages {
            queues: queues.clone(),
            body_bytes: self.shape.body_bytes,
            batch: self.shape.batch,
        };
        let slice = slice / queues.len() as u64 * queues.len() as u64;
        let (began, before) = (Instant::now(), self.cpu());
        let times = fill(&self.cluster, &messages, slice).await;
        let what = format!("publish, {beside_what}");
        let publish = self.line(&what, slice, began, before, Some(times)).await;
        let (began, before) = (Instant::now(), self.cpu());
        if self.has_many_queues() {
            drain_many(&self.cluster, queues).await;
        } else {
            for queue in &queues[..] {
                drain(&self.cluster, queue, slice / queues.len() as u64, Fate::Ack).await;
            }
        }
        let what = format!("drain, {beside_what}");
        let drained = self.line(&what, slice, began, before, None).await;
        [publish, drained]
    }

    fn has_many_queues(&self) -> bool {
        self.queues.len() > 100
    }

    /// Queues all messages in two halves, and holds the growth by the second to its bound.
    async fn backlog(&mut self) {
        if self.has_many_queues() {
            let (began, before) = (Instant::now(), self.cpu());
            create_many(&self.cluster, &self.queues).await;
            let count = self.queues.len() as u64;
            self.line("create a queue", count, began, before, None)
                .await;
        }
        let messages = Messages {
            queues: self.queues.clone(),
            body_bytes: self.shape.body_bytes,
            batch: self.shape.batch,
        };
        let round = self.queues.len() as u64;
        let half = self.shape.messages / 2 / round * round;
        let mut resident = Vec::new();
        for what in ["fill, first half", "fill, second half"] {
            let (began, before) = (Instant::now(), self.cpu());
            let times = fill(&self.cluster, &messages, half).await;
            self.line(what, half, began, before, Some(times)).await;
            resident.push(self.sample());
        }
        let growth = |id: &u64| resident[1][id].saturating_sub(resident[0][id]);
        let growth = self.cluster.ids().iter().map(growth).max().unwrap_or(0);
        let per_message = growth as f64 / half as f64;
        println!("  second half: {per_message:.1} bytes of memory a message");
        let most = GROWTH_BYTES_MAX + half * GROWTH_BYTES_PER_MESSAGE_MAX;
        assert!(growth <= most, "{growth} bytes more for {half} messages");
        if let Some(fate) = self.shape.fate {
            let (began, before) = (Instant::now(), self.cpu());
            drain(&self.cluster, "work", 2 * half, fate).await;
            self.line("settled one by one", 2 * half, began, before, None)
                .await;
        }
        let mut queued = 0;
        for [ready, delayed, ..] in self.counts().await {
            queued += ready + delayed;
        }
        assert!(queued > 0);
    }

    /// A follower is killed and comes back, then all are.
    async fn restart(&mut self) {
        let log_mib = folder_bytes(&self.cluster.data_dir(1)) / MIB;
        let mut took = Vec::new();
        if self.shape.nodes > 1 {
            let follower = self.cluster.follower().await;
            self.cluster.kill(follower);
            let began = Instant::now();
            self.cluster.restart(follower).await;
            took.push(began.elapsed());
        }
        self.cluster.kill_all();
        let began = Instant::now();
        for id in self.cluster.ids() {
            self.cluster.spawn(id);
        }
        until("a confirm after the restart", secs(60), async || {
            let mut clients = self.cluster.on(1);
            let request = within(secs(5), batch(vec![item("live", "first")]));
            let answer = clients.publisher.publish(request).await;
            answer.map(drop).map_err(|status| status.to_string())
        })
        .await;
        took.push(began.elapsed());
        for id in self.cluster.ids() {
            self.cluster.serves(id).await;
        }
        println!(
            "  data folder of {log_mib} MiB; a killed follower, then all together, serve after {took:.2?}"
        );
        let resident = self.sample();
        let resident: Vec<u64> = resident.values().map(|bytes| bytes / MIB).collect();
        let cpu = self.cpu();
        println!(
            "  after the restart: {resident:?} MiB resident, {cpu:.2?} of CPU time used in all"
        );
        if self.shape.is_long {
            let slowest = took.into_iter().max().unwrap_or_default();
            assert!(slowest <= SERVES_WITHIN, "it served after {slowest:?} only");
        }
    }

    /// Empties the queue at once.
    async fn purge(&mut self) {
        if self.queues.len() > 1 {
            return;
        }
        let mut clients = self.cluster.on(1);
        let began = Instant::now();
        let request = ticketrail_proto::v1::PurgeQueueRequest {
            queue: "work".to_owned(),
            include_delayed: true,
            ..Default::default()
        };
        let answer = clients.admin.purge_queue(within(secs(60), request)).await;
        let purged = answer.unwrap().into_inner();
        let took = began.elapsed();
        println!("  {} messages purged in {took:.2?}", purged.purged);
        self.sample();
    }

    /// Ready, delayed, published and acknowledged of each queue, of a hundred at most.
    async fn counts(&self) -> Vec<[u64; 4]> {
        let mut counts = Vec::new();
        for queue in self.queues.iter().step_by(self.queues.len().div_ceil(100)) {
            let stats = self.cluster.stats(queue).await;
            conserved(queue, &stats);
            let told = [
                stats.ready,
                stats.delayed,
                stats.published,
                stats.acknowledged,
            ];
            counts.push(told);
        }
        counts
    }

    fn cpu(&self) -> Duration {
        let ids = self.cluster.ids().into_iter();
        ids.map(|id| self.cluster.cpu_time(id)).sum()
    }

    fn sample(&mut self) -> BTreeMap<u64, u64> {
        let mut now = BTreeMap::new();
        for id in self.cluster.ids() {
            let bytes = self.cluster.resident_bytes(id);
            now.insert(id, bytes);
            let peak = self.cluster.resident_bytes_peak(id);
            let max = self.resident_max.entry(id).or_default();
            *max = peak.max(*max);
        }
        now
    }

    async fn line(
        &mut self,
        what: &str,
        messages: u64,
        began: Instant,
        cpu_before: Duration,
        times: Option<load::Times>,
    ) -> Line {
        let took = began.elapsed();
        let cpu = self.cpu().saturating_sub(cpu_before);
        let confirm_ms = match times {
            Some(times) => Some([
                times.at(500).await,
                times.at(990).await,
                times.at(999).await,
            ]),
            None => None,
        };
        self.sample();
        let line = Line {
            per_second: messages as f64 / took.as_secs_f64(),
            cpu_us: cpu.as_secs_f64() * 1e6 / messages as f64,
        };
        let confirm = confirm_ms.map_or(String::new(), |[p50, p99, p999]| {
            format!("{p50:.1} {p99:.1} {p999:.1}")
        });
        println!(
            "  {what:<36} {:>8.0} {:>10.1} {confirm:>24}",
            line.per_second, line.cpu_us
        );
        line
    }

    fn report(&self, empty: Traffic, backlog: Traffic) {
        println!("  with the backlog to without, at best:");
        let mut too_slow = Vec::new();
        for (at, what) in ["publish", "drain", "beside it"].into_iter().enumerate() {
            let speed = backlog[at].per_second / empty[at].per_second;
            let cpu = backlog[at].cpu_us / empty[at].cpu_us;
            println!("    {what}: {speed:.2} of the speed, {cpu:.2} of the CPU");
            if speed < SPEED_RATIO_FLOOR || (speed < SPEED_RATIO_MIN && cpu > CPU_RATIO_MAX) {
                too_slow.push(what);
            }
        }
        let resident: Vec<u64> = self.resident_max.values().map(|max| max / MIB).collect();
        println!("  at most {resident:?} MiB resident");
        if self.shape.is_long {
            let most = self.resident_max.values().max().copied().unwrap_or(0);
            assert!(most <= RESIDENT_BYTES_MAX, "{most} bytes resident");
            assert!(too_slow.is_empty(), "slower beside a backlog: {too_slow:?}");
        }
    }
}

fn folder_bytes(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => folder_bytes(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}
