//! `ticketrail publish`: one message, or a stream of them from real input.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use serde_json::json;
use ticketrail_client::{Confirm, Error, Message, Producer, Publication};
use tokio::sync::mpsc;

use super::Context;
use crate::args::Publish;
use crate::failure::{Effect, Failure, Result};
use crate::records::{Records, Split};
use crate::show;
use crate::units::{plural, show_about, show_count};

/// How many records wait between the reader and the producer.
const RECORDS_AHEAD: usize = 1_024;
/// How many confirms wait to be looked at: more than can be unconfirmed.
const CONFIRMS_AHEAD: usize = 4_096;
/// How many of a producer's last messages the cluster can still compare with a retry.
const COMPARABLE: u64 = 1_024;
/// How often progress is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(100);

pub(super) async fn run(context: &Context, args: Publish) -> Result {
    let split = split(&args);
    match (&args.body, &split) {
        (Some(body), Split::Whole) if body != "-" && args.idempotent.is_none() => {
            let body = Bytes::copy_from_slice(body.as_bytes());
            publish_one(context, &args, body).await
        }
        (Some(body), Split::Whole) if body != "-" => {
            let input = Box::new(io::Cursor::new(body.clone().into_bytes()));
            publish_many(context, &args, Records::new(input, split)).await
        }
        (Some(body), _) if body != "-" => {
            let text =
                "--lines, --stanzas and --separator cut a file or standard input, not a BODY";
            Err(Failure::Usage(text.to_owned()))
        }
        (_, Split::Whole) if args.idempotent.is_none() => {
            let mut records = Records::new(open(&args)?, split);
            let body = records.next().transpose()?.unwrap_or_default();
            publish_one(context, &args, body).await
        }
        _ => publish_many(context, &args, Records::new(open(&args)?, split)).await,
    }
}

async fn publish_one(context: &Context, args: &Publish, body: Bytes) -> Result {
    let publication = Publication::to_queue(&args.queue, message(args, body));
    let published = match context.client.publish([publication]).await {
        Ok(published) => published.into_iter().next().unwrap_or_default(),
        Err(error) if error.is_outcome_unknown() => {
            let hint = "--idempotent NAME makes it safe to run the same command again";
            return Err(Failure::from(error).hint(hint));
        }
        Err(error) => return Err(error.into()),
    };
    let object = json!({
        "queue": args.queue,
        "message_id": published.message_id,
        "duplicate": published.duplicate,
        "position": published.position.map(|position| json!({
            "index": position.index, "place": position.place,
        })),
    });
    let sentence = format!(
        "message {} stored in `{}`",
        published.message_id, args.queue
    );
    Ok(context.show.done(&sentence, &object)?)
}

/// What has become of the input so far.
#[derive(Debug, Default)]
struct Tally {
    stored: u64,
    /// Messages of an earlier run of the same producer name.
    stored_before: u64,
    failed: Option<(u64, Error)>,
}

async fn publish_many(
    context: &Context,
    args: &Publish,
    records: Records<Box<dyn BufRead + Send>>,
) -> Result {
    let started = Instant::now();
    let name = args.idempotent.clone().unwrap_or_default();
    let opened = context.client.open_producer(name).await;
    let opened = opened.map_err(|error| Failure::from(error).with_effect(Effect::Nothing))?;
    let last_before = opened.last_sequence();
    // The newest of what an earlier run stored are sent again: so another input under the same name is
    // noticed, and refused.
    let skipped = last_before.saturating_sub(COMPARABLE);
    let producer = context
        .client
        .producer()
        .opened(opened)
        .first_sequence(skipped + 1)
        .strict(true)
        .give_up_after(context.global.timeout)
        .start()
        .await?;
    let (confirms, waiting) = mpsc::channel(CONFIRMS_AHEAD);
    let counting = tokio::spawn(count(waiting, last_before, progress()));
    let sent = send(args, &producer, records, skipped, confirms).await;
    let mut tally = counting
        .await
        .map_err(|error| Failure::local("counting", error))?;
    tally.stored_before += sent.skipped;
    let closed = match tally.failed {
        None => producer.close().await,
        Some(_) => Ok(()),
    };
    report(context, args, &tally, started.elapsed(), last_before)?;
    sent.input
        .map_err(|error| Failure::local("reading the input", error))?;
    if let Some((record, error)) = tally.failed {
        return Err(refused(args, record, error));
    }
    Ok(closed?)
}

/// What the sending side has to say at its end.
struct Sent {
    skipped: u64,
    input: io::Result<()>,
}

/// Sends record after record until the input or the producer ends.
async fn send(
    args: &Publish,
    producer: &Producer,
    records: Records<Box<dyn BufRead + Send>>,
    skip: u64,
    confirms: mpsc::Sender<(u64, Confirm)>,
) -> Sent {
    let mut incoming = read_ahead(records);
    let mut record = 0;
    let sent = |record: u64, input| Sent {
        skipped: record.min(skip),
        input,
    };
    while let Some(body) = incoming.recv().await {
        let body = match body {
            Ok(body) => body,
            Err(error) => return sent(record, Err(error)),
        };
        record += 1;
        if record <= skip {
            continue;
        }
        let publication = Publication::to_queue(&args.queue, message(args, body));
        // If the producer is over, one of the confirms says why.
        let Ok(confirm) = producer.send(publication).await else {
            break;
        };
        if confirms.send((record, confirm)).await.is_err() {
            break;
        }
    }
    sent(record, Ok(()))
}

