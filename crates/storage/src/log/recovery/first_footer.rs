//! Segments as they were completed before footers told terms and lengths, and before there were trailers.

use std::sync::Arc;

use crate::disk::sim::SimDisk;
use crate::disk::{Disk, DiskFile};
use crate::header;
use crate::log::format::{
    self, BatchBuilder, BatchHeader, BatchKind, Position, RecordKind, Standing,
};
use crate::log::segment::{DATA_START, MAGIC, live_name};
use crate::log::{Log, LogConfig, Record};

const EPOCH: u64 = 1;

fn record(index: u64) -> Record {
    Record {
        group: 0,
        term: 1 + index / 2,
        index,
        payload: vec![index as u8; 100].into(),
    }
}

/// Writes one batch and tells where the next one starts.
fn write(
    file: &dyn DiskFile,
    seed: u32,
    at: u64,
    (sequence, kind): (u64, BatchKind),
    mut batch: BatchBuilder,
) -> u64 {
    let header = BatchHeader {
        kind,
        body_bytes: 0,
        position: Position {
            epoch: EPOCH,
            offset: at,
        },
        sequence,
        mark: Position {
            epoch: 0,
            offset: 0,
        },
        record_count: 0,
        standing: Standing {
            start_index: Some(0),
            ..Standing::default()
        },
    };
    let end = at + format::batch_bytes(batch.body_bytes());
    batch
        .finish(seed, header, |bytes| file.write_at(bytes, at))
        .unwrap();
    end
}

#[test]
fn a_segment_with_the_first_footer_is_read_and_goes_on_in_the_next_one() {
    let disk = SimDisk::new(1);
    let config = LogConfig {
        segment_bytes: 16 << 10,
        cache_bytes: 0,
        ..LogConfig::new(7, 1)
    };
    drop(Log::open(Arc::new(disk.clone()), config.clone()).unwrap());
    let (owner, seed) = (config.owner(), format::seed(config.owner(), EPOCH));
    let file = disk.create(&live_name(EPOCH)).unwrap();
    file.set_len(config.segment_bytes).unwrap();
    let head = header::encode(MAGIC, owner, &EPOCH.to_le_bytes());
    file.write_at(&head, 0).unwrap();

    let mut entries = BatchBuilder::default();
    let mut offsets = Vec::new();
    for index in 0..4 {
        let at = entries.push(seed, EPOCH, RecordKind::Entry, &record(index));
        offsets.push(DATA_START as u32 + at as u32);
    }
    let data = (0, BatchKind::Data);
    let seal_at = write(&*file, seed, DATA_START, data, entries);
    let mut footer = BatchBuilder::default();
    let payload = format::encode_first_footer(0, offsets.into_iter());
    let told = Record {
        term: 0,
        payload,
        ..record(0)
    };
    footer.push(seed, EPOCH, RecordKind::FirstFooter, &told);
    write(&*file, seed, seal_at, (1, BatchKind::Seal), footer);

    for round in 0..2 {
        let opened = Log::open(Arc::new(disk.clone()), config.clone());
        let (log, mut writer, report) = opened.unwrap();
        assert_eq!(report.segments_trusted, 0);
        let next = 4 + round;
        let found = log.read_range(0..next, usize::MAX).unwrap();
        let expected: Vec<Record> = (0..next).map(record).collect();
        assert_eq!(found, expected);
        log.append(vec![record(next)], Box::new(|done| done.unwrap()));
        assert!(writer.step());
    }
}
