//! `ticketrail backup` and `ticketrail restore`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use ticketrail_client::proto::BackupBegun;
use ticketrail_client::{Backup as BackupStream, BackupPart, ClientOptions};
use ticketrail_server::backup::{
    self, BackupContents, BackupError, BackupWriter, Identity, LogPosition,
};

use super::Context;
use super::cluster::by_role;
use crate::args::{Backup, BackupVerb, Restore};
use crate::failure::{Effect, Failure, Result};
use crate::serve;
use crate::show::{self, Show};
use crate::units::{plural, show_about, show_bytes, show_count};

/// How often progress is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(100);

pub(super) async fn run(context: &Context, args: Backup) -> Result {
    match (args.verb, args.to) {
        (Some(BackupVerb::Verify { folder }), _) => verify(context.show, folder).await,
        (None, Some(to)) => take(context, to).await,
        (None, None) => Err(Failure::Usage("--to is missing".to_owned())),
    }
}

async fn take(context: &Context, to: PathBuf) -> Result {
    let started = Instant::now();
    // Before a node is asked for what would then be thrown away.
    if to.read_dir().is_ok_and(|mut there| there.next().is_some()) {
        return Err(written(&to, BackupError::NotEmpty));
    }
    let copy = begin(context).await?;
    let node = copy.begun().node_id;
    let begun = copy.begun().clone();
    let writer = on_disk(&to, move |to| {
        let (owner, last) = what_of(&begun);
        BackupWriter::create_in(to, owner, last)
    });
    let received = receive(copy, writer.await?, &to).await;
    received.map_err(|failure| incomplete(failure, &to))?;
    let contents = checked(to.clone()).await?;
    let took = show_about(started.elapsed());
    let sentence = format!(
        "backup of node {node} in `{}`, taken in {took} and checked: {}",
        to.display(),
        in_words(&contents)
    );
    let mut object = as_json(&contents);
    object["folder"] = json!(to);
    Ok(context.show.done(&sentence, &object)?)
}

/// Asks one node after the other, followers first, until one begins.
async fn begin(context: &Context) -> Result<BackupStream> {
    let mut failed = None;
    for endpoint in by_role(context).await? {
        let client = ClientOptions::new()
            .timeout(context.global.timeout)
            .connect_lazy([&endpoint])?;
        match client.backup().await {
            Ok(copy) => return Ok(copy),
            Err(error) => {
                let why = error.message().to_owned();
                show::remark(&format!("{endpoint} makes no backup now: {why}"));
                failed = Some(error);
            }
        }
    }
    let failed = failed.map_or_else(|| Failure::Usage("no endpoints".to_owned()), Failure::from);
    Err(failed.with_effect(Effect::Nothing))
}

/// Writes the copy as it comes. What this machine does with it is done on a thread of its own.
async fn receive(mut copy: BackupStream, mut writer: BackupWriter, to: &Path) -> Result {
    let begun = copy.begun();
    let bar = progress(begun.state_bytes + begun.body_bytes_about);
    while let Some(part) = copy.next().await? {
        let bytes = match &part {
            BackupPart::State(data) => data.len(),
            BackupPart::Bodies(bodies) => bodies.iter().map(|(_, body)| body.len()).sum(),
        };
        writer = on_disk(to, move |_| {
            match part {
                BackupPart::State(data) => writer.push_state(&data)?,
                BackupPart::Bodies(bodies) => {
                    for (index, body) in bodies {
                        writer.push_body(index, &body)?;
                    }
                }
            }
            Ok(writer)
        })
        .await?;
        if let Some(bar) = &bar {
            bar.inc(bytes as u64);
        }
    }
    on_disk(to, move |_| writer.finish(now_ms())).await?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(())
}

async fn on_disk<T: Send + 'static>(
    to: &Path,
    work: impl FnOnce(&Path) -> Result<T, BackupError> + Send + 'static,
) -> Result<T> {
    let folder = to.to_owned();
    let done = tokio::task::spawn_blocking(move || work(&folder)).await;
    let done = done.map_err(|error| Failure::local("writing", error))?;
    done.map_err(|error| written(to, error))
}

