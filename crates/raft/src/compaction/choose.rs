//! Which files are worth compacting.

use std::collections::{BTreeMap, BTreeSet};

use ticketrail_core::LiveRun;
use ticketrail_storage::{Holder, Holders, Log};

/// What is kept of a run of messages beside their bytes: its record, key and place, at most so much.
const RUN_OVERHEAD_BYTES: u64 = 96;
/// The same for each message.
const MESSAGE_OVERHEAD_BYTES: u64 = 4;
/// Live bytes that one job moves at most.
const MOVED_BYTES_MAX: u64 = 256 << 20;
/// Live runs that one job remembers at most.
const RUNS_MAX: u64 = 256 << 10;
/// So many small body segments of about the same size are made one.
const SMALL_FILES_MAX: usize = 8;

/// The files that could be compacted, and what a survey found live in them.
pub(super) struct Files {
    holders: Holders,
    weights: BTreeMap<Holder, Weight>,
    purged: u64,
    segment_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Weight {
    bytes: u64,
    live_bytes: u64,
    runs: u64,
}

impl Weight {
    fn dead_bytes(self) -> u64 {
        self.bytes.saturating_sub(self.live_bytes)
    }

    fn live_percent(self) -> u64 {
        self.live_bytes.saturating_mul(100) / self.bytes.max(1)
    }
}

impl Files {
    /// All files that Raft no longer needs. Bodies beyond what is purged came with a snapshot, and the
    /// log holds these entries too.
    pub(super) fn of(log: &Log) -> Self {
        let purged = log.state().purged.map_or(0, |purged| purged.index);
        let mut weights = BTreeMap::new();
        let mut segment_bytes = 0;
        for segment in log.segments() {
            segment_bytes = segment.bytes;
            let is_purged = segment.indexes.is_some_and(|(_, last)| last <= purged);
            if segment.sealed && is_purged {
                weights.insert(Holder::Log(segment.epoch), Weight::of(segment.bytes));
            }
        }
        for bodies in log.body_segments() {
            if bodies.last_index <= purged {
                weights.insert(Holder::Bodies(bodies.id), Weight::of(bodies.bytes));
            }
        }
        Self {
            holders: log.holders(),
            weights,
            purged,
            segment_bytes,
        }
    }

    pub(super) fn add(&mut self, run: LiveRun) {
        if run.body.position.index > self.purged {
            return;
        }
        let holder = self.holders.holder(run.body.position.index);
        if let Some(weight) = holder.and_then(|holder| self.weights.get_mut(&holder)) {
            let overhead = RUN_OVERHEAD_BYTES + u64::from(run.count) * MESSAGE_OVERHEAD_BYTES;
            weight.live_bytes = weight.live_bytes.saturating_add(run.bytes + overhead);
            weight.runs += 1;
        }
    }
}

impl Weight {
    fn of(bytes: u64) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }
}

/// The emptiest files, as many as it takes to come well below the budget. A file that is live for a
/// quarter or more is left alone, or for a half if dead bytes outweigh the budget and all live ones:
/// so files take at most twice what is live, and the budget.
pub(super) fn choose(
    files: &Files,
    stuck: &BTreeSet<Holder>,
    dead_bytes_max: u64,
) -> BTreeSet<Holder> {
    let all = files.weights.values();
    let mut dead: u64 = all.clone().map(|weight| weight.dead_bytes()).sum();
    let live: u64 = all.map(|weight| weight.live_bytes).sum();
    let enough = dead_bytes_max / 4 * 3;
    if dead <= enough {
        return BTreeSet::new();
    }
    let mut emptiest: Vec<_> = files.weights.iter().collect();
    emptiest.retain(|(holder, _)| !stuck.contains(holder));
    emptiest.sort_by_key(|(holder, weight)| (weight.live_percent(), **holder));
    let mut chosen = BTreeSet::new();
    let (mut moved, mut runs) = (0, 0);
    for (holder, weight) in emptiest {
        let percent_max = if dead > dead_bytes_max.saturating_add(live) {
            50
        } else {
            25
        };
        moved += weight.live_bytes;
        runs += weight.runs;
        let is_too_much = moved > MOVED_BYTES_MAX || runs > RUNS_MAX;
        let is_first = chosen.is_empty();
        if dead <= enough || weight.live_percent() >= percent_max || (is_too_much && !is_first) {
            break;
        }
        dead = dead.saturating_sub(weight.dead_bytes());
        chosen.insert(*holder);
    }
    if !chosen.is_empty() {
        chosen.extend(small_files(files, stuck));
    }
    chosen
}

/// Body segments that are small and many, so that years of compaction do not leave thousands of them.
/// Only those of about the same size are joined: each time, what is in them moves up a size.
fn small_files(files: &Files, stuck: &BTreeSet<Holder>) -> Vec<Holder> {
    let mut by_size: BTreeMap<u32, Vec<Holder>> = BTreeMap::new();
    for (holder, weight) in &files.weights {
        let is_small = weight.bytes < files.segment_bytes / SMALL_FILES_MAX as u64;
        if matches!(holder, Holder::Bodies(_)) && is_small && !stuck.contains(holder) {
            let size = weight.bytes.max(1).ilog(SMALL_FILES_MAX as u64);
            by_size.entry(size).or_default().push(*holder);
        }
    }
    by_size.retain(|_, holders| holders.len() >= SMALL_FILES_MAX);
    by_size.into_values().flatten().collect()
}
