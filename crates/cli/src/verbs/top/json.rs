//! What one look saw, for programs.

use serde_json::{Value, json};

use super::view::View;
use super::watch::{NodeRow, QueueRow, Seen};

/// One object for one look; the queues are in the order of the view.
pub(super) fn object(seen: &Seen, view: &View) -> Value {
    let error = seen.failure();
    let stale = seen.stale.as_ref();
    json!({
        "cluster_id": seen.cluster,
        "leader_node_id": seen.leader,
        "term": seen.term,
        "nodes": seen.nodes.iter().map(node).collect::<Vec<_>>(),
        "queues": view.rows(&seen.queues).into_iter().map(queue).collect::<Vec<_>>(),
        "more_queues": seen.more_queues,
        "queues_age_seconds": stale.map_or(0.0, |(age, _)| age.as_secs_f64()),
        "error": error.map(|error| json!({ "reason": error.reason(), "message": error.message() })),
    })
}

fn node(node: &NodeRow) -> Value {
    json!({
        "node_id": node.id,
        "role": node.role,
        "client_address": node.address,
        "server_version": node.version,
        "applied_index": node.applied,
        "lag_entries": node.lag,
        "disk_taken_bytes": node.disk.map(|(taken, _)| taken),
        "disk_free_bytes": node.disk.map(|(_, free)| free),
        "up": node.up,
        "state": node.state,
    })
}

fn queue(queue: &QueueRow) -> Value {
    json!({
        "name": queue.name,
        "ready": queue.ready,
        "in_flight": queue.in_flight,
        "published_per_second": queue.published,
        "acknowledged_per_second": queue.acked,
        "oldest_ready_age_seconds": queue.oldest.map(|age| age.as_secs_f64()),
        "consumers": queue.consumers,
        "paused": queue.paused,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::args::SortBy;

    #[test]
    fn a_look_is_one_object_with_units_in_its_names() {
        let row = |name: &str, ready| QueueRow {
            name: name.to_owned(),
            ready,
            published: Some(1.5),
            oldest: Some(Duration::from_millis(2_500)),
            ..Default::default()
        };
        let seen = Seen {
            cluster: "ab".to_owned(),
            leader: Some(2),
            nodes: vec![NodeRow {
                id: 2,
                disk: Some((5, 7)),
                up: true,
                ..Default::default()
            }],
            queues: vec![row("small", 1), row("large", 9)],
            ..Default::default()
        };
        let object = object(&seen, &View::new(SortBy::Depth, String::new()));
        assert_eq!(object["nodes"][0]["disk_free_bytes"], 7);
        assert_eq!(object["queues"][0]["name"], "large");
        assert_eq!(object["queues"][0]["oldest_ready_age_seconds"], 2.5);
        assert_eq!(object["queues"][0]["acknowledged_per_second"], Value::Null);
        assert_eq!(
            (&object["leader_node_id"], &object["error"]),
            (&2.into(), &Value::Null)
        );
    }
}
