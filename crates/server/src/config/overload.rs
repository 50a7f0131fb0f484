//! `[limits]`: how much may be under way, and what must stay free.

use ticketrail_broker::{AdmissionConfig, PublishBudget};

use super::validated::{ConfigError, invalid};
use super::written::WrittenLimits;
use crate::limits;
use crate::machine;

/// How much may be under way on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverloadLimits {
    /// Connections of clients.
    pub connections_max: usize,
    /// What the broker lets in.
    pub admission: AdmissionConfig,
}

impl Default for OverloadLimits {
    fn default() -> Self {
        let default = AdmissionConfig::default();
        let memory = machine::memory_bytes() / 100 * limits::MEMORY_PERCENT_DEFAULT;
        let memory_bytes_max = memory.max(limits::MEMORY_BYTES_MIN);
        let streams = streams_hard(memory_bytes_max);
        Self {
            connections_max: limits::CONNECTIONS_DEFAULT,
            admission: AdmissionConfig {
                memory_bytes_max,
                publish_streams_max: default.publish_streams_max.min(streams),
                consumers_max: default.consumers_max.min(streams),
                ..default
            },
        }
    }
}

/// The most streams of a kind, where so much memory is allowed: a client may send a stream's window
/// before anything of it is read.
fn streams_hard(memory_bytes_max: u64) -> u32 {
    let windows = memory_bytes_max / limits::WINDOWS_PART / u64::from(limits::STREAM_WINDOW_BYTES);
    u32::try_from(windows).unwrap_or(u32::MAX)
}

/// Checks what was written; `request_bytes_max`: the largest request.
pub(super) fn overload_limits(
    written: &WrittenLimits,
    request_bytes_max: usize,
) -> Result<OverloadLimits, ConfigError> {
    let default = AdmissionConfig::default();
    let OverloadLimits {
        connections_max,
        admission: of_machine,
    } = OverloadLimits::default();
    let request = u32::try_from(request_bytes_max).unwrap_or(u32::MAX);
    // One request of the largest size must fit, or it could never be taken.
    let bytes = |setting, value: Option<u32>, default: u32, least: u32, why| match value {
        Some(value) if value < least => {
            Err(invalid(setting, format!("at least {least}, {why}"), value))
        }
        value => Ok(value.unwrap_or(default.max(least))),
    };
    let publish_bytes = |setting, value, default| {
        let least = PublishBudget::least(request);
        bytes(
            setting,
            value,
            default,
            least,
            "four of the largest requests",
        )
    };
    let count = |setting, value: Option<u32>, default: u32| match value {
        Some(0) => Err(invalid(setting, "1 or more", 0)),
        value => Ok(value.unwrap_or(default)),
    };
    let memory_bytes_max = memory(written.memory_bytes_max, of_machine.memory_bytes_max)?;
    let streams = |setting, value: Option<u32>, default: u32| {
        let hard = streams_hard(memory_bytes_max);
        match count(setting, value, default.min(hard))? {
            value if value > hard => {
                let window = limits::STREAM_WINDOW_BYTES;
                let must = format!(
                    "at most {hard}: what clients may send unread, {window} bytes a stream, must fit \
                     into one {}th of `limits.memory_bytes_max`",
                    limits::WINDOWS_PART
                );
                Err(invalid(setting, must, value))
            }
            value => Ok(value),
        }
    };
    let places = connections_max.try_into().unwrap_or(u32::MAX);
    let connections = count("limits.connections_max", written.connections_max, places)?;
    let admission = AdmissionConfig {
        publish_bytes_max: publish_bytes(
            "limits.publish_bytes_max",
            written.publish_bytes_max,
            default.publish_bytes_max,
        )?,
        connection_bytes_max: publish_bytes(
            "limits.connection_bytes_max",
            written.connection_bytes_max,
            default.connection_bytes_max,
        )?,
        reserved_bytes_max: bytes(
            "limits.reserved_bytes_max",
            written.reserved_bytes_max,
            default.reserved_bytes_max,
            request,
            "the largest request",
        )?,
        memory_bytes_max,
        disk_free_bytes_min: written
            .disk_free_bytes_min
            .unwrap_or(default.disk_free_bytes_min),
        disk_free_percent_min: percent(
            written.disk_free_percent_min,
            default.disk_free_percent_min,
        )?,
        apply_lag_entries_max: u64::from(count(
            "limits.apply_lag_entries_max",
            written.apply_lag_entries_max,
            u32::try_from(default.apply_lag_entries_max).unwrap_or(u32::MAX),
        )?),
        publish_streams_max: streams(
            "limits.publish_streams_max",
            written.publish_streams_max,
            default.publish_streams_max,
        )?,
        consumers_max: streams(
            "limits.consumers_max",
            written.consumers_max,
            default.consumers_max,
        )?,
        long_polls_max: count(
            "limits.long_polls_max",
            written.long_polls_max,
            default.long_polls_max,
        )?,
    };
    Ok(OverloadLimits {
        connections_max: connections as usize,
        admission,
    })
}

