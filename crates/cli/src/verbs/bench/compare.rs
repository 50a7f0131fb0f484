//! `bench compare`: two results side by side, and which is better.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::report::FORMAT;
use crate::failure::{Failure, Result};
use crate::show::{self, Show};

/// A difference below this share is none.
const SAME: f64 = 0.02;
/// The largest file that is read as a result.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Better {
    Higher,
    Lower,
}

use Better::{Higher, Lower};

/// What is compared: a name for people, where it is in the file, and which way is better.
const FIGURES: [(&str, &str, Better); 22] = [
    ("messages/s", "/measured/messages_per_second", Higher),
    ("MB/s", "/measured/megabytes_per_second", Higher),
    (
        "filled with, messages/s",
        "/measured/fill_messages_per_second",
        Higher,
    ),
    (
        "publish to confirm, p50 ms",
        "/measured/confirm_ms/p50",
        Lower,
    ),
    (
        "publish to confirm, p99 ms",
        "/measured/confirm_ms/p99",
        Lower,
    ),
    (
        "publish to confirm, p99.9 ms",
        "/measured/confirm_ms/p999",
        Lower,
    ),
    (
        "publish to confirm, max ms",
        "/measured/confirm_ms/max",
        Lower,
    ),
    (
        "publish to delivery, p50 ms",
        "/measured/deliver_ms/p50",
        Lower,
    ),
    (
        "publish to delivery, p99 ms",
        "/measured/deliver_ms/p99",
        Lower,
    ),
    (
        "publish to delivery, p99.9 ms",
        "/measured/deliver_ms/p999",
        Lower,
    ),
    (
        "publish to delivery, max ms",
        "/measured/deliver_ms/max",
        Lower,
    ),
    (
        "ack to confirm, p50 ms",
        "/measured/acknowledge_ms/p50",
        Lower,
    ),
    (
        "ack to confirm, p99 ms",
        "/measured/acknowledge_ms/p99",
        Lower,
    ),
    (
        "ack to confirm, p99.9 ms",
        "/measured/acknowledge_ms/p999",
        Lower,
    ),
    (
        "ack to confirm, max ms",
        "/measured/acknowledge_ms/max",
        Lower,
    ),
    (
        "nodes' CPU us per message",
        "/measured/server_cpu_us_per_message",
        Lower,
    ),
    (
        "memory of the largest node, MiB",
        "/measured/server_resident_mib_max",
        Lower,
    ),
    (
        "own CPU us per message",
        "/measured/client_cpu_us_per_message",
        Lower,
    ),
    (
        "written to disk per byte",
        "/measured/written_per_byte",
        Lower,
    ),
    ("refused for load", "/totals/refused_for_load", Lower),
    ("told to pause", "/totals/told_to_pause", Lower),
    ("redelivered", "/totals/redelivered", Lower),
];

/// One figure of both results.
#[derive(Debug, Clone, PartialEq)]
struct Compared {
    figure: &'static str,
    pointer: &'static str,
    a: f64,
    b: f64,
    /// b / a; none where a is 0.
    ratio: Option<f64>,
    /// `a`, `b` or `same`.
    better: &'static str,
}

