//! One fault at a time: what the log says, and what it leaves alone.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ticketrail_storage::sim::{Fault, OpKind, SimDisk, StopPoint};
use ticketrail_storage::{Disk, Log, LogConfig, LogWriter, Record, StorageError};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: (8 << 10) + 512,
        cache_bytes: 0,
        ..LogConfig::new(7, 1)
    }
}

fn open(disk: &SimDisk) -> (Log, LogWriter) {
    let (log, writer, _) = Log::open(Arc::new(disk.clone()), config()).unwrap();
    (log, writer)
}

fn refusal(disk: &SimDisk) -> StorageError {
    Log::open(Arc::new(disk.clone()), config())
        .err()
        .expect("this start must be refused")
}

fn record(index: u64, length: usize) -> Record {
    Record {
        group: 0,
        term: 1,
        index,
        payload: vec![index as u8 + 1; length].into(),
    }
}

type Answers = Arc<Mutex<Vec<Result<(), String>>>>;

fn append(log: &Log, records: Vec<Record>, answers: &Answers) {
    let answers = answers.clone();
    let done = move |result: std::io::Result<()>| {
        answers
            .lock()
            .unwrap()
            .push(result.map_err(|error| error.to_string()));
    };
    log.append(records, Box::new(done));
}

/// A log with `count` entries of 1,000 bytes, each in a batch of its own, and a marker.
fn filled(count: u64) -> SimDisk {
    let disk = SimDisk::new(1);
    let (log, mut writer) = open(&disk);
    for index in 0..count {
        append(&log, vec![record(index, 1000)], &Answers::default());
        assert!(writer.step());
    }
    writer.mark_idle();
    disk.kill();
    disk
}

fn live_segments(disk: &SimDisk) -> Vec<String> {
    disk.list()
        .unwrap()
        .into_iter()
        .filter(|name| name.starts_with("log-"))
        .collect()
}

#[test]
fn a_refused_write_or_sync_stops_the_log_for_good() {
    for (kind, os_error) in [
        (OpKind::Write, EIO),
        (OpKind::Write, ENOSPC),
        (OpKind::Sync, EIO),
    ] {
        let disk = filled(3);
        let (log, mut writer) = open(&disk);
        let told = Arc::new(AtomicBool::new(false));
        let hook = told.clone();
        log.on_failure(Box::new(move |_| {
            assert!(!hook.swap(true, Ordering::SeqCst))
        }));
        // One refusal only: what comes after it would succeed, and must not be tried.
        disk.add_fault(Fault {
            kind,
            name_prefix: "log-".to_owned(),
            skip: 0,
            count: 1,
            os_error,
        });
        let answers = Answers::default();
        append(&log, vec![record(3, 10)], &answers);
        assert!(writer.step());
        append(&log, vec![record(4, 10)], &answers);
        writer.step();
        writer.mark_idle();
        log.save_vote(
            Bytes::from_static(b"vote"),
            Box::new(|result| assert!(result.is_err())),
        );
        let answers = answers.lock().unwrap();
        assert_eq!(answers.len(), 2);
        assert!(answers.iter().all(|answer| {
            answer
                .as_ref()
                .unwrap_err()
                .contains(&format!("os error {os_error}"))
        }));
        assert!(told.load(Ordering::SeqCst));
        assert!(log.failed().unwrap().contains("os error"));
        assert!(matches!(
            log.recycle(|_, _| false),
            Err(StorageError::Stopped { .. })
        ));
        let late = Arc::new(AtomicBool::new(false));
        let hook = late.clone();
        log.on_failure(Box::new(move |_| hook.store(true, Ordering::SeqCst)));
        assert!(
            late.load(Ordering::SeqCst),
            "who asks late must hear of it too"
        );
    }
}

#[test]
fn a_full_disk_stops_the_log_when_it_needs_a_segment() {
    let disk = filled(3);
    disk.set_capacity(Some(40 << 10));
    let (log, mut writer) = open(&disk);
    let answers = Answers::default();
    for index in 3..20 {
        append(&log, vec![record(index, 1000)], &answers);
        writer.step();
    }
    let answers = answers.lock().unwrap();
    let acknowledged = answers.iter().take_while(|answer| answer.is_ok()).count();
    assert!(acknowledged > 0 && answers[acknowledged..].iter().all(Result::is_err));
    assert!(
        answers[acknowledged]
            .as_ref()
            .unwrap_err()
            .contains("os error 28")
    );
    disk.crash(1);
    let (log, _writer) = open(&disk);
    assert!(log.state().durable_index.unwrap() >= 2 + acknowledged as u64);
}

