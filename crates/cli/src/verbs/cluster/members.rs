//! Changes of the members: what was done, in a sentence or an object, and what to know of it.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;

use super::super::Context;
use crate::failure::{Failure, Result};
use crate::show;
use crate::units::show_count;

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A learner that lags by no more has caught up; the servers' own bound is higher.
const LAG_NONE: u64 = 1_000;

pub(super) async fn add(
    context: &Context,
    node: u64,
    client: &str,
    peer: &str,
    wait: bool,
) -> Result {
    let added = context.client.add_node(node, client, peer).await;
    let added = added.map_err(|error| advised(error.into(), node))?;
    let sentence = match added.unchanged {
        true => format!("node {node} is a member already"),
        false => {
            format!("node {node} is a learner: it follows, and has no vote until it is promoted")
        }
    };
    told(
        context,
        "added",
        node,
        added.unchanged,
        &sentence,
        &added.warnings,
    )?;
    if wait {
        caught_up(context, node).await?;
    }
    Ok(())
}

pub(super) async fn promote(context: &Context, node: u64, wait: bool) -> Result {
    if wait {
        caught_up(context, node).await?;
    }
    let promoted = context.client.promote_node(node).await;
    let promoted = promoted.map_err(|error| advised(error.into(), node))?;
    let sentence = match promoted.unchanged {
        true => format!("node {node} votes already"),
        false => format!("node {node} votes"),
    };
    let (unchanged, warnings) = (promoted.unchanged, &promoted.warnings);
    told(context, "promoted", node, unchanged, &sentence, warnings)
}

pub(super) async fn demote(context: &Context, node: u64) -> Result {
    let demoted = context.client.demote_node(node).await;
    let demoted = demoted.map_err(|error| advised(error.into(), node))?;
    let sentence = match demoted.unchanged {
        true => format!("node {node} is a learner already"),
        false => format!("node {node} follows, and votes no more"),
    };
    let (unchanged, warnings) = (demoted.unchanged, &demoted.warnings);
    told(context, "demoted", node, unchanged, &sentence, warnings)
}

pub(super) async fn remove(context: &Context, node: u64) -> Result {
    let removed = context.client.remove_node(node).await;
    let removed = removed.map_err(|error| advised(error.into(), node))?;
    let sentence = match removed.unchanged {
        true => format!("node {node} was removed before"),
        false => format!(
            "node {node} is removed; stop it if it runs, its data folder is of no use any more"
        ),
    };
    let (unchanged, warnings) = (removed.unchanged, &removed.warnings);
    told(context, "removed", node, unchanged, &sentence, warnings)
}

pub(super) async fn transfer(context: &Context, node: Option<u64>) -> Result {
    let transferred = context.client.transfer_leadership(node.unwrap_or(0)).await;
    let transferred =
        transferred.map_err(|error| advised(error.into(), node.unwrap_or_default()))?;
    let leader = transferred.leader_node_id;
    let sentence = match transferred.unchanged {
        true => format!("node {leader} leads already"),
        false => format!("node {leader} leads"),
    };
    let unchanged = transferred.unchanged;
    told(context, "leader", leader, unchanged, &sentence, &[])
}

fn told(
    context: &Context,
    done: &str,
    node: u64,
    unchanged: bool,
    sentence: &str,
    warnings: &[String],
) -> Result {
    let object =
        json!({ "done": done, "node_id": node, "unchanged": unchanged, "warnings": warnings });
    context.show.done(sentence, &object)?;
    if !context.show.is_json() {
        for warning in warnings {
            show::remark(&format!("warning: {warning}"));
        }
    }
    Ok(())
}

/// Waits until the leader says that a node has nearly all, and tells how far it is.
async fn caught_up(context: &Context, node: u64) -> Result {
    let until = Instant::now() + context.global.timeout;
    let mut told = None;
    loop {
        let lag = lag(context, node).await;
        if lag.is_some_and(|lag| lag <= LAG_NONE) {
            return Ok(());
        }
        if Instant::now() >= until {
            let behind = match lag {
                Some(lag) => format!("node {node} is still {} entries behind", show_count(lag)),
                None => format!("the leader does not say how far node {node} is"),
            };
            return Err(Failure::Refused(format!(
                "{behind}; it goes on: look again with `ticketrail cluster status`, or wait longer with --timeout"
            )));
        }
        if lag.is_some() && lag != told {
            let lag = lag.unwrap_or_default();
            show::remark(&format!("node {node}: {} entries behind", show_count(lag)));
        }
        told = lag;
        sleep(LOOK_EVERY).await;
    }
}

/// As the leader sees it, where it is among the endpoints.
async fn lag(context: &Context, node: u64) -> Option<u64> {
    let answers = super::status::ask_all(context).await;
    let of_leader = answers
        .iter()
        .filter_map(|one| one.answer.as_ref().ok())
        .find(|seen| seen.leader_node_id == seen.answering_node_id)?;
    let member = of_leader.nodes.iter().find(|one| one.node_id == node)?;
    member.lag_entries
}

/// What to do about a refusal.
fn advised(failure: Failure, node: u64) -> Failure {
    let Failure::Cluster { error, .. } = &failure else {
        return failure;
    };
    match error.reason() {
        "NODE_LAGS" => failure.hint(format!(
            "wait for it with: ticketrail cluster promote {node} --wait"
        )),
        "NO_MAJORITY" => {
            failure.hint("see who belongs to it, and who is up: ticketrail cluster status")
        }
        "CHANGE_IN_PROGRESS" | "TRANSFER_FAILED" => {
            failure.hint("run the same command again in a moment")
        }
        _ => failure,
    }
}
