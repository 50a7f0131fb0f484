//! Who is let in, and who is told to come back later.
//!
//! There are two lanes. *Publishes* are what makes a node grow, so they are what is refused: by
//! bytes under way, and for as long as memory, disk or apply are short, here or on a node that the
//! entries go to. *Everything else* (settles, extends, credit, receives, topology) has a budget of
//! its own, because it is what makes a node shrink again; it is never refused for a watermark.
//!
//! A budget is counted when a request's length arrives, before its bytes are buffered, and given
//! back by dropping the [`Share`]: no path can forget it.

mod budget;
mod limit;
mod pressure;
mod publish_budget;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ticketrail_core::NodeId;
use ticketrail_proto::error::{Problem, Reason};
use tokio::sync::watch;
use tokio::time::Instant;

pub use budget::{Budget, Share};
pub use limit::{Bound, RefusalCounts};
pub use pressure::Blocked;
use pressure::{Pressure, Watermark};
pub use publish_budget::{PublishBudget, Purse};

/// The marks are left at this part of what reaches them.
const LEFT_AT_PERCENT: u64 = 90;
/// So often it is looked whether apply lags, and whether what others told is too old.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Bounds of what is told to wait while a mark is reached.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The bounds of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmissionConfig {
    /// Bytes of publishes under way.
    pub publish_bytes_max: u32,
    /// Bytes of publishes under way on one connection.
    pub connection_bytes_max: u32,
    /// Bytes of all other requests under way.
    pub reserved_bytes_max: u32,
    /// Resident memory.
    pub memory_bytes_max: u64,
    /// Free bytes on the disk.
    pub disk_free_bytes_min: u64,
    /// Free part of the disk, in percent.
    pub disk_free_percent_min: u8,
    /// Committed entries that are not applied here.
    pub apply_lag_entries_max: u64,
    /// Open publish streams.
    pub publish_streams_max: u32,
    /// Open consume streams.
    pub consumers_max: u32,
    /// Calls that wait for messages.
    pub long_polls_max: u32,
}

impl Default for AdmissionConfig {
    /// For a small machine.
    fn default() -> Self {
        Self {
            publish_bytes_max: 64 << 20,
            connection_bytes_max: 32 << 20,
            reserved_bytes_max: 32 << 20,
            memory_bytes_max: u64::MAX,
            disk_free_bytes_min: 512 << 20,
            disk_free_percent_min: 1,
            apply_lag_entries_max: 4_096,
            publish_streams_max: 8_192,
            consumers_max: 16_384,
            long_polls_max: 16_384,
        }
    }
}

/// How near this node is to a bound, in the bound's own unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// What is taken now; for memory, disk and apply as last measured.
    pub used: u64,
    /// The bound. For the disk what may be taken of it.
    pub max: u64,
    /// A watermark is reached, and not left yet: the nodes refuse publishes for it.
    pub short: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Admission {
    config: AdmissionConfig,
    /// Bytes of publishes under way.
    pub publish: PublishBudget,
    /// Bytes of all other requests under way.
    pub reserved: Budget,
    publish_streams: Budget,
    consumers: Budget,
    long_polls: Budget,
    pressure: Pressure,
    marks: Mutex<Marks>,
    refusals: RefusalCounts,
}

#[derive(Debug)]
struct Marks {
    memory: Watermark,
    lag: Watermark,
    disk_short: bool,
    memory_bytes: u64,
    disk_free_bytes: u64,
    disk_bytes: u64,
    lag_entries: u64,
}

impl Admission {
    /// With these bounds.
    #[must_use]
    pub fn new(config: AdmissionConfig) -> Self {
        let part = |high: u64| high / 100 * LEFT_AT_PERCENT;
        let marks = Marks {
            memory: Watermark::new(config.memory_bytes_max, part(config.memory_bytes_max)),
            lag: Watermark::new(
                config.apply_lag_entries_max,
                config.apply_lag_entries_max / 2,
            ),
            disk_short: false,
            memory_bytes: 0,
            disk_free_bytes: 0,
            disk_bytes: 0,
            lag_entries: 0,
        };
        Self {
            publish: PublishBudget::new(config.publish_bytes_max),
            reserved: Budget::new(config.reserved_bytes_max),
            publish_streams: Budget::new(config.publish_streams_max),
            consumers: Budget::new(config.consumers_max),
            long_polls: Budget::new(config.long_polls_max),
            pressure: Pressure::new(),
            marks: Mutex::new(marks),
            refusals: RefusalCounts::default(),
            config,
        }
    }

