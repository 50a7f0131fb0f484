//! The figures of a run: as a table, as JSON, and as a file to compare with.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Value, json};
use ticketrail_client::proto::GetClusterResponse;

use super::counts::Counts;
use super::load::Measured;
use super::plan::{Mode, Plan};
use super::queues::Counted;
use crate::failure::{Failure, Result};
use crate::show::{self, Show};
use crate::units::{plural, show_count};

/// What the files begin with.
pub(super) const FORMAT: &str = "ticketrail-bench-1";

pub(super) struct Report<'a> {
    pub(super) plan: &'a Plan,
    pub(super) cluster: &'a GetClusterResponse,
    pub(super) counts: &'a Counts,
    pub(super) measured: &'a Measured,
    pub(super) interrupted: bool,
    pub(super) broker: Option<Counted>,
}

impl Report<'_> {
    /// Prints it, and writes it to the file that was asked for.
    pub(super) fn tell(&self, show: Show) -> Result {
        let json = self.json();
        match show.is_json() {
            true => show.json(&json)?,
            false => show.line(&text(self.plan, &json, self.interrupted))?,
        }
        match &self.plan.save {
            Some(path) => save(path, &json),
            None => Ok(()),
        }
    }

    fn json(&self) -> Value {
        let Measured {
            seconds,
            messages,
            usage,
            filled,
        } = self.measured;
        let rate = |messages: u64, seconds: f64| {
            (seconds > 0.0).then(|| (messages as f64 / seconds * 10.0).round() / 10.0)
        };
        let bytes = messages * self.plan.size as u64;
        let mut measured = json!({
            "seconds": (seconds * 1e3).round() / 1e3,
            "messages": messages,
            "messages_per_second": rate(*messages, *seconds),
            "megabytes_per_second": rate(bytes, *seconds).map(|rate| (rate / 1e4).round() / 1e2),
            "confirm_ms": self.counts.confirm.json(),
            "deliver_ms": match self.plan.mode {
                // How long a message lay in a backlog says nothing of the broker.
                Mode::Drain => Value::Null,
                _ => self.counts.deliver.json(),
            },
            "acknowledge_ms": self.counts.acknowledge.json(),
            "fill_messages_per_second": filled.and_then(|(messages, seconds)| rate(messages, seconds)),
        });
        if let (Some(measured), Some(usage)) = (measured.as_object_mut(), usage.as_object()) {
            measured.extend(usage.clone());
        }
        json!({
            "format": FORMAT,
            "mode": self.plan.mode.word(),
            "interrupted": self.interrupted,
            "cluster": {
                "nodes": self.cluster.nodes.len(),
                "server_version": self.cluster.server_version,
            },
            "settings": self.plan.json(),
            "measured": measured,
            "totals": self.counts.json(),
            "broker": self.broker.map(|counted| json!({
                "published": counted.published,
                "acknowledged": counted.acknowledged,
                "granted": counted.granted,
                "held": counted.held,
            })),
        })
    }
}

/// Refuses a run whose consumers lost leases: its figures are not what they seem.
pub(super) fn lost(counts: &Counts) -> Result {
    match counts.lost.load(Relaxed) {
        0 => Ok(()),
        lost => Err(Failure::Refused(format!(
            "{} acknowledgement{} came after the lease was over: a lower --prefetch or --rate keeps up",
            show_count(lost),
            plural(lost)
        ))),
    }
}

fn text(plan: &Plan, json: &Value, interrupted: bool) -> String {
    let measured = &json["measured"];
    let mut text = plan.sentence();
    if interrupted {
        text.push_str("\ninterrupted: this is what was measured until then");
    }
    text.push_str("\n\n");
    text.push_str(&show::pairs(&pairs(measured)));
    let latencies = latencies(measured);
    if !latencies.is_empty() {
        text.push_str("\n\n");
        text.push_str(&latencies);
    }
    text.push_str("\n\n");
    text.push_str(&totals(json));
    text
}

fn pairs(measured: &Value) -> Vec<(&'static str, String)> {
    let number = |name: &str| measured[name].as_f64();
    let count = |value: f64| show_count(value.round() as u64);
    let messages = format!(
        "{} in {:.1}s",
        show_count(measured["messages"].as_u64().unwrap_or(0)),
        number("seconds").unwrap_or(0.0)
    );
    let mut pairs = vec![("messages", messages)];
    let mut add = |name, value: Option<String>| pairs.extend(value.map(|value| (name, value)));
    add("messages/s", number("messages_per_second").map(count));
    add(
        "MB/s",
        number("megabytes_per_second").map(|value| format!("{value:.2}")),
    );
    add(
        "filled with, messages/s",
        number("fill_messages_per_second").map(count),
    );
    let us = |value: f64| format!("{value:.1} us");
    add(
        "nodes' CPU per message",
        number("server_cpu_us_per_message").map(us),
    );
    add(
        "nodes' cores in use",
        number("server_cores").map(|value| format!("{value:.2}")),
    );
    add(
        "memory of the largest node",
        number("server_resident_mib_max").map(|value| format!("{value} MiB")),
    );
    add(
        "own CPU per message",
        number("client_cpu_us_per_message").map(us),
    );
    add(
        "written to disk per byte",
        number("written_per_byte").map(|value| format!("{value:.2}")),
    );
    pairs
}

fn latencies(measured: &Value) -> String {
    let mut table = show::table(&[
        "LATENCY", "#P50", "#P99", "#P99.9", "#MAX", "#MEAN", "#SAMPLES",
    ]);
    for (name, key) in [
        ("publish to confirm", "confirm_ms"),
        ("publish to delivery", "deliver_ms"),
        ("ack to confirm", "acknowledge_ms"),
    ] {
        let latency = &measured[key];
        if latency.is_null() {
            continue;
        }
        let ms = |key: &str| format!("{:.2} ms", latency[key].as_f64().unwrap_or(0.0));
        table.add_row([
            name.to_owned(),
            ms("p50"),
            ms("p99"),
            ms("p999"),
            ms("max"),
            ms("mean"),
            show_count(latency["samples"].as_u64().unwrap_or(0)),
        ]);
    }
    match table.is_empty() {
        true => String::new(),
        false => show::lines(&table),
    }
}

fn totals(json: &Value) -> String {
    let total = |name: &str| json["totals"][name].as_u64().unwrap_or(0);
    let mut text = format!("in all: {} published", show_count(total("published")));
    if json["mode"] != Mode::Publish.word() {
        text.push_str(&format!(
            ", {} acknowledged, {} redelivered",
            show_count(total("acknowledged")),
            show_count(total("redelivered"))
        ));
    }
    let again = [
        ("refused for load", total("refused_for_load")),
        ("told to pause", total("told_to_pause")),
        ("tried again for other reasons", total("retried")),
    ];
    for (what, times) in again.into_iter().filter(|(_, times)| *times > 0) {
        let times = format!("{} time{}", show_count(times), plural(times));
        text.push_str(&format!(", {what} {times}"));
    }
    let broker = &json["broker"];
    if !broker.is_null() {
        let count = |name: &str| show_count(broker[name].as_u64().unwrap_or(0));
        text.push_str(&format!(
            "\nthe broker counts: {} published, {} acknowledged, {} left",
            count("published"),
            count("acknowledged"),
            count("held")
        ));
    }
    text
}

fn save(path: &Path, json: &Value) -> Result {
    let pretty = serde_json::to_string_pretty(json)
        .map_err(|error| Failure::local(path.display(), error))?;
    fs::write(path, pretty + "\n").map_err(|error| Failure::local(path.display(), error))
}
