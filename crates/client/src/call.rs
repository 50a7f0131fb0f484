//! One unary call with its retries: which endpoint, how long, and whether to try again.

use std::future::Future;
use std::time::{Duration, Instant};

use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::client::Client;
use crate::error::{CONNECT_FAILED, Error, NOT_PROPOSED, Result};
use crate::pool::Pick;
use crate::retry::{Backoff, TurnedAway};

/// How long one node may take before another is asked, for calls that can be repeated.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);
/// How long to go on while no endpoint even accepts a connection: then the cluster is down, not failing over.
pub(crate) const UNREACHABLE_MAX: Duration = Duration::from_secs(4);
/// How long the answer may come after the deadline that the server was told.
const ANSWER_GRACE: Duration = Duration::from_millis(250);

/// When a call may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Doing it twice is doing it once.
    Always,
    /// Only after failures that surely did nothing.
    IfNothingDone,
}

impl Client {
    pub(crate) async fn call<Q, R, F, Fut>(&self, repeat: Repeat, request: Q, send: F) -> Result<R>
    where
        Q: Clone,
        F: Fn(Channel, Request<Q>) -> Fut,
        Fut: Future<Output = std::result::Result<Response<R>, Status>>,
    {
        self.call_waiting(repeat, Duration::ZERO, request, send)
            .await
    }

    /// As `call`, for a request that the server may hold back for `wait` on purpose.
    pub(crate) async fn call_waiting<Q, R, F, Fut>(
        &self,
        repeat: Repeat,
        wait: Duration,
        request: Q,
        send: F,
    ) -> Result<R>
    where
        Q: Clone,
        F: Fn(Channel, Request<Q>) -> Fut,
        Fut: Future<Output = std::result::Result<Response<R>, Status>>,
    {
        let mut attempts = Attempts::new(self, repeat, wait);
        loop {
            let (pick, timeout) = attempts.begin()?;
            let mut framed = Request::new(request.clone());
            framed.set_timeout(timeout);
            let answer =
                tokio::time::timeout(timeout + ANSWER_GRACE, send(pick.channel.clone(), framed));
            let error = match answer.await {
                Ok(Ok(response)) => {
                    attempts.succeeded(&pick);
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => Error::from_status(&status, &pick.endpoint),
                Err(_) => Error::timed_out(&pick.endpoint, timeout),
            };
            let pause = attempts.failed(&pick, error)?;
            tokio::time::sleep(pause).await;
        }
    }
}

/// The attempts of one call.
struct Attempts<'a> {
    client: &'a Client,
    repeat: Repeat,
    wait: Duration,
    started: Instant,
    deadline: Instant,
    backoff: Backoff,
    unreachable: usize,
    turned_away: TurnedAway,
    outcome_unknown: bool,
}

impl<'a> Attempts<'a> {
    fn new(client: &'a Client, repeat: Repeat, wait: Duration) -> Self {
        let started = Instant::now();
        let deadline = started + client.timeout + wait;
        Self {
            client,
            repeat,
            wait,
            started,
            deadline,
            backoff: Backoff::default(),
            unreachable: 0,
            turned_away: TurnedAway::default(),
            outcome_unknown: false,
        }
    }

    /// Which node to ask, and how long it may take.
    fn begin(&self) -> Result<(Pick, Duration)> {
        let now = Instant::now();
        let left = self.deadline.saturating_duration_since(now);
        if left.is_zero() {
            let error = Error::new(
                Code::DeadlineExceeded,
                NOT_PROPOSED,
                "the time for the call was over before it could be sent",
            );
            return Err(error.with_outcome_unknown(self.outcome_unknown));
        }
        let timeout = match self.repeat {
            Repeat::Always => left.min(ATTEMPT_TIMEOUT + self.wait),
            Repeat::IfNothingDone => left,
        };
        Ok((self.client.shared.pool.pick(now), timeout))
    }

    fn succeeded(&self, pick: &Pick) {
        self.client.shared.pool.succeeded(pick.index);
        self.client.shared.budget.succeeded();
    }

