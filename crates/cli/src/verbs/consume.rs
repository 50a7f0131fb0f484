//! `ticketrail consume`: print messages as they come, or hand them to a command.

use std::process::Stdio;
use std::time::Duration;

use ticketrail_client::{Consumer, Leased, SettleOutcome, Settling};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::task::JoinSet;

use super::Context;
use super::receive::{is_settled, outcome_word};
use crate::args::Consume;
use crate::failure::{Failure, Result};
use crate::show::{message, remark};
use crate::units::{plural, show_count};

/// The most messages that are held when they are acknowledged as they come.
const PREFETCH_ACK: u32 = 200;
/// The most messages that are held when they are only shown.
const PREFETCH_SHOW: u32 = 10_000;
/// The exit code with which a command says that a message is hopeless: EX_DATAERR of sysexits.h.
const EXIT_REJECT: i32 = 65;
/// How many settlements may be unanswered before the next message is looked at.
const UNANSWERED_MAX: usize = 1_000;

pub(super) async fn run(context: &Context, args: Consume) -> Result {
    let started = context
        .client
        .consumer(&args.queue)
        .prefetch(prefetch(&args))
        .auto_extend(args.exec.is_some())
        .name(format!("ticketrail consume ({})", std::process::id()))
        .give_up_after(context.global.timeout)
        .start()
        .await;
    let consumer = started?;
    let mut work = Work {
        context,
        args: &args,
        held: Vec::new(),
        answers: JoinSet::new(),
        lost: 0,
    };
    work.run(consumer).await
}

fn prefetch(args: &Consume) -> u32 {
    let wanted = match (&args.exec, args.ack) {
        (Some(_), _) => u32::from(args.jobs),
        (None, true) => PREFETCH_ACK,
        (None, false) => PREFETCH_SHOW,
    };
    let count = args
        .count
        .map_or(wanted, |count| u32::try_from(count).unwrap_or(u32::MAX));
    args.prefetch.unwrap_or_else(|| wanted.min(count).max(1))
}

struct Work<'a> {
    context: &'a Context,
    args: &'a Consume,
    /// Shown and not settled.
    held: Vec<Leased>,
    /// Commands that run, and settlements that are not answered.
    answers: JoinSet<Result<SettleOutcome>>,
    lost: u64,
}

