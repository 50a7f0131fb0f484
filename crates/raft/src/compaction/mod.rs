//! Compaction: the few bodies that stay are moved together, so that the many dead ones around them
//! free the disk.
//!
//! When the dead bytes in what Raft no longer needs pass a budget, one job runs, in small steps between
//! checkpoints:
//!
//! 1. A survey of the state tells how much of each file is live; the emptiest are chosen (`choose`).
//! 2. A second survey tells which messages those are.
//! 3. A checkpoint at or beyond the survey's end becomes durable: what a crash brings back from then on
//!    refers to nothing else in these files.
//! 4. The live bodies are rewritten into body segments and synced.
//! 5. When nobody reads a checkpoint (see `hold`), the new segments are shown, and only then are the old
//!    files freed. What was live in a checkpoint may have died before the survey, and new segments are
//!    read before old ones.
//!
//! A crash at any point leaves the old files, the new ones, or both with the same bytes. A body that is
//! moved was among at most half of its file's, so a message that stays for ever is moved O(log) times.

mod choose;
mod job;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ticketrail_core::SurveyCursor;
use ticketrail_storage::{Holder, Log};

use self::choose::{Files, choose};
pub(crate) use self::job::normalise;
use self::job::{Job, Progress};
use crate::applied::Shared;

/// Runs of live messages that are looked at while apply waits.
const SURVEY_STEPS: usize = 256;
/// How often that is done in one step of the worker.
const SURVEYS_PER_STEP: usize = 32;
/// Buckets of live bodies that are counted while apply waits: some ten microseconds.
const BUCKETS_PER_HOLD: usize = 1_024;
/// What a small message costs beside its bytes, for the estimate that starts a job.
const MESSAGE_OVERHEAD_BYTES: u64 = 16;

/// What compaction did since the start.
#[derive(Debug, Default)]
pub struct CompactionCounts {
    /// Jobs that freed files.
    pub jobs: AtomicU64,
    /// Bytes of live bodies that were written anew.
    pub bytes_moved: AtomicU64,
    /// Bytes of files that were freed.
    pub bytes_freed: AtomicU64,
    /// Jobs that were given up.
    pub failures: AtomicU64,
}

/// See the module. Driven by the checkpoint's worker.
pub(crate) struct Compactor {
    shared: Arc<Shared>,
    log: Log,
    dead_bytes_max: u64,
    look_every: Duration,
    looked_at: Duration,
    phase: Phase,
    /// Snapshots that were installed before this phase began: it is about the state of then.
    installs: u64,
    /// Dead bytes below which another survey would find no more than the last one did.
    unproductive_upto: u64,
    /// Files that could not be compacted, until nothing else is left to do.
    stuck: BTreeSet<Holder>,
    counts: Arc<CompactionCounts>,
}

enum Phase {
    Idle,
    Weighing { at: SurveyCursor, files: Files },
    Working(Box<Job>),
}

/// What the compactor must know of the rest of the worker.
#[derive(Clone, Copy)]
pub(crate) struct Around {
    /// The last entry of the durable checkpoint.
    pub(crate) checkpoint_index: Option<u64>,
    /// Somebody reads a checkpoint.
    pub(crate) is_held: bool,
}

impl Compactor {
    pub(crate) fn new(
        shared: Arc<Shared>,
        log: Log,
        dead_bytes_max: u64,
        look_every: Duration,
        counts: Arc<CompactionCounts>,
    ) -> Self {
        Self {
            looked_at: (shared.now)(),
            shared,
            log,
            dead_bytes_max,
            look_every,
            phase: Phase::Idle,
            installs: 0,
            unproductive_upto: 0,
            stuck: BTreeSet::new(),
            counts,
        }
    }

