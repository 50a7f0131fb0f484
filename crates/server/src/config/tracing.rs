//! Section `[tracing]`: where spans of messages go.

use serde::Deserialize;

use super::ConfigError;
use super::validated::{invalid, is_address};

/// As written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenTracing {
    /// The collector that spans of sampled messages are sent to, as OTLP over gRPC: `http://host:port`. For
    /// programs that were built with the feature `otlp` (default nowhere).
    pub otlp_endpoint: Option<String>,
}

impl WrittenTracing {
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            otlp_endpoint: self.otlp_endpoint.or(other.otlp_endpoint),
        }
    }

    /// The collector, if any.
    pub(super) fn validate(self) -> Result<Option<String>, ConfigError> {
        const SETTING: &str = "tracing.otlp_endpoint";
        let Some(text) = self.otlp_endpoint else {
            return Ok(None);
        };
        if !cfg!(feature = "otlp") {
            let must = "left out: this program was built without the feature `otlp`";
            return Err(invalid(SETTING, must, text));
        }
        match text.strip_prefix("http://").is_some_and(is_address) {
            true => Ok(Some(text)),
            false => Err(invalid(SETTING, "`http://host:port`", text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_needs_the_feature_and_an_address() {
        let validate = |text: &str| {
            let otlp_endpoint = Some(text.to_owned());
            let checked = WrittenTracing { otlp_endpoint }.validate();
            checked.map_err(|error| error.to_string())
        };
        let good = "http://127.0.0.1:4317";
        match cfg!(feature = "otlp") {
            true => assert_eq!(validate(good), Ok(Some(good.to_owned()))),
            false => assert!(validate(good).unwrap_err().contains("feature `otlp`")),
        }
        let refused = validate("127.0.0.1:4317").unwrap_err();
        assert!(refused.contains("tracing.otlp_endpoint"), "{refused}");
        assert_eq!(WrittenTracing::default().validate().unwrap(), None);
    }
}