fn memory(value: Option<u64>, default: u64) -> Result<u64, ConfigError> {
    match value {
        Some(value) if value < limits::MEMORY_BYTES_MIN => {
            let must = format!("at least {}", limits::MEMORY_BYTES_MIN);
            Err(invalid("limits.memory_bytes_max", must, value))
        }
        value => Ok(value.unwrap_or(default)),
    }
}

fn percent(value: Option<u8>, default: u8) -> Result<u8, ConfigError> {
    match value {
        Some(value) if value > 90 => Err(invalid("limits.disk_free_percent_min", "0..90", value)),
        value => Ok(value.unwrap_or(default)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: usize = 6 << 20;

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let written = WrittenLimits::default;
        let refused = |written: WrittenLimits| {
            let refused = overload_limits(&written, REQUEST).unwrap_err();
            refused.to_string()
        };
        // Three quarters are the streams', a quarter the calls'.
        let publish_bytes_max = Some(4 * REQUEST as u32 - 1);
        let too_small = refused(WrittenLimits {
            publish_bytes_max,
            ..written()
        });
        assert!(
            too_small.contains("limits.publish_bytes_max"),
            "{too_small}"
        );
        let none = refused(WrittenLimits {
            consumers_max: Some(0),
            ..written()
        });
        assert!(none.contains("limits.consumers_max"), "{none}");
        let all = refused(WrittenLimits {
            disk_free_percent_min: Some(91),
            ..written()
        });
        assert!(all.contains("limits.disk_free_percent_min"), "{all}");
    }

    #[test]
    fn defaults_grow_with_the_largest_request() {
        let limits = overload_limits(&WrittenLimits::default(), 33 << 20).unwrap();
        assert_eq!(limits.admission.connection_bytes_max, 132 << 20);
        assert_eq!(limits.admission.publish_bytes_max, 132 << 20);
        assert_eq!(limits.admission.reserved_bytes_max, 33 << 20);
    }

    #[test]
    fn what_all_streams_may_send_unread_fits_into_the_memory() {
        let of = |memory_bytes_max: u64, consumers_max: Option<u32>| {
            let written = WrittenLimits {
                memory_bytes_max: Some(memory_bytes_max),
                consumers_max,
                ..WrittenLimits::default()
            };
            overload_limits(&written, REQUEST)
        };
        for memory in [256 << 20, 1 << 30, 1 << 40] {
            let AdmissionConfig {
                publish_streams_max,
                consumers_max,
                ..
            } = of(memory, None).unwrap().admission;
            let streams = u64::from(publish_streams_max) + u64::from(consumers_max);
            assert!(streams * u64::from(limits::STREAM_WINDOW_BYTES) <= memory / 4);
            assert!(consumers_max >= 128, "{memory}");
        }
        assert!(of(1 << 30, Some(512)).is_ok());
        let refused = of(1 << 30, Some(513)).unwrap_err().to_string();
        assert!(refused.contains("limits.consumers_max"), "{refused}");
        assert!(refused.contains("at most 512"), "{refused}");
    }
}
