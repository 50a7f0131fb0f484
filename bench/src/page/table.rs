//! A table of Markdown with one row for each system.

use super::series::Series;
use crate::loads::Load;
use crate::results::{Figures, Results};
use crate::system::System;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Better {
    Higher,
    Lower,
}

/// One figure of all systems.
pub(super) struct Column<'a> {
    pub(super) heading: &'a str,
    pub(super) decimals: usize,
    /// Which is best; with it, a ratio to Ticketrail follows. None for what is no contest.
    pub(super) better: Option<Better>,
    pub(super) figure: fn(&Figures) -> Option<f64>,
}

impl Column<'_> {
    pub(super) fn series(&self, results: &Results, load: Load, system: System) -> Series {
        let figures = results.figures(system, load);
        Series::of(figures.into_iter().filter_map(self.figure))
    }

    /// The best median of a broker, to be told apart.
    pub(super) fn best(&self, results: &Results, load: Load) -> Option<f64> {
        let brokers = System::ALL.into_iter().filter(|system| system.is_broker());
        let medians = brokers.filter_map(|system| self.series(results, load, system).median());
        match self.better? {
            Better::Higher => medians.max_by(f64::total_cmp),
            Better::Lower => medians.min_by(f64::total_cmp),
        }
    }

    /// The figure of a system, bold where it is the best, and its ratio to that of Ticketrail.
    pub(super) fn cell(&self, results: &Results, load: Load, system: System) -> (String, String) {
        let series = self.series(results, load, system);
        let median = series.median();
        let shown = series.shown(self.decimals);
        let shown = match median.is_some() && median == self.best(results, load) {
            true => bold(&shown),
            false => shown,
        };
        let ours = self.series(results, load, System::Ticketrail).median();
        let ratio = match (median, ours) {
            (Some(median), Some(ours)) if ours > 0.0 => format!("{:.2}", median / ours),
            _ => "-".to_owned(),
        };
        (shown, ratio)
    }
}

/// Nothing if no system was measured under this load.
pub(super) fn table(results: &Results, load: Load, columns: &[Column<'_>]) -> String {
    let mut heading = vec!["system".to_owned()];
    for column in columns {
        heading.push(column.heading.to_owned());
        if column.better.is_some() {
            heading.push("ratio".to_owned());
        }
    }
    let mut rows = Vec::new();
    for system in System::ALL {
        if results.figures(system, load).is_empty() {
            continue;
        }
        let mut row = vec![system.title().to_owned()];
        for column in columns {
            let (shown, ratio) = column.cell(results, load, system);
            row.push(shown);
            if column.better.is_some() {
                row.push(ratio);
            }
        }
        rows.push(row);
    }
    lines(heading, rows)
}

/// Nothing where there are no rows.
pub(super) fn lines(heading: Vec<String>, rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let rule = vec!["---".to_owned(); heading.len()];
    let all = [heading, rule].into_iter().chain(rows);
    all.map(|cells| line(&cells)).collect()
}

/// The median in bold, its spread as it is.
fn bold(shown: &str) -> String {
    match shown.split_once(' ') {
        Some((median, spread)) => format!("**{median}** {spread}"),
        None => format!("**{shown}**"),
    }
}
