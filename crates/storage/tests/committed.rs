//! What a batch header says of the committed index must fit the entries before it: a crash between two batches must not make
//! entries committed that were never so.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;
use ticketrail_storage::sim::{SimDisk, StopPoint};
use ticketrail_storage::{Disk, Log, LogConfig, Record};

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 8 << 10,
        ..LogConfig::new(7, 1)
    }
}

fn append(log: &Log, term: u64, indexes: std::ops::RangeInclusive<u64>, bytes: usize) {
    let record = |index| Record {
        group: 0,
        term,
        index,
        payload: Bytes::from(vec![term as u8; bytes]),
    };
    log.append(indexes.map(record).collect(), Box::new(|_| {}));
}

fn live(disk: &SimDisk) -> usize {
    let names = disk.list().unwrap();
    names
        .iter()
        .filter(|name| name.starts_with("log-0"))
        .count()
}

/// A follower has entries 6 to 10 of an old leader, which no majority has. A new leader's entries take their place and are
/// committed, all before the writer comes to it, and the segment ends in the middle.
#[test]
fn a_crash_before_a_truncation_does_not_commit_what_it_removes() {
    let mut cut_between = 0;
    for bytes in (100..=760).step_by(20) {
        for stop in 0..8 {
            let disk = SimDisk::new(1);
            let (log, mut writer, _) = Log::open(Arc::new(disk.clone()), config()).unwrap();
            append(&log, 1, 1..=10, bytes);
            log.save_committed(5);
            while writer.step() {}
            log.truncate_after(Some(5), Box::new(|_| {}));
            append(&log, 2, 6..=8, bytes);
            log.save_committed(8);
            disk.stop_at(StopPoint::After(disk.ops() + stop));
            while writer.step() {}
            disk.crash(stop);
            drop((log, writer));
            let (log, _, _) = Log::open(Arc::new(disk.clone()), config()).unwrap();
            let state = log.state();
            assert!(state.committed >= Some(5));
            if state.committed > Some(5) {
                assert_eq!(
                    log.term_of(6),
                    Some(2),
                    "{bytes} bytes, stopped after {stop}"
                );
            } else if log.term_of(6) == Some(1) && live(&disk) > 1 {
                cut_between += 1;
            }
        }
    }
    assert!(
        cut_between > 0,
        "no crash fell between the end of a segment and the truncation"
    );
}
