//! What went wrong, in a form to act on: a stable reason, a sentence, and whether anything was done.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use ticketrail_proto::error::Reason;
use ticketrail_proto::v1::Refusal;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The result of everything that talks to the cluster.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The endpoint could not be connected to; nothing was done. Made by this client.
pub(crate) const CONNECT_FAILED: &str = "CONNECT_FAILED";
/// The connection broke before the answer; the outcome is unknown. Made by this client.
pub(crate) const CONNECTION_BROKEN: &str = "CONNECTION_BROKEN";
/// The time for the call was over before the answer; the outcome is unknown. Made by this client.
pub(crate) const TIMED_OUT: &str = "TIMED_OUT";
/// The time for the call was over before it was sent; nothing was done. Made by this client.
pub(crate) const NOT_PROPOSED: &str = "NOT_PROPOSED";
/// The node stops; nothing was done.
pub(crate) const SHUTTING_DOWN: &str = "SHUTTING_DOWN";
/// The server says that it cannot know whether it was done.
pub(crate) const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";

/// Why a call failed, or one message of a stream.
///
/// The client has tried again already where that is harmless, until its
/// [`timeout`](crate::ClientOptions::timeout): an error is what is left. Three questions tell what to do with it:
///
/// | question | answer |
/// | --- | --- |
/// | What is wrong? | [`is`](Error::is) and [`reason`](Error::reason), a stable word to match on; [`field`](Error::field) and [`metadata`](Error::metadata) name the thing; the text is the server's own sentence, and says what to do |
/// | Was it done? | not unless [`is_outcome_unknown`](Error::is_outcome_unknown): then it may have been, or may still be |
/// | Shall I try again? | [`is_retryable`](Error::is_retryable): later that may succeed, after [`retry_after`](Error::retry_after); [`is_safe_to_retry`](Error::is_safe_to_retry): and nothing is done twice |
///
/// ```no_run
/// use ticketrail_client::{Client, Publication, Reason};
///
/// # async fn example(client: Client) -> ticketrail_client::Result<()> {
/// match client.publish([Publication::to_queue("orders", "one coffee")]).await {
///     Ok(_) => println!("stored"),
///     Err(error) if error.is(Reason::Unroutable) => println!("create the queue first"),
///     Err(error) if error.is_safe_to_retry() => println!("not stored; later, perhaps: {error}"),
///     Err(error) if error.is_outcome_unknown() => println!("look whether it is there: {error}"),
///     Err(error) => return Err(error),
/// }
/// # Ok(())
/// # }
/// ```
///
/// A [`Producer`](crate::Producer) saves that third case: what it sends again is stored once.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    code: Code,
    reason: String,
    message: String,
    field: Option<String>,
    violations: Vec<(String, String)>,
    metadata: BTreeMap<String, String>,
    retry_after: Option<Duration>,
    outcome_unknown: bool,
    from_server: bool,
}

impl Error {
    /// The gRPC status code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The stable UPPER_SNAKE reason, such as `QUEUE_NOT_FOUND`. The server's are those of [`Reason`]; this client
    /// adds:
    ///
    /// | reason | what happened | was it done? |
    /// | --- | --- | --- |
    /// | `INVALID_ENDPOINT` | an endpoint cannot be read | no |
    /// | `CONNECT_FAILED` | no connection to any endpoint | no |
    /// | `NOT_PROPOSED` | the time for the call was over before it could be sent | no |
    /// | `CONNECTION_BROKEN` | the connection broke before the answer | unknown |
    /// | `TIMED_OUT` | the time for the call was over before the answer | unknown |
    /// | `CLOSED` | the producer, consumer or worker ended before the answer | unknown |
    ///
    /// A server that is not ours has its gRPC code as the reason.
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// Whether the reason is this one, which the server gives; this client itself gives `INVALID_FIELD` and `NOT_PROPOSED`,
    /// too.
    pub fn is(&self, reason: Reason) -> bool {
        self.0.reason == reason.as_str()
    }

    /// The sentence for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The field of the request that is wrong, such as `items[3].message.body`, for `INVALID_ARGUMENT`.
    pub fn field(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    /// What exactly is wrong, as (subject, description): the fields of a request, or the settings of a
    /// queue that exists with others.
    pub fn violations(&self) -> &[(String, String)] {
        &self.0.violations
    }

    /// What the reason is about, by its key: `queue`, `namespace`, `expected_sequence`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.0.metadata.get(key).map(String::as_str)
    }

    /// How long to wait before trying again, where that can help.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// It may or may not have been done. `false` means that surely nothing was done.
    pub fn is_outcome_unknown(&self) -> bool {
        self.0.outcome_unknown
    }

    /// The same may succeed later: `UNAVAILABLE`, `RESOURCE_EXHAUSTED` with a time to wait, or `NOT_PROPOSED`. Where the
    /// [outcome is unknown](Error::is_outcome_unknown), it may then be done twice.
    pub fn is_retryable(&self) -> bool {
        match self.0.code {
            Code::Unavailable => true,
            Code::ResourceExhausted => self.0.retry_after.is_some(),
            Code::DeadlineExceeded => self.reason() == NOT_PROPOSED,
            _ => false,
        }
    }