#[test]
fn a_refused_read_is_told_and_nothing_more() {
    let disk = filled(3);
    let (log, mut writer) = open(&disk);
    disk.add_fault(Fault {
        kind: OpKind::Read,
        name_prefix: "log-".to_owned(),
        skip: 0,
        count: 1,
        os_error: EIO,
    });
    assert!(matches!(log.read(1), Err(StorageError::Io { .. })));
    assert_eq!(log.read(1).unwrap().unwrap(), record(1, 1000));
    let answers = Answers::default();
    append(&log, vec![record(3, 10)], &answers);
    writer.step();
    assert_eq!(*answers.lock().unwrap(), [Ok(())]);
}

#[test]
fn damage_names_file_offset_indexes_and_the_way_back() {
    let disk = filled(4);
    let first = &live_segments(&disk)[0];
    // Header sector, then a batch of three sectors for each entry: this is in the second one.
    disk.flip(first, 512 + 3 * 512 + 700, 1);
    let error = refusal(&disk);
    let StorageError::DataLoss {
        file,
        offset,
        first_index,
        ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(
        (file, *offset, *first_index),
        (first, 512 + 3 * 512, Some(1))
    );
    let text = error.to_string();
    for word in [
        "DATA_LOSS",
        first.as_str(),
        "2048",
        "indexes from 1",
        "rejoin",
        "new node id",
    ] {
        assert!(text.contains(word), "`{word}` is missing in: {text}");
    }
}

#[test]
fn a_start_takes_complete_segments_at_their_word_and_they_are_read_after_it() {
    let disk = filled(20);
    let complete = live_segments(&disk)[0].clone();
    // In its second batch, as above.
    disk.flip(&complete, 512 + 3 * 512 + 700, 1);
    let (log, _writer, report) = Log::open(Arc::new(disk.clone()), config()).unwrap();
    let sealed = log.segments().iter().filter(|found| found.sealed).count();
    assert_eq!(report.segments_trusted, sealed);
    assert!(sealed >= 3);
    assert_eq!(log.read(0).unwrap().unwrap(), record(0, 1000));
    assert!(log.read(1).unwrap_err().is_data_loss(), "it was served");
    assert_eq!(log.failed(), None);
    let error = log.check_next_segment().unwrap_err();
    let text = error.to_string();
    assert!(error.is_data_loss() && text.contains(&complete), "{text}");
    assert!(log.failed().is_some_and(|reason| reason.contains("2048")));

    // A refused read is no verdict: the same segment is read again.
    let (log, _writer) = open(&disk);
    disk.add_fault(Fault {
        kind: OpKind::Read,
        name_prefix: complete.clone(),
        skip: 0,
        count: 1,
        os_error: EIO,
    });
    assert!(!log.check_next_segment().unwrap_err().is_data_loss());
    assert!(log.check_next_segment().unwrap_err().is_data_loss());

    // A footer that fails its check is no footer: the segment is read, and found wanting.
    let disk = filled(20);
    let bytes = disk.bytes_of(&complete).unwrap();
    let seal = |at: &usize| bytes[*at..].starts_with(b"TRB1") && bytes[*at + 8] == 2;
    let seal_at = (0..bytes.len()).step_by(512).find(seal).unwrap();
    disk.flip(&complete, seal_at as u64 + 150, 1);
    assert!(refusal(&disk).is_data_loss());
}

#[test]
fn a_segment_that_is_gone_or_empty_or_another_stops_the_start() {
    let base = filled(20);
    let segments = live_segments(&base);
    assert!(segments.len() >= 4);
    for segment in &segments[..segments.len() - 1] {
        let disk = base.fork();
        disk.remove(segment).unwrap();
        assert!(refusal(&disk).is_data_loss(), "nobody misses {segment}");
        let disk = base.fork();
        disk.open(segment).unwrap().set_len(3000).unwrap();
        assert!(refusal(&disk).is_data_loss(), "{segment} was cut short");
        let disk = base.fork();
        disk.rename(segments.last().unwrap(), segment).unwrap();
        assert!(refusal(&disk).is_data_loss(), "{segment} is another one");
    }
}

#[test]
fn a_zeroed_page_stops_the_start() {
    let base = filled(4);
    let first = &live_segments(&base)[0];
    let disk = base.fork();
    disk.open(first).unwrap().write_at(&[0; 4096], 0).unwrap();
    assert!(refusal(&disk).is_data_loss());
    let disk = base.fork();
    disk.open(first)
        .unwrap()
        .write_at(&[0; 2048], 2048)
        .unwrap();
    assert!(refusal(&disk).is_data_loss());
}

#[test]
fn an_older_vote_file_does_not_come_back_unnoticed() {
    let disk = SimDisk::new(1);
    let (log, mut writer) = open(&disk);
    let vote = |text: &'static str, writer: &mut LogWriter| {
        log.save_vote(
            Bytes::from_static(text.as_bytes()),
            Box::new(|result| result.unwrap()),
        );
        assert!(writer.step());
    };
    vote("first", &mut writer);
    let old = disk.bytes_of("vote").unwrap();
    vote("second", &mut writer);
    append(&log, vec![record(0, 10)], &Answers::default());
    writer.step();
    disk.kill();
    disk.open("vote").unwrap().write_at(&old, 0).unwrap();
    let error = refusal(&disk);
    assert!(
        error.is_data_loss() && error.to_string().contains("vote"),
        "{error}"
    );
    disk.remove("vote").unwrap();
    assert!(refusal(&disk).is_data_loss());
}

