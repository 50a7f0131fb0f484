use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

use super::{DOMAIN, Reason};
use crate::v1::Refusal;

/// A refusal on its way to a client, independent of whether it refuses a call or one item. It becomes
/// a [`Status`] or a [`Refusal`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem(Box<Facts>);

/// Boxed, so that a `Result` that nearly always is `Ok` stays small.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    reason: Reason,
    message: String,
    metadata: BTreeMap<String, String>,
    field: Option<(String, String)>,
    retry_after: Option<Duration>,
    quota: Option<(String, String)>,
    preconditions: Vec<(String, String)>,
}

impl Problem {
    /// A problem; `message` names the thing and says what to do.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self(Box::new(Facts {
            reason,
            message: message.into(),
            metadata: BTreeMap::new(),
            field: None,
            retry_after: None,
            quota: None,
            preconditions: Vec::new(),
        }))
    }

    /// A field is out of bounds. `field` is its path from the request (`items[3].message.body`), `must`
    /// completes "must be ...".
    #[must_use]
    pub fn invalid_field(field: impl Into<String>, must: impl fmt::Display) -> Self {
        Self::field_must(field, format_args!("be {must}"))
    }

    /// As [`Problem::invalid_field`], where `must` completes "must ...".
    #[must_use]
    pub fn field_must(field: impl Into<String>, must: impl fmt::Display) -> Self {
        let field = field.into();
        let message = format!("`{field}` must {must}");
        Self::new(Reason::InvalidField, message).field(field, format!("must {must}"))
    }

    /// A field, or a value of it, is of a later release.
    #[must_use]
    pub fn not_yet(field: impl Into<String>) -> Self {
        let field = field.into();
        let message =
            format!("`{field}` is not supported by this release; leave it unset, or upgrade");
        Self::new(Reason::NotYet, message).with("field", field)
    }

    /// No such namespace.
    #[must_use]
    pub fn namespace_not_found(namespace: impl Into<String>) -> Self {
        let namespace = namespace.into();
        let message = format!("namespace `{namespace}` not found; create it with CreateNamespace");
        Self::new(Reason::NamespaceNotFound, message).with("namespace", namespace)
    }

    /// No such queue.
    #[must_use]
    pub fn queue_not_found(namespace: impl Into<String>, queue: impl Into<String>) -> Self {
        let (namespace, queue) = (namespace.into(), queue.into());
        let message = format!(
            "queue `{queue}` not found in namespace `{namespace}`; create it with CreateQueue"
        );
        Self::new(Reason::QueueNotFound, message)
            .with("namespace", namespace)
            .with("queue", queue)
    }

    /// A node's budget is used up; `what` names the budget.
    #[must_use]
    pub fn overloaded(what: impl Into<String>, retry_after: Duration) -> Self {
        let what = what.into();
        let message = format!("this node is over its budget of {what}; try again after a pause");
        Self::new(Reason::Overloaded, message)
            .with("budget", what.clone())
            .quota("node", format!("budget of {what}"))
            .retry_after(retry_after)
    }

    /// There is no leader; nothing was done.
    #[must_use]
    pub fn no_leader(retry_after: Duration) -> Self {
        let message = "the cluster has no leader at the moment, nothing was done; try again";
        Self::new(Reason::NoLeader, message).retry_after(retry_after)
    }

    /// It may or may not be committed.
    #[must_use]
    pub fn outcome_unknown(retry_after: Duration) -> Self {
        let message = "whether this was committed is not known; \
             repeat it with the same producer sequence or attempt id";
        Self::new(Reason::OutcomeUnknown, message).retry_after(retry_after)
    }

    /// This node does not lead and was told not to forward. `leader` is the leader's client address.
    #[must_use]
    pub fn not_leader(leader: Option<&str>) -> Self {
        match leader {
            Some(address) => {
                let message = format!("this node does not lead; ask the leader at {address}");
                Self::new(Reason::NotLeader, message).with("leader", address)
            }
            None => Self::new(
                Reason::NotLeader,
                "this node does not lead; ask another one",
            ),
        }
    }

    /// A peer message that is not for this cluster or node.
    #[must_use]
    pub fn wrong_cluster(what: impl fmt::Display) -> Self {
        let message = format!("peer message refused: {what}; check the addresses of the peers");
        Self::new(Reason::WrongCluster, message)
    }

    /// Adds metadata.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.0.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// Names the field that is wrong, as `BadRequest`.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>, description: impl Into<String>) -> Self {
        self.0.field = Some((field.into(), description.into()));
        self
    }

    /// Puts `prefix` (such as `items[3]`) before the field's path and into the sentence.
    #[must_use]
    pub fn inside(mut self, prefix: &str) -> Self {
        let facts = &mut *self.0;
        let field = match &mut facts.field {
            Some((field, _)) => Some(field),
            None => facts.metadata.get_mut("field"),
        };
        if let Some(field) = field {
            let path = format!("{prefix}.{field}");
            let (old, new) = (format!("`{field}`"), format!("`{path}`"));
            facts.message = facts.message.replace(&old, &new);
            *field = path;
        }
        self
    }

    /// Says how long to wait before a retry, as `RetryInfo`.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// Names the limit that is used up, as `QuotaFailure`.
    #[must_use]
    pub fn quota(mut self, subject: impl Into<String>, description: impl Into<String>) -> Self {
        self.0.quota = Some((subject.into(), description.into()));
        self
    }

    /// Names something that is not as it must be, as `PreconditionFailure`; may be called repeatedly.
    #[must_use]
    pub fn precondition(mut self, subject: impl Into<String>, text: impl Into<String>) -> Self {
        self.0.preconditions.push((subject.into(), text.into()));
        self
    }

    /// The reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// The sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// As the status of a whole call.
    #[must_use]
    pub fn into_status(self) -> Status {
        let facts = *self.0;
        let mut details = ErrorDetails::new();
        let metadata: HashMap<_, _> = facts.metadata.into_iter().collect();
        details.set_error_info(facts.reason.as_str(), DOMAIN, metadata);
        if let Some((field, description)) = facts.field {
            details.add_bad_request_violation(field, description);
        }
        if let Some(wait) = facts.retry_after {
            details.set_retry_info(Some(wait));
        }
        if let Some((subject, description)) = facts.quota {
            details.add_quota_failure_violation(subject, description);
        }
        for (subject, text) in facts.preconditions {
            details.add_precondition_failure_violation(facts.reason.as_str(), subject, text);
        }
        Status::with_error_details(facts.reason.code(), facts.message, details)
    }

    /// As the refusal of one item.
    #[must_use]
    pub fn into_refusal(self) -> Refusal {
        let facts = *self.0;
        Refusal {
            code: facts.reason.code() as i32,
            reason: facts.reason.as_str().to_owned(),
            message: facts.message,
            metadata: facts.metadata,
            field: facts.field.map(|(field, _)| field).unwrap_or_default(),
            retry_after: facts.retry_after.and_then(|wait| wait.try_into().ok()),
        }
    }
}

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        problem.into_status()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.reason, self.0.message)
    }
}

