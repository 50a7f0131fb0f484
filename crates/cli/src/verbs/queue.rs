//! `ticketrail queue ...`

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use ticketrail_client::proto::{PeekRequest, Queue as QueueInfo};
use ticketrail_client::{DeadLetterTarget, MessageState, QueueSettings, QueueStats, RetryBackoff};

use super::Context;
use crate::args::{Peek, Queue, QueueOptions, State};
use crate::failure::{Failure, Result};
use crate::show;
use crate::units::{plural, show_count};

/// How many queues are asked for their counts at a time.
const STATS_AT_ONCE: usize = 16;
/// How many messages a page of `peek` asks for.
const PEEK_PAGE: u32 = 200;

pub(super) async fn run(context: &Context, verb: Queue) -> Result {
    match verb {
        Queue::Create { name, settings } => create(context, name, settings).await,
        Queue::List => list(context).await,
        Queue::Show { name } => show(context, name).await,
        Queue::Update {
            name,
            settings,
            no_dead_letter,
            no_backoff,
        } => update(context, name, settings, no_dead_letter, no_backoff).await,
        Queue::Delete { name } => delete(context, name).await,
        Queue::Purge {
            name,
            include_delayed,
        } => purge(context, name, include_delayed).await,
        Queue::Peek(args) => peek(context, args).await,
        Queue::Pause { name } => pause(context, name).await,
        Queue::Resume { name } => resume(context, name).await,
    }
}

async fn create(context: &Context, name: String, options: QueueOptions) -> Result {
    let created = context.client.create_queue(&name, settings(&options)).await;
    let response = match created {
        Ok(response) => response,
        Err(error) if error.reason() == "ALREADY_EXISTS" => {
            let hint =
                "see it with `ticketrail queue show`, change it with `ticketrail queue update`";
            return Err(Failure::from(error).hint(hint));
        }
        Err(error) => return Err(error.into()),
    };
    let queue = response.queue.unwrap_or_default();
    let sentence = match response.already_existed {
        true => format!("queue `{name}` exists already, with these settings"),
        false => format!("queue `{name}` created"),
    };
    let mut object = show::queue::json(&queue, None);
    object["already_existed"] = response.already_existed.into();
    Ok(context.show.done(&sentence, &object)?)
}

async fn list(context: &Context) -> Result {
    let queues = context.client.list_queues().await?;
    let counted: Vec<(QueueInfo, Option<QueueStats>)> = stream::iter(queues)
        .map(|queue| async {
            match context.client.queue_stats(&queue.name).await {
                Ok(stats) => Ok((queue, Some(stats))),
                // Deleted since it was listed.
                Err(error) if error.reason() == "QUEUE_NOT_FOUND" => Ok((queue, None)),
                Err(error) => Err(error),
            }
        })
        .buffered(STATS_AT_ONCE)
        .try_collect()
        .await?;
    let counted = counted
        .into_iter()
        .filter_map(|(queue, stats)| Some((queue, stats?)));
    let mut table = show::table(&show::queue::TITLES);
    let mut empty = true;
    for (queue, stats) in counted {
        empty = false;
        match context.show.is_json() {
            true => context
                .show
                .json(&show::queue::json(&queue, Some(&stats)))?,
            false => {
                table.add_row(show::queue::row(&queue, &stats));
            }
        }
    }
    if context.show.is_json() {
        return Ok(());
    }
    if empty {
        let namespace = &context.global.namespace;
        show::remark(&format!(
            "namespace `{namespace}` has no queues: ticketrail queue create NAME"
        ));
        return Ok(());
    }
    Ok(context.show.line(&show::lines(&table))?)
}

async fn show(context: &Context, name: String) -> Result {
    let queue = context.client.get_queue(&name).await?;
    let stats = context.client.queue_stats(&name).await?;
    match context.show.is_json() {
        true => context
            .show
            .json(&show::queue::json(&queue, Some(&stats)))?,
        false => context
            .show
            .line(&show::pairs(&show::queue::pairs(&queue, &stats)))?,
    }
    Ok(())
}

