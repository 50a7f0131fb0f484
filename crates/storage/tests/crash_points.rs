//! Stops a machine before and after every write, sync and rename of a script that uses log, vote, checkpoint and snapshot file,
//! crashes it in many ways at each point, and looks at what a restart finds. Then flips every byte of what it left.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ticketrail_storage::checkpoint::Changes;
use ticketrail_storage::sim::{SimDisk, SplitMix, StopPoint};
use ticketrail_storage::snapshot::{self, Manifest};
use ticketrail_storage::{
    CheckpointStore, Disk, Identity, Log, LogConfig, LogPosition, LogWriter, MemoryCheckpoint,
    Record, identity,
};

const OWNER: Identity = Identity {
    cluster_id: 7,
    node_id: 1,
};
/// Rounds of the script.
const ROUNDS: u64 = 24;
/// Enough for a recycled segment and a purge, and few enough to flip every byte.
const ROUNDS_TO_FLIP: u64 = 18;

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 8 << 10,
        cache_bytes: 1 << 10,
        drain_bytes_max: 64 << 10,
        spare_segments_max: 2,
        ..LogConfig::new(OWNER.cluster_id, OWNER.node_id)
    }
}

/// What a log holds, as a plain value.
#[derive(Clone, Debug, Default, PartialEq)]
struct Content {
    entries: BTreeMap<u64, (u64, Bytes)>,
    purged: Option<LogPosition>,
    vote: Option<Bytes>,
}

/// One change of the log, in the order in which the writer writes them.
#[derive(Clone, Debug)]
enum Change {
    Append(Record),
    Truncate(Option<u64>),
    Purge(LogPosition),
    Vote(Bytes),
}

impl Content {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Append(record) => {
                self.entries
                    .insert(record.index, (record.term, record.payload.clone()));
            }
            Change::Truncate(kept) => self
                .entries
                .retain(|index, _| kept.is_some_and(|kept| *index <= kept)),
            Change::Purge(upto) => {
                self.entries = self.entries.split_off(&(upto.index + 1));
                self.purged = Some(*upto);
            }
            Change::Vote(vote) => self.vote = Some(vote.clone()),
        }
    }

    fn next_index(&self) -> u64 {
        let last = self.entries.last_key_value().map(|(index, _)| *index);
        last.or(self.purged.map(|purged| purged.index))
            .map_or(0, |last| last + 1)
    }

    fn of(log: &Log) -> Self {
        let state = log.state();
        let read = log
            .read_range(state.first_index..u64::MAX, usize::MAX)
            .unwrap();
        let entries = read
            .into_iter()
            .map(|record| (record.index, (record.term, record.payload)))
            .collect();
        Self {
            entries,
            purged: state.purged,
            vote: state.vote,
        }
    }
}

/// A machine that runs the script, and what it was promised.
struct Machine {
    disk: SimDisk,
    checkpoint: MemoryCheckpoint,
    log: Log,
    writer: LogWriter,
    rng: SplitMix,
    promised: Promised,
}

#[derive(Clone, Default)]
struct Promised {
    /// What was acknowledged.
    content: Content,
    /// What was asked for after that.
    in_flight: Vec<Change>,
    /// Bodies of committed entries that must stay readable after the purge.
    bodies: BTreeMap<u64, Bytes>,
    /// Applied index of the last acknowledged checkpoint and of one in flight.
    checkpoint: Option<u64>,
    checkpoint_in_flight: Option<u64>,
    snapshot: Option<u64>,
}

struct Stopped;

fn rows_at(applied: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
    (1..=applied % 7 + 2)
        .map(|row| (vec![row as u8], format!("{row} at {applied}").into_bytes()))
        .collect()
}

impl Machine {
    fn start(disk: &SimDisk, checkpoint: &MemoryCheckpoint) -> Result<Self, Stopped> {
        // A start that the machine's stop interrupts is the only one that may fail.
        let stopped = |error: &dyn std::fmt::Display| {
            assert!(disk.stopped(), "{error}");
            Stopped
        };
        let lock = identity::open(disk, OWNER).map_err(|error| stopped(&error))?;
        std::mem::forget(lock);
        let (log, writer, _) =
            Log::open(Arc::new(disk.clone()), config()).map_err(|error| stopped(&error))?;
        let (disk, checkpoint) = (disk.clone(), checkpoint.clone());
        Ok(Self {
            disk,
            checkpoint,
            log,
            writer,
            rng: SplitMix(3),
            promised: Promised::default(),
        })
    }

