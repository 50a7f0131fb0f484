//! Numbers for those who watch a node: what its broker did since the start, and what waits now.

use std::sync::atomic::{AtomicBool, Ordering};

use ticketrail_core::Command;
use ticketrail_raft::{Histogram, HistogramCounts};
use tokio::time::Instant;

use crate::broker::{Broker, Inner};

/// Bounds for the commands of one entry; the last is the proposer's own.
const ENTRY_COMMANDS_BOUNDS: &[u64] = &[0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
/// Bounds for the bytes of one entry; entries above 512 KiB hold one command.
const ENTRY_BYTES_BOUNDS: &[u64] = &[
    1 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    512 << 10,
    1 << 20,
    4 << 20,
    16 << 20,
];

/// Counted where things happen.
#[derive(Debug)]
pub(crate) struct Counts {
    publishes: Histogram,
    settles: Histogram,
    others: Histogram,
    entry_commands: Histogram,
    entry_bytes: Histogram,
    clock_alarm: AtomicBool,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            publishes: Histogram::of_durations(),
            settles: Histogram::of_durations(),
            others: Histogram::of_durations(),
            entry_commands: Histogram::new(ENTRY_COMMANDS_BOUNDS),
            entry_bytes: Histogram::new(ENTRY_BYTES_BOUNDS),
            clock_alarm: AtomicBool::new(false),
        }
    }
}

impl Counts {
    /// A command that was taken in at `since` is committed, and applied here.
    pub(crate) fn note_confirm(&self, command: &Command, since: Instant) {
        let histogram = match command {
            Command::Publish(_) => &self.publishes,
            Command::Settle(_) => &self.settles,
            _ => &self.others,
        };
        histogram.record_duration(since.elapsed());
    }

    /// This node, as the leader, proposed an entry.
    pub(crate) fn note_entry(&self, commands: usize, bytes: usize) {
        self.entry_commands.record(commands as u64);
        self.entry_bytes.record(bytes as u64);
    }

    /// Whether the nodes' wall clocks disagree, as the leader sees it.
    pub(crate) fn set_clock_alarm(&self, alarm: bool) {
        self.clock_alarm.store(alarm, Ordering::Relaxed);
    }
}

/// A broker in numbers, at one moment; counted since the start of the process where nothing else
/// is said.
#[derive(Clone, Debug)]
pub struct BrokerFigures {
    /// From a publish frame's arrival to its confirm, ns.
    pub publishes: HistogramCounts,
    /// From a settle's arrival to its answer, ns.
    pub settles: HistogramCounts,
    /// The same of all other commands, ns.
    pub other_commands: HistogramCounts,
    /// Commands of each entry that this node proposed.
    pub entry_commands: HistogramCounts,
    /// Bytes of each entry that this node proposed.
    pub entry_bytes: HistogramCounts,
    /// The wall clocks of the nodes disagree; only the leader can tell.
    pub clock_alarm: bool,
    /// Commands of this node that wait for their outcome now.
    pub waiting_commands: usize,
    /// Their bytes.
    pub waiting_bytes: usize,
    /// Sessions that are served here now.
    pub sessions: usize,
    /// Long polls that wait here now.
    pub long_polls: usize,
}

impl Broker {
    /// The broker in numbers, for those who watch it. Cheap, and never waits.
    #[must_use]
    pub fn figures(&self) -> BrokerFigures {
        let inner: &Inner = &self.inner;
        let counts = inner.hub.counts();
        BrokerFigures {
            publishes: counts.publishes.counts(),
            settles: counts.settles.counts(),
            other_commands: counts.others.counts(),
            entry_commands: counts.entry_commands.counts(),
            entry_bytes: counts.entry_bytes.counts(),
            clock_alarm: counts.clock_alarm.load(Ordering::Relaxed),
            waiting_commands: inner.hub.waiting(),
            waiting_bytes: inner.waiting_bytes(),
            sessions: inner.hub.served().len(),
            long_polls: inner.hub.polling(),
        }
    }

    /// The median of the nodes' wall clocks as far as known here, UTC in milliseconds since 1970.
    #[must_use]
    pub fn wall_median_ms(&self) -> u64 {
        let (mut clocks, _) = self.inner.peers.wall_clocks(Instant::now());
        clocks.sort_unstable();
        let median = clocks.get(clocks.len().saturating_sub(1) / 2).copied();
        median.unwrap_or_default()
    }

    /// The time of day as the cluster would say it now: that median, never behind replicated time,
    /// which itself stands still while nothing is written.
    #[must_use]
    pub fn wall_now_ms(&self) -> u64 {
        self.inner.hub.wall_now().0.max(self.wall_median_ms())
    }
}
