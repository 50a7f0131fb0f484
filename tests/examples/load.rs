//! Load for first figures: `cargo run --release -p ticketrail-tests --example load -- MODE [--seconds 60] ...`
//!
//! Speaks the generated stubs directly, so that the driver costs as little as it can. Prints one line of
//! JSON: messages per second, latency, server CPU per message (of the processes named by `--pids`),
//! resident memory and bytes written.
//!
//! Modes: `e2e` (publish, deliver, ack), `publish` (into a growing backlog), `sync` (one confirm at a
//! time), `drain` (publish a backlog, then measure emptying it).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use ticketrail_proto::v1::consume_request::Frame as ToConsumer;
use ticketrail_proto::v1::consume_response::Frame as FromConsumer;
use ticketrail_proto::v1::consumer_service_client::ConsumerServiceClient;
use ticketrail_proto::v1::publish_stream_request::Frame as ToPublisher;
use ticketrail_proto::v1::publish_stream_response::Frame as FromPublisher;
use ticketrail_proto::v1::publisher_service_client::PublisherServiceClient;
use ticketrail_proto::v1::queue_admin_service_client::QueueAdminServiceClient;
use ticketrail_proto::v1::topology_service_client::TopologyServiceClient;
use ticketrail_proto::v1::{
    ConsumeOpen, ConsumeRequest, ConsumeSettlement, CreateQueueRequest, Message, PublishBatch,
    PublishItem, PublishOpen, PublishStreamRequest, PurgeQueueRequest, SettleKind, SettleRange,
};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

#[derive(Parser, Clone)]
struct Options {
    /// e2e, publish, sync or drain.
    mode: String,
    #[arg(
        long,
        default_value = "http://127.0.0.1:7400,http://127.0.0.1:7401,http://127.0.0.1:7402"
    )]
    endpoints: String,
    /// Measured seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seconds of load before measuring.
    #[arg(long, default_value_t = 10)]
    warmup: u64,
    #[arg(long, default_value_t = 8)]
    producers: usize,
    #[arg(long, default_value_t = 8)]
    consumers: usize,
    /// Body bytes.
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Messages of one frame.
    #[arg(long, default_value_t = 50)]
    batch: usize,
    /// Unconfirmed messages of one producer.
    #[arg(long, default_value_t = 500)]
    window: usize,
    /// Unsettled messages of one consumer.
    #[arg(long, default_value_t = 1000)]
    prefetch: u32,
    /// Messages to drain.
    #[arg(long, default_value_t = 200_000)]
    count: u64,
    #[arg(long, default_value = "load")]
    queue: String,
    /// Server processes, comma separated: their CPU and memory are read from /proc.
    #[arg(long, default_value = "")]
    pids: String,
    /// The disk of their data, as in /proc/diskstats: what all on this machine write to it is counted. (A
    /// process's own `write_bytes` counts whole page cache folios, far more than reaches a disk.)
    #[arg(long, default_value = "vda")]
    device: String,
}

#[derive(Default)]
struct Counts {
    published: AtomicU64,
    received: AtomicU64,
    stop: AtomicBool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let endpoints: Vec<String> = options.endpoints.split(',').map(str::to_owned).collect();
    prepare(&endpoints[0], &options.queue).await?;
    let counts = Arc::new(Counts::default());
    if options.mode == "sync" {
        return sync(&endpoints[0], &options, &counts).await;
    }
    let drain = options.mode == "drain";
    let mut tasks = Vec::new();
    for place in 0..options.producers {
        let endpoint = endpoints[place % endpoints.len()].clone();
        tasks.push(tokio::spawn(produce(
            endpoint,
            options.clone(),
            Arc::clone(&counts),
        )));
    }
    if drain {
        while counts.published.load(Relaxed) < options.count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        counts.stop.store(true, Relaxed);
        for task in tasks.drain(..) {
            task.await??;
        }
        counts.stop.store(false, Relaxed);
    }
    if options.mode != "publish" {
        for place in 0..options.consumers {
            let endpoint = endpoints[(place + 1) % endpoints.len()].clone();
            tasks.push(tokio::spawn(consume(
                endpoint,
                options.clone(),
                Arc::clone(&counts),
            )));
        }
    }
    let counter = if options.mode == "publish" {
        &counts.published
    } else {
        &counts.received
    };
    let report = if drain {
        let target = counts.published.load(Relaxed);
        measure_until(&options, counter, |done| done >= target).await
    } else {
        tokio::time::sleep(Duration::from_secs(options.warmup)).await;
        let end = Instant::now() + Duration::from_secs(options.seconds);
        measure_until(&options, counter, |_| Instant::now() >= end).await
    };
    counts.stop.store(true, Relaxed);
    println!("{report}");
    std::process::exit(0);
}