    /// The same may succeed later, and surely nothing was done so far.
    pub fn is_safe_to_retry(&self) -> bool {
        self.is_retryable() && !self.is_outcome_unknown()
    }

    /// No node answered, or the connection broke: the error says nothing about the request.
    pub(crate) fn is_connection(&self) -> bool {
        matches!(
            self.reason(),
            CONNECT_FAILED | CONNECTION_BROKEN | TIMED_OUT
        )
    }

    /// The node stops, is cut off from the others or is not there: nothing was done, and another node may
    /// be better.
    pub(crate) fn is_turned_away(&self) -> bool {
        let elsewhere = self.names_others() && !self.is_outcome_unknown();
        elsewhere || matches!(self.reason(), CONNECT_FAILED | SHUTTING_DOWN)
    }

    /// The node said which others to ask instead.
    pub(crate) fn names_others(&self) -> bool {
        self.metadata("nodes").is_some()
    }

    /// The other nodes that a node which stops told of, as `host:port`.
    pub(crate) fn other_nodes(&self) -> impl Iterator<Item = &str> {
        let nodes = self.metadata("nodes").unwrap_or_default();
        nodes.split(',').filter(|address| !address.is_empty())
    }

    pub(crate) fn new(code: Code, reason: &str, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            code,
            reason: reason.to_owned(),
            message: message.into(),
            field: None,
            violations: Vec::new(),
            metadata: BTreeMap::new(),
            retry_after: None,
            outcome_unknown: matches!(reason, CONNECTION_BROKEN | TIMED_OUT | OUTCOME_UNKNOWN),
            from_server: false,
        }))
    }

    pub(crate) fn invalid(reason: &str, message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, reason, message)
    }

    /// The producer or consumer was closed before this was decided.
    pub(crate) fn closed(what: &str) -> Self {
        let mut error = Self::new(
            Code::Aborted,
            "CLOSED",
            format!("the {what} was closed before this was answered"),
        );
        error.0.outcome_unknown = true;
        error
    }

    pub(crate) fn timed_out(endpoint: &str, after: Duration) -> Self {
        let message = format!("{endpoint} gave no answer within {after:.1?}");
        Self::new(Code::DeadlineExceeded, TIMED_OUT, message)
    }

    /// Says that an earlier attempt of the same call may have been done.
    pub(crate) fn with_outcome_unknown(mut self, unknown: bool) -> Self {
        self.0.outcome_unknown |= unknown;
        self
    }

    pub(crate) fn with_message(mut self, message: impl Into<String>) -> Self {
        self.0.message = message.into();
        self
    }

    pub(crate) fn from_status(status: &Status, endpoint: &str) -> Self {
        match status.get_details_error_info() {
            Some(info) => Self::from_server(status, info.reason, info.metadata),
            None => Self::from_transport(status, endpoint),
        }
    }

    fn from_server(
        status: &Status,
        reason: String,
        metadata: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let mut error = Self::new(status.code(), &reason, status.message());
        let inner = &mut *error.0;
        inner.from_server = true;
        inner.metadata = metadata.into_iter().collect();
        inner.outcome_unknown |= status.code() == Code::DeadlineExceeded && reason != NOT_PROPOSED;
        inner.retry_after = status
            .get_details_retry_info()
            .and_then(|info| info.retry_delay);
        if let Some(request) = status.get_details_bad_request() {
            inner.field = request
                .field_violations
                .first()
                .map(|first| first.field.clone());
            let violations = request.field_violations.into_iter();
            inner
                .violations
                .extend(violations.map(|one| (one.field, one.description)));
        }
        if let Some(failure) = status.get_details_precondition_failure() {
            let violations = failure.violations.into_iter();
            inner
                .violations
                .extend(violations.map(|one| (one.subject, one.description)));
        }
        error
    }

    /// A status without our details comes from tonic, from the network, or from a server that is not ours.
    fn from_transport(status: &Status, endpoint: &str) -> Self {
        if caused_by::<tonic::ConnectError>(status) {
            let message = format!("cannot connect to {endpoint}: {}", root_cause(status));
            return Self::new(Code::Unavailable, CONNECT_FAILED, message);
        }
        if find::<hyper::Error>(status).is_some_and(hyper::Error::is_canceled) {
            let message = format!("{endpoint} closed the connection before this was sent");
            return Self::new(Code::Unavailable, CONNECT_FAILED, message);
        }
        if find::<h2::Error>(status).is_some_and(passed_over) {
            let message = format!("{endpoint} closed the connection before it looked at this");
            return Self::new(Code::Unavailable, CONNECT_FAILED, message);
        }
        if status.code() == Code::DeadlineExceeded || caused_by::<tonic::TimeoutExpired>(status) {
            let message = format!("{endpoint} gave no answer in time");
            return Self::new(Code::DeadlineExceeded, TIMED_OUT, message);
        }
        if status.source().is_some() || status.code() == Code::Unavailable {
            let message = format!("the connection to {endpoint} broke: {}", root_cause(status));
            return Self::new(Code::Unavailable, CONNECTION_BROKEN, message);
        }
        let reason = format!("{:?}", status.code()).to_uppercase();
        let mut error = Self::new(
            status.code(),
            &reason,
            format!(
                "{endpoint} answered without a reason of ours: {}",
                status.message()
            ),
        );
        error.0.outcome_unknown = matches!(
            status.code(),
            Code::Unknown | Code::Internal | Code::Cancelled
        );
        error
    }
}

