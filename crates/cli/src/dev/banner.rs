//! What `dev` shows when its cluster is up.

use std::collections::BTreeMap;

use ticketrail_client::proto::{GetClusterResponse, NodeRole};

use super::plan::Plan;
use crate::show;
use crate::units::plural;

pub(super) const KEYS: &str =
    "k 2 kills node 2, r 2 starts it again, s shows the nodes, q quits; each with Enter";

pub(super) fn text(plan: &Plan, seen: &GetClusterResponse, pids: &BTreeMap<u64, u32>) -> String {
    let program = program();
    let count = *plan.ids().end();
    let mut lines = vec![
        format!(
            "Ticketrail {}: {count} node{} on this machine, data and logs in {}",
            env!("CARGO_PKG_VERSION"),
            plural(count),
            plan.data_dir().display()
        ),
        String::new(),
        table(plan, seen, pids),
        String::new(),
        "Try in another terminal:".to_owned(),
    ];
    if !plan.is_default() {
        lines.push(format!(
            "  export TICKETRAIL_ENDPOINTS={}",
            plan.endpoints_short()
        ));
    }
    for line in [
        "queue create hello",
        "publish hello 'first message'",
        "receive hello --ack",
        "cluster status",
    ] {
        lines.push(format!("  {program} {line}"));
    }
    lines.extend([String::new(), format!("Here: {KEYS}.")]);
    lines.join("\n")
}

pub(super) fn table(plan: &Plan, seen: &GetClusterResponse, pids: &BTreeMap<u64, u32>) -> String {
    let mut table = show::table(&["NODE", "ROLE", "#PID", "CLIENTS", "PEERS", "METRICS", "LOG"]);
    for id in plan.ids() {
        let role = seen
            .nodes
            .iter()
            .find(|node| node.node_id == id)
            .map(|node| node.role());
        let role = match role {
            _ if !pids.contains_key(&id) => "down",
            _ if seen.leader_node_id == id => "leader",
            Some(NodeRole::Candidate) => "candidate",
            Some(NodeRole::Learner) => "learner",
            _ => "follower",
        };
        table.add_row([
            id.to_string(),
            role.to_owned(),
            pids.get(&id).map_or_else(|| "-".to_owned(), u32::to_string),
            format!("http://{}", plan.client_address(id)),
            plan.peer_address(id),
            plan.metrics_address(id),
            plan.log_file(id).display().to_string(),
        ]);
    }
    show::lines(&table)
}

/// How this program was called, so that the lines can be pasted.
fn program() -> String {
    let called = std::env::args().next().unwrap_or_default();
    if called.contains('/') {
        called
    } else {
        "ticketrail".to_owned()
    }
}
