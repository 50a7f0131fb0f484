//! The few figures that tell most, side by side.

use super::rates::{self, CPU, P50, P99, RATE};
use super::table::{Better, Column, lines};
use crate::loads::Load;
use crate::results::Results;

const FAILOVER: Column<'_> = Column {
    heading: "s",
    decimals: 2,
    better: Some(Better::Lower),
    figure: |figures| figures.failover_seconds,
};
const MEMORY: Column<'_> = Column {
    heading: "MiB",
    decimals: 0,
    better: Some(Better::Lower),
    figure: rates::resident,
};
const ROWS: [(&str, Load, Column<'_>); 12] = [
    (
        "publish, deliver, acknowledge: messages/s",
        Load::EndToEnd,
        RATE,
    ),
    ("the same: server CPU, us per message", Load::EndToEnd, CPU),
    ("publish only: messages/s", Load::Publish, RATE),
    ("the same: server CPU, us per message", Load::Publish, CPU),
    ("64 synchronous publishers: messages/s", Load::Sync64, RATE),
    ("one synchronous confirm: p50 ms", Load::Sync1, P50),
    ("the same: p99 ms", Load::Sync1, P99),
    ("publish to receive at 1,000/s: p50 ms", Load::Paced, P50),
    ("the same: p99 ms", Load::Paced, P99),
    ("drain: messages/s", Load::Drain, RATE),
    (
        "a million messages queued: memory of all nodes, MiB",
        Load::Queued,
        MEMORY,
    ),
    (
        "leader killed to the next confirm: s",
        Load::Failover,
        FAILOVER,
    ),
];

pub(super) fn table(results: &Results) -> String {
    let systems: Vec<_> = super::measured(results).collect();
    let mut heading = vec![String::new()];
    heading.extend(systems.iter().map(|system| system.title().to_owned()));
    let mut rows = Vec::new();
    for (name, load, column) in ROWS {
        if column.best(results, load).is_none() {
            continue;
        }
        let mut row = vec![name.to_owned()];
        for system in &systems {
            // The spread is in the tables below.
            let (shown, ratio) = column.cell(results, load, *system);
            let median = shown.split(' ').next().unwrap_or_default();
            row.push(match ratio.as_str() {
                "-" => median.to_owned(),
                ratio => format!("{median} ({ratio})"),
            });
        }
        rows.push(row);
    }
    lines(heading, rows)
}
