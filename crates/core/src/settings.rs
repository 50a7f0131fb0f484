//! What an owner chooses for a queue.

use alloc::string::String;

use crate::digest;
use crate::id::MessageId;
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

impl RetryBackoff {
    /// The delay after delivery `delivery_count` (from 1) of a message failed, in ms.
    #[must_use]
    pub fn delay_ms(&self, delivery_count: u32, hash_seed: u64, message: MessageId) -> u64 {
        let delay = self.delay_before_jitter_ms(delivery_count);
        let jitter = u128::from(delay) * u128::from(self.jitter_percent.min(100)) / 100;
        let jitter = u64::try_from(jitter).unwrap_or(delay);
        let hash = digest::word(digest::word(0, hash_seed), message.0);
        delay - hash % jitter.saturating_add(1)
    }

    /// Grows with 32 bits behind the point, so that small delays grow by small factors too.
    fn delay_before_jitter_ms(&self, delivery_count: u32) -> u64 {
        let max = u128::from(self.max_ms) << 32;
        let mut delay = (u128::from(self.base_ms) << 32).min(max);
        let next = |delay: u128| (delay * u128::from(self.factor_percent) / 100).min(max);
        // Ends early: a factor above 1 reaches the longest delay soon, and 1 changes nothing.
        for _ in 1..delivery_count {
            let grown = next(delay);
            if grown == delay {
                break;
            }
            delay = grown;
        }
        u64::try_from(delay >> 32).unwrap_or(self.max_ms)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const DOUBLING: RetryBackoff = RetryBackoff {
        base_ms: 100,
        factor_percent: 200,
        max_ms: 1_000,
        jitter_percent: 0,
    };

    #[test]
    fn delays_grow_up_to_the_longest() {
        let delay = |n| DOUBLING.delay_ms(n, 7, MessageId(1));
        assert_eq!(
            [1, 2, 3, 4, 5, u32::MAX].map(delay),
            [100, 200, 400, 800, 1_000, 1_000]
        );
        let slow = RetryBackoff {
            base_ms: 1,
            factor_percent: 101,
            ..DOUBLING
        };
        assert_eq!(slow.delay_ms(71, 7, MessageId(1)), 2);
        let longest = RetryBackoff {
            base_ms: limits::DELAY_MS_MAX,
            factor_percent: 10_000,
            max_ms: limits::DELAY_MS_MAX,
            jitter_percent: 0,
        };
        assert_eq!(
            longest.delay_ms(u32::MAX, 7, MessageId(1)),
            limits::DELAY_MS_MAX
        );
    }

    #[test]
    fn jitter_takes_off_up_to_its_share_and_differs_between_messages() {
        let backoff = RetryBackoff {
            jitter_percent: 50,
            ..DOUBLING
        };
        let delays = (1..100).map(|id| backoff.delay_ms(1, 7, MessageId(id)));
        let delays: alloc::collections::BTreeSet<u64> = delays.collect();
        assert!(delays.iter().all(|delay| (50..=100).contains(delay)));
        assert!(delays.len() > 30);
    }
}