    /// Asks for changes in one go, lets the writer work, and returns when they are acknowledged.
    fn change(&mut self, changes: Vec<Change>) -> Result<(), Stopped> {
        let failed = Arc::new(AtomicBool::new(false));
        let mut expected = self.promised.content.clone();
        for change in &changes {
            expected.apply(change);
            let failed = failed.clone();
            let done = Box::new(move |result: std::io::Result<()>| {
                failed.store(result.is_err(), Ordering::SeqCst)
            });
            match change.clone() {
                Change::Append(record) => self.log.append(vec![record], done),
                Change::Truncate(kept) => self.log.truncate_after(kept, done),
                Change::Purge(upto) => self.log.purge(upto.index, upto.term, done),
                Change::Vote(vote) => self.log.save_vote(vote, done),
            }
        }
        self.promised.in_flight = changes;
        while self.writer.step() {}
        if failed.load(Ordering::SeqCst) {
            assert!(self.disk.stopped());
            return Err(Stopped);
        }
        self.promised.content = expected;
        self.promised.in_flight.clear();
        Ok(())
    }

    fn records(&mut self, first: u64, term: u64, count: u64) -> Vec<Change> {
        (first..first + count)
            .map(|index| {
                let mut payload = format!("entry {index} of term {term} ").into_bytes();
                payload.resize(payload.len() + self.rng.below(700) as usize, index as u8);
                Change::Append(Record {
                    group: 0,
                    term,
                    index,
                    payload: payload.into(),
                })
            })
            .collect()
    }

    fn script(&mut self, rounds: u64) -> Result<(), Stopped> {
        let mut term = 1;
        for round in 0..rounds {
            let next = self.promised.content.next_index();
            let changes = self.records(next, term, 4);
            self.change(changes)?;
            let durable = self.log.state().durable_index.unwrap();
            if round % 4 == 1 {
                term += 1;
                self.change(vec![Change::Vote(Bytes::from(format!("term {term}")))])?;
            }
            if round % 3 == 1 {
                let kept = durable - 2;
                let mut changes = vec![Change::Truncate(Some(kept))];
                changes.extend(self.records(kept + 1, term, 3));
                self.change(changes)?;
            }
            if round % 5 == 2 {
                self.log.save_committed(durable);
                self.writer.mark_idle();
                if self.disk.stopped() {
                    return Err(Stopped);
                }
            }
            // What is applied is committed, and so is never truncated: stay behind the truncations.
            if round % 4 == 2 {
                self.write_checkpoint(durable - 3)?;
            }
            if round % 6 == 5 {
                self.write_snapshot_and_purge(durable - 3)?;
            }
        }
        self.writer.mark_idle();
        if self.disk.stopped() {
            Err(Stopped)
        } else {
            Ok(())
        }
    }

    fn write_checkpoint(&mut self, applied: u64) -> Result<(), Stopped> {
        self.promised.checkpoint_in_flight = Some(applied);
        let mut changes: BTreeMap<Vec<u8>, Option<Vec<u8>>> = self
            .promised
            .checkpoint
            .map(rows_at)
            .unwrap_or_default()
            .into_keys()
            .map(|key| (key, None))
            .collect();
        changes.extend(
            rows_at(applied)
                .into_iter()
                .map(|(key, value)| (key, Some(value))),
        );
        let changes: Changes = changes.into_iter().collect();
        self.checkpoint
            .write(&changes, Bytes::from(applied.to_string()))
            .map_err(|_| Stopped)?;
        self.promised.checkpoint = Some(applied);
        self.promised.checkpoint_in_flight = None;
        Ok(())
    }

    fn write_snapshot_and_purge(&mut self, applied: u64) -> Result<(), Stopped> {
        let older = self.promised.snapshot;
        let manifest = Manifest {
            group: 0,
            last_index: applied,
            last_term: self.promised.content.entries[&applied].0,
            machine_version: 1,
            meta: Bytes::new(),
        };
        snapshot::write(&self.disk, OWNER, &manifest, rows_at(applied).into_iter())
            .map_err(|_| Stopped)?;
        self.promised.snapshot = Some(applied);
        let Some(index) = older else { return Ok(()) };
        // Only to the older file: the newer one may turn out to be damaged.
        let purged = self
            .promised
            .content
            .entries
            .range(..=index)
            .filter(|(index, _)| *index % 10 == 0);
        let bodies: Vec<_> = purged
            .map(|(index, (_, body))| (*index, body.clone()))
            .collect();
        let term = self.promised.content.entries[&index].0;
        self.change(vec![Change::Purge(LogPosition { index, term })])?;
        self.promised.bodies.extend(bodies);
        // Old bodies lose their readers, from the oldest on and one from the middle.
        let oldest = index.saturating_sub(30);
        self.promised
            .bodies
            .retain(|index, _| *index > oldest && *index != 40);
        let wanted = self.promised.bodies.clone();
        self.log
            .recycle(|first, last| wanted.range(first..=last).next().is_some())
            .map_err(|_| Stopped)
            .map(|_| ())
    }
}