impl From<&Refusal> for Error {
    fn from(refusal: &Refusal) -> Self {
        let mut error = Self::new(Code::from(refusal.code), &refusal.reason, &refusal.message);
        let inner = &mut *error.0;
        inner.from_server = true;
        inner.metadata = refusal.metadata.clone();
        inner.field = Some(refusal.field.clone()).filter(|field| !field.is_empty());
        inner.retry_after = refusal
            .retry_after
            .and_then(|duration| Duration::try_from(duration).ok());
        error
    }
}

/// A server that stops says up to which call it works on (RFC 9113, 6.8); those behind it get this error, and those before it
/// another one if the connection breaks.
fn passed_over(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
}

fn caused_by<E: StdError + 'static>(status: &Status) -> bool {
    find::<E>(status).is_some()
}

/// The first cause of this type.
fn find<E: StdError + 'static>(status: &Status) -> Option<&E> {
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        source = error.source();
    }
    None
}

fn root_cause(status: &Status) -> String {
    let mut source = status.source();
    let mut text = status.message().to_owned();
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0.message, self.0.reason)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("code", &self.0.code)
            .field("reason", &self.0.reason)
            .field("message", &self.0.message)
            .field("metadata", &self.0.metadata)
            .field("outcome_unknown", &self.0.outcome_unknown)
            .field("from_server", &self.0.from_server)
            .finish_non_exhaustive()
    }
}

impl StdError for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    fn status(code: Code, reason: &str) -> Status {
        let mut details = ErrorDetails::new();
        details
            .set_error_info(
                reason,
                "ticketrail",
                [("queue".to_owned(), "orders".to_owned())],
            )
            .set_retry_info(Some(Duration::from_millis(250)))
            .add_bad_request_violation("items[0].message", "is missing");
        Status::with_error_details(code, "queue `orders` is full", details)
    }

    #[test]
    fn reads_the_details_of_the_server() {
        let error = Error::from_status(&status(Code::ResourceExhausted, "QUEUE_FULL"), "x");
        assert_eq!(error.reason(), "QUEUE_FULL");
        assert_eq!(error.metadata("queue"), Some("orders"));
        assert_eq!(error.retry_after(), Some(Duration::from_millis(250)));
        assert_eq!(error.field(), Some("items[0].message"));
        assert!(error.is(Reason::QueueFull) && !error.is(Reason::Overloaded));
        assert!(error.is_retryable() && error.is_safe_to_retry());
        assert!(!error.is_outcome_unknown());
        assert_eq!(error.to_string(), "queue `orders` is full (QUEUE_FULL)");
    }

    #[test]
    fn knows_which_outcomes_are_unknown() {
        let cases = [
            (Code::Unavailable, "NO_LEADER", false),
            (Code::Unavailable, "OUTCOME_UNKNOWN", true),
            (Code::DeadlineExceeded, "DEADLINE", true),
            (Code::DeadlineExceeded, "NOT_PROPOSED", false),
            (Code::NotFound, "QUEUE_NOT_FOUND", false),
        ];
        for (code, reason, unknown) in cases {
            let error = Error::from_status(&status(code, reason), "x");
            assert_eq!(error.is_outcome_unknown(), unknown, "{reason}");
        }
    }

    #[test]
    fn what_came_too_late_to_be_begun_is_safe_to_retry() {
        let safe = |reason| {
            let error = Error::from_status(&status(Code::DeadlineExceeded, reason), "x");
            error.is_safe_to_retry()
        };
        assert!(safe("NOT_PROPOSED") && !safe("DEADLINE_PASSED"));
        let unsure = Error::new(Code::DeadlineExceeded, NOT_PROPOSED, "too late");
        assert!(!unsure.with_outcome_unknown(true).is_safe_to_retry());
    }

    #[test]
    fn a_broken_connection_leaves_the_outcome_unknown() {
        let cause = std::io::Error::other("reset by peer");
        let error = Error::from_status(&Status::from_error(Box::new(cause)), "http://a:1");
        assert_eq!(error.reason(), CONNECTION_BROKEN);
        assert!(error.is_outcome_unknown() && error.is_retryable());
        assert!(!error.is_safe_to_retry());
    }

    #[test]
    fn a_foreign_server_is_named() {
        let error = Error::from_status(&Status::unimplemented("no such service"), "http://a:1");
        assert_eq!(error.reason(), "UNIMPLEMENTED");
        assert!(error.message().contains("http://a:1") && !error.is_retryable());
    }
}
