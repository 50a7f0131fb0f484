//! Why a handler failed, and what is to become of its message.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::receive::{NACK_DELAY_MAX, Settlement};

type Cause = Box<dyn StdError + Send + Sync>;

/// Why a handler failed, and what is to become of the message.
///
/// Every error becomes one with `?`, and so does text; the message is then given back as failed, to its old place after
/// the queue's backoff, or to the dead letters after the queue's `max_deliveries`. The cause goes to the log.
///
/// ```
/// use std::time::Duration;
/// use ticketrail_client::Failure;
///
/// fn work(body: &[u8]) -> Result<(), Failure> {
///     let table: u32 = std::str::from_utf8(body).map_err(Failure::reject)?.parse()?;
///     if table > 40 {
///         return Err(Failure::retry_after("that table is not laid yet", Duration::from_secs(60)));
///     }
///     Ok(())
/// }
///
/// assert!(work(b"7").is_ok());
/// assert_eq!(work(b"41").unwrap_err().to_string(), "that table is not laid yet");
/// assert_eq!(work(b"x").unwrap_err().to_string(), "invalid digit found in string");
/// ```
#[derive(Debug)]
pub struct Failure {
    cause: Cause,
    settlement: Settlement,
}

impl Failure {
    /// To be tried again after the queue's backoff.
    pub fn new(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let settlement = Settlement::Nack(None);
        let cause = cause.into();
        Self { cause, settlement }
    }

    /// To be tried again after this time (whole milliseconds; a year where it is longer) instead of the queue's backoff.
    pub fn retry_after(cause: impl Into<Box<dyn StdError + Send + Sync>>, delay: Duration) -> Self {
        let settlement = Settlement::Nack(Some(delay.min(NACK_DELAY_MAX)));
        let cause = cause.into();
        Self { cause, settlement }
    }

    /// Hopeless: to the dead letters at once; dropped, and counted, where the queue has none.
    pub fn reject(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let settlement = Settlement::Reject;
        let cause = cause.into();
        Self { cause, settlement }
    }

    pub(super) fn settlement(&self) -> Settlement {
        self.settlement
    }

    /// The cause and what caused it, for the log.
    pub(super) fn chain(&self) -> String {
        let mut text = self.cause.to_string();
        let mut source = self.cause.source();
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        text
    }
}

impl<E: Into<Box<dyn StdError + Send + Sync>>> From<E> for Failure {
    fn from(cause: E) -> Self {
        Self::new(cause)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn what_becomes_of_the_message_is_said_by_the_constructor() {
        let second = Duration::from_secs(1);
        assert_eq!(Failure::from("x").settlement(), Settlement::Nack(None));
        let later = Failure::retry_after("x", second);
        assert_eq!(later.settlement(), Settlement::Nack(Some(second)));
        assert_eq!(Failure::reject("x").settlement(), Settlement::Reject);
    }

    #[test]
    fn a_delay_without_end_becomes_the_longest_that_is_allowed() {
        let settlement = Failure::retry_after("x", Duration::MAX).settlement();
        assert_eq!(settlement, Settlement::Nack(Some(NACK_DELAY_MAX)));
        settlement.check().unwrap();
    }

    #[test]
    fn the_log_gets_all_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("the oven is off")]
        struct Off(#[source] io::Error);
        let failure = Failure::from(Off(io::Error::other("no gas")));
        assert_eq!(failure.chain(), "the oven is off: no gas");
        assert_eq!(failure.to_string(), "the oven is off");
    }
}
