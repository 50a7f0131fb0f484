//! Prometheus' text format, version 0.0.4.

use std::fmt::{Display, Write as _};

use ticketrail_broker::HistogramCounts;

use super::names::{Kind, Metric};

/// The content type of what [`Text`] makes.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Text in the making. Samples of a metric must follow its [`Text::begin`].
#[derive(Debug, Default)]
pub(crate) struct Text(String);

impl Text {
    /// The head of a metric.
    pub(crate) fn begin(&mut self, metric: &Metric) {
        let Metric {
            name, kind, help, ..
        } = metric;
        let kind = kind.as_str();
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// One value, with the values of its labels.
    pub(crate) fn sample(&mut self, metric: &Metric, labels: &[&str], value: impl Display) {
        debug_assert_eq!(metric.labels.len(), labels.len());
        self.0.push_str(metric.name);
        for (place, (name, value)) in metric.labels.iter().zip(labels).enumerate() {
            let before = if place == 0 { '{' } else { ',' };
            self.line(format_args!("{before}{name}=\""));
            self.escaped(value);
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        self.line(format_args!(" {value}\n"));
    }

    /// A metric without labels.
    pub(crate) fn one(&mut self, metric: &Metric, value: impl Display) {
        self.begin(metric);
        self.sample(metric, &[], value);
    }

    /// A metric without labels, where there is a value.
    pub(crate) fn maybe(&mut self, metric: &Metric, value: Option<impl Display>) {
        if let Some(value) = value {
            self.one(metric, value);
        }
    }

    /// A histogram without labels, with one unit of the metric for `scale` of what was counted.
    pub(crate) fn histogram(&mut self, metric: &Metric, counts: &HistogramCounts, scale: f64) {
        debug_assert_eq!(metric.kind, Kind::Histogram);
        self.begin(metric);
        let name = metric.name;
        let mut below = 0_u64;
        for (bound, count) in counts.bounds.iter().zip(&counts.counts) {
            below += count;
            let bound = *bound as f64 / scale;
            self.line(format_args!("{name}_bucket{{le=\"{bound}\"}} {below}\n"));
        }
        let all: u64 = counts.counts.iter().sum();
        let sum = counts.sum as f64 / scale;
        self.line(format_args!(
            "{name}_bucket{{le=\"+Inf\"}} {all}\n{name}_sum {sum}\n{name}_count {all}\n"
        ));
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// What was made so far; goes on empty.
    pub(crate) fn take(&mut self) -> String {
        std::mem::take(&mut self.0)
    }

    fn line(&mut self, arguments: std::fmt::Arguments<'_>) {
        self.0
            .write_fmt(arguments)
            .expect("a string takes whatever is written");
    }

    fn escaped(&mut self, value: &str) {
        for character in value.chars() {
            match character {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                other => self.0.push(other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::names;
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut text = Text::default();
        text.sample(&names::QUEUE_READY, &["a\"b", "c\\d\ne"], 7);
        let expected = "ticketrail_queue_ready{namespace=\"a\\\"b\",queue=\"c\\\\d\\ne\"} 7\n";
        assert_eq!(text.take(), expected);
        text.one(&names::TERM, 3_u64);
        assert!(
            text.take()
                .ends_with("# TYPE ticketrail_raft_term gauge\nticketrail_raft_term 3\n")
        );
    }

    #[test]
    fn buckets_are_cumulative_and_in_the_unit_of_the_metric() {
        let counts = HistogramCounts {
            bounds: &[100_000, 2_500_000_000],
            counts: vec![1, 2, 3],
            sum: 9_000_000_000,
        };
        let mut text = Text::default();
        text.histogram(&names::CONFIRM_SECONDS, &counts, 1e9);
        let found = text.take();
        let lines: Vec<_> = found.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "ticketrail_confirm_seconds_bucket{le=\"0.0001\"} 1",
                "ticketrail_confirm_seconds_bucket{le=\"2.5\"} 3",
                "ticketrail_confirm_seconds_bucket{le=\"+Inf\"} 6",
                "ticketrail_confirm_seconds_sum 9",
                "ticketrail_confirm_seconds_count 6",
            ]
        );
    }
}
