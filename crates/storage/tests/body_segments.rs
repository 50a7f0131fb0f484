//! Body segments: what they hold is readable, as it was, whatever becomes of the log, of the machine, and of single bytes.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ticketrail_storage::sim::{SimDisk, StopPoint};
use ticketrail_storage::{Disk, Holder, Log, LogConfig, LogWriter, Record, StorageError};

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 8 << 10,
        cache_bytes: 1 << 10,
        spare_segments_max: 1,
        ..LogConfig::new(7, 1)
    }
}

fn open(disk: &SimDisk) -> Result<(Log, LogWriter), StorageError> {
    Log::open(Arc::new(disk.clone()), config()).map(|(log, writer, _)| (log, writer))
}

fn body(index: u64) -> Bytes {
    Bytes::from(format!("entry {index} ").repeat(3 + (index % 40) as usize))
}

/// What is kept of an entry in a body segment.
fn thinned(index: u64) -> Bytes {
    Bytes::from(format!("what is left of {index}"))
}

fn append(log: &Log, writer: &mut LogWriter, indexes: std::ops::RangeInclusive<u64>) {
    for index in indexes {
        let record = Record {
            group: 0,
            term: 1,
            index,
            payload: body(index),
        };
        log.append(vec![record], Box::new(|_| {}));
        while writer.step() {}
    }
}

fn purge(log: &Log, writer: &mut LogWriter, upto: u64, term: u64) {
    log.purge(upto, term, Box::new(|_| {}));
    while writer.step() {}
}

fn store(log: &Log, indexes: impl IntoIterator<Item = u64>) -> Result<Vec<u64>, StorageError> {
    let mut bodies = log.body_writer()?;
    for index in indexes {
        bodies.push(index, &thinned(index))?;
    }
    bodies.finish()
}

fn names(disk: &SimDisk, prefix: &str) -> Vec<String> {
    let names = disk.list().unwrap().into_iter();
    names.filter(|name| name.starts_with(prefix)).collect()
}

/// Everything at or after an index, in small calls.
fn read_on(log: &Log, from: u64, max_bytes: usize) -> BTreeMap<u64, Bytes> {
    let (mut found, mut next) = (BTreeMap::new(), from);
    loop {
        let part = log.read_bodies(next..=u64::MAX, max_bytes).unwrap();
        let Some((last, _)) = part.last() else {
            return found;
        };
        next = last + 1;
        for (index, payload) in part {
            assert!(found.insert(index, payload).is_none(), "{index} came twice");
        }
    }
}

#[test]
fn bodies_outlive_their_log_segments_and_a_restart() {
    let disk = SimDisk::new(1);
    let (log, mut writer) = open(&disk).unwrap();
    append(&log, &mut writer, 1..=100);
    purge(&log, &mut writer, 78, 1);
    let kept = [3, 4, 40, 77];
    let ids = store(&log, kept).unwrap();
    assert_eq!(ids.len(), 1);
    // The log itself still has them, whole.
    assert_eq!(log.read_body(40).unwrap(), body(40));
    assert!(log.recycle(|_, _| false).unwrap() > 2);
    let check = |log: &Log| {
        let log_first = log.segments()[0].indexes.unwrap().0;
        assert!(log_first > 40 && log_first < 81, "{log_first}");
        let mut expected: BTreeMap<u64, Bytes> = (log_first..=100)
            .map(|index| (index, body(index)))
            .collect();
        for index in kept.into_iter().filter(|index| *index < log_first) {
            assert_eq!(log.read_body(index).unwrap(), thinned(index));
            expected.insert(index, thinned(index));
        }
        assert!(log.read_body(5).is_err());
        for max_bytes in [1, 500, 1 << 20] {
            assert_eq!(read_on(log, 0, max_bytes), expected);
            let some = log.read_bodies(4..=39, max_bytes).unwrap();
            assert!(some.iter().map(|(index, _)| *index).eq([4]));
        }
        let holders = log.holders();
        assert_eq!(holders.holder(40), Some(Holder::Bodies(ids[0])));
        assert_eq!(holders.holder(5), None);
        let epoch = log.segments()[0].epoch;
        assert_eq!(holders.holder(log_first), Some(Holder::Log(epoch)));
        let info = log.body_segments();
        assert_eq!((info.len(), info[0].entries), (1, 4));
        assert_eq!((info[0].first_index, info[0].last_index), (3, 77));
    };
    check(&log);
    drop((log, writer));
    let (log, _writer) = open(&disk).unwrap();
    check(&log);
    assert_eq!(log.remove_body_segments(&ids).unwrap(), 1);
    assert!(log.read_body(4).is_err());
    assert!(names(&disk, "body-").is_empty());
}