async fn channel(endpoint: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(endpoint.to_owned())?
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .tcp_nodelay(true);
    Ok(endpoint.connect().await?)
}

async fn prepare(endpoint: &str, queue: &str) -> anyhow::Result<()> {
    let channel = channel(endpoint).await?;
    let create = CreateQueueRequest {
        name: queue.to_owned(),
        ..Default::default()
    };
    TopologyServiceClient::new(channel.clone())
        .create_queue(create)
        .await?;
    let purge = PurgeQueueRequest {
        queue: queue.to_owned(),
        ..Default::default()
    };
    QueueAdminServiceClient::new(channel)
        .purge_queue(purge)
        .await?;
    Ok(())
}

async fn produce(endpoint: String, options: Options, counts: Arc<Counts>) -> anyhow::Result<()> {
    let mut client = PublisherServiceClient::new(channel(&endpoint).await?);
    let (frames, requests) = mpsc::channel(16);
    frames
        .send(publish_frame(ToPublisher::Open(PublishOpen::default())))
        .await?;
    let mut answers = client
        .publish_stream(ReceiverStream::new(requests))
        .await?
        .into_inner();
    let window = Arc::new(Semaphore::new(options.window));
    let confirmed = Arc::clone(&window);
    let counting = Arc::clone(&counts);
    let reader = tokio::spawn(async move {
        let mut through = 0;
        while let Some(answer) = answers.message().await? {
            if let Some(FromPublisher::Confirm(confirm)) = answer.frame {
                anyhow::ensure!(confirm.exceptions.is_empty(), "{:?}", confirm.exceptions);
                let count = confirm.through_sequence - through;
                through = confirm.through_sequence;
                counting.published.fetch_add(count, Relaxed);
                confirmed.add_permits(count as usize);
            }
        }
        anyhow::Ok(())
    });
    let body = Bytes::from(vec![b'x'; options.size]);
    let item = PublishItem {
        routing_key: options.queue.clone(),
        mandatory: true,
        message: Some(Message {
            body,
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut sequence = 1;
    while !counts.stop.load(Relaxed) {
        window.acquire_many(options.batch as u32).await?.forget();
        let items = vec![item.clone(); options.batch];
        let batch = PublishBatch {
            first_sequence: sequence,
            items,
        };
        sequence += options.batch as u64;
        if frames
            .send(publish_frame(ToPublisher::Batch(batch)))
            .await
            .is_err()
        {
            break;
        }
    }
    drop(frames);
    reader.await?
}

fn publish_frame(frame: ToPublisher) -> PublishStreamRequest {
    PublishStreamRequest { frame: Some(frame) }
}

async fn consume(endpoint: String, options: Options, counts: Arc<Counts>) -> anyhow::Result<()> {
    let mut client = ConsumerServiceClient::new(channel(&endpoint).await?);
    let (frames, requests) = mpsc::channel(64);
    let open = ConsumeOpen {
        queue: options.queue.clone(),
        prefetch: Some(options.prefetch),
        ..Default::default()
    };
    frames
        .send(ConsumeRequest {
            frame: Some(ToConsumer::Open(open)),
        })
        .await?;
    let mut answers = client
        .consume(ReceiverStream::new(requests))
        .await?
        .into_inner();
    while let Some(answer) = answers.message().await? {
        let Some(FromConsumer::Deliveries(batch)) = answer.frame else {
            continue;
        };
        let (Some(first), Some(last)) = (batch.deliveries.first(), batch.deliveries.last()) else {
            continue;
        };
        let range = SettleRange {
            first_delivery_id: first.delivery_id,
            last_delivery_id: last.delivery_id,
            kind: SettleKind::Ack as i32,
            ..Default::default()
        };
        counts
            .received
            .fetch_add(batch.deliveries.len() as u64, Relaxed);
        let settlement = ConsumeSettlement {
            ranges: vec![range],
        };
        let frame = ConsumeRequest {
            frame: Some(ToConsumer::Settlement(settlement)),
        };
        if frames.send(frame).await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn sync(endpoint: &str, options: &Options, counts: &Counts) -> anyhow::Result<()> {
    let mut client = PublisherServiceClient::new(channel(endpoint).await?);
    let (frames, requests) = mpsc::channel(4);
    frames
        .send(publish_frame(ToPublisher::Open(PublishOpen::default())))
        .await?;
    let mut answers = client
        .publish_stream(ReceiverStream::new(requests))
        .await?
        .into_inner();
    let body = Bytes::from(vec![b'x'; options.size]);
    let item = PublishItem {
        routing_key: options.queue.clone(),
        message: Some(Message {
            body,
            ..Default::default()
        }),
        ..Default::default()
    };
    let start = Instant::now();
    let warm = start + Duration::from_secs(options.warmup);
    let end = warm + Duration::from_secs(options.seconds);
    let mut latencies = Vec::new();
    let before = Usage::of(&options.pids, &options.device);
    let mut sequence = 0;
    while Instant::now() < end {
        sequence += 1;
        let batch = PublishBatch {
            first_sequence: sequence,
            items: vec![item.clone()],
        };
        let sent = Instant::now();
        frames
            .send(publish_frame(ToPublisher::Batch(batch)))
            .await?;
        loop {
            let answer = answers
                .message()
                .await?
                .ok_or_else(|| anyhow::anyhow!("stream ended"))?;
            if matches!(answer.frame, Some(FromPublisher::Confirm(confirm)) if confirm.through_sequence >= sequence)
            {
                break;
            }
        }
        counts.published.fetch_add(1, Relaxed);
        if sent > warm {
            latencies.push(sent.elapsed());
        }
    }
    let usage = Usage::of(&options.pids, &options.device).since(
        &before,
        start.elapsed(),
        sequence,
        options.size,
    );
    latencies.sort_unstable();
    let at = |share: f64| {
        latencies[((latencies.len() as f64 * share) as usize).min(latencies.len() - 1)]
            .as_secs_f64()
            * 1e3
    };
    println!(
        "{{\"mode\":\"sync\",\"size\":{},\"samples\":{},\"p50_ms\":{:.3},\"p99_ms\":{:.3},\"p999_ms\":{:.3},{usage}}}",
        options.size,
        latencies.len(),
        at(0.5),
        at(0.99),
        at(0.999)
    );
    Ok(())
}

async fn measure_until(
    options: &Options,
    counter: &AtomicU64,
    done: impl Fn(u64) -> bool,
) -> String {
    let (start, first) = (Instant::now(), counter.load(Relaxed));
    let before = Usage::of(&options.pids, &options.device);
    let mut shown = Instant::now();
    let mut shown_count = first;
    while !done(counter.load(Relaxed)) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        if shown.elapsed() > Duration::from_secs(5) {
            let now = counter.load(Relaxed);
            eprintln!(
                "{:.0} msgs/s",
                (now - shown_count) as f64 / shown.elapsed().as_secs_f64()
            );
            (shown, shown_count) = (Instant::now(), now);
        }
    }
    let elapsed = start.elapsed();
    let messages = counter.load(Relaxed) - first;
    let usage =
        Usage::of(&options.pids, &options.device).since(&before, elapsed, messages, options.size);
    format!(
        "{{\"mode\":\"{}\",\"size\":{},\"producers\":{},\"consumers\":{},\"seconds\":{:.1},\"messages\":{messages},\"msgs_per_s\":{:.0},{usage}}}",
        options.mode,
        options.size,
        options.producers,
        options.consumers,
        elapsed.as_secs_f64(),
        messages as f64 / elapsed.as_secs_f64(),
    )
}

/// What the server processes used.
#[derive(Default)]
struct Usage {
    cpu_us: f64,
    resident_mib: Vec<u64>,
    written: u64,
}

impl Usage {
    fn of(pids: &str, device: &str) -> Self {
        let mut usage = Self::default();
        for pid in pids.split(',').filter(|pid| !pid.is_empty()) {
            let read = |name: &str| {
                std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default()
            };
            let stat = read("stat");
            let after_name = stat.rsplit(')').next().unwrap_or("");
            let ticks: u64 = after_name
                .split_whitespace()
                .skip(11)
                .take(2)
                .filter_map(|field| field.parse::<u64>().ok())
                .sum();
            usage.cpu_us += ticks as f64 * 10_000.0;
            let pages: u64 = read("statm")
                .split_whitespace()
                .nth(1)
                .and_then(|n| n.parse().ok())
                .unwrap_or(0);
            usage.resident_mib.push(pages * 4 / 1024);
        }
        let disks = std::fs::read_to_string("/proc/diskstats").unwrap_or_default();
        let sectors = disks.lines().find_map(|line| {
            let mut fields = line.split_whitespace();
            (fields.nth(2) == Some(device)).then(|| fields.nth(6))?
        });
        usage.written = sectors.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 512;
        usage
    }

    fn since(&self, before: &Self, elapsed: Duration, messages: u64, size: usize) -> String {
        let messages = messages.max(1) as f64;
        let cpu_us = self.cpu_us - before.cpu_us;
        format!(
            "\"server_cpu_us_per_msg\":{:.1},\"server_cores\":{:.2},\"rss_mib\":{:?},\"written_per_byte\":{:.2}",
            cpu_us / messages,
            cpu_us / 1e6 / elapsed.as_secs_f64(),
            self.resident_mib,
            (self.written - before.written) as f64 / (messages * size as f64),
        )
    }
}
