//! What an owner chooses for a queue.

use alloc::string::String;

use crate::limits;

/// Settings of a work queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// Lease of a delivery where the consumer does not say, 1..=[`limits::LEASE_MS_MAX`] ms.
    pub lease_ms: u64,
    /// Deliveries after which a failed message is given up; 0 = never.
    pub max_deliveries: u32,
    /// Delay before a nacked or expired message is ready again; `None` = at once.
    pub retry_backoff: Option<RetryBackoff>,
    /// Where given-up messages go; `None` = they are dropped and counted.
    pub dead_letter: Option<DeadLetter>,
    /// Publishing goes on, granting stops.
    pub paused: bool,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            lease_ms: limits::LEASE_MS_DEFAULT,
            max_deliveries: limits::MAX_DELIVERIES_DEFAULT,
            retry_backoff: None,
            dead_letter: None,
            paused: false,
        }
    }
}

/// Growing delays between deliveries: delivery `n` failed, the next waits
/// `min(base * factor^(n-1), max)`, then less up to `jitter_percent` of it, derived from the
/// message id so that every replica and every replay agrees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBackoff {
    /// First delay, 1..=[`limits::DELAY_MS_MAX`] ms.
    pub base_ms: u64,
    /// Growth per delivery in hundredths: 200 doubles. 100..=10,000.
    pub factor_percent: u32,
    /// Longest delay, `base_ms`..=[`limits::DELAY_MS_MAX`] ms.
    pub max_ms: u64,
    /// 0..=100.
    pub jitter_percent: u32,
}

/// Target of dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// On the default exchange, the name of the queue in the same namespace. It need not exist
    /// yet: until it does, dead letters are parked.
    pub routing_key: String,
}

/// A change of settings: `None` leaves a setting as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueChanges {
    /// See [`QueueSettings::lease_ms`].
    pub lease_ms: Option<u64>,
    /// See [`QueueSettings::max_deliveries`].
    pub max_deliveries: Option<u32>,
    /// See [`QueueSettings::retry_backoff`].
    pub retry_backoff: Option<Option<RetryBackoff>>,
    /// See [`QueueSettings::dead_letter`].
    pub dead_letter: Option<Option<DeadLetter>>,
    /// See [`QueueSettings::paused`].
    pub paused: Option<bool>,
}
