//! The log against a plain model: random appends, truncations, purges, recycles, votes, reopenings and crashes.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use ticketrail_storage::sim::{SimDisk, SplitMix};
use ticketrail_storage::{
    Disk, Log, LogConfig, LogPosition, LogWriter, Record, SegmentInfo, StorageError,
};

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 16 << 10,
        cache_bytes: 4 << 10,
        drain_bytes_max: 8 << 10,
        ..LogConfig::new(7, 1)
    }
}

#[derive(Clone, Default, Debug, PartialEq)]
struct Model {
    /// Entries that Raft can read.
    entries: BTreeMap<u64, (u64, Bytes)>,
    /// Purged entries whose bodies are still wanted.
    bodies: BTreeMap<u64, Bytes>,
    purged: Option<LogPosition>,
    vote: Option<Bytes>,
}

impl Model {
    fn last(&self) -> Option<LogPosition> {
        self.entries
            .last_key_value()
            .map(|(index, (term, _))| LogPosition {
                index: *index,
                term: *term,
            })
            .or(self.purged)
    }

    fn check(&self, log: &Log) {
        let state = log.state();
        assert_eq!(state.last, self.last());
        assert_eq!(state.purged, self.purged);
        assert_eq!(state.vote, self.vote);
        let first = self.purged.map_or(0, |purged| purged.index + 1);
        let end = self.last().map_or(0, |last| last.index + 1);
        let found = log.read_range(0..u64::MAX, usize::MAX);
        assert!(self.purged.is_some() || found.is_ok());
        let found = log.read_range(first..end, usize::MAX).unwrap();
        assert_eq!(found.len(), self.entries.len());
        for (record, (index, (term, payload))) in found.iter().zip(&self.entries) {
            assert_eq!(
                (record.index, record.term, &record.payload),
                (*index, *term, payload)
            );
        }
        for (index, body) in &self.bodies {
            assert_eq!(log.read_body(*index).unwrap(), body);
        }
        assert_eq!(log.read(end).unwrap(), None);
        if let Some(purged) = self.purged {
            assert_eq!(log.read(purged.index).unwrap(), None);
        }
    }
}

struct Run {
    disk: SimDisk,
    log: Log,
    writer: LogWriter,
    model: Model,
    /// What is surely on disk.
    durable: Model,
    term: u64,
    is_partly_written: bool,
    rng: SplitMix,
}

fn open(disk: &SimDisk) -> (Log, LogWriter) {
    let (log, writer, report) = Log::open(Arc::new(disk.clone()), config()).unwrap();
    // These tests crash between whole steps only: whatever was cut had not been torn.
    assert_eq!(report.cut, []);
    assert_eq!(log.segments(), scanned(disk, &log));
    while log.check_next_segment().unwrap() {}
    TRUSTED.fetch_add(report.segments_trusted, Ordering::Relaxed);
    (log, writer)
}

/// Segments that starts took at their word.
static TRUSTED: AtomicUsize = AtomicUsize::new(0);

/// What a start finds that has to read every segment, since none has its trailer; in everything else it must find the same.
fn scanned(disk: &SimDisk, log: &Log) -> Vec<SegmentInfo> {
    let disk = disk.fork();
    for name in disk.list().unwrap() {
        if name.starts_with("log-") {
            let trailer_at = config().segment_bytes - 512;
            let file = disk.open(&name).unwrap();
            file.write_at(&[0; 512], trailer_at).unwrap();
        }
    }
    let (scanned, _writer, report) = Log::open(Arc::new(disk), config()).unwrap();
    assert_eq!(report.segments_trusted, 0);
    assert_eq!(scanned.state(), log.state());
    let state = log.state();
    let last = state.last.map_or(0, |last| last.index);
    for index in state.first_index..=last {
        assert_eq!(scanned.term_of(index), log.term_of(index));
    }
    scanned.segments()
}

impl Run {
    fn new(seed: u64) -> Self {
        let disk = SimDisk::new(seed);
        let (log, writer) = open(&disk);
        let model = Model::default();
        Self {
            disk,
            log,
            writer,
            durable: model.clone(),
            model,
            term: 1,
            is_partly_written: false,
            rng: SplitMix(seed),
        }
    }

