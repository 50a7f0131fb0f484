use std::time::Duration;

use ticketrail_core::limits as core;
use ticketrail_core::{DeadLetter, QueueChanges, QueueSettings, RetryBackoff};
use ticketrail_proto::error::Problem;
use ticketrail_proto::v1;

use super::names::name;
use super::{Checked, duration_to_proto, millis, not_yet};

const FACTOR_PERCENT_DEFAULT: u32 = 200;
const JITTER_PERCENT_DEFAULT: u32 = 25;
const BACKOFF_MS_MAX_DEFAULT: u64 = 12 * 3_600_000;

/// A declaration; what is absent gets its default. Never paused: that is not a setting.
pub(crate) fn settings(wire: Option<&v1::QueueSettings>) -> Checked<QueueSettings> {
    let Some(wire) = wire else {
        return Ok(QueueSettings::default());
    };
    later_fields(wire)?;
    let default = QueueSettings::default();
    Ok(QueueSettings {
        lease_ms: lease(wire)?.unwrap_or(default.lease_ms),
        max_deliveries: wire.max_deliveries.unwrap_or(default.max_deliveries),
        retry_backoff: wire.retry_backoff.as_ref().map(backoff).transpose()?,
        dead_letter: wire.dead_letter.as_ref().map(dead_letter).transpose()?,
        paused: false,
    })
}

/// The changes that a mask names.
pub(crate) fn changes(
    wire: Option<&v1::QueueSettings>,
    mask: Option<&prost_types::FieldMask>,
) -> Checked<QueueChanges> {
    let empty = v1::QueueSettings::default();
    let wire = wire.unwrap_or(&empty);
    let paths = mask.map(|mask| mask.paths.as_slice()).unwrap_or_default();
    if paths.is_empty() {
        return Err(Problem::invalid_field(
            "update_mask",
            "the names of the settings to change",
        ));
    }
    let new = settings(Some(wire))?;
    let mut changes = QueueChanges::default();
    for (place, path) in paths.iter().enumerate() {
        match path.as_str() {
            "lease_duration" => changes.lease_ms = Some(new.lease_ms),
            "max_deliveries" => changes.max_deliveries = Some(new.max_deliveries),
            "retry_backoff" => changes.retry_backoff = Some(new.retry_backoff),
            "dead_letter" => changes.dead_letter = Some(new.dead_letter.clone()),
            later if LATER.contains(&later) => {
                return Err(Problem::not_yet(format!("update_mask.paths[{place}]")));
            }
            _ => {
                let must = "a field of QueueSettings that can be changed, such as `lease_duration`";
                return Err(Problem::invalid_field(
                    format!("update_mask.paths[{place}]"),
                    must,
                ));
            }
        }
    }
    unnamed(wire, paths)?;
    Ok(changes)
}

/// A value that the mask does not name would be ignored: refuse it.
fn unnamed(wire: &v1::QueueSettings, paths: &[String]) -> Checked<()> {
    let set = [
        ("lease_duration", wire.lease_duration.is_some()),
        ("max_deliveries", wire.max_deliveries.is_some()),
        ("retry_backoff", wire.retry_backoff.is_some()),
        ("dead_letter", wire.dead_letter.is_some()),
    ];
    for (field, is_set) in set {
        if is_set && !paths.iter().any(|path| path == field) {
            let must = "named in `update_mask`, or absent";
            return Err(Problem::invalid_field(format!("settings.{field}"), must));
        }
    }
    Ok(())
}

const LATER: &[&str] = &[
    "message_ttl",
    "max_messages",
    "max_bytes",
    "overflow",
    "idle_expiry",
    "single_active_consumer",
    "deduplication_window",
];

fn later_fields(wire: &v1::QueueSettings) -> Checked<()> {
    match v1::QueueKind::try_from(wire.kind) {
        Ok(v1::QueueKind::Unspecified | v1::QueueKind::Work) => {}
        Ok(v1::QueueKind::Stream) => return Err(Problem::not_yet("settings.kind")),
        Err(_) => {
            let must = format!("WORK or STREAM, it is {}", wire.kind);
            return Err(Problem::invalid_field("settings.kind", must));
        }
    }
    if v1::OverflowPolicy::try_from(wire.overflow).is_err() {
        let must = format!(
            "REJECT_PUBLISH, DROP_HEAD or DEAD_LETTER_HEAD, it is {}",
            wire.overflow
        );
        return Err(Problem::invalid_field("settings.overflow", must));
    }
    not_yet(wire.message_ttl.is_some(), "settings.message_ttl")?;
    not_yet(wire.max_messages.is_some(), "settings.max_messages")?;
    not_yet(wire.max_bytes.is_some(), "settings.max_bytes")?;
    not_yet(wire.overflow != 0, "settings.overflow")?;
    not_yet(wire.idle_expiry.is_some(), "settings.idle_expiry")?;
    not_yet(
        wire.single_active_consumer,
        "settings.single_active_consumer",
    )?;
    not_yet(
        wire.deduplication_window.is_some(),
        "settings.deduplication_window",
    )
}