pub(super) fn run(show: Show, a: &Path, b: &Path) -> Result {
    let (first, second) = (read(a)?, read(b)?);
    if first["mode"] != second["mode"] {
        return Err(Failure::Refused(format!(
            "{} measured {}, {} measured {}: not to be compared",
            a.display(),
            first["mode"],
            b.display(),
            second["mode"]
        )));
    }
    let compared = compare(&first, &second);
    let differences = differences(&first, &second);
    if show.is_json() {
        return Ok(show.json(&json(&first, &compared, &differences))?);
    }
    show.line(&format!(
        "{}: A is {}, B is {}\n\n{}",
        first["mode"].as_str().unwrap_or_default(),
        a.display(),
        b.display(),
        table(&compared)
    ))?;
    if !differences.is_empty() {
        let told: Vec<_> = differences
            .iter()
            .map(|(name, a, b)| format!("{name} ({a}, {b})"))
            .collect();
        show.line(&format!("\nnot measured alike: {}", told.join(", ")))?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Value> {
    let failed = |error: std::io::Error| Failure::local(path.display(), error);
    let size = fs::metadata(path).map_err(failed)?.len();
    let text = match size > FILE_BYTES_MAX {
        true => String::new(),
        false => fs::read_to_string(path).map_err(failed)?,
    };
    match serde_json::from_str::<Value>(&text) {
        Ok(result) if result["format"] == FORMAT => Ok(result),
        _ => {
            let text = "this is no result that `ticketrail bench --save` wrote";
            Err(Failure::local(path.display(), text))
        }
    }
}

fn compare(a: &Value, b: &Value) -> Vec<Compared> {
    let figures = FIGURES.iter().filter_map(|(figure, pointer, better)| {
        let a = a.pointer(pointer)?.as_f64()?;
        let b = b.pointer(pointer)?.as_f64()?;
        Some(Compared {
            figure,
            pointer,
            a,
            b,
            ratio: (a != 0.0).then(|| b / a),
            better: judge(a, b, *better),
        })
    });
    figures.collect()
}

fn judge(a: f64, b: f64, better: Better) -> &'static str {
    if (a - b).abs() <= SAME * a.abs().max(b.abs()) {
        "same"
    } else if (b > a) == (better == Higher) {
        "b"
    } else {
        "a"
    }
}

/// The settings, and what the cluster was, where they differ.
fn differences(a: &Value, b: &Value) -> Vec<(String, Value, Value)> {
    let mut all = Vec::new();
    for part in ["settings", "cluster"] {
        for (name, value) in a[part].as_object().into_iter().flatten() {
            if b[part][name] != *value {
                all.push((name.clone(), value.clone(), b[part][name].clone()));
            }
        }
    }
    if a["interrupted"] != b["interrupted"] {
        let (a, b) = (a["interrupted"].clone(), b["interrupted"].clone());
        all.push(("interrupted".to_owned(), a, b));
    }
    all
}

fn table(compared: &[Compared]) -> String {
    let mut table = show::table(&["FIGURE", "#A", "#B", "#B / A", "BETTER"]);
    for one in compared {
        table.add_row([
            one.figure.to_owned(),
            number(one.a),
            number(one.b),
            one.ratio
                .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            one.better.to_uppercase().replace("SAME", "same"),
        ]);
    }
    show::lines(&table)
}

fn number(value: f64) -> String {
    if value >= 1_000.0 {
        crate::units::show_count(value.round() as u64)
    } else if value.fract() == 0.0 {
        format!("{value}")
    } else {
        format!("{value:.2}")
    }
}

fn json(first: &Value, compared: &[Compared], differences: &[(String, Value, Value)]) -> Value {
    let figures: Vec<Value> = compared
        .iter()
        .map(|one| {
            json!({
                "figure": one.pointer.trim_start_matches('/').replace('/', "."),
                "a": one.a, "b": one.b, "ratio": one.ratio, "better": one.better,
            })
        })
        .collect();
    let differences: Vec<Value> = differences
        .iter()
        .map(|(name, a, b)| json!({ "name": name, "a": a, "b": b }))
        .collect();
    json!({ "mode": first["mode"], "figures": figures, "differences": differences })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(rate: f64, p99: f64, size: u64) -> Value {
        json!({
            "format": FORMAT, "mode": "e2e", "interrupted": false,
            "settings": { "size_bytes": size },
            "measured": { "messages_per_second": rate, "confirm_ms": { "p99": p99 }, "deliver_ms": null },
            "totals": { "refused_for_load": 0, "told_to_pause": 2 },
        })
    }

    #[test]
    fn each_figure_has_its_ratio_and_its_winner() {
        let compared = compare(&result(1_000.0, 4.0, 16), &result(2_000.0, 8.0, 16));
        let told: Vec<_> = compared
            .iter()
            .map(|one| (one.figure, one.ratio, one.better))
            .collect();
        let expected = [
            ("messages/s", Some(2.0), "b"),
            ("publish to confirm, p99 ms", Some(2.0), "a"),
            ("refused for load", None, "same"),
            ("told to pause", Some(1.0), "same"),
        ];
        assert_eq!(told, expected);
        let lines = table(&compared);
        assert!(
            lines.contains("messages/s                   1,000   2,000    2.00   B"),
            "{lines}"
        );
    }

    #[test]
    fn small_differences_are_none() {
        assert_eq!(judge(100.0, 101.9, Higher), "same");
        assert_eq!(judge(100.0, 103.0, Higher), "b");
        assert_eq!(judge(100.0, 97.0, Higher), "a");
        assert_eq!(judge(100.0, 97.0, Lower), "b");
        assert_eq!(judge(0.0, 3.0, Lower), "a");
    }

    #[test]
    fn what_was_not_measured_alike_is_told() {
        let differences = differences(&result(1.0, 1.0, 16), &result(1.0, 1.0, 32));
        assert_eq!(
            differences,
            [("size_bytes".to_owned(), json!(16), json!(32))]
        );
    }

    #[test]
    fn only_results_of_one_kind_are_compared() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let show = Show::new(crate::args::Format::Table);
        let e2e = file("a", &result(1.0, 1.0, 16).to_string());
        let drain = file(
            "b",
            &result(1.0, 1.0, 16).to_string().replace("e2e", "drain"),
        );
        let other = file("c", "{}");
        assert_eq!(run(show, &e2e, &drain).unwrap_err().exit_code(), 1);
        assert_eq!(run(show, &e2e, &other).unwrap_err().exit_code(), 5);
        assert_eq!(
            run(show, &e2e, &folder.path().join("d"))
                .unwrap_err()
                .exit_code(),
            5
        );
        run(show, &e2e, &e2e).unwrap();
    }
}
