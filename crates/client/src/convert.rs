//! Between the durations and times of Rust and those of the protos.

use std::time::Duration;

/// Whole milliseconds, as the log writes them.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whole milliseconds, as the protos want them; a duration that does not fit is cut to the largest that
/// does and left to the server to refuse.
pub(crate) fn to_proto(duration: Duration) -> prost_types::Duration {
    let whole = Duration::from_millis(millis(duration));
    prost_types::Duration::try_from(whole).unwrap_or(prost_types::Duration {
        seconds: i64::MAX,
        nanos: 0,
    })
}

/// Negative durations become zero.
pub(crate) fn from_proto(duration: Option<prost_types::Duration>) -> Option<Duration> {
    duration.map(|duration| Duration::try_from(duration).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_to_milliseconds_and_to_zero() {
        let proto = to_proto(Duration::from_micros(1_500_700));
        assert_eq!((proto.seconds, proto.nanos), (1, 500_000_000));
        let negative = prost_types::Duration {
            seconds: -1,
            nanos: 0,
        };
        assert_eq!(from_proto(Some(negative)), Some(Duration::ZERO));
        assert_eq!(to_proto(Duration::MAX).seconds.signum(), 1);
    }
}
