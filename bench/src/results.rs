//! The file of results: what was measured on what, one entry for each measurement.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::latencies::Quantiles;
use crate::loads::Load;
use crate::machine::Machine;
use crate::system::System;

const FORMAT: u32 = 1;

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) format: u32,
    /// Of each call of `run`, in their order.
    pub(crate) runs: Vec<Run>,
    pub(crate) measurements: Vec<Measurement>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Seconds since 1970.
    pub(crate) begun_at: u64,
    pub(crate) machine: Machine,
    pub(crate) versions: BTreeMap<String, String>,
    /// Measured seconds of each load that has no end of its own.
    pub(crate) seconds: u64,
    /// Of the same load before them.
    pub(crate) warm_up_seconds: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measurement {
    pub(crate) system: System,
    pub(crate) load: Load,
    pub(crate) at: u64,
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Figures(Box<Figures>),
    Failed(String),
}

/// What does not apply to a load is left out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Figures {
    pub(crate) seconds: f64,
    pub(crate) messages: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) messages_per_second: Option<f64>,
    /// Of bodies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) megabytes_per_second: Option<f64>,
    /// Of all server processes, their children included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_cpu_us_per_message: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_cores: Option<f64>,
    /// Of the process that loads and measures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_cpu_us_per_message: Option<f64>,
    /// CPUs that were busy with anything else. The kernel counts that coarsely: a few tenths are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) other_cores: Option<f64>,
    /// Of each node, at the end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) resident_mib: Vec<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency_ms: Option<Quantiles>,
    /// How late the clock of the load was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) late_ms: Option<Quantiles>,
    /// Confirmed, and not received within the time that was given to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) missing: Option<u64>,
    /// From the kill to the next confirm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failover_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fsyncs: Option<Fsyncs>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Fsyncs {
    pub(crate) one_by_one: Syncing,
    pub(crate) many: Syncing,
    /// Names of the calls that were seen.
    pub(crate) calls: BTreeMap<String, u64>,
    /// Files that were open so that each write is synchronous (O_SYNC, O_DSYNC).
    pub(crate) synchronous_files: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Syncing {
    pub(crate) seconds: f64,
    pub(crate) confirmed: u64,
    /// Calls of each node that make data durable.
    pub(crate) calls: Vec<u64>,
}

impl Results {
    /// Those of the file, or none if there is no such file.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self {
                    format: FORMAT,
                    ..Self::default()
                });
            }
            text => text.with_context(|| path.display().to_string())?,
        };
        let results: Self =
            serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        ensure!(
            results.format == FORMAT,
            "{}: format {} instead of {FORMAT}",
            path.display(),
            results.format
        );
        Ok(results)
    }

    /// Replaces the file as a whole, so that an interruption leaves the last one.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let new = path.with_extension("new");
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&new, text).with_context(|| new.display().to_string())?;
        fs::rename(&new, path).with_context(|| path.display().to_string())
    }

    /// What was measured of a system under a load.
    pub(crate) fn figures(&self, system: System, load: Load) -> Vec<&Figures> {
        self.of(system, load)
            .filter_map(|outcome| match outcome {
                Outcome::Figures(figures) => Some(&**figures),
                Outcome::Failed(_) => None,
            })
            .collect()
    }

    /// What went wrong.
    pub(crate) fn failures(&self, system: System, load: Load) -> Vec<&str> {
        self.of(system, load)
            .filter_map(|outcome| match outcome {
                Outcome::Failed(text) => Some(text.as_str()),
                Outcome::Figures(_) => None,
            })
            .collect()
    }

    fn of(&self, system: System, load: Load) -> impl Iterator<Item = &Outcome> {
        let wanted = move |one: &&Measurement| one.system == system && one.load == load;
        self.measurements
            .iter()
            .filter(wanted)
            .map(|one| &one.outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_again() {
        let path = std::env::temp_dir().join(format!("results-{}.json", std::process::id()));
        assert!(
            Results::load(&path)
                .expect("no file is no error")
                .runs
                .is_empty()
        );
        let figures = Figures {
            messages: 7,
            failover_seconds: Some(0.5),
            ..Figures::default()
        };
        let outcomes = [
            Outcome::Figures(Box::new(figures)),
            Outcome::Failed("why".to_owned()),
        ];
        let measurements = outcomes.map(|outcome| Measurement {
            system: System::NatsSync,
            load: Load::Failover,
            at: 1,
            outcome,
        });
        let results = Results {
            format: FORMAT,
            runs: Vec::new(),
            measurements: measurements.into(),
        };
        results.save(&path).expect("saved");
        let loaded = Results::load(&path).expect("loaded");
        std::fs::remove_file(&path).expect("it is there");
        let figures = loaded.figures(System::NatsSync, Load::Failover);
        assert_eq!((figures.len(), figures[0].messages), (1, 7));
        assert_eq!(loaded.failures(System::NatsSync, Load::Failover), ["why"]);
        assert!(loaded.figures(System::Nats, Load::Failover).is_empty());
    }
}
