//! Prints what the log does on a real disk: `cargo run --release -p ticketrail-storage --example log_bench -- FOLDER [SECONDS]`.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ticketrail_storage::{Disk, Identity, Log, LogConfig, OsDisk, Record, identity};

const ENTRY_BYTES: usize = 1024;
const ENTRIES_PER_SYNC: u64 = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments
        .next()
        .ok_or("give a folder on the disk to be measured")?;
    let seconds = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(folder)?);
    let _lock = identity::open(
        &*disk,
        Identity {
            cluster_id: 1,
            node_id: 1,
        },
    )?;
    let opening = Instant::now();
    let (log, writer, report) = Log::open(disk, LogConfig::new(1, 1))?;
    let opened = opening.elapsed().as_secs_f64();
    println!(
        "opened {:.1} MB in {:.3} s",
        report.bytes as f64 / 1e6,
        opened
    );
    let writer = std::thread::spawn(move || writer.run());

    let payload = Bytes::from(vec![7; ENTRY_BYTES]);
    let (told, hear) = mpsc::sync_channel(1);
    let mut next = log.state().last.map_or(0, |last| last.index + 1);
    let mut latencies = Vec::new();
    let started = Instant::now();
    let cpu_before = cpu_seconds();
    let first = next;
    while started.elapsed() < Duration::from_secs(seconds) {
        let records: Vec<Record> = (next..next + ENTRIES_PER_SYNC)
            .map(|index| Record {
                group: 0,
                term: 1,
                index,
                payload: payload.clone(),
            })
            .collect();
        next += ENTRIES_PER_SYNC;
        let told = told.clone();
        let asked = Instant::now();
        log.append(records, Box::new(move |result| _ = told.send(result)));
        hear.recv()??;
        latencies.push(asked.elapsed());
        if next.is_multiple_of(ENTRIES_PER_SYNC * 4096) {
            log.purge(next - 1, 1, Box::new(|_| {}));
            log.recycle(|_, _| false)?;
        }
    }
    let took = started.elapsed().as_secs_f64();
    let cpu = cpu_seconds() - cpu_before;
    let entries = next - first;
    latencies.sort();
    println!(
        "{:.0} entries/s, {:.1} MB/s, {:.2} us of CPU per entry, sync p50 {:?} p99 {:?}",
        entries as f64 / took,
        entries as f64 * ENTRY_BYTES as f64 / took / 1e6,
        cpu * 1e6 / entries as f64,
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100],
    );
    log.close();
    writer.join().map_err(|_| "the writer panicked")??;
    Ok(())
}

/// User and system time of this process, from `/proc`; 0 where there is none.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    ticks / 100.0
}
