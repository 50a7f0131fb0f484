//! Tables of throughput, CPU and latency.

use super::series::Series;
use super::table::{Better, Column, lines, table};
use crate::loads::Load;
use crate::results::{Figures, Results};
use crate::system::System;

pub(super) const RATE: Column<'_> = Column {
    heading: "messages/s",
    decimals: 0,
    better: Some(Better::Higher),
    figure: |figures| figures.messages_per_second,
};
pub(super) const CPU: Column<'_> = Column {
    heading: "server CPU, us per message",
    decimals: 1,
    better: Some(Better::Lower),
    figure: |figures| figures.server_cpu_us_per_message,
};
pub(super) const P50: Column<'_> = Column {
    heading: "p50 ms",
    decimals: 2,
    better: Some(Better::Lower),
    figure: |figures| figures.latency_ms.map(|latency| latency.p50),
};
pub(super) const P99: Column<'_> = Column {
    heading: "p99 ms",
    decimals: 2,
    better: Some(Better::Lower),
    figure: |figures| figures.latency_ms.map(|latency| latency.p99),
};
const MEGABYTES: Column<'_> = Column {
    heading: "MB/s",
    decimals: 1,
    better: None,
    figure: |figures| figures.megabytes_per_second,
};
const OWN_CPU: Column<'_> = Column {
    heading: "client CPU, us per message",
    decimals: 1,
    better: None,
    figure: |figures| figures.client_cpu_us_per_message,
};
const RESIDENT: Column<'_> = Column {
    heading: "memory of all nodes, MiB",
    decimals: 0,
    better: None,
    figure: resident,
};
const LATE: Column<'_> = Column {
    heading: "the clock's own p99 ms",
    decimals: 2,
    better: None,
    figure: |figures| figures.late_ms.map(|late| late.p99),
};

pub(super) fn resident(figures: &Figures) -> Option<f64> {
    (!figures.resident_mib.is_empty()).then(|| figures.resident_mib.iter().sum())
}

pub(super) fn throughput(results: &Results, load: Load) -> String {
    table(results, load, &[RATE, MEGABYTES, CPU, OWN_CPU, RESIDENT])
}

pub(super) fn with_latencies(results: &Results, load: Load) -> String {
    table(results, load, &[RATE, P50, P99, CPU, OWN_CPU])
}

pub(super) fn paced(results: &Results) -> String {
    table(results, Load::Paced, &[P50, P99, CPU, OWN_CPU, LATE])
}

/// Each kill is a round of its own.
pub(super) fn failover(results: &Results) -> String {
    let mut rows = Vec::new();
    for system in System::ALL {
        let figures = results.figures(system, Load::Failover);
        let series = Series::of(figures.iter().filter_map(|one| one.failover_seconds));
        if series.len() > 0 {
            rows.push(vec![
                system.title().to_owned(),
                series.shown(2),
                series.len().to_string(),
            ]);
        } else if system.is_broker()
            && !system.does(Load::Failover)
            && super::measured(results).any(|one| one == system)
        {
            let none = "none takes over by itself".to_owned();
            rows.push(vec![system.title().to_owned(), none, "-".to_owned()]);
        }
    }
    let heading = ["system", "seconds", "kills"].map(str::to_owned);
    lines(heading.into(), rows)
}
