use ticketrail_core::{DeadLetter, QueueChanges, QueueSettings, RetryBackoff};

use crate::store;

impl From<&QueueSettings> for store::QueueSettings {
    fn from(settings: &QueueSettings) -> Self {
        Self {
            lease_ms: settings.lease_ms,
            max_deliveries: settings.max_deliveries,
            retry_backoff: settings.retry_backoff.map(Into::into),
            dead_letter: settings.dead_letter.as_ref().map(Into::into),
            paused: settings.paused,
        }
    }
}

impl From<store::QueueSettings> for QueueSettings {
    fn from(settings: store::QueueSettings) -> Self {
        Self {
            lease_ms: settings.lease_ms,
            max_deliveries: settings.max_deliveries,
            retry_backoff: settings.retry_backoff.map(Into::into),
            dead_letter: settings.dead_letter.map(Into::into),
            paused: settings.paused,
        }
    }
}

impl From<RetryBackoff> for store::RetryBackoff {
    fn from(backoff: RetryBackoff) -> Self {
        Self {
            base_ms: backoff.base_ms,
            factor_percent: backoff.factor_percent,
            max_ms: backoff.max_ms,
            jitter_percent: backoff.jitter_percent,
        }
    }
}

impl From<store::RetryBackoff> for RetryBackoff {
    fn from(backoff: store::RetryBackoff) -> Self {
        Self {
            base_ms: backoff.base_ms,
            factor_percent: backoff.factor_percent,
            max_ms: backoff.max_ms,
            jitter_percent: backoff.jitter_percent,
        }
    }
}

impl From<&DeadLetter> for store::DeadLetter {
    fn from(target: &DeadLetter) -> Self {
        Self {
            routing_key: target.routing_key.clone(),
        }
    }
}

impl From<store::DeadLetter> for DeadLetter {
    fn from(target: store::DeadLetter) -> Self {
        Self {
            routing_key: target.routing_key,
        }
    }
}

impl From<&QueueChanges> for store::QueueChanges {
    fn from(changes: &QueueChanges) -> Self {
        let retry_backoff = changes
            .retry_backoff
            .map(|value| store::RetryBackoffChange {
                value: value.map(Into::into),
            });
        let dead_letter = changes
            .dead_letter
            .as_ref()
            .map(|value| store::DeadLetterChange {
                value: value.as_ref().map(Into::into),
            });
        Self {
            lease_ms: changes.lease_ms,
            max_deliveries: changes.max_deliveries,
            retry_backoff,
            dead_letter,
            paused: changes.paused,
        }
    }
}

impl From<store::QueueChanges> for QueueChanges {
    fn from(changes: store::QueueChanges) -> Self {
        Self {
            lease_ms: changes.lease_ms,
            max_deliveries: changes.max_deliveries,
            retry_backoff: changes
                .retry_backoff
                .map(|change| change.value.map(Into::into)),
            dead_letter: changes
                .dead_letter
                .map(|change| change.value.map(Into::into)),
            paused: changes.paused,
        }
    }
}
