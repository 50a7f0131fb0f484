//! The judge of a table: status, reason and field as expected, and nothing changed.

use std::sync::Mutex;

use ticketrail_proto::v1::{ListQueuesRequest, QueueStats};
use ticketrail_tests::cluster::{Cluster, Refused, secs, within};
use tonic::{Code, Response, Status};

/// Code, reason, and the field that is named; empty where none is.
pub(super) type Expected<'a> = (Code, &'a str, &'a str);

pub(super) fn invalid(field: &str) -> Expected<'_> {
    (Code::InvalidArgument, "INVALID_FIELD", field)
}

pub(super) fn not_yet(field: &str) -> Expected<'_> {
    (Code::Unimplemented, "NOT_YET", field)
}

pub(super) fn not_found(reason: &str) -> Expected<'_> {
    (Code::NotFound, reason, "")
}

pub(super) fn failed(reason: &str) -> Expected<'_> {
    (Code::FailedPrecondition, reason, "")
}

/// What must not change, and which rows were not as they should be: all of them are told at the end.
pub(super) struct Watched<'a> {
    cluster: &'a Cluster,
    before: (Vec<String>, QueueStats),
    wrong: Mutex<Vec<String>>,
}

impl<'a> Watched<'a> {
    pub(super) async fn new(cluster: &'a Cluster) -> Self {
        let before = look(cluster).await;
        Self {
            cluster,
            before,
            wrong: Mutex::default(),
        }
    }

    /// Notes whether the call was refused in just this way, and whether anything changed.
    pub(super) async fn refused<T: std::fmt::Debug>(
        &self,
        what: &str,
        answer: Result<Response<T>, Status>,
        (code, reason, field): Expected<'_>,
    ) -> Refused {
        let after = look(self.cluster).await;
        if after != self.before {
            self.note(
                what,
                format!("had an effect: {:?} became {after:?}", self.before),
            );
        }
        let refused = match answer {
            Ok(answer) => {
                self.note(
                    what,
                    format!("expected {code:?} {reason} `{field}`, found {answer:?}"),
                );
                return Refused::default();
            }
            Err(status) => Refused::from(&status),
        };
        let named = if reason == "NOT_YET" {
            refused.metadata.get("field")
        } else {
            Some(&refused.field)
        };
        if !refused.is(code, reason) || named.is_none_or(|named| named != field) {
            self.note(
                what,
                format!("expected {code:?} {reason} `{field}`, found {refused}"),
            );
        }
        if !refused.message.contains(' ') {
            self.note(
                what,
                format!("a sentence says what to do, not `{}`", refused.message),
            );
        }
        refused
    }

    fn note(&self, what: &str, wrong: String) {
        self.wrong.lock().unwrap().push(format!("{what}: {wrong}"));
    }

    pub(super) fn done(self) {
        let wrong = self.wrong.into_inner().unwrap();
        assert!(
            wrong.is_empty(),
            "{} rows:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
    }
}

async fn look(cluster: &Cluster) -> (Vec<String>, QueueStats) {
    let mut node = cluster.on(1);
    let answer = node
        .topology
        .list_queues(within(secs(10), ListQueuesRequest::default()))
        .await
        .unwrap();
    let queues = answer
        .into_inner()
        .queues
        .into_iter()
        .map(|queue| queue.name)
        .collect();
    let mut stats = cluster.stats("orders").await;
    (stats.position, stats.oldest_ready_age) = (None, None);
    (queues, stats)
}
