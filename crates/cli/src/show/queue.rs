//! Queues: their settings and counts.

use serde_json::{Value, json};
use ticketrail_client::proto::{Queue, QueueSettings};
use ticketrail_client::{QueueKind, QueueStats};

use super::{about, duration, seconds, time};
use crate::units::{show_bytes, show_count, show_duration};

pub(crate) const TITLES: [&str; 8] = [
    "NAME",
    "#READY",
    "#IN FLIGHT",
    "#DELAYED",
    "#PARKED",
    "#CONSUMERS",
    "#BYTES",
    "STATE",
];

pub(crate) fn row(queue: &Queue, stats: &QueueStats) -> [String; 8] {
    [
        queue.name.clone(),
        show_count(stats.ready),
        show_count(stats.in_flight),
        show_count(stats.delayed),
        show_count(stats.parked),
        stats.consumers.to_string(),
        show_bytes(stats.bytes),
        state(queue),
    ]
}

pub(crate) fn json(queue: &Queue, stats: Option<&QueueStats>) -> Value {
    json!({
        "namespace": queue.namespace,
        "name": queue.name,
        "incarnation": queue.incarnation,
        "etag": queue.etag,
        "created_at": time(queue.created_at.as_ref()),
        "paused": queue.paused,
        "dead_letter_blocked": queue.dead_letter_blocked,
        "settings": queue.settings.as_ref().map(settings_json),
        "stats": stats.map(stats_json),
    })
}

pub(crate) fn pairs(queue: &Queue, stats: &QueueStats) -> Vec<(&'static str, String)> {
    let settings = queue.settings.clone().unwrap_or_default();
    let mut pairs = vec![
        ("name", queue.name.clone()),
        ("namespace", queue.namespace.clone()),
        ("state", state(queue)),
        (
            "created",
            time(queue.created_at.as_ref()).unwrap_or_else(|| "-".to_owned()),
        ),
        ("", String::new()),
    ];
    pairs.extend(settings_pairs(&settings));
    pairs.push(("", String::new()));
    pairs.extend(stats_pairs(stats));
    pairs
}

