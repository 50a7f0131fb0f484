use std::time::Duration;

use ticketrail_core::Rejection;

use super::{Problem, Reason};

/// What there is too many of goes by somebody's deed, not by itself in a moment.
const TOO_MANY_RETRY: Duration = Duration::from_secs(60);

/// What the state machine refuses, in a client's words.
impl From<&Rejection> for Problem {
    fn from(rejection: &Rejection) -> Self {
        match rejection {
            Rejection::NotBootstrapped => Problem::new(
                Reason::NotBootstrapped,
                "the cluster is not bootstrapped; start its nodes with --bootstrap",
            ),
            Rejection::AlreadyBootstrapped => Problem::new(
                Reason::AlreadyBootstrapped,
                "the cluster was bootstrapped with other values; start the node without --bootstrap",
            ),
            Rejection::VersionTooLow { current } => Problem::new(
                Reason::VersionTooLow,
                format!("the state machine is at version {current} already; it never goes back"),
            )
            .with("current_version", current),
            Rejection::InvalidField { field, must } | Rejection::InvalidName { field, must } => {
                Problem::field_must(public_field(field), must)
            }
            Rejection::NamespaceNotFound { namespace } => Problem::namespace_not_found(namespace),
            Rejection::NamespaceNotEmpty { queues } => Problem::new(
                Reason::NamespaceNotEmpty,
                format!("the namespace still has {queues} queues; delete them first"),
            )
            .with("queues", queues),
            Rejection::QueueNotFound { namespace, queue } => {
                Problem::queue_not_found(namespace, queue)
            }
            Rejection::QueueExists { differs } => queue_exists(differs),
            Rejection::QueueNotEmpty { messages } => Problem::new(
                Reason::QueueNotEmpty,
                format!("the queue still has {messages} messages; purge it, or delete it as it is"),
            )
            .with("messages", messages),
            Rejection::RevisionMismatch { current } => Problem::new(
                Reason::EtagMismatch,
                "it was changed since it was read; read it again and repeat the change",
            )
            .with("current_etag", current),
            Rejection::Unroutable { routing_key } => Problem::new(
                Reason::Unroutable,
                format!(
                    "no queue takes the routing key `{routing_key}`; \
                     create the queue, or publish without `mandatory`"
                ),
            )
            .with("routing_key", routing_key),
            Rejection::SessionNotFound => Problem::new(
                Reason::SessionNotFound,
                "the consumer session has ended, or is served elsewhere; open a new one",
            ),
            Rejection::NodeIdUsed { node, retired } => node_id_used(node.0, *retired),
            Rejection::TooMany { what, limit } => too_many(what, *limit),
            Rejection::BatchRefused => Problem::new(
                Reason::BatchRefused,
                "this message was not refused for itself, but another one of its batch was",
            ),
            Rejection::ProducerFenced { .. }
            | Rejection::UnknownProducer
            | Rejection::SequenceReused { .. }
            | Rejection::OutOfSequence { .. } => producer_problem(rejection),
        }
    }
}