impl Promised {
    /// Looks at what a restart found.
    fn check(&self, disk: &SimDisk, checkpoint: &MemoryCheckpoint, log: &Log) {
        self.check_log(log);
        self.check_checkpoint(checkpoint);
        let (snapshot, refused) = snapshot::newest_good(disk, OWNER, 0).unwrap();
        assert!(refused.is_empty(), "{refused:?}");
        let snapshot_index = snapshot.map(|snapshot| snapshot.manifest().last_index);
        assert!(
            snapshot_index >= self.snapshot,
            "an acknowledged snapshot is gone"
        );
        let purged = log.state().purged.map(|purged| purged.index);
        assert!(
            purged.is_none() || snapshot_index >= purged,
            "nothing covers what was purged"
        );
    }

    fn check_log(&self, log: &Log) {
        let found = Content::of(log);
        let mut expected = self.content.clone();
        let mut matches = found == expected;
        for change in &self.in_flight {
            if matches {
                break;
            }
            expected.apply(change);
            matches = found == expected;
        }
        assert!(
            matches,
            "found {:?} purged {:?} vote {:?}, promised {:?} and then some of {:?}",
            found
                .entries
                .iter()
                .map(|(index, (term, _))| (*index, *term))
                .collect::<Vec<_>>(),
            found.purged,
            found.vote,
            self.content.entries.keys(),
            self.in_flight,
        );
        for (index, body) in &self.bodies {
            assert_eq!(&log.read_body(*index).unwrap(), body);
        }
    }

    fn check_checkpoint(&self, checkpoint: &MemoryCheckpoint) {
        let meta = checkpoint.load_meta().unwrap();
        let applied = meta.map(|meta| {
            String::from_utf8(meta.to_vec())
                .unwrap()
                .parse::<u64>()
                .unwrap()
        });
        assert!(
            applied == self.checkpoint
                || (applied.is_some() && applied == self.checkpoint_in_flight)
        );
        let mut rows = BTreeMap::new();
        checkpoint
            .for_each_row(&mut |key, value| _ = rows.insert(key.to_vec(), value.to_vec()))
            .unwrap();
        assert_eq!(rows, applied.map(rows_at).unwrap_or_default());
    }
}

/// Runs the script until the stop point; the disk is as the machine left it.
fn run_until(rounds: u64, point: Option<StopPoint>) -> (SimDisk, MemoryCheckpoint, Promised) {
    let disk = SimDisk::new(1);
    let checkpoint = MemoryCheckpoint::on(&disk);
    if let Some(point) = point {
        disk.stop_at(point);
    }
    let promised = match Machine::start(&disk, &checkpoint) {
        Ok(mut machine) => {
            _ = machine.script(rounds);
            machine.promised
        }
        Err(Stopped) => Promised::default(),
    };
    assert_eq!(disk.stopped(), point.is_some());
    (disk, checkpoint, promised)
}

/// Ends the process but not the machine: what the next start finds is durable from then on, though nobody had synced it.
fn kill_and_check(disk: &SimDisk, checkpoint: &MemoryCheckpoint, promised: &Promised) {
    let (disk, checkpoint) = (disk.fork(), checkpoint.clone());
    disk.kill();
    let Ok(machine) = Machine::start(&disk, &checkpoint) else {
        panic!("nothing stops this start")
    };
    promised.check_log(&machine.log);
    let found = Content::of(&machine.log);
    for seed in 0..2 {
        let disk = disk.fork();
        disk.crash(seed);
        let Ok(machine) = Machine::start(&disk, &checkpoint) else {
            panic!("nothing stops this start")
        };
        assert_eq!(Content::of(&machine.log), found);
    }
}

/// Crashes a stopped machine in one way, starts it again and checks; every third time the start is itself crashed first.
fn crash_and_check(disk: &SimDisk, checkpoint: &MemoryCheckpoint, promised: &Promised, seed: u64) {
    if seed % 5 == 1 {
        kill_and_check(disk, checkpoint, promised);
    }
    disk.crash(seed);
    checkpoint.crash(seed);
    if seed % 3 == 2 {
        disk.stop_at(StopPoint::After(disk.ops() + seed % 8));
        let interrupted = Machine::start(disk, checkpoint).is_err();
        assert_eq!(interrupted, disk.stopped());
        disk.crash(seed + 1);
    }
    let Ok(mut machine) = Machine::start(disk, checkpoint) else {
        panic!("nothing stops this start")
    };
    promised.check(disk, checkpoint, &machine.log);
    if seed.is_multiple_of(4) {
        machine.promised.content = Content::of(&machine.log);
        let next = machine.promised.content.next_index();
        let changes = machine.records(next, 99, 3);
        assert!(machine.change(changes).is_ok());
        let expected = machine.promised.content.clone();
        drop(machine);
        disk.crash(seed);
        let Ok(machine) = Machine::start(disk, checkpoint) else {
            panic!("nothing stops this start")
        };
        assert_eq!(Content::of(&machine.log), expected);
    }
}