impl Work<'_> {
    async fn run(&mut self, mut consumer: Consumer) -> Result {
        let result = self.consume(&mut consumer).await;
        let answered = self.answer_all().await;
        self.held.clear();
        let closed = consumer.close().await;
        result?;
        answered?;
        closed?;
        match self.lost {
            0 => Ok(()),
            lost => Err(Failure::Refused(format!(
                "{} message{} could not be settled: the lease was over, and they may come again",
                show_count(lost),
                plural(lost)
            ))),
        }
    }

    async fn consume(&mut self, consumer: &mut Consumer) -> Result {
        let mut interrupted = std::pin::pin!(crate::signals::to_stop());
        let mut seen = 0;
        while self.args.count.is_none_or(|count| seen < count) {
            let idle = self.args.idle.unwrap_or(Duration::MAX);
            tokio::select! {
                delivery = consumer.next(), if self.has_room() => match delivery {
                    Some(delivery) => {
                        seen += 1;
                        self.take(delivery?)?;
                    }
                    None => return Ok(()),
                },
                Some(answer) = self.answers.join_next(), if !self.answers.is_empty() => {
                    self.note(answer)?;
                }
                () = tokio::time::sleep(idle), if self.args.idle.is_some() => return Ok(()),
                () = &mut interrupted => return Ok(()),
            }
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        let limit = match self.args.exec {
            Some(_) => usize::from(self.args.jobs),
            None => UNANSWERED_MAX,
        };
        self.answers.len() < limit
    }

    fn take(&mut self, delivery: Leased) -> Result {
        if let Some(command) = &self.args.exec {
            let command = command.clone();
            let queue = self.args.queue.clone();
            self.answers
                .spawn(async move { execute(&command, &queue, delivery).await });
            return Ok(());
        }
        self.print(&delivery)?;
        if self.args.ack {
            let settling = delivery.ack();
            self.answers.spawn(async move { Ok(settling.await?) });
        } else {
            self.held.push(delivery);
            self.remark_when_full();
        }
        Ok(())
    }

    fn print(&self, delivery: &Leased) -> Result {
        let show = self.context.show;
        if self.args.raw {
            show.bytes(delivery.body())?;
        } else if show.is_json() {
            show.json(&message::delivery_json(delivery))?;
        } else {
            show.line(&message::delivery_line(delivery))?;
        }
        Ok(())
    }

    fn remark_when_full(&self) {
        let full =
            u64::try_from(self.held.len()).is_ok_and(|held| held == u64::from(prefetch(self.args)));
        if full && self.args.count.is_none() {
            remark(&format!(
                "{} messages are shown and held, which is all that it may hold: --ack would let it go on",
                show_count(self.held.len() as u64)
            ));
        }
    }

    fn note(
        &mut self,
        answer: std::result::Result<Result<SettleOutcome>, tokio::task::JoinError>,
    ) -> Result {
        let outcome = answer.map_err(|error| Failure::local("a settlement", error))??;
        if !is_settled(outcome) {
            self.lost += 1;
            tracing::debug!(outcome = outcome_word(outcome), "not settled");
        }
        Ok(())
    }

    async fn answer_all(&mut self) -> Result {
        while let Some(answer) = self.answers.join_next().await {
            self.note(answer)?;
        }
        Ok(())
    }
}

/// Runs the command with the body as its input, and settles by its exit code.
async fn execute(command: &str, queue: &str, delivery: Leased) -> Result<SettleOutcome> {
    let settling = match run_command(command, queue, &delivery).await {
        Ok(Some(0)) => delivery.ack(),
        Ok(Some(EXIT_REJECT)) => delivery.reject(),
        Ok(code) => failed(delivery, code),
        Err(error) => {
            remark(&format!("`{command}` cannot be run: {error}"));
            delivery.nack().await?;
            return Err(Failure::local(format!("`{command}`"), error));
        }
    };
    Ok(settling.await?)
}

fn failed(delivery: Leased, code: Option<i32>) -> Settling {
    let how = code.map_or("was killed".to_owned(), |code| format!("ended with {code}"));
    remark(&format!(
        "message {}, delivery {}: the command {how}; given back",
        delivery.message_id(),
        delivery.delivery_count()
    ));
    delivery.nack()
}

async fn run_command(
    command: &str,
    queue: &str,
    delivery: &Leased,
) -> std::io::Result<Option<i32>> {
    let mut process = Command::new("sh");
    process
        .args(["-c", command])
        .stdin(Stdio::piped())
        .kill_on_drop(true);
    process.env("TICKETRAIL_MESSAGE_ID", delivery.message_id().to_string());
    process.env(
        "TICKETRAIL_DELIVERY_COUNT",
        delivery.delivery_count().to_string(),
    );
    process.env("TICKETRAIL_QUEUE", queue);
    for (key, value) in delivery.message().headers() {
        let text = message::header_text(&value);
        // The environment cannot hold a zero byte; the header stays in the message.
        if !text.contains('\0') {
            process.env(environment_name(key), text);
        }
    }
    let mut child = process.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command need not read its input.
        let _ = stdin.write_all(delivery.body()).await;
    }
    Ok(child.wait().await?.code())
}

fn environment_name(key: &str) -> String {
    let upper = key.chars().map(|c| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    });
    format!("TICKETRAIL_HEADER_{}", upper.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_names_fit_the_environment() {
        assert_eq!(
            environment_name("trace-id.v2"),
            "TICKETRAIL_HEADER_TRACE_ID_V2"
        );
    }
}