/// What came with a snapshot is there before the log is emptied for it, and is all that is left of the entries afterwards.
#[test]
fn bodies_survive_a_purge_that_empties_the_log() {
    let disk = SimDisk::new(1);
    let (log, mut writer) = open(&disk).unwrap();
    append(&log, &mut writer, 1..=20);
    let many: Vec<u64> = (2..2_000).step_by(3).collect();
    let ids = store(&log, many.iter().copied()).unwrap();
    assert!(ids.len() > 1, "so many fit no single file");
    assert_eq!(log.read_body(2).unwrap(), body(2));
    purge(&log, &mut writer, 2_000, 9);
    for log in [&log, &open(&disk.fork()).unwrap().0] {
        for index in &many {
            assert_eq!(log.read_body(*index).unwrap(), thinned(*index));
        }
        assert!(log.read_body(3).is_err());
        let found = read_on(log, 0, 300);
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), many);
    }
}

#[test]
fn the_newest_copy_wins_and_an_unfinished_one_leaves_nothing() {
    let disk = SimDisk::new(1);
    let (log, _writer) = open(&disk).unwrap();
    let mut first = log.body_writer().unwrap();
    first.push(5, b"old").unwrap();
    first.push(6, b"only here").unwrap();
    assert!(first.push(6, b"again").is_err());
    first.finish().unwrap();
    let mut second = log.body_writer().unwrap();
    second.push(5, b"new").unwrap();
    second.finish().unwrap();
    let mut dropped = log.body_writer().unwrap();
    for index in 5..500 {
        dropped.push(index, &[0; 100]).unwrap();
    }
    assert!(names(&disk, "body-new-").len() > 1);
    drop(dropped);
    assert!(names(&disk, "body-new-").is_empty());
    for log in [&log, &open(&disk.fork()).unwrap().0] {
        assert_eq!(&log.read_body(5).unwrap()[..], b"new");
        assert_eq!(&log.read_body(6).unwrap()[..], b"only here");
        assert_eq!(read_on(log, 0, 1).len(), 2);
    }
    let empty = log.body_writer().unwrap().finish().unwrap();
    assert!(empty.is_empty());
}

#[test]
fn what_came_with_a_snapshot_is_read_once_it_is_installed() {
    let disk = SimDisk::new(1);
    let (log, _writer) = open(&disk).unwrap();
    let mut old = log.body_writer().unwrap();
    old.push(5, b"old").unwrap();
    old.finish().unwrap();
    let fetched = |log: &Log, body: &[u8]| {
        let mut writer = log.body_writer().unwrap();
        writer.push(5, body).unwrap();
        writer.finish_for_snapshot(90).unwrap();
    };
    let read = |log: &Log| log.read_body(5).unwrap();
    fetched(&log, b"refused");
    // Nor is it there after a start.
    for log in [&log, &open(&disk.fork()).unwrap().0] {
        assert_eq!(log.bodies_wait_for(), Some(90));
        assert_eq!(&read(log)[..], b"old");
        assert_eq!(log.body_segments().len(), 1);
        log.discard_bodies().unwrap();
        assert_eq!(log.bodies_wait_for(), None);
        log.adopt_bodies(90).unwrap().show();
        assert_eq!(&read(log)[..], b"old");
    }
    assert!(names(&disk, "body-of-").is_empty());

    fetched(&log, b"new");
    let (restarted, _writer) = open(&disk.fork()).unwrap();
    for log in [&log, &restarted] {
        log.adopt_bodies(80).unwrap().show();
        assert_eq!(&read(log)[..], b"old");
        let adopted = log.adopt_bodies(90).unwrap();
        assert_eq!(&read(log)[..], b"old");
        adopted.show();
        assert_eq!(&read(log)[..], b"new");
        assert_eq!(log.bodies_wait_for(), None);
    }
    disk.crash(1);
    let (log, _writer) = open(&disk).unwrap();
    assert_eq!(&read(&log)[..], b"new");
}

