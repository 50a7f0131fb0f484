use std::time::Duration;

use ticketrail_core::SettleStatus;
use ticketrail_core::command::SettleKind;
use ticketrail_core::limits as core;
use ticketrail_proto::error::Problem;
use ticketrail_proto::v1;

use super::{Checked, millis};

/// How a lease ends or goes on. `prefix` is the path of the item (`items[3].`, `settlement.ranges[0].`).
pub(crate) fn kind(
    kind: i32,
    delay: Option<&prost_types::Duration>,
    lease: Option<&prost_types::Duration>,
    prefix: &str,
) -> Checked<SettleKind> {
    use v1::SettleKind as Wire;
    let known = Wire::try_from(kind).unwrap_or(Wire::Unspecified);
    if known == Wire::Ack && delay.is_none() && lease.is_none() {
        return Ok(SettleKind::Ack); // nearly all of them: no path is written down for nothing
    }
    let delay_ms = millis(delay, 0..=core::DELAY_MS_MAX, &format!("{prefix}delay"))?;
    let lease_field = format!("{prefix}lease_duration");
    let lease_ms = millis(lease, 1..=core::LEASE_MS_MAX, &lease_field)?;
    if delay_ms.is_some() && known != Wire::Nack {
        return Err(Problem::invalid_field(
            format!("{prefix}delay"),
            "absent unless `kind` is NACK",
        ));
    }
    if lease_ms.is_some() && known != Wire::Extend {
        return Err(Problem::invalid_field(
            lease_field,
            "absent unless `kind` is EXTEND",
        ));
    }
    match known {
        Wire::Unspecified => {
            let must = format!("ACK, NACK, REJECT, RELEASE or EXTEND, it is {kind}");
            Err(Problem::invalid_field(format!("{prefix}kind"), must))
        }
        Wire::Ack => Ok(SettleKind::Ack),
        Wire::Nack => Ok(SettleKind::Nack { delay_ms }),
        Wire::Reject => Ok(SettleKind::Reject),
        Wire::Release => Ok(SettleKind::Release),
        Wire::Extend => lease_ms
            .map(|lease_ms| SettleKind::Extend { lease_ms })
            .ok_or_else(|| Problem::invalid_field(lease_field, "given when `kind` is EXTEND")),
    }
}

/// How long a lease lasts from now when this settlement is OK and does not end it.
pub(crate) fn extension(kind: SettleKind) -> Option<Duration> {
    match kind {
        SettleKind::Extend { lease_ms } => Some(Duration::from_millis(lease_ms)),
        _ => None,
    }
}

/// What a settlement that was not OK did. `Invalid` cannot come: ranges are checked before.
pub(crate) fn outcome(status: SettleStatus) -> v1::SettleOutcome {
    match status {
        SettleStatus::AlreadySettled => v1::SettleOutcome::AlreadySettled,
        SettleStatus::LeaseLost => v1::SettleOutcome::LeaseLost,
        SettleStatus::NotFound | SettleStatus::Invalid => v1::SettleOutcome::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: i64) -> prost_types::Duration {
        prost_types::Duration { seconds, nanos: 0 }
    }

    #[test]
    fn each_kind_takes_only_its_own_fields() {
        use v1::SettleKind as Wire;
        let check = |wire: Wire, delay: Option<i64>, lease: Option<i64>| {
            kind(
                wire as i32,
                delay.map(secs).as_ref(),
                lease.map(secs).as_ref(),
                "items[3].",
            )
        };
        assert_eq!(check(Wire::Ack, None, None), Ok(SettleKind::Ack));
        assert_eq!(check(Wire::Reject, None, None), Ok(SettleKind::Reject));
        assert_eq!(check(Wire::Release, None, None), Ok(SettleKind::Release));
        assert_eq!(
            check(Wire::Nack, None, None),
            Ok(SettleKind::Nack { delay_ms: None })
        );
        assert_eq!(
            check(Wire::Nack, Some(2), None),
            Ok(SettleKind::Nack {
                delay_ms: Some(2_000)
            })
        );
        assert_eq!(
            check(Wire::Extend, None, Some(1)),
            Ok(SettleKind::Extend { lease_ms: 1_000 })
        );
        for (wire, delay, lease, field) in [
            (Wire::Unspecified, None, None, "`items[3].kind`"),
            (Wire::Ack, Some(1), None, "`items[3].delay`"),
            (Wire::Ack, None, Some(1), "`items[3].lease_duration`"),
            (Wire::Nack, None, Some(1), "`items[3].lease_duration`"),
            (Wire::Nack, Some(-1), None, "`items[3].delay`"),
            (Wire::Nack, Some(367 * 86_400), None, "`items[3].delay`"),
            (Wire::Extend, None, None, "`items[3].lease_duration`"),
            (Wire::Extend, None, Some(0), "`items[3].lease_duration`"),
            (
                Wire::Extend,
                None,
                Some(13 * 3_600),
                "`items[3].lease_duration`",
            ),
        ] {
            let problem = check(wire, delay, lease).unwrap_err();
            assert!(problem.message().starts_with(field), "{problem}");
        }
        let unknown = kind(99, None, None, "").unwrap_err();
        assert!(
            unknown.message().starts_with("`kind` must be ACK"),
            "{unknown}"
        );
    }
}
