//! The numbers of the node itself: Raft, the disk, clients, the process.

use std::collections::BTreeMap;

use ticketrail_broker::{Admission, Bound, BrokerFigures};
use ticketrail_core::NodeId;
use ticketrail_raft::Status;
use tonic::Code;

use super::names as n;
use super::process::Process;
use super::replica;
use super::scrape::Watched;
use super::text::Text;
use crate::data_folder::DataFolder;
use crate::services::Health;

const MS: f64 = 1e3;
const NS: f64 = 1e9;

/// What is looked at where nothing else waits for it.
pub(super) struct Machine {
    pub(super) process: Process,
    pub(super) data: Option<DataFolder>,
}

/// Writes all of it.
pub(super) fn write(watched: &Watched, machine: &Machine, text: &mut Text) {
    let node = &watched.node;
    let replica = node.broker.replica();
    let status = replica.status();
    let health = Health::of(&status, node.stopping.is_refusing());
    health_of(&health, text);
    raft(&status, text);
    peers(watched, &status, text);
    replica::write(replica, text);
    broker(&node.broker.figures(), text);
    bounds(node.broker.admission(), text);
    clients(watched, text);
    disk(machine.data.as_ref(), text);
    process(watched, &machine.process, text);
}

fn health_of(health: &Health, text: &mut Text) {
    text.one(&n::SERVING, u8::from(health.serving));
    text.one(&n::READY, u8::from(health.ready));
}

fn raft(status: &Status, text: &mut Text) {
    let is_leader = status.leader == Some(status.node_id);
    text.one(&n::IS_LEADER, u8::from(is_leader));
    text.one(&n::LEADER_ID, status.leader.map_or(0, |leader| leader.0));
    text.one(&n::TERM, status.term);
    let index = Option::unwrap_or_default;
    text.one(&n::LAST_LOG_INDEX, index(status.last_log_index));
    text.one(&n::COMMIT_INDEX, index(status.committed_index));
    text.one(&n::APPLIED_INDEX, index(status.applied_index));
    text.one(&n::SNAPSHOT_INDEX, index(status.snapshot_index));
    text.one(&n::PURGED_INDEX, index(status.purged_index));
    let seconds = |ms: Option<u64>| ms.map(|ms| ms as f64 / MS);
    let contact = status.leader_contact_ms_ago.filter(|_| !is_leader);
    text.maybe(&n::LEADER_CONTACT_AGE, seconds(contact));
    let acked = status.quorum_ack_ms_ago.filter(|_| is_leader);
    text.maybe(&n::QUORUM_ACK_AGE, seconds(acked));
    let members = status.members.values();
    let voters = members.filter(|member| member.voter).count();
    text.begin(&n::MEMBERS);
    text.sample(&n::MEMBERS, &["true"], voters);
    text.sample(&n::MEMBERS, &["false"], status.members.len() - voters);
}

fn peers(watched: &Watched, status: &Status, text: &mut Text) {
    let is_leader = status.leader == Some(status.node_id);
    let last = status.last_log_index.unwrap_or_default();
    let others = || {
        let members = status.members.iter();
        members.filter(|(id, _)| **id != status.node_id)
    };
    text.begin(&n::PEER_LAG);
    for (id, member) in others().filter(|_| is_leader) {
        let lag = last.saturating_sub(member.matched_index.unwrap_or_default());
        text.sample(&n::PEER_LAG, &[&id.0.to_string()], lag);
    }
    text.begin(&n::PEER_ANSWER_AGE);
    for (id, member) in others().filter(|_| is_leader) {
        if let Some(ms) = member.answered_ms_ago {
            text.sample(&n::PEER_ANSWER_AGE, &[&id.0.to_string()], ms as f64 / MS);
        }
    }
    let view = watched.node.broker.cluster();
    let silence: BTreeMap<NodeId, u64> = view
        .nodes
        .iter()
        .filter_map(|node| Some((node.node, node.silent_ms?)))
        .collect();
    text.begin(&n::PEER_SILENCE);
    for (id, ms) in &silence {
        text.sample(&n::PEER_SILENCE, &[&id.0.to_string()], *ms as f64 / MS);
    }
}

fn broker(figures: &BrokerFigures, text: &mut Text) {
    text.histogram(&n::CONFIRM_SECONDS, &figures.publishes, NS);
    text.histogram(&n::SETTLE_SECONDS, &figures.settles, NS);
    text.histogram(&n::COMMAND_SECONDS, &figures.other_commands, NS);
    text.histogram(&n::ENTRY_COMMANDS, &figures.entry_commands, 1.0);
    text.histogram(&n::ENTRY_BYTES, &figures.entry_bytes, 1.0);
    text.one(&n::CLOCK_ALARM, u8::from(figures.clock_alarm));
    text.one(&n::WAITING_COMMANDS, figures.waiting_commands);
    text.one(&n::WAITING_BYTES, figures.waiting_bytes);
    text.one(&n::SESSIONS, figures.sessions);
    text.one(&n::LONG_POLLS, figures.long_polls);
}