impl std::error::Error for Problem {}

/// The reason in a status that one of our servers sent; none where it is of another origin.
#[must_use]
pub fn reason_of(status: &Status) -> Option<Reason> {
    let info = status.get_details_error_info()?;
    (info.domain == DOMAIN)
        .then(|| Reason::parse(&info.reason))
        .flatten()
}

/// How long the server asks to wait before a retry.
#[must_use]
pub fn retry_after_of(status: &Status) -> Option<Duration> {
    status.get_details_retry_info()?.retry_delay
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn a_wrong_field_is_named_in_the_status() {
        let status = Problem::invalid_field("body", "up to 1 MiB").inside("items[3].message");
        let status = status.into_status();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(
            status.message(),
            "`items[3].message.body` must be up to 1 MiB"
        );
        assert_eq!(reason_of(&status), Some(Reason::InvalidField));
        let bad = status.get_details_bad_request().unwrap();
        assert_eq!(bad.field_violations[0].field, "items[3].message.body");
    }

    #[test]
    fn an_overloaded_node_says_when_to_come_back() {
        let problem = Problem::overloaded("publish bytes", Duration::from_millis(150));
        let refusal = problem.clone().into_refusal();
        assert_eq!((refusal.code, refusal.reason.as_str()), (8, "OVERLOADED"));
        assert_eq!(refusal.retry_after.unwrap().nanos, 150_000_000);
        let status = problem.into_status();
        assert_eq!(retry_after_of(&status), Some(Duration::from_millis(150)));
        assert!(status.get_details_quota_failure().is_some());
    }

    #[test]
    fn a_foreign_status_has_no_reason() {
        assert_eq!(reason_of(&Status::unavailable("proxy")), None);
    }
}