fn settings_pairs(settings: &QueueSettings) -> [(&'static str, String); 4] {
    let lease = duration(settings.lease_duration.as_ref()).map(show_duration);
    let max_deliveries = match settings.max_deliveries {
        Some(0) => "no limit".to_owned(),
        Some(number) => number.to_string(),
        None => String::new(),
    };
    [
        ("lease", lease.unwrap_or_default()),
        ("max deliveries", max_deliveries),
        ("dead letters to", dead_letter_text(settings)),
        ("retry backoff", backoff_text(settings)),
    ]
}

fn stats_pairs(stats: &QueueStats) -> Vec<(&'static str, String)> {
    let counts = [
        ("ready", stats.ready),
        ("in flight", stats.in_flight),
        ("delayed", stats.delayed),
        ("parked", stats.parked),
        ("consumers", stats.consumers.into()),
    ];
    let ever = [
        ("published", stats.published),
        ("dead-lettered in", stats.dead_lettered_in),
        ("acknowledged", stats.acknowledged),
        ("dead-lettered out", stats.dead_lettered_out),
        ("dropped", stats.dropped),
        ("purged", stats.purged),
        ("granted", stats.granted),
        ("redelivered", stats.redelivered),
    ];
    let mut pairs: Vec<_> = counts
        .into_iter()
        .map(|(name, count)| (name, show_count(count)))
        .collect();
    pairs.push(("bytes", show_bytes(stats.bytes)));
    pairs.push(("oldest ready", about(stats.oldest_ready_age.as_ref())));
    pairs.push(("", String::new()));
    pairs.extend(
        ever.into_iter()
            .map(|(name, count)| (name, show_count(count))),
    );
    pairs
}

fn state(queue: &Queue) -> String {
    let mut words = Vec::new();
    if queue.paused {
        words.push("paused");
    }
    if queue.dead_letter_blocked {
        words.push("dead letters blocked");
    }
    if words.is_empty() {
        "open".to_owned()
    } else {
        words.join(", ")
    }
}

fn dead_letter_text(settings: &QueueSettings) -> String {
    match &settings.dead_letter {
        None => "nowhere: dropped and counted".to_owned(),
        Some(target) => target
            .routing_key
            .clone()
            .unwrap_or_else(|| "each message's own key".into()),
    }
}

fn backoff_text(settings: &QueueSettings) -> String {
    let Some(backoff) = &settings.retry_backoff else {
        return "none".to_owned();
    };
    let show = |value| duration(value).map(show_duration).unwrap_or_default();
    let base = show(backoff.base.as_ref());
    let factor = backoff.factor.unwrap_or(2.0);
    format!(
        "{base}, times {factor} each time, at most {}",
        show(backoff.max.as_ref())
    )
}

fn settings_json(settings: &QueueSettings) -> Value {
    let kind = match settings.kind() {
        QueueKind::Unspecified | QueueKind::Work => "work",
        QueueKind::Stream => "stream",
    };
    let backoff = settings.retry_backoff.as_ref().map(|backoff| {
        json!({
            "base_seconds": seconds(backoff.base.as_ref()),
            "factor": backoff.factor,
            "max_seconds": seconds(backoff.max.as_ref()),
            "jitter_percent": backoff.jitter_percent,
        })
    });
    let dead_letter = settings
        .dead_letter
        .as_ref()
        .map(|target| json!({ "exchange": target.exchange, "routing_key": target.routing_key }));
    json!({
        "kind": kind,
        "lease_seconds": seconds(settings.lease_duration.as_ref()),
        "max_deliveries": settings.max_deliveries,
        "dead_letter": dead_letter,
        "retry_backoff": backoff,
    })
}

fn stats_json(stats: &QueueStats) -> Value {
    json!({
        "position": stats.position.as_ref().map(|position| json!({
            "index": position.index, "place": position.place,
        })),
        "ready": stats.ready,
        "delayed": stats.delayed,
        "in_flight": stats.in_flight,
        "parked": stats.parked,
        "published": stats.published,
        "dead_lettered_in": stats.dead_lettered_in,
        "redriven_in": stats.redriven_in,
        "acknowledged": stats.acknowledged,
        "dead_lettered_out": stats.dead_lettered_out,
        "expired": stats.expired,
        "dropped": stats.dropped,
        "purged": stats.purged,
        "moved": stats.moved,
        "granted": stats.granted,
        "redelivered": stats.redelivered,
        "bytes": stats.bytes,
        "consumers": stats.consumers,
        "oldest_ready_age_seconds": seconds(stats.oldest_ready_age.as_ref()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ticketrail_client::{DeadLetterTarget, RetryBackoff};

    fn queue() -> Queue {
        let second = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let target = DeadLetterTarget {
            routing_key: Some("orders.dead".into()),
            ..Default::default()
        };
        let settings = QueueSettings {
            lease_duration: second(30),
            max_deliveries: Some(10),
            dead_letter: Some(target),
            retry_backoff: Some(RetryBackoff {
                base: second(1),
                factor: Some(2.0),
                max: second(60),
                jitter_percent: Some(25),
            }),
            ..Default::default()
        };
        let name = "orders".to_owned();
        Queue {
            name,
            settings: Some(settings),
            paused: true,
            ..Default::default()
        }
    }

    #[test]
    fn a_row_and_its_titles_fit() {
        let stats = QueueStats {
            ready: 1_234,
            bytes: 2_048,
            consumers: 2,
            ..Default::default()
        };
        let mut table = crate::show::table(&TITLES);
        table.add_row(row(&queue(), &stats));
        let text = crate::show::lines(&table);
        let expected = [
            "NAME     READY   IN FLIGHT   DELAYED   PARKED   CONSUMERS     BYTES   STATE",
            "orders   1,234           0         0        0           2   2.0 KiB   paused",
        ];
        assert_eq!(text, expected.join("\n"));
    }

    #[test]
    fn settings_are_told_in_words() {
        let pairs = pairs(&queue(), &QueueStats::default());
        let value = |name| &pairs.iter().find(|pair| pair.0 == name).unwrap().1;
        assert_eq!(value("retry backoff"), "1s, times 2 each time, at most 1m");
        assert_eq!(value("dead letters to"), "orders.dead");
        assert_eq!(value("oldest ready"), "-");
    }

    #[test]
    fn json_has_units_in_its_names() {
        let object = json(&queue(), Some(&QueueStats::default()));
        assert_eq!(object["settings"]["lease_seconds"], 30.0);
        assert_eq!(object["settings"]["retry_backoff"]["max_seconds"], 60.0);
        assert_eq!(object["stats"]["ready"], 0);
    }
}
