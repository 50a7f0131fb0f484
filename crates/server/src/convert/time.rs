use std::ops::RangeInclusive;
use std::time::Duration;

use ticketrail_proto::error::Problem;

use super::Checked;

/// A span of whole milliseconds inside `bounds`; `None` where it is absent.
pub(crate) fn millis(
    span: Option<&prost_types::Duration>,
    bounds: RangeInclusive<u64>,
    field: &str,
) -> Checked<Option<u64>> {
    let Some(span) = span else { return Ok(None) };
    let must = || {
        let (first, last) = (bounds.start(), bounds.end());
        Problem::invalid_field(field, format!("whole milliseconds, {first} ms..{last} ms"))
    };
    if span.seconds < 0 || !(0..1_000_000_000).contains(&span.nanos) || span.nanos % 1_000_000 != 0
    {
        return Err(must());
    }
    let millis = u64::try_from(span.seconds)
        .ok()
        .and_then(|seconds| seconds.checked_mul(1_000))
        .and_then(|millis| millis.checked_add(span.nanos.unsigned_abs() as u64 / 1_000_000));
    millis
        .filter(|millis| bounds.contains(millis))
        .map(Some)
        .ok_or_else(must)
}

/// The same as a [`Duration`], up to `max`.
pub(crate) fn duration(
    span: Option<&prost_types::Duration>,
    max: Duration,
    field: &str,
) -> Checked<Option<Duration>> {
    let max = u64::try_from(max.as_millis()).unwrap_or(u64::MAX);
    Ok(millis(span, 0..=max, field)?.map(Duration::from_millis))
}

/// A span of ours; those are far from the bounds of the wire.
pub(crate) fn duration_to_proto(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(seconds: i64, nanos: i32) -> prost_types::Duration {
        prost_types::Duration { seconds, nanos }
    }

    #[test]
    fn only_whole_milliseconds_inside_the_bounds_pass() {
        let check = |seconds, nanos| millis(Some(&span(seconds, nanos)), 1..=43_200_000, "x");
        assert_eq!(check(1, 500_000_000), Ok(Some(1_500)));
        assert_eq!(check(0, 1_000_000), Ok(Some(1)));
        assert_eq!(check(43_200, 0), Ok(Some(43_200_000)));
        assert_eq!(millis(None, 1..=2, "x"), Ok(None));
        for (seconds, nanos) in [
            (-1, 0),
            (0, 0),
            (0, 1),
            (0, -1_000_000),
            (0, 1_000_000_000),
            (43_200, 1_000_000),
            (46_800, 0),
            (i64::MAX, 0),
            (i64::MIN, 0),
            (1, i32::MIN),
        ] {
            let problem = check(seconds, nanos).unwrap_err();
            assert_eq!(
                problem.message(),
                "`x` must be whole milliseconds, 1 ms..43200000 ms"
            );
        }
    }
}
