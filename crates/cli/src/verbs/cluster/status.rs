//! `cluster status`: asks every endpoint what it sees.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use ticketrail_client::proto::{DiskUse, GetClusterResponse, Node, NodeRole, SnapshotProgress};
use ticketrail_client::{ClientOptions, Error};

use super::super::Context;
use crate::failure::{Failure, Result};
use crate::show::{self, hex};
use crate::units::{show_bytes, show_count};

/// How long one node may take: a node that hangs should be shown as such, soon.
const NODE_TIMEOUT: Duration = Duration::from_secs(2);

/// A watched cluster is shown so often.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// What one endpoint answered.
pub(in crate::verbs) struct Answer {
    pub(in crate::verbs) endpoint: String,
    pub(in crate::verbs) answer: Result<GetClusterResponse, Error>,
}

/// Shows it again and again.
pub(super) async fn watch(context: &Context) -> Result {
    loop {
        show(context).await?;
        if !context.show.is_json() {
            context.show.line("")?;
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// What each endpoint says.
pub(super) async fn ask_all(context: &Context) -> Vec<Answer> {
    let timeout = context.global.timeout.min(NODE_TIMEOUT);
    let endpoints = context.client.endpoints();
    join_all(endpoints.map(|endpoint| ask(endpoint, timeout))).await
}

/// The endpoints that answer: followers first, the one that has applied the most before the others.
pub(in crate::verbs) async fn by_role(context: &Context) -> Result<Vec<String>> {
    let mut there = Vec::new();
    let mut failed = None;
    for Answer { endpoint, answer } in ask_all(context).await {
        match answer {
            Ok(seen) => {
                let leads = seen.leader_node_id == seen.answering_node_id;
                there.push((leads, Reverse(seen.applied_index), endpoint));
            }
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if there.is_empty() => Err(error.into()),
        _ => {
            there.sort();
            Ok(there.into_iter().map(|(_, _, endpoint)| endpoint).collect())
        }
    }
}

pub(super) async fn show(context: &Context) -> Result {
    let answers = ask_all(context).await;
    let Some(newest) = newest(&answers) else {
        let error = answers.into_iter().find_map(|one| one.answer.err());
        return Err(error.map_or_else(|| Failure::Usage("no endpoints".to_owned()), Failure::from));
    };
    if context.show.is_json() {
        return Ok(context.show.json(&json(newest, &answers))?);
    }
    context.show.line(&headline(newest))?;
    context.show.line("")?;
    context.show.line(&table(newest, &answers))?;
    if let Some(disks) = disks(&answers) {
        context.show.line(&format!("\n{disks}"))?;
    }
    for remark in remarks(newest, &answers) {
        context.show.line(&format!("\n{remark}"))?;
    }
    Ok(())
}

/// What the best informed node answered.
pub(in crate::verbs) fn newest(answers: &[Answer]) -> Option<&GetClusterResponse> {
    let there = answers.iter().filter_map(|one| one.answer.as_ref().ok());
    there.max_by_key(|seen| (seen.term, seen.commit_index))
}

async fn ask(endpoint: &str, timeout: Duration) -> Answer {
    let client = ClientOptions::new()
        .timeout(timeout)
        .connect_lazy([endpoint]);
    let answer = match client {
        Ok(client) => client.cluster().await,
        Err(error) => Err(error),
    };
    Answer {
        endpoint: endpoint.to_owned(),
        answer,
    }
}

fn headline(seen: &GetClusterResponse) -> String {
    let leader = match seen.leader_node_id {
        0 => "no leader: a majority of the nodes must be up".to_owned(),
        node => format!("node {node} leads"),
    };
    format!(
        "cluster {}   term {}   {leader}   committed {}",
        hex(&seen.cluster_id),
        seen.term,
        show_count(seen.commit_index)
    )
}

/// All nodes that anybody knows of, by id.
pub(in crate::verbs) fn nodes<'a>(
    newest: &'a GetClusterResponse,
    answers: &'a [Answer],
) -> BTreeMap<u64, Row<'a>> {
    let mut rows: BTreeMap<u64, Row> = BTreeMap::new();
    for node in &newest.nodes {
        rows.insert(
            node.node_id,
            Row {
                node: Some(node),
                own: None,
                error: None,
                endpoint: None,
            },
        );
    }
    for one in answers {
        if let Ok(seen) = &one.answer {
            let row = rows.entry(seen.answering_node_id).or_default();
            row.own = Some(seen);
            row.endpoint = Some(&one.endpoint);
        }
    }
    for one in answers {
        let address = one.endpoint.trim_start_matches("http://");
        let named = rows.values_mut().find(|row| {
            row.own.is_none() && row.node.is_some_and(|node| node.client_address == address)
        });
        if let (Some(row), Err(error)) = (named, &one.answer) {
            row.error = Some(error);
            row.endpoint = Some(&one.endpoint);
        }
    }
    rows
}

/// What is known of a node.
#[derive(Default)]
pub(in crate::verbs) struct Row<'a> {
    /// As the best informed node sees it.
    pub(in crate::verbs) node: Option<&'a Node>,
    /// What it says itself.
    pub(in crate::verbs) own: Option<&'a GetClusterResponse>,
    pub(in crate::verbs) error: Option<&'a Error>,
    endpoint: Option<&'a str>,
}

impl Row<'_> {
    /// How far it is with a snapshot, as it says itself.
    fn fetching(&self) -> Option<SnapshotProgress> {
        let own = self.own?;
        let mut nodes = own.nodes.iter();
        nodes
            .find(|node| node.node_id == own.answering_node_id)?
            .fetching
    }

    pub(in crate::verbs) fn role(&self, id: u64) -> &'static str {
        let own = self
            .own
            .and_then(|seen| seen.nodes.iter().find(|node| node.node_id == id));
        match own.or(self.node).map(Node::role) {
            Some(NodeRole::Leader) => "leader",
            Some(NodeRole::Follower) => "follower",
            Some(NodeRole::Candidate) => "candidate",
            Some(NodeRole::Learner) => "learner",
            Some(NodeRole::Unspecified) | None => "unknown",
        }
    }

    pub(in crate::verbs) fn state(&self) -> String {
        match (self.own, self.error) {
            (Some(_), _) => match self.fetching() {
                Some(progress) => format!(
                    "up, fetches a snapshot: {} of {}",
                    show_bytes(progress.bytes_done),
                    show_bytes(progress.bytes_total)
                ),
                None => "up".to_owned(),
            },
            (None, Some(error)) => format!("down ({})", error.reason().to_lowercase()),
            (None, None) => "not asked: not among the endpoints".to_owned(),
        }
    }
}