    fn append(&mut self) {
        self.term += self.rng.below(8) / 7;
        let first = self.model.last().map_or(0, |last| last.index + 1);
        let records: Vec<Record> = (0..=self.rng.below(6))
            .map(|at| {
                let index = first + at;
                let length = self.rng.below(900) as usize;
                let fill = self.rng.next() as u8;
                let payload = Bytes::from(
                    [
                        format!("{index}.{}", self.term).into_bytes(),
                        vec![fill; length],
                    ]
                    .concat(),
                );
                Record {
                    group: 0,
                    term: self.term,
                    index,
                    payload,
                }
            })
            .collect();
        for record in &records {
            self.model
                .entries
                .insert(record.index, (record.term, record.payload.clone()));
        }
        self.log.append(records, Box::new(|result| result.unwrap()));
    }

    fn truncate(&mut self) {
        let Some(last) = self.model.last() else {
            return;
        };
        let floor = self.model.purged.map(|purged| purged.index);
        let lowest = floor.map_or(0, |floor| floor + 1);
        let back = self
            .rng
            .below(12)
            .min(last.index + 1 - lowest.min(last.index + 1));
        let kept = (last.index + 1 - back).checked_sub(1);
        self.model
            .entries
            .retain(|index, _| kept.is_some_and(|kept| *index <= kept));
        self.log
            .truncate_after(kept, Box::new(|result| result.unwrap()));
        self.term += 1;
    }

    fn purge(&mut self) {
        let Some((first, _)) = self.model.entries.first_key_value() else {
            return;
        };
        let upto = first + self.rng.below(self.model.entries.len() as u64);
        let term = self.model.entries[&upto].0;
        let kept = self.model.entries.split_off(&(upto + 1));
        for (index, (_, body)) in std::mem::replace(&mut self.model.entries, kept) {
            self.model.bodies.insert(index, body);
        }
        self.model.purged = Some(LogPosition { index: upto, term });
        self.log
            .purge(upto, term, Box::new(|result| result.unwrap()));
    }

    fn purge_beyond_the_end(&mut self) {
        let last = self.model.last().map_or(0, |last| last.index);
        let purged = LogPosition {
            index: last + 1 + self.rng.below(5),
            term: self.term,
        };
        self.model.entries.clear();
        self.model.bodies.clear();
        self.model.purged = Some(purged);
        self.log.purge(
            purged.index,
            purged.term,
            Box::new(|result| result.unwrap()),
        );
    }

    fn vote(&mut self) {
        let vote = Bytes::from(format!("vote {}", self.rng.next()));
        self.model.vote = Some(vote.clone());
        self.log.save_vote(vote, Box::new(|result| result.unwrap()));
    }

    fn recycle(&mut self) {
        // What is purged but not durably so must not be lost either.
        if self.rng.below(2) == 0 {
            self.settle();
        }
        // Every third body stays wanted.
        self.model.bodies.retain(|index, _| index % 30 < 10);
        self.durable.bodies.retain(|index, _| index % 30 < 10);
        let mut wanted = self.durable.bodies.clone();
        wanted.extend(self.model.bodies.clone());
        self.log
            .recycle(|first, last| wanted.range(first..=last).next().is_some())
            .unwrap();
    }

    /// Lets the writer do a part of what waits.
    fn step_once(&mut self) {
        self.is_partly_written |= self.writer.step();
    }

    fn settle(&mut self) {
        while self.writer.step() {}
        self.is_partly_written = false;
        self.durable = self.model.clone();
        assert_eq!(self.log.queued_bytes(), 0);
        assert_eq!(
            self.log.state().durable_index,
            self.model.last().map(|last| last.index)
        );
    }

    fn reopen(&mut self, crash: bool) {
        // What is durable between two steps of one settling, `crash_points` looks at.
        let crash = crash && !self.is_partly_written;
        if crash {
            self.disk.crash(self.rng.next());
        } else {
            self.settle();
            self.disk.kill();
        }
        (self.log, self.writer) = open(&self.disk);
        if crash {
            // Whole steps only in this test: nothing was in flight, so exactly the settled state is back.
            self.model = self.durable.clone();
            self.term += 1;
        }
    }