fn bounds(admission: &Admission, text: &mut Text) {
    let levels = || {
        let all = Bound::ALL.iter();
        all.filter_map(|bound| Some((*bound, admission.level(*bound)?)))
    };
    text.begin(&n::BOUND_USED);
    for (bound, level) in levels() {
        text.sample(&n::BOUND_USED, &[bound.word()], level.used);
    }
    text.begin(&n::BOUND_MAX);
    for (bound, level) in levels() {
        text.sample(&n::BOUND_MAX, &[bound.word()], level.max);
    }
    text.begin(&n::BOUND_REFUSALS);
    for bound in Bound::ALL {
        let count = admission.refusals().of(*bound);
        text.sample(&n::BOUND_REFUSALS, &[bound.word()], count);
    }
    text.begin(&n::SHORT);
    for (bound, level) in levels().filter(|(bound, _)| bound.is_watermark()) {
        text.sample(&n::SHORT, &[bound.word()], u8::from(level.short));
    }
    let blocked = admission.blocked().borrow().map(|blocked| blocked.bound);
    text.begin(&n::PUBLISHES_BLOCKED);
    for (bound, _) in levels().filter(|(bound, _)| bound.is_watermark()) {
        let blocks = u8::from(blocked == Some(bound));
        text.sample(&n::PUBLISHES_BLOCKED, &[bound.word()], blocks);
    }
}

fn clients(watched: &Watched, text: &mut Text) {
    let calls = &watched.node.calls;
    text.begin(&n::CALLS);
    for (method, _, ended) in calls.methods() {
        for (code, count) in ended
            .into_iter()
            .enumerate()
            .filter(|(_, count)| *count > 0)
        {
            let code = format!("{:?}", Code::from_i32(code as i32));
            text.sample(&n::CALLS, &[method, &code], count);
        }
    }
    text.begin(&n::CALLS_IN_FLIGHT);
    for (method, open, _) in calls.methods() {
        text.sample(&n::CALLS_IN_FLIGHT, &[method], open);
    }
    // All of them from the start: a first refusal must be seen as a step from 0.
    text.begin(&n::REFUSALS);
    for (reason, count) in calls.refusals() {
        text.sample(&n::REFUSALS, &[reason.as_str()], count);
    }
    let listeners = [
        ("clients", watched.clients.counts()),
        ("peers", watched.peers.counts()),
        ("metrics", watched.scrapers.counts()),
    ];
    text.begin(&n::CONNECTIONS);
    for (listener, (open, ..)) in listeners {
        text.sample(&n::CONNECTIONS, &[listener], open);
    }
    text.begin(&n::CONNECTIONS_ACCEPTED);
    for (listener, (_, accepted, _)) in listeners {
        text.sample(&n::CONNECTIONS_ACCEPTED, &[listener], accepted);
    }
    text.begin(&n::CONNECTIONS_REFUSED);
    for (listener, (.., refused)) in listeners {
        text.sample(&n::CONNECTIONS_REFUSED, &[listener], refused);
    }
}

fn disk(data: Option<&DataFolder>, text: &mut Text) {
    let folders = data.map_or(&[][..], |data| &data.folders);
    text.begin(&n::DISK_USED);
    for folder in folders {
        text.sample(&n::DISK_USED, &[&folder.name], folder.used_bytes);
    }
    text.begin(&n::DISK_NEWEST_AGE);
    for folder in folders {
        if let Some(age) = folder.newest_age {
            text.sample(&n::DISK_NEWEST_AGE, &[&folder.name], age.as_secs_f64());
        }
    }
    text.maybe(&n::DISK_FREE, data.map(|data| data.space.free_bytes));
    text.maybe(&n::DISK_SIZE, data.map(|data| data.space.total_bytes));
}

fn process(watched: &Watched, process: &Process, text: &mut Text) {
    let node = &watched.node;
    let labels = [
        env!("CARGO_PKG_VERSION"),
        &format!("{:032x}", node.cluster_id),
        &node.id.0.to_string(),
    ];
    text.begin(&n::BUILD_INFO);
    text.sample(&n::BUILD_INFO, &labels, 1);
    let ahead_ms = node.peers.wall_ms() as f64 - node.broker.wall_median_ms() as f64;
    text.one(&n::CLOCK_AHEAD, ahead_ms / MS);
    text.maybe(&n::PROCESS_CPU, process.cpu_seconds);
    text.maybe(&n::PROCESS_MEMORY, process.resident_bytes);
    text.maybe(&n::PROCESS_START, process.start_seconds);
    text.maybe(&n::PROCESS_FDS, process.open_fds);
    text.maybe(&n::PROCESS_FDS_MAX, process.max_fds);
}
