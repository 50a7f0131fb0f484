use std::fmt::Write as _;

use ticketrail_core::Rejection;

use super::{Problem, Reason};

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
                Problem::invalid_field(*field, must)
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
                format!("no queue takes the routing key `{routing_key}`; create the queue, or publish without `mandatory`"),
            )
            .with("routing_key", routing_key),
            Rejection::SessionNotFound => Problem::new(
                Reason::SessionNotFound,
                "the consumer session has ended, or is served elsewhere; open a new one",
            ),
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

fn queue_exists(differs: &[&str]) -> Problem {
    let mut names = String::new();
    for name in differs {
        let separator = if names.is_empty() { "" } else { ", " };
        let _ = write!(names, "{separator}`{name}`");
    }
    let message = format!(
        "the queue exists with other settings ({names}); change them with UpdateQueue, or declare the same"
    );
    let problem = Problem::new(Reason::AlreadyExists, message).with("differs", differs.join(","));
    differs.iter().fold(problem, |problem, name| {
        problem.precondition(
            format!("settings.{name}"),
            "differs from the existing queue",
        )
    })
}

fn too_many(what: &str, limit: u64) -> Problem {
    let reason = match what {
        "namespaces" => Reason::TooManyNamespaces,
        "queues" => Reason::TooManyQueues,
        "producers" => Reason::TooManyProducers,
        _ => Reason::TooManySessions,
    };
    Problem::new(
        reason,
        format!("the cluster has {limit} {what}, its limit; remove some first"),
    )
    .with("limit", limit)
    .quota(what, format!("at most {limit} {what} in a cluster"))
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