    /// The bounds.
    #[must_use]
    pub fn config(&self) -> &AdmissionConfig {
        &self.config
    }

    /// Whether publishes are taken now.
    ///
    /// # Errors
    /// `OVERLOADED`, with what is short.
    pub fn check_publish(&self) -> Result<(), Problem> {
        match self.pressure.blocked() {
            None => Ok(()),
            Some(blocked) => {
                self.refusals.count(blocked.bound);
                Err(blocked_problem(&blocked))
            }
        }
    }

    /// Why publishes are refused, and each change of it.
    #[must_use]
    pub fn blocked(&self) -> watch::Receiver<Option<Blocked>> {
        self.pressure.subscribe()
    }

    /// A place for what is bounded by number.
    ///
    /// # Errors
    /// `OVERLOADED`: none is free.
    pub fn place(&self, bound: Bound) -> Result<Share, Problem> {
        let places = match bound {
            Bound::PublishStreams => &self.publish_streams,
            Bound::Consumers => &self.consumers,
            _ => &self.long_polls,
        };
        places
            .try_take(1)
            .ok_or_else(|| self.refuse(bound, places.retry_after()))
    }

    /// Counts a refusal, and says it.
    #[must_use]
    pub fn refuse(&self, bound: Bound, retry_after: Duration) -> Problem {
        self.refusals.count(bound);
        let what = format!("{} (`{}`)", bound.what(), bound.setting());
        Problem::overloaded(what, retry_after)
            .with("bound", bound.word())
            .with("setting", bound.setting())
    }

    /// How often each bound refused.
    #[must_use]
    pub fn refusals(&self) -> &RefusalCounts {
        &self.refusals
    }

    /// Counts a refusal that has no words, such as of a connection.
    pub fn count_refusal(&self, bound: Bound) {
        self.refusals.count(bound);
    }

    /// The memory of this process was measured.
    pub fn memory_measured(&self, resident_bytes: u64) {
        let mut marks = self.marks();
        marks.memory_bytes = resident_bytes;
        let short = marks.memory.look(resident_bytes);
        drop(marks);
        self.pressure.set(Bound::Memory, short);
    }

    /// The disk was measured: `free` counts what can be written to, unused log segments included. Tells
    /// whether it is short.
    pub fn disk_measured(&self, free: u64, whole: u64) -> bool {
        let floor = self.disk_floor(whole);
        let mut marks = self.marks();
        (marks.disk_free_bytes, marks.disk_bytes) = (free, whole);
        // Left a quarter above where it is reached, so that it does not flutter.
        let floor = if marks.disk_short {
            floor + floor / 4
        } else {
            floor
        };
        marks.disk_short = free < floor;
        let short = marks.disk_short;
        drop(marks);
        self.pressure.set(Bound::Disk, short);
        short
    }

    /// The free bytes below which publishes are refused, on a disk of so many bytes.
    #[must_use]
    pub fn disk_floor(&self, whole: u64) -> u64 {
        let percent = whole / 100 * u64::from(self.config.disk_free_percent_min);
        self.config.disk_free_bytes_min.max(percent)
    }

    /// Another node said what is short there.
    pub fn heard(&self, node: NodeId, pressure: u32) {
        self.pressure.heard(node, pressure);
    }

    /// What this node tells its leader: what is short here.
    #[must_use]
    pub fn own_pressure(&self) -> u32 {
        self.pressure.own()
    }

    /// What a leader tells the others: what is short on any node.
    #[must_use]
    pub fn pressure_of_all(&self) -> u32 {
        self.pressure.of_all()
    }