async fn update(
    context: &Context,
    name: String,
    options: QueueOptions,
    no_dead_letter: bool,
    no_backoff: bool,
) -> Result {
    let fields = [
        ("lease_duration", options.lease.is_some()),
        ("max_deliveries", options.max_deliveries.is_some()),
        (
            "dead_letter",
            options.dead_letter.is_some() || no_dead_letter,
        ),
        ("retry_backoff", options.backoff.is_some() || no_backoff),
    ];
    let fields: Vec<_> = fields
        .iter()
        .filter(|field| field.1)
        .map(|field| field.0)
        .collect();
    if fields.is_empty() {
        let text = "nothing to change: name at least one setting, such as --lease 1m";
        return Err(Failure::Usage(text.to_owned()));
    }
    let changed = context
        .client
        .update_queue(&name, settings(&options), fields.clone())
        .await;
    let response = changed?;
    let sentence = format!("queue `{name}` changed: {}", fields.join(", "));
    let object = show::queue::json(&response.queue.unwrap_or_default(), None);
    Ok(context.show.done(&sentence, &object)?)
}

async fn delete(context: &Context, name: String) -> Result {
    let response = context.client.delete_queue(&name).await?;
    let count = response.deleted_messages;
    let with = match count {
        0 => String::new(),
        count => format!(
            ", and {} message{} with it",
            show_count(count),
            plural(count)
        ),
    };
    let object = json!({ "queue": name, "deleted": true, "deleted_messages": count });
    Ok(context
        .show
        .done(&format!("queue `{name}` deleted{with}"), &object)?)
}

async fn purge(context: &Context, name: String, include_delayed: bool) -> Result {
    let response = context.client.purge_queue(&name, include_delayed).await?;
    let count = response.purged;
    let sentence = format!(
        "{} message{} removed from `{name}`",
        show_count(count),
        plural(count)
    );
    Ok(context
        .show
        .done(&sentence, &json!({ "queue": name, "purged": count }))?)
}

async fn pause(context: &Context, name: String) -> Result {
    context.client.pause_queue(&name).await?;
    let sentence = format!("queue `{name}` grants no messages until: ticketrail queue resume");
    Ok(context
        .show
        .done(&sentence, &json!({ "queue": name, "paused": true }))?)
}

async fn resume(context: &Context, name: String) -> Result {
    context.client.resume_queue(&name).await?;
    let sentence = format!("queue `{name}` grants messages again");
    Ok(context
        .show
        .done(&sentence, &json!({ "queue": name, "paused": false }))?)
}

async fn peek(context: &Context, args: Peek) -> Result {
    let mut table = show::table(&[
        "#OFFSET",
        "#MESSAGE",
        "STATE",
        "#DELIVERIES",
        "#SIZE",
        "HEADERS",
        "BODY",
    ]);
    let mut left = args.count;
    let mut page_token = String::new();
    while left > 0 {
        let request = PeekRequest {
            queue: args.name.clone(),
            states: args.state.iter().map(|state| wire(*state).into()).collect(),
            from_offset: if page_token.is_empty() { args.from } else { 0 },
            page_size: Some(left.min(PEEK_PAGE)),
            page_token,
            without_bodies: args.no_bodies,
            ..Default::default()
        };
        let page = context.client.peek(request).await?;
        left = left.saturating_sub(u32::try_from(page.messages.len()).unwrap_or(u32::MAX));
        for peeked in &page.messages {
            match context.show.is_json() {
                true => context
                    .show
                    .json(&show::message::peeked_json(peeked, !args.no_bodies))?,
                false => {
                    table.add_row(show::message::peeked_row(peeked, !args.no_bodies));
                }
            }
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if context.show.is_json() {
        return Ok(());
    }
    if table.is_empty() {
        show::remark(&format!("nothing to see in `{}`", args.name));
        return Ok(());
    }
    Ok(context.show.line(&show::lines(&table))?)
}

fn settings(options: &QueueOptions) -> QueueSettings {
    QueueSettings {
        lease_duration: options.lease.map(wire_duration),
        max_deliveries: options.max_deliveries,
        dead_letter: options.dead_letter.clone().map(|queue| DeadLetterTarget {
            exchange: String::new(),
            routing_key: Some(queue),
        }),
        retry_backoff: options.backoff.map(|base| RetryBackoff {
            base: Some(wire_duration(base)),
            factor: options.backoff_factor,
            max: options.backoff_max.map(wire_duration),
            jitter_percent: options.backoff_jitter,
        }),
        ..Default::default()
    }
}

fn wire_duration(duration: std::time::Duration) -> prost_types::Duration {
    // The command line cannot express a duration that does not fit.
    prost_types::Duration::try_from(duration).unwrap_or_default()
}

fn wire(state: State) -> MessageState {
    match state {
        State::Ready => MessageState::Ready,
        State::InFlight => MessageState::InFlight,
        State::Delayed => MessageState::Delayed,
        State::Parked => MessageState::Parked,
    }
}
