//! Waiting for conditions, always with a deadline; never sleeping and hoping.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep};

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until the condition gives a value.
///
/// # Panics
/// When the time is over; `what` and what was seen last are in the message.
pub async fn until<T, E: Debug>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        match look().await {
            Ok(value) => return value,
            Err(seen) if Instant::now() >= deadline => {
                panic!("waited {within:?} for {what}; last seen: {seen:?}")
            }
            Err(_) => sleep(LOOK_EVERY).await,
        }
    }
}

/// A number of seconds.
#[must_use]
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A number of milliseconds.
#[must_use]
pub const fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// As the interface writes it.
///
/// # Panics
/// When it is longer than the interface can write.
#[must_use]
pub fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).expect("a test's duration fits")
}

/// From the interface's writing; nothing where it is absent or negative.
#[must_use]
pub fn from_proto(duration: Option<&prost_types::Duration>) -> Option<Duration> {
    duration.and_then(|duration| Duration::try_from(*duration).ok())
}