    /// How near this node is to a bound; none where it is not counted for the whole node here.
    #[must_use]
    pub fn level(&self, bound: Bound) -> Option<Level> {
        let taken = |budget: &Budget| (budget.used(), u64::from(budget.max()));
        let (used, max) = match bound {
            Bound::PublishBytes => (self.publish.used(), self.publish.max()),
            Bound::ReservedBytes => taken(&self.reserved),
            Bound::PublishStreams => taken(&self.publish_streams),
            Bound::Consumers => taken(&self.consumers),
            Bound::LongPolls => taken(&self.long_polls),
            Bound::Memory => (self.marks().memory_bytes, self.config.memory_bytes_max),
            Bound::ApplyLag => (self.marks().lag_entries, self.config.apply_lag_entries_max),
            Bound::Disk => {
                let marks = self.marks();
                let whole = marks.disk_bytes;
                let used = whole.saturating_sub(marks.disk_free_bytes);
                (used, whole.saturating_sub(self.disk_floor(whole)))
            }
            Bound::ConnectionBytes | Bound::Connections => return None,
        };
        let short = self.pressure.is_short(bound);
        Some(Level { used, max, short })
    }

    fn lag_measured(&self, entries: u64) {
        let mut marks = self.marks();
        marks.lag_entries = entries;
        let short = marks.lag.look(entries);
        drop(marks);
        self.pressure.set(Bound::ApplyLag, short);
    }

    fn marks(&self) -> std::sync::MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a publish is told while something is short.
#[must_use]
pub fn blocked_problem(blocked: &Blocked) -> Problem {
    let (what, setting) = (blocked.bound.what(), blocked.bound.setting());
    let place = match blocked.here {
        true => "this node",
        false => "a node of this cluster",
    };
    let message = format!(
        "publishes are refused while {place} is short of {what} (`{setting}`); settles and deletes \
         go on and make room; try again after a pause"
    );
    Problem::new(Reason::Overloaded, message)
        .with("bound", blocked.bound.word())
        .with("setting", setting)
        .quota("node", what)
        .retry_after(retry_after(blocked.since.elapsed()))
}

/// What was short for long will be for a while.
fn retry_after(since: Duration) -> Duration {
    (since / 4).clamp(RETRY_MIN, RETRY_MAX)
}

impl Blocked {
    /// When it may be worth to try again.
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        retry_after(Instant::now().saturating_duration_since(self.since))
    }
}

/// Looks again and again at what nobody tells.
pub(crate) async fn watch(admission: Arc<Admission>, replica: ticketrail_raft::Replica) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let status = replica.status();
        let committed = status.committed_index.unwrap_or_default();
        let applied = status.applied_index.unwrap_or_default();
        admission.lag_measured(committed.saturating_sub(applied));
        admission.pressure.look();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_disk_refuses_publishes_until_there_is_clearly_more() {
        let admission = Admission::new(AdmissionConfig {
            disk_free_bytes_min: 100,
            disk_free_percent_min: 20,
            ..AdmissionConfig::default()
        });
        let taken = |free| {
            admission.disk_measured(free, 1_000);
            admission.check_publish().is_ok()
        };
        // A fifth of the disk is more than the bytes.
        assert!(taken(200));
        assert!(!taken(199));
        assert!(!taken(249));
        assert!(taken(250));
        assert!(taken(200));
        assert!(!taken(0));
        let problem = admission.check_publish().unwrap_err();
        assert_eq!(problem.reason(), Reason::Overloaded);
        assert!(problem.message().contains("disk_free_bytes_min"));
        assert_eq!(admission.refusals().of(Bound::Disk), 4);
        let level = Level {
            used: 1_000,
            max: 800,
            short: true,
        };
        assert_eq!(admission.level(Bound::Disk), Some(level));
    }

    #[test]
    fn places_are_bounded_and_come_back() {
        let admission = Admission::new(AdmissionConfig {
            consumers_max: 1,
            ..AdmissionConfig::default()
        });
        let place = admission.place(Bound::Consumers).unwrap();
        let level = |used| Level {
            used,
            max: 1,
            short: false,
        };
        assert_eq!(admission.level(Bound::Consumers), Some(level(1)));
        let refused = admission.place(Bound::Consumers).unwrap_err();
        assert!(
            refused.message().contains("limits.consumers_max"),
            "{refused}"
        );
        assert!(admission.place(Bound::LongPolls).is_ok());
        drop(place);
        assert!(admission.place(Bound::Consumers).is_ok());
        drop(admission.place(Bound::Consumers));
        assert_eq!(admission.level(Bound::Consumers), Some(level(0)));
        assert_eq!(admission.refusals().of(Bound::Consumers), 1);
    }
}