    /// Does a little of what is due.
    ///
    /// # Errors
    /// Only when the log has stopped. What else goes wrong ends the job: the old files are still there.
    pub(crate) fn step(&mut self, around: Around) -> Result<(), String> {
        // After `is_held`: who installs a snapshot holds what is here until it is counted.
        let installs = self.shared.lock().installs;
        if std::mem::replace(&mut self.installs, installs) != installs {
            self.phase = Phase::Idle;
            return Ok(());
        }
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle => {
                if self.is_due() {
                    self.phase = Phase::Weighing {
                        at: SurveyCursor::default(),
                        files: Files::of(&self.log),
                    };
                }
            }
            Phase::Weighing { at, files } => self.weigh(at, files),
            Phase::Working(job) => self.work(job, around)?,
        }
        Ok(())
    }

    /// Whether there are more dead bytes than the budget allows, as far as can be told without a survey.
    fn is_due(&mut self) -> bool {
        let now = (self.shared.now)();
        if now.saturating_sub(self.looked_at) < self.look_every {
            return false;
        }
        self.looked_at = now;
        let dead = self.dead_bytes();
        dead > self.dead_bytes_max && dead > self.unproductive_upto
    }

    fn dead_bytes(&self) -> u64 {
        DiskUse::of(&self.log, &self.shared, self.dead_bytes_max).dead_bytes
    }

    fn weigh(&mut self, mut at: SurveyCursor, mut files: Files) {
        for _ in 0..SURVEYS_PER_STEP {
            let applied = self.shared.lock();
            let next = applied
                .state
                .survey(at, SURVEY_STEPS, &mut |run| files.add(run));
            drop(applied);
            let Some(next) = next else {
                return self.choose(&files);
            };
            at = next;
        }
        self.phase = Phase::Weighing { at, files };
    }

    fn choose(&mut self, files: &Files) {
        let chosen = choose(files, &self.stuck, self.dead_bytes_max);
        if chosen.is_empty() {
            // More must die before it is worth another look.
            self.unproductive_upto = self.dead_bytes() + self.dead_bytes_max / 4;
            self.stuck.clear();
            return;
        }
        self.unproductive_upto = 0;
        let cursor = self.shared.lock().state.begin_survey();
        self.phase = Phase::Working(Box::new(Job::new(cursor, chosen, &self.log)));
    }

    fn work(&mut self, mut job: Box<Job>, around: Around) -> Result<(), String> {
        match job.step(&self.shared, &self.log, around) {
            Ok(Progress::Goes) => self.phase = Phase::Working(job),
            Ok(Progress::Overtaken) => self.count(&self.counts.failures, 1),
            Ok(Progress::Done { moved, freed, left }) => {
                self.stuck.extend(left);
                self.count(&self.counts.jobs, 1);
                self.count(&self.counts.bytes_moved, moved);
                self.count(&self.counts.bytes_freed, freed);
                tracing::info!(moved_bytes = moved, freed_bytes = freed, "bodies compacted");
            }
            Err(error) => {
                if let Some(reason) = self.log.failed() {
                    return Err(reason);
                }
                tracing::error!(%error, "compaction of bodies is given up; nothing is lost");
                self.count(&self.counts.failures, 1);
                self.stuck.extend(error.holder);
                // A full disk, for one, does not get better at once.
                self.unproductive_upto = self.dead_bytes() + self.dead_bytes_max / 4;
            }
        }
        Ok(())
    }

    fn count(&self, count: &AtomicU64, more: u64) {
        count.fetch_add(more, Ordering::Relaxed);
    }
}

/// What the bodies and the log of a replica take on its disk, in bytes: all of its folder `log` but the
/// one segment that is made ahead, and a few small files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Log segments that Raft still needs.
    pub log_bytes: u64,
    /// Log segments that Raft no longer needs, kept for the bodies in them.
    pub purged_log_bytes: u64,
    /// Body segments.
    pub body_bytes: u64,
    /// What is live in purged log segments and body segments, estimated.
    pub live_bytes: u64,
    /// The rest of them.
    pub dead_bytes: u64,
    /// What purged log segments and body segments may come to, with what is live now, before compaction
    /// frees the dead bytes in them.
    pub stored_bytes_max: u64,
    /// Unused segments that are kept for later.
    pub spare_bytes: u64,
}

impl DiskUse {
    /// Apply goes on meanwhile, so what is live is only about right.
    pub(crate) fn of(log: &Log, shared: &Shared, dead_bytes_max: u64) -> Self {
        let purged = log.state().purged.map(|purged| purged.index);
        let mut found = Self::default();
        let mut segment_bytes = 0;
        for segment in log.segments() {
            segment_bytes = segment.bytes;
            let is_purged = segment.sealed
                && segment
                    .indexes
                    .is_none_or(|(_, last)| purged.is_some_and(|purged| last <= purged));
            if is_purged {
                found.purged_log_bytes += segment.bytes;
            } else {
                found.log_bytes += segment.bytes;
            }
        }
        found.spare_bytes = log.spare_segments() as u64 * segment_bytes;
        found.body_bytes = log.body_segments().iter().map(|bodies| bodies.bytes).sum();
        let stored = found.purged_log_bytes + found.body_bytes;
        if let Some(purged) = purged.filter(|_| stored > 0) {
            found.live_bytes = live_bytes_upto(purged, shared).min(stored);
        }
        found.dead_bytes = stored - found.live_bytes;
        // See `choose`.
        found.stored_bytes_max = found
            .live_bytes
            .saturating_mul(2)
            .saturating_add(dead_bytes_max);
        found
    }
}

fn live_bytes_upto(last_index: u64, shared: &Shared) -> u64 {
    let (mut sum, mut next) = (0_u64, Some(0));
    while let Some(first) = next {
        let applied = shared.lock();
        let (live, left) = applied.state.live_in(first, last_index, BUCKETS_PER_HOLD);
        drop(applied);
        let overhead = live.messages.saturating_mul(MESSAGE_OVERHEAD_BYTES);
        sum = sum.saturating_add(live.bytes).saturating_add(overhead);
        next = left;
    }
    sum
}
