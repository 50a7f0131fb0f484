//! From a command to its outcome: encode, hand to the route, wait for one's own applied entry.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ticketrail_core::{Command, Outcome, Position, Rejection};
use ticketrail_proto::error::{Problem, Reason};
use ticketrail_proto::stored::{self, Origin};
use tokio::time::Instant;

use crate::broker::Inner;
use crate::hub::{Answer, Applied};
use crate::lane::Lane;
use crate::route::{Haste, Outgoing};

/// Pause before a command that is known to be lost is proposed again, unless a leader shows up
/// earlier.
const AGAIN_AFTER: Duration = Duration::from_millis(20);

/// One attempt to get a command into the log.
#[derive(Debug)]
pub(crate) enum Attempt {
    Applied(Applied),
    /// It did nothing and never will: it did not get in, or came before the cluster's first entry.
    Lost,
}

impl Inner {
    /// Gets a command into the log and its outcome, through any number of leaders, until
    /// `deadline`. A command is proposed again only when it is known that it did not get in, so
    /// it takes effect at most once. `messages`: the bytes of a publish.
    pub(crate) async fn submit(
        &self,
        command: &Command,
        messages: &[Bytes],
        deadline: Instant,
    ) -> Result<(Position, Outcome), Problem> {
        self.submit_with(command, messages, Haste::Now, deadline)
            .await
    }

    /// The same, perhaps not at once.
    pub(crate) async fn submit_with(
        &self,
        command: &Command,
        messages: &[Bytes],
        haste: Haste,
        deadline: Instant,
    ) -> Result<(Position, Outcome), Problem> {
        let since = Instant::now();
        loop {
            match self.attempt(command, messages, haste, deadline).await? {
                Attempt::Applied(Applied {
                    outcome: Outcome::Rejected(rejection),
                    ..
                }) => {
                    return Err(Problem::from(&rejection));
                }
                Attempt::Applied(Applied { position, outcome }) => {
                    self.hub.counts().note_confirm(command, since);
                    return Ok((position, outcome));
                }
                Attempt::Lost => self.before_again(deadline).await?,
            }
        }
    }

    /// Waits a moment, or for news of a leader, before a lost command is proposed again.
    pub(crate) async fn before_again(&self, deadline: Instant) -> Result<(), Problem> {
        let mut leadership = self.leadership.clone();
        leadership.mark_unchanged();
        let until = deadline.min(Instant::now() + AGAIN_AFTER);
        let _ = tokio::time::timeout_at(until, leadership.changed()).await;
        if Instant::now() >= deadline {
            return Err(not_proposed());
        }
        Ok(())
    }

    /// One attempt.
    pub(crate) async fn attempt(
        &self,
        command: &Command,
        messages: &[Bytes],
        haste: Haste,
        deadline: Instant,
    ) -> Result<Attempt, Problem> {
        let (correlation, answer) = self.hub.wait();
        let owner = self.hub.owner();
        let origin = Origin {
            node: owner.node,
            boot: owner.boot,
            correlation,
        };
        let may_repeat = finds_itself(command);
        let lane = Lane::of(command);
        let command = stored::encode_command(command, Some(origin), messages);
        let waiting = async {
            // Bounds what waits on this node, by bytes; held until the answer, and until the
            // command has left the route's queue if nobody waits for it any more.
            let room = Arc::new(self.waiting.of(lane).take(command.len()).await);
            let outgoing = Outgoing {
                correlation,
                command,
                haste,
                _room: Some(Arc::clone(&room)),
            };
            let sent = self.routes.of(lane).send(outgoing).await;
            sent.map_err(|_| stopped())?;
            let answer = answer.await.map_err(|_| stopped())?;
            drop(room);
            Ok(answer)
        };
        let guard = GiveUp {
            inner: self,
            correlation,
        };
        match tokio::time::timeout_at(deadline, waiting).await {
            Ok(Ok(Answer::Applied(Applied {
                outcome: Outcome::Rejected(Rejection::NotBootstrapped),
                ..
            }))) => Ok(Attempt::Lost),
            Ok(Ok(Answer::Applied(applied))) => Ok(Attempt::Applied(applied)),
            Ok(Ok(Answer::Lost)) => Ok(Attempt::Lost),
            Ok(Ok(Answer::Unknown)) if may_repeat => Ok(Attempt::Lost),
            Ok(Ok(Answer::Unknown)) => Err(unknown()),
            Ok(Err(stopped)) => Err(stopped),
            Err(_) if guard.give_up() => Err(not_proposed()),
            Err(_) => Err(unknown()),
        }
    }
}

/// Whether a command that was applied before, and is applied again, does nothing and answers as it did.
fn finds_itself(command: &Command) -> bool {
    match command {
        Command::Publish(publish) => publish.producer.is_some(),
        Command::Receive(receive) => !receive.attempt.is_empty(),
        _ => false,
    }
}

/// Takes the waiter out also when the call is dropped in the middle.
struct GiveUp<'a> {
    inner: &'a Inner,
    correlation: u64,
}

impl GiveUp<'_> {
    fn give_up(&self) -> bool {
        self.inner.hub.give_up(self.correlation)
    }
}

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        self.inner.hub.give_up(self.correlation);
    }
}

/// What to wait before a retry.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// No leader took it in time; surely nothing was done.
pub(crate) fn not_proposed() -> Problem {
    Problem::no_leader(RETRY_AFTER)
}

fn unknown() -> Problem {
    Problem::outcome_unknown(RETRY_AFTER)
}

/// This node stops; what it had handed on may still be done.
pub(crate) fn stopped() -> Problem {
    Problem::new(
        Reason::OutcomeUnknown,
        "this node is stopping; whether the request was committed is not known; repeat it on another node with the same producer sequence or attempt id",
    )
    .retry_after(RETRY_AFTER)
}