#[test]
fn a_torn_tail_is_cut_kept_aside_and_told() {
    let mut cut_behind_a_hole = 0;
    let base = filled(3);
    for stop in 0..6 {
        for seed in 0..60 {
            let disk = base.fork();
            let (log, mut writer) = open(&disk);
            disk.stop_at(StopPoint::Before(disk.ops() + stop));
            // One fits what is left of the segment: a batch, the footer behind it, and the rest in the next segment.
            append(
                &log,
                (3..6).map(|index| record(index, 1000)).collect(),
                &Answers::default(),
            );
            writer.step();
            disk.crash(seed);
            let (_log, _writer, report) = Log::open(Arc::new(disk.clone()), config()).unwrap();
            for cut in &report.cut {
                let bytes = disk.bytes_of(&cut.file).unwrap();
                let range = cut.offset as usize..(cut.offset + cut.bytes) as usize;
                assert!(
                    bytes[range].iter().all(|byte| *byte == 0),
                    "what was cut must never pass for a batch again"
                );
                let kept = disk.bytes_of(&cut.kept_as).unwrap();
                assert_eq!(kept.len() as u64, cut.bytes);
                let batches = kept
                    .chunks(512)
                    .filter(|sector| sector.starts_with(b"TRB1"))
                    .count();
                assert!(batches > 0);
                cut_behind_a_hole += u64::from(batches > 1 || !kept.starts_with(b"TRB1"));
            }
            let (_log, _writer, again) = Log::open(Arc::new(disk.clone()), config()).unwrap();
            assert_eq!(again.cut, []);
        }
    }
    assert!(
        cut_behind_a_hole > 0,
        "no footer ever survived the batch that it follows"
    );
}

#[test]
fn bodies_that_an_installed_snapshot_makes_doubtful_are_never_served() {
    // Beyond the end, and of an entry that has another term here.
    for (upto, term) in [(9, 1), (3, 2)] {
        let disk = filled(4);
        let (log, mut writer) = open(&disk);
        assert_eq!(log.read_body(1).unwrap(), record(1, 1000).payload);
        let refused = |log: &Log| {
            (0..4)
                .all(|index| matches!(log.read_body(index), Err(StorageError::NoSuchEntry { .. })))
        };
        log.purge(upto, term, Box::new(|result| result.unwrap()));
        assert!(refused(&log), "served before the purge was written");
        assert!(writer.step());
        assert!(refused(&log));
        append(&log, vec![record(upto + 1, 10)], &Answers::default());
        writer.step();
        disk.crash(1);
        let (log, _writer) = open(&disk);
        assert!(refused(&log), "served after a restart");
        assert_eq!(
            log.read_body(upto + 1).unwrap(),
            record(upto + 1, 10).payload
        );
        assert_eq!(log.state().first_index, upto + 1);
    }
    // Of an entry that is held, a purge leaves the bodies.
    let disk = filled(4);
    let (log, mut writer) = open(&disk);
    log.purge(3, 1, Box::new(|result| result.unwrap()));
    writer.step();
    assert_eq!(log.read_body(1).unwrap(), record(1, 1000).payload);
}