/// Says what to do with a copy that is not whole.
fn incomplete(failure: Failure, to: &Path) -> Failure {
    let what = format!(
        "what is in `{}` is no backup: remove it, and run the same command again",
        to.display()
    );
    match failure {
        Failure::Local(why) => Failure::Local(format!("{why}\n  {what}")),
        failure => failure.with_effect(Effect::Incomplete).hint(what),
    }
}

fn written(to: &Path, error: BackupError) -> Failure {
    Failure::local(format!("`{}`", to.display()), error)
}

fn what_of(begun: &BackupBegun) -> (Identity, LogPosition) {
    // An id that is none is noticed when the backup is read back.
    let cluster_id = <[u8; 16]>::try_from(&begun.cluster_id[..]).map_or(0, u128::from_be_bytes);
    let owner = Identity {
        cluster_id,
        node_id: begun.node_id,
    };
    let last = LogPosition {
        index: begun.last_index,
        term: begun.last_term,
    };
    (owner, last)
}

async fn verify(show: Show, folder: PathBuf) -> Result {
    let contents = checked(folder.clone()).await?;
    let sentence = format!("`{}` is whole: {}", folder.display(), in_words(&contents));
    Ok(show.done(&sentence, &as_json(&contents))?)
}

async fn checked(folder: PathBuf) -> Result<BackupContents> {
    let shown = format!("`{}`", folder.display());
    let checked = tokio::task::spawn_blocking(move || backup::check_backup(&folder)).await;
    let checked = checked.map_err(|error| Failure::local("checking", error))?;
    checked.map_err(|error| Failure::local(shown, error))
}

pub(super) async fn restore(show: Show, args: Restore) -> Result {
    let config = serve::config(args.serve)?;
    let from = args.from;
    let shown = format!("`{}`", from.display());
    let done = tokio::task::spawn_blocking(move || backup::restore(&config, &from)).await;
    let done = done.map_err(|error| Failure::local("restoring", error))?;
    let restored = done.map_err(|error| Failure::local(shown, error))?;
    let data_dir = restored.data_dir.display();
    let sentence = format!(
        "`{data_dir}` is node {} of the new cluster {:032x}: {}\nstart it with `ticketrail serve` and the same settings; others come in with --join",
        restored.node,
        restored.cluster_id,
        in_words(&restored.contents),
    );
    let mut object = as_json(&restored.contents);
    object["restored"] = json!({
        "cluster_id": format!("{:032x}", restored.cluster_id),
        "node_id": restored.node.0,
        "data_dir": restored.data_dir,
    });
    Ok(show.done(&sentence, &object)?)
}

fn in_words(contents: &BackupContents) -> String {
    let BackupContents {
        manifest,
        queues,
        messages,
        message_bytes,
    } = contents;
    format!(
        "{} message{} ({}) in {} queue{}, up to entry {} of cluster {:032x}, {} of files",
        show_count(*messages),
        plural(*messages),
        show_bytes(*message_bytes),
        show_count(*queues),
        plural(*queues),
        show_count(manifest.last.index),
        manifest.owner.cluster_id,
        show_bytes(manifest.file_bytes()),
    )
}

fn as_json(contents: &BackupContents) -> Value {
    let manifest = &contents.manifest;
    json!({
        "cluster_id": format!("{:032x}", manifest.owner.cluster_id),
        "node_id": manifest.owner.node_id,
        "last_index": manifest.last.index,
        "last_term": manifest.last.term,
        "taken_at_ms": manifest.taken_at_ms,
        "queues": contents.queues,
        "messages": contents.messages,
        "message_bytes": contents.message_bytes,
        "file_bytes": manifest.file_bytes(),
    })
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

fn progress(total_bytes: u64) -> Option<ProgressBar> {
    if !show::stderr_is_terminal() {
        return None;
    }
    let bar = ProgressBar::new(total_bytes);
    let template = "{spinner} {bar:30} {bytes} of about {total_bytes}   {bytes_per_sec}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(DRAW_EVERY);
    Some(bar)
}
