//! Section `[snapshots]`: what is kept for nodes that lag, and how they catch up.

use serde::Deserialize;

use super::ConfigError;

const MIB: u64 = 1 << 20;

/// As written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenSnapshots {
    /// A snapshot file is made when so many bytes were applied since the last (default 1 GiB; 1 MiB to
    /// 1 TiB).
    pub every_bytes: Option<u64>,
    /// Log that is kept for nodes which lag, in bytes; one that lags further gets a snapshot (default 1 GiB;
    /// 1 MiB to 1 TiB).
    pub log_bytes_kept: Option<u64>,
    /// Bytes that a node fetches of a snapshot per second at most (default 128 MiB; 64 KiB to 1 TiB).
    pub fetch_bytes_per_second: Option<u64>,
    /// A snapshot that is read by a peer or a backup is kept until so many bytes were applied meanwhile;
    /// a slower reader has to start again (default 8 GiB; 64 MiB to 1 TiB).
    pub hold_bytes_max: Option<u64>,
}

impl WrittenSnapshots {
    /// This, and where it says nothing, what `other` says.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            every_bytes: self.every_bytes.or(other.every_bytes),
            log_bytes_kept: self.log_bytes_kept.or(other.log_bytes_kept),
            fetch_bytes_per_second: self.fetch_bytes_per_second.or(other.fetch_bytes_per_second),
            hold_bytes_max: self.hold_bytes_max.or(other.hold_bytes_max),
        }
    }
}

/// As validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshots {
    /// Bytes applied between two snapshot files.
    pub every_bytes: u64,
    /// Bytes of log that are kept for nodes which lag.
    pub log_bytes_kept: u64,
    /// Bytes per second of a fetch.
    pub fetch_bytes_per_second: u64,
    /// Bytes applied until a reader is too slow.
    pub hold_bytes_max: u64,
}

impl Snapshots {
    pub(super) fn validate(written: &WrittenSnapshots) -> Result<Self, ConfigError> {
        let tib = MIB << 20;
        let checked = |setting, given: Option<u64>, default: u64, min: u64, max: u64| {
            let value = given.unwrap_or(default);
            if (min..=max).contains(&value) {
                return Ok(value);
            }
            Err(ConfigError::Invalid {
                setting,
                must: format!("{min} to {max} bytes"),
                found: value.to_string(),
            })
        };
        Ok(Self {
            every_bytes: checked(
                "snapshots.every_bytes",
                written.every_bytes,
                1 << 30,
                MIB,
                tib,
            )?,
            log_bytes_kept: checked(
                "snapshots.log_bytes_kept",
                written.log_bytes_kept,
                1 << 30,
                MIB,
                tib,
            )?,
            fetch_bytes_per_second: checked(
                "snapshots.fetch_bytes_per_second",
                written.fetch_bytes_per_second,
                128 * MIB,
                64 << 10,
                tib,
            )?,
            hold_bytes_max: checked(
                "snapshots.hold_bytes_max",
                written.hold_bytes_max,
                8 << 30,
                64 * MIB,
                tib,
            )?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_bounds_is_named() {
        assert!(Snapshots::validate(&WrittenSnapshots::default()).is_ok());
        let written = WrittenSnapshots {
            log_bytes_kept: Some(1),
            ..WrittenSnapshots::default()
        };
        let error = Snapshots::validate(&written).unwrap_err().to_string();
        assert!(error.contains("snapshots.log_bytes_kept"), "{error}");
    }
}
