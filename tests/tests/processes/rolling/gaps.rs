//! The longest time without a confirm.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// When confirms came.
pub(crate) struct Gaps(Mutex<Seen>);

struct Seen {
    last: Instant,
    /// Gaps above [`KEPT`]: when each ended, and how long it was.
    gaps: Vec<(Instant, Duration)>,
}

/// Shorter ones are of no interest.
const KEPT: Duration = Duration::from_millis(1);

impl Gaps {
    pub(crate) fn new() -> Self {
        let last = Instant::now();
        let gaps = Vec::new();
        Self(Mutex::new(Seen { last, gaps }))
    }

    /// A confirm came.
    pub(crate) fn confirmed(&self) {
        let now = Instant::now();
        let mut seen = self.0.lock().unwrap();
        let gap = now.saturating_duration_since(seen.last);
        seen.last = now;
        if gap > KEPT {
            seen.gaps.push((now, gap));
        }
    }

    /// The longest that ended after this instant.
    pub(crate) fn longest_since(&self, start: Instant) -> Duration {
        let seen = self.0.lock().unwrap();
        let since = seen.gaps.iter().filter(|(end, _)| *end >= start);
        since.map(|(_, gap)| *gap).max().unwrap_or_default()
    }
}