fn lease(wire: &v1::QueueSettings) -> Checked<Option<u64>> {
    let bounds = 1..=core::LEASE_MS_MAX;
    millis(
        wire.lease_duration.as_ref(),
        bounds,
        "settings.lease_duration",
    )
}

fn backoff(wire: &v1::RetryBackoff) -> Checked<RetryBackoff> {
    let longest = core::DELAY_MS_MAX;
    let base = millis(
        wire.base.as_ref(),
        1..=longest,
        "settings.retry_backoff.base",
    )?;
    let base_ms =
        base.ok_or_else(|| Problem::invalid_field("settings.retry_backoff.base", "given"))?;
    let max = millis(
        wire.max.as_ref(),
        base_ms..=longest,
        "settings.retry_backoff.max",
    )?;
    let jitter_percent = wire.jitter_percent.unwrap_or(JITTER_PERCENT_DEFAULT);
    if jitter_percent > 100 {
        let must = format!("0..100, it is {jitter_percent}");
        return Err(Problem::invalid_field(
            "settings.retry_backoff.jitter_percent",
            must,
        ));
    }
    Ok(RetryBackoff {
        base_ms,
        factor_percent: factor(wire.factor)?,
        max_ms: max.unwrap_or(BACKOFF_MS_MAX_DEFAULT.max(base_ms)),
        jitter_percent,
    })
}

fn factor(factor: Option<f64>) -> Checked<u32> {
    let Some(factor) = factor else {
        return Ok(FACTOR_PERCENT_DEFAULT);
    };
    let percent = (factor * 100.0).round();
    let is_whole = (factor * 100.0 - percent).abs() < 1e-6;
    if !(100.0..=10_000.0).contains(&percent) || !is_whole {
        let must = format!("1..100 in steps of a hundredth, it is {factor}");
        return Err(Problem::invalid_field(
            "settings.retry_backoff.factor",
            must,
        ));
    }
    Ok(percent as u32)
}

fn dead_letter(wire: &v1::DeadLetterTarget) -> Checked<DeadLetter> {
    not_yet(!wire.exchange.is_empty(), "settings.dead_letter.exchange")?;
    let Some(routing_key) = &wire.routing_key else {
        return Err(Problem::not_yet("settings.dead_letter.routing_key (unset)"));
    };
    name(routing_key, "settings.dead_letter.routing_key")?;
    Ok(DeadLetter {
        routing_key: routing_key.clone(),
    })
}

/// Settings as a client sees them, defaults filled in.
pub(crate) fn settings_to_proto(settings: &QueueSettings) -> v1::QueueSettings {
    let span = |ms| Some(duration_to_proto(Duration::from_millis(ms)));
    v1::QueueSettings {
        kind: v1::QueueKind::Work as i32,
        lease_duration: span(settings.lease_ms),
        max_deliveries: Some(settings.max_deliveries),
        retry_backoff: settings.retry_backoff.map(|backoff| v1::RetryBackoff {
            base: span(backoff.base_ms),
            factor: Some(f64::from(backoff.factor_percent) / 100.0),
            max: span(backoff.max_ms),
            jitter_percent: Some(backoff.jitter_percent),
        }),
        dead_letter: settings
            .dead_letter
            .as_ref()
            .map(|target| v1::DeadLetterTarget {
                exchange: String::new(),
                routing_key: Some(target.routing_key.clone()),
            }),
        ..v1::QueueSettings::default()
    }
}

/// A queue's revision on the wire.
pub(crate) fn etag(revision: u64) -> String {
    format!("r{revision}")
}

