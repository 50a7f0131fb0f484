use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use ticketrail_raft::{Replica, Status as Replicated};
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthService, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::{HealthReporter, HealthService as TonicHealth};

use crate::alone::Alone;
use crate::limits;
use crate::node::SharedNode;
use crate::stopping::Stopping;

/// Says that the process lives, whatever the cluster does.
const LIVENESS: &str = "liveness";
/// Says whether clients should be sent here: serving, and caught up.
const READINESS: &str = "readiness";
/// The names that say whether requests are served: the whole server, and each service.
const SERVING: &[&str] = &[
    "",
    "ticketrail.v1.PublisherService",
    "ticketrail.v1.ConsumerService",
    "ticketrail.v1.TopologyService",
    "ticketrail.v1.QueueAdminService",
    "ticketrail.v1.ClusterService",
];

/// What a node can say of its own health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Health {
    /// It knows of a leader that a majority follows.
    pub(crate) serving: bool,
    /// Clients should be sent here.
    pub(crate) ready: bool,
    /// Why not.
    pub(crate) why_not_ready: Option<&'static str>,
}

impl Health {
    /// By a replica's status.
    pub(crate) fn of(status: &Replicated, stopping: bool) -> Self {
        let serving = !stopping && has_quorum(status);
        let committed = status.committed_index.unwrap_or_default();
        let behind = committed.saturating_sub(status.applied_index.unwrap_or_default());
        let why_not_ready = match () {
            () if stopping => Some("this node stops"),
            () if status.leader.is_none() => Some("no leader is known"),
            () if !serving => Some("no majority was heard of lately"),
            () if behind > limits::READY_BEHIND_MAX => {
                Some("it still applies what was committed before")
            }
            () => None,
        };
        Self {
            serving,
            ready: why_not_ready.is_none(),
            why_not_ready,
        }
    }
}

/// The service as tonic has it, but for its streams: they end when the node stops, since no connection
/// is closed before.
struct Told {
    inner: TonicHealth,
    node: SharedNode,
}

#[tonic::async_trait]
impl HealthService for Told {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.inner.check(request).await
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let changes = self.inner.watch(request).await?.into_inner();
        let (stops, end) = (Arc::clone(&self.node), Arc::clone(&self.node));
        let changes = changes.take_until(async move { stops.stopping.drains().await });
        let end = futures::stream::once(async move { Err(end.shutting_down().into()) });
        Ok(Response::new(Box::pin(changes.chain(end))))
    }
}

/// The service and its reporter; nothing is served yet.
pub(crate) async fn health(
    node: &SharedNode,
) -> (HealthReporter, HealthServer<impl HealthService>) {
    let reporter = HealthReporter::new();
    let service = HealthServer::new(Told {
        inner: TonicHealth::from_health_reporter(reporter.clone()),
        node: Arc::clone(node),
    });
    reporter
        .set_service_status(LIVENESS, ServingStatus::Serving)
        .await;
    report(&reporter, SERVING, false).await;
    report(&reporter, &[READINESS], false).await;
    (reporter, service)
}

/// Reports NOT_SERVING while this node knows of no quorum, until the node stops; and tells its streams
/// and calls when that lasts.
pub(crate) async fn watch(
    reporter: HealthReporter,
    replica: Replica,
    alone: Alone,
    stopping: Stopping,
) {
    let mut leadership = replica.leadership();
    let mut look = tokio::time::interval(limits::HEALTH_LOOK);
    let mut reported = Health::of(&Replicated::default(), true);
    let mut last_quorum = Instant::now();
    loop {
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() { break },
            _ = look.tick() => {}
            () = stopping.refuses() => break,
        }
        let health = Health::of(&replica.status(), false);
        if health.serving {
            last_quorum = Instant::now();
        }
        alone.set(last_quorum.elapsed() >= limits::ALONE_AFTER);
        if health.serving != reported.serving {
            report(&reporter, SERVING, health.serving).await;
        }
        if health.ready != reported.ready {
            report(&reporter, &[READINESS], health.ready).await;
        }
        reported = health;
    }
    report(&reporter, SERVING, false).await;
    report(&reporter, &[READINESS], false).await;
}

/// Resolves when this node knew of no quorum for so long.
pub(crate) async fn quorum_lost_for(replica: &Replica, time: Duration) {
    let mut look = tokio::time::interval(limits::HEALTH_LOOK);
    let mut last = Instant::now();
    while last.elapsed() < time {
        look.tick().await;
        if has_quorum(&replica.status()) {
            last = Instant::now();
        }
    }
}

/// A leader that a majority answered lately, or contact with one.
pub(crate) fn has_quorum(status: &Replicated) -> bool {
    let alone = status
        .members
        .values()
        .filter(|member| member.voter)
        .count()
        == 1;
    let heard = if status.leader == Some(status.node_id) {
        if alone {
            Some(0)
        } else {
            status.quorum_ack_ms_ago
        }
    } else {
        status.leader_contact_ms_ago
    };
    let recent = heard.is_some_and(|ms| u128::from(ms) < limits::QUORUM_SILENCE_MAX.as_millis());
    status.leader.is_some() && recent
}

async fn report(reporter: &HealthReporter, names: &[&str], serving: bool) {
    let status = if serving {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    for name in names {
        reporter.set_service_status(*name, status).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ticketrail_core::NodeId;

    fn follower(contact_ms: u64, committed: u64, applied: u64) -> Replicated {
        Replicated {
            node_id: NodeId(1),
            leader: Some(NodeId(2)),
            leader_contact_ms_ago: Some(contact_ms),
            committed_index: Some(committed),
            applied_index: Some(applied),
            ..Replicated::default()
        }
    }

    #[test]
    fn serving_needs_a_quorum_and_ready_needs_to_have_caught_up() {
        let of = |status: &Replicated, stopping| {
            let health = Health::of(status, stopping);
            (health.serving, health.ready)
        };
        assert_eq!(of(&follower(20, 500, 499), false), (true, true));
        assert_eq!(of(&follower(20, 1_000_000, 499), false), (true, false));
        assert_eq!(of(&follower(60_000, 500, 499), false), (false, false));
        assert_eq!(of(&follower(20, 500, 499), true), (false, false));
        let leaderless = Replicated {
            leader: None,
            ..follower(20, 500, 499)
        };
        assert_eq!(of(&leaderless, false), (false, false));
    }
}