/// The name of a command's field in the public requests.
fn public_field(field: &'static str) -> &'static str {
    match field {
        "lease_ms" => "lease_duration",
        "settings.lease_ms" => "settings.lease_duration",
        "settings.retry_backoff.base_ms" => "settings.retry_backoff.base",
        "settings.retry_backoff.max_ms" => "settings.retry_backoff.max",
        "settings.retry_backoff.factor_percent" => "settings.retry_backoff.factor",
        "attempt" => "receive_attempt_id",
        "runs" | "runs.count" => "items",
        same => same,
    }
}

fn queue_exists(differs: &[&'static str]) -> Problem {
    let names: Vec<&str> = differs.iter().map(|name| public_field(name)).collect();
    let message = format!(
        "the queue exists with other settings ({}); change them with UpdateQueue, or declare the same",
        names.join(", ")
    );
    let problem = Problem::new(Reason::AlreadyExists, message).with("differs", names.join(","));
    names.iter().fold(problem, |problem, name| {
        problem.precondition(
            format!("settings.{name}"),
            "differs from the existing queue",
        )
    })
}

fn node_id_used(node: u64, retired: bool) -> Problem {
    let message = if retired {
        format!(
            "node {node} was removed from the cluster and its id is never used again; \
             start it with an empty data folder under a new id with --join"
        )
    } else {
        format!(
            "the cluster knows node {node} with another disk, and what it promised was on that one; \
             start this one with an empty data folder under a new id with --join, then remove node {node}"
        )
    };
    Problem::new(Reason::NodeIdUsed, message).with("node_id", node)
}

fn too_many(what: &str, limit: u64) -> Problem {
    let reason = match what {
        "namespaces" => Reason::TooManyNamespaces,
        "queues" => Reason::TooManyQueues,
        "producers" => Reason::TooManyProducers,
        "nodes" => Reason::TooManyNodes,
        _ => Reason::TooManySessions,
    };
    Problem::new(
        reason,
        format!("the cluster has {limit} {what}, its limit; remove some first"),
    )
    .with("limit", limit)
    .quota(what, format!("at most {limit} {what} in a cluster"))
    .retry_after(TOO_MANY_RETRY)
}

fn producer_problem(rejection: &Rejection) -> Problem {
    match rejection {
        Rejection::ProducerFenced { current_epoch } => Problem::new(
            Reason::ProducerFenced,
            "the producer was opened again elsewhere; stop, or open it again to take over",
        )
        .with("current_epoch", current_epoch),
        Rejection::SequenceReused { sequence } => Problem::new(
            Reason::SequenceReused,
            format!("sequence {sequence} was stored with another content; never use one twice"),
        )
        .with("sequence", sequence),
        Rejection::OutOfSequence { expected } => Problem::new(
            Reason::OutOfSequence,
            format!("sequence {expected} must come next; send again from there"),
        )
        .with("expected_sequence", expected),
        _ => Problem::new(
            Reason::UnknownProducer,
            "the producer is not known, or was idle for 7 days; open it again with OpenProducer",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::{Code, Status};
    use tonic_types::StatusExt;

    #[test]
    fn a_field_is_named_as_in_the_request() {
        let rejection = Rejection::InvalidField {
            field: "lease_ms",
            must: "be 1 ms to 12 h",
        };
        let status: Status = Problem::from(&rejection).into();
        assert_eq!(status.message(), "`lease_duration` must be 1 ms to 12 h");
        let bad = status.get_details_bad_request().unwrap();
        assert_eq!(bad.field_violations[0].field, "lease_duration");
        assert_eq!(bad.field_violations[0].description, "must be 1 ms to 12 h");
    }

    #[test]
    fn a_declaration_that_differs_names_each_setting() {
        let rejection = Rejection::QueueExists {
            differs: vec!["lease_ms", "dead_letter"],
        };
        let status: Status = Problem::from(&rejection).into();
        assert_eq!(status.code(), Code::AlreadyExists);
        let failure = status.get_details_precondition_failure().unwrap();
        let subjects: Vec<_> = failure
            .violations
            .iter()
            .map(|v| v.subject.as_str())
            .collect();
        assert_eq!(
            subjects,
            ["settings.lease_duration", "settings.dead_letter"]
        );
    }

    #[test]
    fn too_many_names_the_limit_and_when_to_come_back() {
        for (what, reason) in [
            ("namespaces", "TOO_MANY_NAMESPACES"),
            ("queues", "TOO_MANY_QUEUES"),
            ("producers", "TOO_MANY_PRODUCERS"),
            ("nodes", "TOO_MANY_NODES"),
            ("sessions", "TOO_MANY_SESSIONS"),
        ] {
            let status: Status = Problem::from(&Rejection::TooMany { what, limit: 7 }).into();
            assert_eq!(status.code(), Code::ResourceExhausted);
            let info = status.get_details_error_info().unwrap();
            assert_eq!(
                (info.reason.as_str(), info.metadata["limit"].as_str()),
                (reason, "7")
            );
            let retry = status.get_details_retry_info().unwrap();
            assert_eq!(retry.retry_delay, Some(TOO_MANY_RETRY));
            let quota = status.get_details_quota_failure().unwrap();
            assert_eq!(quota.violations[0].subject, what);
        }
    }

    #[test]
    fn a_gap_says_what_must_come_next() {
        let status: Status = Problem::from(&Rejection::OutOfSequence { expected: 42 }).into();
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.reason, "OUT_OF_SEQUENCE");
        assert_eq!(info.metadata["expected_sequence"], "42");
        assert!(
            status.get_details_retry_info().is_none(),
            "a retry as it is cannot help"
        );
    }
}
