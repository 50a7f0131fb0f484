//! One unary call with its retries: which endpoint, how long, and whether to try again.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use tracing::Instrument;

use crate::client::Client;
use crate::convert::millis;
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
    /// Makes a call until it is answered, may not be repeated, or its time is over. Dropping it takes nothing back.
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
        let span = tracing::debug_span!("call", request = name_of::<Q>());
        self.attempt(repeat, wait, request, send)
            .instrument(span)
            .await
    }

    async fn attempt<Q, R, F, Fut>(
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

/// The name of a request, such as `PublishRequest`.
fn name_of<Q>() -> &'static str {
    let path = std::any::type_name::<Q>();
    path.rsplit("::").next().unwrap_or(path)
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
            self.backoff.next(error.retry_after())
        };
        let in_time = now + pause < self.deadline;
        let is_down = all_unreachable && now - self.started >= UNREACHABLE_MAX;
        let wants_to = self.may_repeat(&error) && in_time && !is_down;
        let (endpoint, reason) = (&*pick.endpoint, error.reason());
        if wants_to && (next_at_once || shared.budget.take(now)) {
            tracing::debug!(endpoint, reason, pause_ms = millis(pause), "trying again");
            return Ok(pause);
        }
        if wants_to {
            tracing::warn!(endpoint, reason, "too many calls fail: not trying again");
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

    fn overloaded(retry_after: Duration) -> Status {
        use tonic_types::{ErrorDetails, StatusExt};
        let mut details = ErrorDetails::with_error_info("OVERLOADED", "ticketrail", []);
        details.set_retry_info(Some(retry_after));
        Status::with_error_details(Code::ResourceExhausted, "too much", details)
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_that_a_node_asks_for_is_kept() {
        let told = Duration::from_millis(700);
        let begun = Instant::now();
        let (result, calls) = fails_first(
            Repeat::IfNothingDone,
            vec![overloaded(told), overloaded(told)],
        )
        .await;
        assert_eq!((result.unwrap(), calls), (2, 3));
        // And at most 50 and 100 ms more, to come apart from others.
        let took = begun.elapsed();
        assert!(
            took >= 2 * told && took <= 2 * told + Duration::from_millis(160),
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_beyond_the_deadline_is_not_waited_for() {
        let begun = Instant::now();
        let (result, calls) =
            fails_first(Repeat::Always, vec![overloaded(Duration::from_secs(30))]).await;
        let error = result.unwrap_err();
        assert_eq!((error.reason(), calls), ("OVERLOADED", 1));
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_always_fails_ends_within_its_time() {
        let begun = Instant::now();
        let (result, calls) = fails_first(Repeat::Always, vec![no_leader(); 1_000]).await;
        assert_eq!(result.unwrap_err().reason(), "NO_LEADER");
        assert!(begun.elapsed() <= Duration::from_secs(5));
        assert!((4..100).contains(&calls), "{calls}");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_all_fail_do_not_become_the_load() {
        let client = client(Duration::from_secs(15));
        let attempts = Cell::new(0);
        let begun = Instant::now();
        let call = async || {
            client
                .call(Repeat::Always, (), |_, _| {
                    attempts.set(attempts.get() + 1);
                    async { Err::<Response<()>, _>(no_leader()) }
                })
                .await
        };
        let results = futures::future::join_all((0..1_000).map(|_| call())).await;
        assert!(results.iter().all(Result::is_err));
        // A burst of 100, and 10 a second; without this budget they would be some 15 each.
        let earned = 100 + begun.elapsed().as_secs() * 10;
        let retries = attempts.get() - 1_000;
        assert!(
            (100..=earned + 10).contains(&retries),
            "{retries} of {earned}"
        );
        // Successes earn more: then retries are few beside them.
        let works = || client.call(Repeat::Always, (), |_, _| async { Ok(Response::new(())) });
        for _ in 0..1_000 {
            works().await.unwrap();
        }
        let retry = client.shared.budget.take(Instant::now());
        assert!(retry);
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