#[test]
fn every_crash_point_keeps_what_was_acknowledged() {
    let variants: u64 = std::env::var("CRASH_VARIANTS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(22);
    let (disk, _, promised) = run_until(ROUNDS, None);
    let ops = disk.ops();
    assert!(promised.content.purged.is_some() && promised.bodies.len() > 2);
    let next = Mutex::new(0);
    let states = Mutex::new(0_u64);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let op = {
                        let mut next = next.lock().unwrap();
                        *next += 1;
                        *next - 1
                    };
                    if op >= ops {
                        return;
                    }
                    for point in [StopPoint::Before(op), StopPoint::After(op)] {
                        let (disk, checkpoint, promised) = run_until(ROUNDS, Some(point));
                        for variant in 0..variants {
                            let disk = disk.fork();
                            let checkpoint = checkpoint.fork(&disk);
                            let seed = op * 1000 + variant;
                            let check = || crash_and_check(&disk, &checkpoint, &promised, seed);
                            if let Err(panic) =
                                std::panic::catch_unwind(std::panic::AssertUnwindSafe(check))
                            {
                                eprintln!("failed at {point:?}, variant seed {seed}");
                                std::panic::resume_unwind(panic);
                            }
                        }
                        *states.lock().unwrap() += variants;
                    }
                }
            });
        }
    });
    let states = *states.lock().unwrap();
    println!("{ops} operations, {states} crash states");
    assert!(states >= 10_000, "only {states} states were visited");
}

#[test]
fn every_flipped_byte_is_noticed_or_lies_outside_live_data() {
    let (disk, checkpoint, promised) = run_until(ROUNDS_TO_FLIP, None);
    disk.kill();
    let (mut refused, mut harmless) = (0, 0);
    for name in disk.list().unwrap() {
        let length = disk.bytes_of(&name).unwrap().len() as u64;
        for offset in 0..length {
            let flipped = disk.fork();
            assert!(flipped.flip(&name, offset, 1 << (offset % 8)));
            let opened = identity::open(&flipped, OWNER)
                .and_then(|_lock| Log::open(Arc::new(flipped.clone()), config()))
                .and_then(|(log, _, _)| {
                    // What a start takes at its word is read right after it.
                    while log.check_next_segment()? {}
                    Ok(log)
                });
            match opened {
                Err(error) => {
                    assert!(
                        error.is_data_loss() || error.to_string().contains("folder belongs"),
                        "{error}"
                    );
                    refused += 1;
                }
                Ok(log) => {
                    promised.check_log(&log);
                    harmless += 1;
                }
            }
        }
    }
    promised.check_checkpoint(&checkpoint);
    println!("{refused} flips refused, {harmless} outside live data or healed");
    assert!(refused > 10_000);
}

#[test]
fn a_byte_that_flips_while_the_log_is_open_is_never_served() {
    let (disk, checkpoint, promised) = run_until(ROUNDS_TO_FLIP, None);
    disk.kill();
    let Ok(machine) = Machine::start(&disk, &checkpoint) else {
        panic!("nothing stops this start")
    };
    let mut noticed = 0;
    for name in disk
        .list()
        .unwrap()
        .into_iter()
        .filter(|name| name.starts_with("log-"))
    {
        for offset in 0..disk.bytes_of(&name).unwrap().len() as u64 {
            disk.flip(&name, offset, 0x20);
            let state = machine.log.state();
            match machine
                .log
                .read_range(state.first_index..u64::MAX, usize::MAX)
            {
                Err(error) => {
                    assert!(error.is_data_loss());
                    noticed += 1;
                }
                Ok(_) => assert_eq!(Content::of(&machine.log), promised.content),
            }
            for (index, body) in &promised.bodies {
                match machine.log.read_body(*index) {
                    Err(error) => {
                        assert!(error.is_data_loss());
                        noticed += 1;
                    }
                    Ok(found) => assert_eq!(&found, body),
                }
            }
            disk.flip(&name, offset, 0x20);
        }
    }
    println!("{noticed} reads refused");
    assert!(noticed > 10_000);
}
