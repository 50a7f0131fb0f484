//! What a long queue holds in memory.

use super::series::number;
use super::table::lines;
use crate::loads::Load;
use crate::results::Results;
use crate::system::System;

pub(super) fn table(results: &Results) -> String {
    let mut rows = Vec::new();
    for system in System::ALL {
        for figures in results.figures(system, Load::Queued) {
            let nodes = figures.resident_mib.iter();
            let nodes: Vec<_> = nodes.map(|mib| number(*mib, 0)).collect();
            rows.push(vec![
                system.title().to_owned(),
                number(figures.messages as f64, 0),
                number(figures.resident_mib.iter().sum(), 0),
                nodes.join(", "),
                number(figures.messages_per_second.unwrap_or(0.0), 0),
            ]);
        }
    }
    let heading = [
        "system",
        "queued",
        "memory of all nodes, MiB",
        "of each",
        "filled with, messages/s",
    ];
    lines(heading.map(str::to_owned).into(), rows)
}