/// The revision that an etag means; `None` where it is empty.
pub(crate) fn revision(etag: &str) -> Checked<Option<u64>> {
    if etag.is_empty() {
        return Ok(None);
    }
    let revision = etag
        .strip_prefix('r')
        .and_then(|digits| digits.parse().ok());
    revision
        .map(Some)
        .ok_or_else(|| Problem::invalid_field("etag", "the `etag` that was read, or empty"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ticketrail_proto::error::Reason;

    fn span(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    fn full() -> v1::QueueSettings {
        v1::QueueSettings {
            lease_duration: span(60),
            max_deliveries: Some(3),
            retry_backoff: Some(v1::RetryBackoff {
                base: span(1),
                factor: Some(1.5),
                max: span(60),
                jitter_percent: Some(10),
            }),
            dead_letter: Some(v1::DeadLetterTarget {
                exchange: String::new(),
                routing_key: Some("dead".to_owned()),
            }),
            ..v1::QueueSettings::default()
        }
    }

    #[test]
    fn settings_go_there_and_back() {
        let there = settings(Some(&full())).unwrap();
        assert_eq!(there.retry_backoff.unwrap().factor_percent, 150);
        let back = settings_to_proto(&there);
        assert_eq!(back, v1::QueueSettings { kind: 1, ..full() });
        assert_eq!(settings(Some(&back)), Ok(there));
        assert_eq!(settings(None), Ok(QueueSettings::default()));
    }

    #[test]
    fn each_bad_setting_is_named() {
        type Change = fn(&mut v1::QueueSettings);
        let table: &[(Change, Reason, &str)] = &[
            (|s| s.kind = 2, Reason::NotYet, "settings.kind"),
            (|s| s.kind = 77, Reason::InvalidField, "settings.kind"),
            (
                |s| s.overflow = 77,
                Reason::InvalidField,
                "settings.overflow",
            ),
            (|s| s.overflow = 1, Reason::NotYet, "settings.overflow"),
            (
                |s| s.message_ttl = span(1),
                Reason::NotYet,
                "settings.message_ttl",
            ),
            (
                |s| s.max_messages = Some(0),
                Reason::NotYet,
                "settings.max_messages",
            ),
            (
                |s| s.max_bytes = Some(1),
                Reason::NotYet,
                "settings.max_bytes",
            ),
            (
                |s| s.idle_expiry = span(1),
                Reason::NotYet,
                "settings.idle_expiry",
            ),
            (
                |s| s.single_active_consumer = true,
                Reason::NotYet,
                "settings.single_active_consumer",
            ),
            (
                |s| s.deduplication_window = span(60),
                Reason::NotYet,
                "settings.deduplication_window",
            ),
            (
                |s| s.lease_duration = span(-1),
                Reason::InvalidField,
                "settings.lease_duration",
            ),
            (
                |s| s.lease_duration = span(0),
                Reason::InvalidField,
                "settings.lease_duration",
            ),
            (
                |s| s.lease_duration = span(13 * 3_600),
                Reason::InvalidField,
                "settings.lease_duration",
            ),
            (
                |s| b(s).base = None,
                Reason::InvalidField,
                "settings.retry_backoff.base",
            ),
            (
                |s| b(s).base = span(0),
                Reason::InvalidField,
                "settings.retry_backoff.base",
            ),
            (
                |s| b(s).max = span(0),
                Reason::InvalidField,
                "settings.retry_backoff.max",
            ),
            (
                |s| b(s).factor = Some(0.5),
                Reason::InvalidField,
                "settings.retry_backoff.factor",
            ),
            (
                |s| b(s).factor = Some(1.005),
                Reason::InvalidField,
                "settings.retry_backoff.factor",
            ),
            (
                |s| b(s).factor = Some(f64::NAN),
                Reason::InvalidField,
                "settings.retry_backoff.factor",
            ),
            (
                |s| b(s).factor = Some(f64::INFINITY),
                Reason::InvalidField,
                "settings.retry_backoff.factor",
            ),
            (
                |s| b(s).jitter_percent = Some(101),
                Reason::InvalidField,
                "settings.retry_backoff.jitter_percent",
            ),
            (
                |s| d(s).exchange = "x".into(),
                Reason::NotYet,
                "settings.dead_letter.exchange",
            ),
            (
                |s| d(s).routing_key = None,
                Reason::NotYet,
                "settings.dead_letter.routing_key",
            ),
            (
                |s| d(s).routing_key = Some(String::new()),
                Reason::InvalidField,
                "settings.dead_letter.routing_key",
            ),
        ];
        fn b(s: &mut v1::QueueSettings) -> &mut v1::RetryBackoff {
            s.retry_backoff.as_mut().unwrap()
        }
        fn d(s: &mut v1::QueueSettings) -> &mut v1::DeadLetterTarget {
            s.dead_letter.as_mut().unwrap()
        }
        for (change, reason, field) in table {
            let mut wire = full();
            change(&mut wire);
            let problem = settings(Some(&wire)).unwrap_err();
            assert_eq!(problem.reason(), *reason, "{problem}");
            assert!(
                problem.message().starts_with(&format!("`{field}")),
                "{field}: {problem}"
            );
        }
    }

    #[test]
    fn a_mask_says_what_changes_and_nothing_is_ignored() {
        let mask = |paths: &[&str]| prost_types::FieldMask {
            paths: paths.iter().map(|&path| path.to_owned()).collect(),
        };
        let wire = v1::QueueSettings {
            max_deliveries: Some(3),
            ..v1::QueueSettings::default()
        };
        let found = changes(
            Some(&wire),
            Some(&mask(&["max_deliveries", "retry_backoff"])),
        )
        .unwrap();
        let expected = QueueChanges {
            max_deliveries: Some(3),
            retry_backoff: Some(None),
            ..QueueChanges::default()
        };
        assert_eq!(found, expected);
        for (paths, field) in [
            (&[][..], "update_mask"),
            (&["kind", "max_deliveries"][..], "update_mask.paths[0]"),
            (&["max_deliveries", "paused"], "update_mask.paths[1]"),
            (&["max_deliveries", "max_bytes"], "update_mask.paths[1]"),
            (&["lease_duration"], "settings.max_deliveries"),
        ] {
            let problem = changes(Some(&wire), Some(&mask(paths))).unwrap_err();
            assert!(
                problem.message().starts_with(&format!("`{field}`")),
                "{problem}"
            );
        }
        assert!(changes(Some(&wire), None).is_err());
    }

    #[test]
    fn an_etag_comes_back() {
        assert_eq!(revision(&etag(7)), Ok(Some(7)));
        assert_eq!(revision(""), Ok(None));
        assert!(revision("7").is_err() && revision("rx").is_err());
    }
}
