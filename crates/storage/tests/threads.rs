//! The log as production runs it: a writer thread, a preparer thread, several callers, a real folder.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ticketrail_storage::sim::SimDisk;
use ticketrail_storage::{Disk, Identity, Log, LogConfig, OsDisk, Record, StorageError, identity};

const ENTRIES: u64 = 2000;

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 64 << 10,
        cache_bytes: 16 << 10,
        spare_segments_max: 2,
        ..LogConfig::new(7, 1)
    }
}

fn payload(index: u64) -> Bytes {
    let length = 50 + (index * 37 % 900) as usize;
    [index.to_le_bytes().to_vec(), vec![index as u8; length]]
        .concat()
        .into()
}

struct Running {
    log: Log,
    writer: thread::JoinHandle<std::io::Result<()>>,
}

impl Running {
    fn start(disk: Arc<dyn Disk>) -> Self {
        let (log, writer, _) = Log::open(disk, config()).unwrap();
        Self {
            log,
            writer: thread::spawn(move || writer.run()),
        }
    }

    fn stop(self) {
        self.log.close();
        self.writer.join().unwrap().unwrap();
    }
}

/// Waits until `condition` holds; the limit only ends a test that would fail anyway.
fn wait_until(condition: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < limit, "the condition never held");
        thread::yield_now();
    }
}

/// Four callers append, one reads, one purges and recycles.
fn work(log: &Log, entries: u64) {
    let next = Mutex::new(log.state().last.map_or(0, |last| last.index + 1));
    let acknowledged = AtomicU64::new(0);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let appenders: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let (told, hear) = mpsc::channel();
                    for _ in 0..entries / 4 {
                        let told = told.clone();
                        {
                            let mut next = next.lock().unwrap();
                            let record = Record {
                                group: 0,
                                term: 1,
                                index: *next,
                                payload: payload(*next),
                            };
                            log.append(
                                vec![record],
                                Box::new(move |result| told.send(result.is_ok()).unwrap()),
                            );
                            *next += 1;
                        }
                        assert!(hear.recv().unwrap());
                        acknowledged.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                let state = log.state();
                for record in log
                    .read_range(state.first_index..u64::MAX, 100_000)
                    .unwrap()
                {
                    assert_eq!(record.payload, payload(record.index));
                }
            }
        });
        scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                let state = log.state();
                if let Some(durable) = state
                    .durable_index
                    .filter(|durable| *durable > state.first_index + 300)
                {
                    log.purge(durable - 200, 1, Box::new(|result| result.unwrap()));
                }
                log.recycle(|first, last| (first..=last).any(|index| index % 1000 < 3))
                    .unwrap();
                thread::yield_now();
            }
        });
        for appender in appenders {
            appender.join().unwrap();
        }
        ended.store(true, Ordering::SeqCst);
    });
    assert_eq!(acknowledged.load(Ordering::SeqCst), entries);
}

fn check(log: &Log, last_index: u64) {
    let state = log.state();
    assert_eq!(state.last.unwrap().index, last_index);
    let found = log
        .read_range(state.first_index..u64::MAX, usize::MAX)
        .unwrap();
    assert_eq!(found.len() as u64, last_index + 1 - state.first_index);
    for record in found {
        assert_eq!(record.payload, payload(record.index));
    }
    for kept in (0..last_index).filter(|index| index % 1000 < 3) {
        assert_eq!(log.read_body(kept).unwrap(), payload(kept));
    }
}

fn run_twice(open: impl Fn() -> Arc<dyn Disk>) {
    for round in 1..=2 {
        let running = Running::start(open());
        work(&running.log, ENTRIES);
        check(&running.log, round * ENTRIES - 1);
        running.stop();
        let (log, _writer, report) = Log::open(open(), config()).unwrap();
        assert!(report.cut.is_empty());
        check(&log, round * ENTRIES - 1);
    }
}

#[test]
fn callers_readers_and_the_recycler_work_at_once() {
    let folder = tempfile::tempdir().unwrap();
    run_twice(|| Arc::new(OsDisk::new(folder.path()).unwrap()));
    let names = OsDisk::new(folder.path()).unwrap().list().unwrap();
    assert!(
        names
            .iter()
            .filter(|name| name.starts_with("spare-"))
            .count()
            <= 2
    );
    assert!(names.len() < 60, "segments are not recycled: {names:?}");
}

#[cfg(feature = "power-cut")]
#[test]
fn a_power_cut_loses_only_what_was_not_acknowledged() {
    use ticketrail_storage::disk::PowerCutDisk;
    let folder = tempfile::tempdir().unwrap();
    run_twice(|| Arc::new(PowerCutDisk::new(folder.path()).unwrap()));
}

/// The newest segment of a log that was left alone for a while.
fn newest_segment(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let disk = OsDisk::new(folder).unwrap();
    let names = disk
        .list()
        .unwrap()
        .into_iter()
        .filter(|name| name.starts_with("log-") && !name.contains("new"));
    names
        .map(|name| (name.clone(), std::fs::read(folder.join(name)).unwrap()))
        .collect()
}