    /// How long to pause before the next attempt, or the error if there should be none.
    fn failed(&mut self, pick: &Pick, error: Error) -> Result<Duration> {
        let now = Instant::now();
        let shared = &self.client.shared;
        shared.pool.note(pick.index, &error, now);
        self.outcome_unknown |= error.is_outcome_unknown();
        let unreachable = error.reason() == CONNECT_FAILED;
        self.unreachable = if unreachable { self.unreachable + 1 } else { 0 };
        let all_unreachable = self.unreachable >= shared.pool.len();

        // A node that is not there, or stops, costs nothing: ask the next one at once.
        let next_at_once = self.turned_away.ask_next(&error, shared.pool.len());
        let pause = if next_at_once {
            Duration::ZERO
        } else {
            self.backoff
                .next()
                .max(error.retry_after().unwrap_or_default())
        };
        let in_time = now + pause < self.deadline;
        let is_down = all_unreachable && now - self.started >= UNREACHABLE_MAX;
        if self.may_repeat(&error)
            && in_time
            && !is_down
            && (next_at_once || shared.budget.take(now))
        {
            tracing::debug!(
                endpoint = pick.endpoint,
                reason = error.reason(),
                "trying again"
            );
            return Ok(pause);
        }
        let error = if all_unreachable {
            self.client.none_answered(error)
        } else {
            error
        };
        Err(error.with_outcome_unknown(self.outcome_unknown))
    }

    fn may_repeat(&self, error: &Error) -> bool {
        let invited = error.is_retryable() || error.code() == Code::DeadlineExceeded;
        match self.repeat {
            Repeat::Always => invited,
            Repeat::IfNothingDone => invited && !error.is_outcome_unknown(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientOptions;
    use crate::error::{CONNECTION_BROKEN, OUTCOME_UNKNOWN};
    use std::cell::Cell;

    fn client(timeout: Duration) -> Client {
        ClientOptions::new()
            .timeout(timeout)
            .connect_lazy(["http://127.0.0.1:1,2"])
            .unwrap()
    }

    fn no_leader() -> Status {
        use tonic_types::{ErrorDetails, StatusExt};
        let details = ErrorDetails::with_error_info("NO_LEADER", "ticketrail", []);
        Status::with_error_details(Code::Unavailable, "no leader", details)
    }

    fn broken() -> Status {
        Status::from_error(Box::new(std::io::Error::other("reset")))
    }

    async fn fails_first(repeat: Repeat, statuses: Vec<Status>) -> (Result<u32>, u32) {
        let client = client(Duration::from_secs(5));
        let calls = Cell::new(0);
        let result = client
            .call(repeat, (), |_, _| {
                let call = calls.get();
                calls.set(call + 1);
                let answer = match statuses.get(call as usize) {
                    Some(status) => Err(status.clone()),
                    None => Ok(Response::new(call)),
                };
                async move { answer }
            })
            .await;
        (result, calls.get())
    }

    #[tokio::test]
    async fn repeats_what_did_nothing() {
        let (result, calls) =
            fails_first(Repeat::IfNothingDone, vec![no_leader(), no_leader()]).await;
        assert_eq!((result.unwrap(), calls), (2, 3));
    }

    #[tokio::test]
    async fn repeats_an_unknown_outcome_only_where_that_is_harmless() {
        let (result, calls) = fails_first(Repeat::Always, vec![broken()]).await;
        assert_eq!((result.unwrap(), calls), (1, 2));
        let (result, calls) = fails_first(Repeat::IfNothingDone, vec![broken()]).await;
        assert_eq!(
            (result.unwrap_err().reason(), calls),
            (CONNECTION_BROKEN, 1)
        );
    }

    #[tokio::test]
    async fn remembers_that_an_earlier_attempt_may_have_been_done() {
        use tonic_types::{ErrorDetails, StatusExt};
        let unknown = Status::with_error_details(
            Code::Unavailable,
            "?",
            ErrorDetails::with_error_info(OUTCOME_UNKNOWN, "ticketrail", []),
        );
        let refused = Status::with_error_details(
            Code::NotFound,
            "gone",
            ErrorDetails::with_error_info("QUEUE_NOT_FOUND", "ticketrail", []),
        );
        let (result, calls) = fails_first(Repeat::Always, vec![unknown, refused]).await;
        let error = result.unwrap_err();
        assert_eq!((error.reason(), calls), ("QUEUE_NOT_FOUND", 2));
        assert!(error.is_outcome_unknown());
    }

    #[tokio::test]
    async fn names_all_endpoints_when_none_answers() {
        let client = client(Duration::from_millis(300));
        let error = client.cluster().await.unwrap_err();
        assert_eq!(error.reason(), CONNECT_FAILED);
        assert!(!error.is_outcome_unknown());
        let text = error.to_string();
        assert!(
            text.contains("127.0.0.1:1,") && text.contains("127.0.0.1:2 answered"),
            "{text}"
        );
    }
}