/// Reads on a thread of its own, since files and pipes block.
fn read_ahead(records: Records<Box<dyn BufRead + Send>>) -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(RECORDS_AHEAD);
    tokio::task::spawn_blocking(move || {
        for record in records {
            if sender.blocking_send(record).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Looks at the confirms in their order, until the first refusal.
async fn count(
    mut waiting: mpsc::Receiver<(u64, Confirm)>,
    last_before: u64,
    bar: Option<ProgressBar>,
) -> Tally {
    let mut tally = Tally::default();
    while let Some((record, confirm)) = waiting.recv().await {
        match confirm.await {
            Ok(published) if published.sequence <= last_before => tally.stored_before += 1,
            Ok(_) => tally.stored += 1,
            Err(error) => {
                tally.failed = Some((record, error));
                break;
            }
        }
        if let Some(bar) = &bar {
            bar.set_position(tally.stored);
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    tally
}

fn report(
    context: &Context,
    args: &Publish,
    tally: &Tally,
    elapsed: Duration,
    last_before: u64,
) -> Result {
    let rate = tally.stored as f64 / elapsed.as_secs_f64().max(0.001);
    if context.show.is_json() {
        return Ok(context.show.json(&json!({
            "queue": args.queue,
            "stored": tally.stored,
            "stored_before": tally.stored_before,
            "seconds": elapsed.as_millis() as f64 / 1000.0,
            "messages_per_second": rate.round(),
        }))?);
    }
    let mut sentence = format!(
        "{} message{} stored in `{}` in {} ({}/s)",
        show_count(tally.stored),
        plural(tally.stored),
        args.queue,
        show_about(elapsed),
        show_count(rate.round() as u64),
    );
    if last_before > 0 {
        let before = show_count(tally.stored_before);
        sentence.push_str(&format!("; {before} had been stored before"));
    }
    Ok(context.show.line(&sentence)?)
}

fn refused(args: &Publish, record: u64, error: Error) -> Failure {
    let reason = error.reason().to_owned();
    let unknown = error.is_outcome_unknown();
    let failure = Failure::from(error);
    let failure = failure.hint(format!("it stopped at message {record} of the input"));
    match (&args.idempotent, reason.as_str()) {
        (Some(name), "SEQUENCE_REUSED") => failure.hint(format!(
            "`{name}` has stored other messages before: use one --idempotent name for one input"
        )),
        (Some(name), "PRODUCER_FENCED") => {
            failure.hint(format!("another process publishes as `{name}` now"))
        }
        (Some(_), _) => {
            failure.hint("run the same command again to go on: nothing is stored twice")
        }
        (None, _) if unknown => {
            failure.hint("--idempotent NAME would make it safe to run the same command again")
        }
        (None, _) => failure,
    }
}

fn split(args: &Publish) -> Split {
    match &args.split.separator {
        Some(separator) => Split::Separator(separator.0.clone()),
        None if args.split.lines => Split::Lines,
        None if args.split.stanzas => Split::Stanzas,
        None => Split::Whole,
    }
}

fn open(args: &Publish) -> Result<Box<dyn BufRead + Send>> {
    match args.file.as_deref() {
        Some(path) if path != Path::new("-") => {
            let file = File::open(path).map_err(|error| Failure::local(path.display(), error))?;
            Ok(Box::new(BufReader::with_capacity(256 * 1024, file)))
        }
        named => {
            let asked = named.is_some() || args.body.is_some();
            if !asked && io::stdin().is_terminal() {
                let text = "what should be published? give a BODY, --file FILE, or `-` to type it";
                return Err(Failure::Usage(text.to_owned()));
            }
            Ok(Box::new(BufReader::with_capacity(256 * 1024, io::stdin())))
        }
    }
}

fn message(args: &Publish, body: Bytes) -> Message {
    let mut message = Message::new(body);
    for (key, value) in &args.headers {
        message = message.header(key, value.as_str());
    }
    match &args.content_type {
        Some(content_type) => message.content_type(content_type),
        None => message,
    }
}

/// A count with its rate, for people who wait.
fn progress() -> Option<ProgressBar> {
    if !show::stderr_is_terminal() {
        return None;
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {human_pos} stored   {rate}") {
        let rate = |state: &ProgressState, text: &mut dyn std::fmt::Write| {
            // Writing to a string does not fail.
            let _ = write!(text, "{}/s", show_count(state.per_sec().round() as u64));
        };
        bar.set_style(style.with_key("rate", rate));
    }
    bar.enable_steady_tick(DRAW_EVERY);
    Some(bar)
}