#[test]
fn after_idleness_damage_to_the_last_entry_is_damage_and_not_a_torn_tail() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(Arc::new(OsDisk::new(folder.path()).unwrap()));
    let (told, hear) = mpsc::channel();
    let record = Record {
        group: 0,
        term: 1,
        index: 0,
        payload: payload(0),
    };
    running.log.append(
        vec![record],
        Box::new(move |result| told.send(result.is_ok()).unwrap()),
    );
    assert!(hear.recv().unwrap());
    let markers = || {
        newest_segment(folder.path())
            .values()
            .flat_map(|bytes| bytes.chunks(512))
            .filter(|sector| sector.starts_with(b"TRB1"))
            .count()
    };
    wait_until(|| markers() == 2);
    // The machine stops here, so to say: the bytes are taken as they are now.
    let copy = tempfile::tempdir().unwrap();
    for name in OsDisk::new(folder.path()).unwrap().list().unwrap() {
        std::fs::copy(folder.path().join(&name), copy.path().join(&name)).unwrap();
    }
    running.stop();
    let (name, mut bytes) = newest_segment(copy.path())
        .into_iter()
        .find(|(_, bytes)| bytes[512..].starts_with(b"TRB1"))
        .unwrap();
    bytes[512 + 150] ^= 1;
    std::fs::write(copy.path().join(&name), bytes).unwrap();
    let error = Log::open(Arc::new(OsDisk::new(copy.path()).unwrap()), config())
        .err()
        .unwrap();
    let text = error.to_string();
    assert!(
        error.is_data_loss() && text.contains(&name) && text.contains("rejoin"),
        "{text}"
    );
}

#[test]
fn two_processes_cannot_hold_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let owner = Identity {
        cluster_id: 7,
        node_id: 1,
    };
    let held = identity::open(&OsDisk::new(folder.path()).unwrap(), owner).unwrap();
    let second = identity::open(&OsDisk::new(folder.path()).unwrap(), owner);
    assert!(matches!(second, Err(StorageError::Locked)));
    drop(held);
    identity::open(&OsDisk::new(folder.path()).unwrap(), owner).unwrap();
}

#[test]
fn dropping_the_last_handle_ends_the_writer() {
    let folder = tempfile::tempdir().unwrap();
    let Running { log, writer } = Running::start(Arc::new(OsDisk::new(folder.path()).unwrap()));
    log.append(
        vec![Record {
            group: 0,
            term: 1,
            index: 0,
            payload: payload(0),
        }],
        Box::new(|result| result.unwrap()),
    );
    drop(log);
    writer.join().unwrap().unwrap();
    let (log, _writer, _) =
        Log::open(Arc::new(OsDisk::new(folder.path()).unwrap()), config()).unwrap();
    assert_eq!(log.read(0).unwrap().unwrap().payload, payload(0));
}

/// Appends entries of 1 KB and tells each answer.
fn append_all(log: &Log, indexes: Range<u64>) -> mpsc::Receiver<bool> {
    let (told, hear) = mpsc::channel();
    for index in indexes {
        let told = told.clone();
        let record = Record {
            group: 0,
            term: 1,
            index,
            payload: Bytes::from(vec![index as u8; 1_000]),
        };
        // An error means that the test is over.
        log.append(
            vec![record],
            Box::new(move |result| {
                let _ = told.send(result.is_ok());
            }),
        );
    }
    hear
}

#[test]
fn a_folder_that_was_just_let_go_is_no_other_process_s() {
    let folder = tempfile::tempdir().unwrap();
    let disk = OsDisk::new(folder.path()).unwrap();
    let held = disk.lock().unwrap();
    assert!(disk.lock().is_err(), "as long as it is held");
    thread::scope(|scope| {
        let (begins, begun) = mpsc::channel();
        let disk = &disk;
        let next = scope.spawn(move || {
            begins.send(()).unwrap();
            disk.lock().map(drop)
        });
        begun.recv().unwrap();
        drop(held);
        next.join().unwrap().unwrap();
    });
}

#[test]
fn a_full_disk_is_waited_out() {
    let disk = Arc::new(SimDisk::new(1));
    // Two segments and a bit, where the entries take five.
    disk.set_capacity(Some(160 << 10));
    let running = Running::start(disk.clone());
    // What is drained together is answered together: only the second part meets the end of the disk.
    let first = append_all(&running.log, 0..50);
    for _ in 0..50 {
        assert!(first.recv_timeout(Duration::from_secs(20)).unwrap());
    }
    let second = append_all(&running.log, 50..300);
    assert_eq!(running.log.failed(), None);
    disk.set_capacity(None);
    for _ in 50..300 {
        assert!(second.recv_timeout(Duration::from_secs(20)).unwrap());
    }
    running.stop();
}

#[test]
fn a_log_that_waits_for_room_can_be_closed() {
    let disk = Arc::new(SimDisk::new(1));
    disk.set_capacity(Some(160 << 10));
    let running = Running::start(disk);
    let first = append_all(&running.log, 0..1);
    assert!(first.recv_timeout(Duration::from_secs(20)).unwrap());
    let waiting = append_all(&running.log, 1..300);
    running.log.close();
    let ended = running.writer.join().unwrap();
    assert!(ended.is_err(), "what waited was not written");
    assert!(waiting.iter().any(|stored| !stored));
}