/// Moves what is wanted into body segments and frees the log's, twice, so that body segments are rewritten as well.
/// `recycles_early` is the planted bug: the old bytes go before the new ones are on disk.
fn compact(log: &Log, writer: &mut LogWriter, recycles_early: bool) -> Result<(), StorageError> {
    append(log, writer, 1..=60);
    purge(log, writer, 40, 1);
    let early = recycles_early.then(|| log.recycle(|_, _| false));
    let first = store(log, wanted())?;
    early.transpose()?;
    log.recycle(|_, _| false)?;
    append(log, writer, 61..=70);
    store(log, wanted())?;
    log.remove_body_segments(&first)?;
    append(log, writer, 71..=75);
    Ok(())
}

fn wanted() -> Vec<u64> {
    (1..=30).filter(|index| index % 7 == 2).collect()
}

/// How many crashes lost a body.
fn crashes_that_lose(recycles_early: bool, variants: u64) -> (u64, u64) {
    let dry = SimDisk::new(1);
    let (log, mut writer) = open(&dry).unwrap();
    compact(&log, &mut writer, recycles_early).unwrap();
    let (mut lost, mut states) = (0, 0);
    for op in 0..dry.ops() {
        for point in [StopPoint::Before(op), StopPoint::After(op)] {
            let disk = SimDisk::new(1);
            disk.stop_at(point);
            let mut durable = None;
            if let Ok((log, mut writer)) = open(&disk) {
                _ = compact(&log, &mut writer, recycles_early);
                durable = log.state().durable_index;
            }
            for seed in 0..variants {
                let disk = disk.fork();
                disk.crash(seed);
                let (log, _writer) = open(&disk).expect("nothing stops a start after a crash");
                assert!(names(&disk, "body-new-").is_empty());
                states += 1;
                let is_there = |index: &u64| {
                    log.read_body(*index)
                        .is_ok_and(|found| found == body(*index) || found == thinned(*index))
                };
                let promised = wanted().into_iter().filter(|index| Some(*index) <= durable);
                lost += u64::from(!promised.into_iter().all(|index| is_there(&index)));
            }
        }
    }
    (lost, states)
}

#[test]
fn no_crash_loses_a_body_that_is_being_moved() {
    let (lost, states) = crashes_that_lose(false, 6);
    assert_eq!(lost, 0, "of {states}");
    assert!(states > 2_000, "only {states} states were visited");
    let (lost, _) = crashes_that_lose(true, 1);
    assert!(lost > 0, "the planted bug was not found");
}

#[test]
fn every_flipped_byte_is_refused_at_the_start_or_when_it_is_read() {
    let disk = SimDisk::new(1);
    let (log, mut writer) = open(&disk).unwrap();
    append(&log, &mut writer, 1..=3);
    let kept: Vec<u64> = (100..140).step_by(3).collect();
    store(&log, kept.iter().copied()).unwrap();
    disk.kill();
    let name = names(&disk, "body-").pop().unwrap();
    let (mut at_start, mut at_read) = (0, 0);
    for offset in 0..disk.bytes_of(&name).unwrap().len() as u64 {
        let flipped = disk.fork();
        assert!(flipped.flip(&name, offset, 1 << (offset % 8)));
        let log = match open(&flipped) {
            Ok((log, _)) => log,
            Err(error) => {
                let text = error.to_string();
                assert!(
                    text.contains(&name) || text.contains("folder belongs"),
                    "{text}"
                );
                at_start += 1;
                continue;
            }
        };
        for index in &kept {
            match log.read_body(*index) {
                Ok(found) => assert_eq!(found, thinned(*index)),
                Err(error) => {
                    assert!(error.is_data_loss() && error.to_string().contains(&name));
                    at_read += 1;
                }
            }
        }
    }
    println!("{at_start} flips refused at the start, {at_read} when read");
    assert!(at_start > 600 && at_read > 500);
}