/// Entries that a node is not known to hold; its leader knows.
pub(in crate::verbs) fn behind(answers: &[Answer], id: u64) -> Option<u64> {
    let seen = answers.iter().filter_map(|one| one.answer.as_ref().ok());
    let of_leader = seen.filter(|seen| seen.leader_node_id == seen.answering_node_id);
    let newest = of_leader.max_by_key(|seen| seen.term)?;
    let node = newest.nodes.iter().find(|node| node.node_id == id)?;
    node.lag_entries
}

fn table(newest: &GetClusterResponse, answers: &[Answer]) -> String {
    let mut table = show::table(&[
        "#NODE",
        "ROLE",
        "CLIENTS",
        "PEERS",
        "#TERM",
        "#COMMITTED",
        "#APPLIED",
        "#BEHIND",
        "VERSION",
        "STATE",
    ]);
    for (id, row) in nodes(newest, answers) {
        // The role of a node that is down is what it was.
        let role = if row.error.is_some() {
            "-"
        } else {
            row.role(id)
        };
        let own = |text: &dyn Fn(&GetClusterResponse) -> String| {
            row.own.map_or_else(|| "-".to_owned(), text)
        };
        table.add_row([
            id.to_string(),
            role.to_owned(),
            row.node
                .map_or_else(String::new, |node| node.client_address.clone()),
            row.node
                .map_or_else(String::new, |node| node.peer_address.clone()),
            own(&|seen| seen.term.to_string()),
            own(&|seen| show_count(seen.commit_index)),
            own(&|seen| show_count(seen.applied_index)),
            behind(answers, id).map_or_else(|| "-".to_owned(), show_count),
            own(&|seen| seen.server_version.clone()),
            row.state(),
        ]);
    }
    show::lines(&table)
}

