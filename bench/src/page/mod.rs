//! The page for people, made from the results alone.

mod fsyncs;
mod memory;
mod rates;
mod series;
mod summary;
mod table;
mod words;

pub(crate) use series::number;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::loads::Load;
use crate::results::{Results, Run};
use crate::system::System;

pub(crate) fn write(results: &Path, page: &Path) -> Result<()> {
    let loaded = Results::load(results)?;
    ensure!(
        !loaded.runs.is_empty(),
        "{}: nothing was measured yet",
        results.display()
    );
    fs::write(page, text(&loaded)?).with_context(|| page.display().to_string())
}

fn text(results: &Results) -> Result<String> {
    let mut page = String::from(words::TITLE);
    machine(&mut page, results)?;
    writeln!(page, "## In short\n\n{}", words::SHORT)?;
    page += &summary::table(results);
    writeln!(page, "\n{}\n## The systems\n", words::FAIR)?;
    for system in measured(results) {
        writeln!(page, "- **{}**: {}", system.title(), system.setup())?;
    }
    writeln!(page, "\n{}", words::CLIENTS)?;
    for load in Load::ALL {
        let told = section(results, load);
        if !told.is_empty() {
            writeln!(page, "## {}\n\n{}\n\n{told}", load.title(), load.shape())?;
        }
    }
    failures(&mut page, results)?;
    page += words::NOT_COMPARABLE;
    Ok(page)
}

fn section(results: &Results, load: Load) -> String {
    match load {
        Load::EndToEnd | Load::Publish | Load::Drain => rates::throughput(results, load),
        Load::Sync64 | Load::Sync1 => rates::with_latencies(results, load),
        Load::Paced => rates::paced(results),
        Load::Failover => rates::failover(results),
        Load::Queued => memory::table(results),
        Load::Fsyncs => fsyncs::table(results),
    }
}

/// CPUs that were busy with something else: below it is the kernel's work and how it counts.
const DISTURBED_CORES: f64 = 0.4;

/// In the order of the enumeration.
fn measured(results: &Results) -> impl Iterator<Item = System> {
    let was = |system: &System| results.measurements.iter().any(|one| one.system == *system);
    System::ALL.into_iter().filter(was)
}

fn machine(page: &mut String, results: &Results) -> Result<()> {
    let Some(last) = results.runs.last() else {
        return Ok(());
    };
    let machine = &last.machine;
    let fsync = series::Series::of(results.runs.iter().map(|run| run.machine.fsync_ms.p50));
    let gib = machine.memory_bytes as f64 / 1024.0_f64.powi(3);
    writeln!(page, "| | |\n| --- | --- |")?;
    writeln!(page, "| measured | {} |", dates(&results.runs)?)?;
    writeln!(
        page,
        "| machine | {} cores ({}), {gib:.0} GiB of memory; the load runs on the same cores |",
        machine.cores, machine.cpu
    )?;
    writeln!(
        page,
        "| kernel, file system | Linux {}, {} |",
        machine.kernel, machine.filesystem
    )?;
    writeln!(
        page,
        "| append of 4 KiB and fdatasync, nothing else running | p50 {} ms |",
        fsync.shown(2)
    )?;
    let mut versions = BTreeMap::new();
    for run in &results.runs {
        for (name, version) in &run.versions {
            versions.entry(name).or_insert_with(Vec::new).push(version);
        }
    }
    for (name, mut told) in versions {
        told.dedup();
        let told: Vec<_> = told.iter().map(|version| version.as_str()).collect();
        writeln!(page, "| {name} | {} |", told.join(", then "))?;
    }
    let seconds = series::Series::of(results.runs.iter().map(|run| run.seconds as f64));
    let warm_up = results.runs.iter().map(|run| run.warm_up_seconds as f64);
    writeln!(
        page,
        "| each figure | the median of its rounds (smallest to largest); {} s each after {} s of the same load |\n",
        seconds.shown(0),
        series::Series::of(warm_up).shown(0)
    )?;
    Ok(())
}

fn dates(runs: &[Run]) -> Result<String> {
    let date = |run: Option<&Run>| -> Result<String> {
        let at = i64::try_from(run.map_or(0, |run| run.begun_at))?;
        Ok(time::OffsetDateTime::from_unix_timestamp(at)?
            .date()
            .to_string())
    };
    let (first, last) = (date(runs.first())?, date(runs.last())?);
    Ok(if first == last {
        first
    } else {
        format!("{first} to {last}")
    })
}

fn failures(page: &mut String, results: &Results) -> Result<()> {
    let mut lines = String::new();
    for system in measured(results) {
        for load in Load::ALL {
            for failure in results.failures(system, load) {
                writeln!(lines, "- {}, {}: {failure}", system.title(), load.title())?;
            }
            let missing = results
                .figures(system, load)
                .iter()
                .filter_map(|figures| figures.missing)
                .sum::<u64>();
            let others = results
                .figures(system, load)
                .into_iter()
                .filter_map(|figures| figures.other_cores);
            for cores in others.filter(|cores| *cores > DISTURBED_CORES) {
                writeln!(
                    lines,
                    "- {}, {}: disturbed, {cores:.1} CPUs were busy with something else",
                    system.title(),
                    load.title()
                )?;
            }
            if missing > 0 {
                writeln!(
                    lines,
                    "- {}, {}: {missing} confirmed messages were not delivered within 20 s after the load",
                    system.title(),
                    load.title()
                )?;
            }
        }
    }
    if !lines.is_empty() {
        writeln!(page, "## What failed, or was disturbed\n\n{lines}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latencies::Latencies;
    use crate::machine::Machine;
    use crate::results::{Figures, Measurement, Outcome};

    fn measurement(system: System, outcome: Outcome) -> Measurement {
        Measurement {
            system,
            load: Load::EndToEnd,
            at: 0,
            outcome,
        }
    }

    fn figures(rate: f64, cpu: f64) -> Outcome {
        let mut figures = Figures {
            server_cpu_us_per_message: Some(cpu),
            ..Figures::default()
        };
        figures.messages_per_second = Some(rate);
        Outcome::Figures(Box::new(figures))
    }

    #[test]
    fn the_page_tells_medians_ratios_and_failures() {
        let machine = Machine {
            cores: 2,
            cpu: "CPU".to_owned(),
            memory_bytes: 1 << 34,
            kernel: "6".to_owned(),
            filesystem: "ext4".to_owned(),
            fsync_ms: Latencies::new().quantiles(),
        };
        let run = Run {
            begun_at: 86_400,
            machine,
            versions: BTreeMap::new(),
            seconds: 6,
            warm_up_seconds: 2,
        };
        let results = Results {
            format: 1,
            runs: vec![run],
            measurements: vec![
                measurement(System::Ticketrail, figures(40_000.0, 20.0)),
                measurement(System::Ticketrail, figures(50_000.0, 18.0)),
                measurement(System::Ticketrail, figures(60_000.0, 16.0)),
                measurement(System::Redis, figures(100_000.0, 9.0)),
                measurement(System::Nats, Outcome::Failed("it fell over".to_owned())),
            ],
        };
        let page = text(&results).expect("a page");
        for part in [
            "1970-01-02",
            "50,000 (40,000 to 60,000)",
            "**100,000**",
            "2.00",
            "0.50",
            "it fell over",
        ] {
            assert!(page.contains(part), "{part} is not in:\n{page}");
        }
    }
}