    fn go(&mut self, steps: usize) {
        for _ in 0..steps {
            match self.rng.below(100) {
                0..50 => self.append(),
                50..60 => self.truncate(),
                60..68 => self.purge(),
                68..69 => self.purge_beyond_the_end(),
                69..72 => self.vote(),
                72..77 => self.recycle(),
                77..84 => self.settle(),
                84..90 => self.step_once(),
                90..93 => self.writer.mark_idle(),
                93..96 => self.reopen(false),
                _ => self.reopen(true),
            }
            self.model.check(&self.log);
        }
    }
}

#[test]
fn the_log_agrees_with_a_plain_map() {
    let mut recycled = 0;
    for seed in 0..60 {
        println!("seed {seed}");
        let mut run = Run::new(seed);
        run.go(250);
        recycled += run.log.spare_segments();
    }
    assert!(recycled > 0, "no segment was ever recycled");
    let trusted = TRUSTED.load(Ordering::Relaxed);
    assert!(
        trusted > 1_000,
        "{trusted} segments were taken at their word"
    );
}

#[test]
fn what_is_not_durable_stays_readable_however_small_the_cache() {
    let disk = SimDisk::new(1);
    let (log, mut writer) = open(&disk);
    let records: Vec<Record> = (0..50)
        .map(|index| Record {
            group: 0,
            term: 1,
            index,
            payload: vec![index as u8; 1000].into(),
        })
        .collect();
    log.append(records.clone(), Box::new(|result| result.unwrap()));
    assert_eq!(log.read_range(0..50, usize::MAX).unwrap(), records);
    assert_eq!(log.state().durable_index, None);
    while writer.step() {}
    assert!(log.cached_bytes() <= 4 << 10);
    assert_eq!(log.read_range(0..50, usize::MAX).unwrap(), records);
    assert_eq!(log.read_range(10..50, 2500).unwrap(), records[10..12]);
    assert_eq!(log.read_range(10..50, 1).unwrap(), records[10..11]);
}

#[test]
fn holes_and_giants_are_refused() {
    let disk = SimDisk::new(1);
    let (log, mut writer) = open(&disk);
    let refused = |records: Vec<Record>| {
        let seen = Arc::new(AtomicBool::new(false));
        let told = seen.clone();
        log.append(
            records,
            Box::new(move |result| told.store(result.is_err(), Ordering::SeqCst)),
        );
        seen.load(Ordering::SeqCst)
    };
    let record = |index, length: usize| Record {
        group: 0,
        term: 1,
        index,
        payload: vec![1; length].into(),
    };
    let largest = config().payload_bytes_max();
    assert!(refused(vec![record(0, largest + 1)]));
    assert!(!refused(vec![record(0, largest)]));
    assert!(!refused(vec![record(1, largest), record(2, largest)]));
    assert!(refused(vec![record(4, 1)]));
    assert!(refused(vec![record(3, 1), record(5, 1)]));
    while writer.step() {}
    assert_eq!(log.state().durable_index, Some(2));
    let (again, _writer) = open(&disk);
    assert_eq!(again.read_range(0..9, usize::MAX).unwrap().len(), 3);
}

#[test]
fn another_nodes_segments_are_refused() {
    let disk = SimDisk::new(1);
    drop(open(&disk));
    let (log, mut writer) = open(&disk);
    log.append(
        vec![Record {
            group: 0,
            term: 1,
            index: 0,
            payload: Bytes::new(),
        }],
        Box::new(|result| result.unwrap()),
    );
    writer.step();
    let other = LogConfig {
        node_id: 2,
        ..config()
    };
    let opened = Log::open(Arc::new(disk.clone()), other);
    assert!(matches!(
        opened.err(),
        Some(StorageError::ForeignFolder { .. })
    ));
    assert!(disk.list().unwrap().contains(&"vote".to_owned()));
}