/// What each node that answers takes of its disk; none where none says.
fn disks(answers: &[Answer]) -> Option<String> {
    let mut table = show::table(&[
        "#NODE",
        "#LOG",
        "#LIVE",
        "#DEAD",
        "#LIVE+DEAD AT MOST",
        "#SPARE",
        "#CHECKPOINT",
        "#SNAPSHOTS",
        "#FREE",
        "#OF",
    ]);
    let said = answers.iter().filter_map(|one| {
        let seen = one.answer.as_ref().ok()?;
        Some((seen.answering_node_id, seen.disk.as_ref()?))
    });
    let said: BTreeMap<u64, &DiskUse> = said.collect();
    for (id, disk) in &said {
        let numbers = [
            disk.log_bytes,
            disk.live_body_bytes,
            disk.dead_body_bytes,
            disk.body_bytes_max,
            disk.spare_bytes,
            disk.checkpoint_bytes,
            disk.snapshot_bytes,
            disk.free_bytes,
            disk.size_bytes,
        ];
        let cells = numbers.into_iter().map(show_bytes);
        table.add_row([id.to_string()].into_iter().chain(cells));
    }
    (!said.is_empty()).then(|| show::lines(&table))
}

fn disk_json(disk: &DiskUse) -> Value {
    json!({
        "log_bytes": disk.log_bytes,
        "live_body_bytes": disk.live_body_bytes,
        "dead_body_bytes": disk.dead_body_bytes,
        "body_bytes_max": disk.body_bytes_max,
        "spare_bytes": disk.spare_bytes,
        "checkpoint_bytes": disk.checkpoint_bytes,
        "snapshot_bytes": disk.snapshot_bytes,
        "snapshot_index": disk.snapshot_index,
        "free_bytes": disk.free_bytes,
        "size_bytes": disk.size_bytes,
        "free_bytes_min": disk.free_bytes_min,
    })
}

/// What the table does not say: endpoints that are no known node, and a majority that is missing.
fn remarks(newest: &GetClusterResponse, answers: &[Answer]) -> Vec<String> {
    let rows = nodes(newest, answers);
    let shown: Vec<_> = rows.values().filter_map(|row| row.endpoint).collect();
    let mut remarks = Vec::new();
    for one in answers {
        match &one.answer {
            Err(error) if !shown.contains(&one.endpoint.as_str()) => {
                remarks.push(error.to_string())
            }
            _ => {}
        }
    }
    if newest.changing_voters {
        let told = "the voters are being changed: the old and the new ones decide together";
        remarks.push(told.to_owned());
    }
    let voters = rows
        .values()
        .filter(|row| row.node.is_some_and(|node| node.voter));
    let (up, down): (Vec<_>, Vec<_>) = voters.partition(|row| row.error.is_none());
    if up.len() <= down.len() {
        let all = up.len() + down.len();
        remarks.push(format!(
            "only {} of {all} voters answer: nothing can be stored",
            up.len()
        ));
    }
    remarks
}

fn json(newest: &GetClusterResponse, answers: &[Answer]) -> Value {
    let nodes: Vec<Value> = nodes(newest, answers)
        .iter()
        .map(|(id, row)| {
            json!({
                "node_id": id,
                "role": row.role(*id),
                "up": row.own.is_some(),
                "error": row.error.map(|error| error.reason()),
                "endpoint": row.endpoint,
                "client_address": row.node.map(|node| &node.client_address),
                "peer_address": row.node.map(|node| &node.peer_address),
                "voter": row.node.map(|node| node.voter),
                "lag_entries": behind(answers, *id),
                "term": row.own.map(|seen| seen.term),
                "commit_index": row.own.map(|seen| seen.commit_index),
                "applied_index": row.own.map(|seen| seen.applied_index),
                "digest": row.own.and_then(|seen| seen.digest.as_ref()).map(|digest| json!({
                    "index": digest.index, "value": format!("{:016x}", digest.value),
                })),
                "lease_now_ms": row.own.map(|seen| seen.lease_now_ms),
                "disk": row.own.and_then(|seen| seen.disk.as_ref()).map(disk_json),
                "fetching": row.fetching().map(|progress| json!({
                    "bytes_done": progress.bytes_done, "bytes_total": progress.bytes_total,
                })),
                "server_version": row.own.map(|seen| &seen.server_version),
            })
        })
        .collect();
    json!({
        "cluster_id": hex(&newest.cluster_id),
        "leader_node_id": newest.leader_node_id,
        "term": newest.term,
        "commit_index": newest.commit_index,
        "state_machine_version": newest.state_machine_version,
        "changing_voters": newest.changing_voters,
        "nodes": nodes,
    })
}
