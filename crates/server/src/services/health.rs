use ticketrail_raft::{Replica, Status};
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;

use crate::limits;

/// Says that the process lives, whatever the cluster does.
const LIVENESS: &str = "liveness";
/// The names that say whether requests are served: the whole server, and each service.
const SERVING: &[&str] = &[
    "",
    "ticketrail.v1.PublisherService",
    "ticketrail.v1.ConsumerService",
    "ticketrail.v1.TopologyService",
    "ticketrail.v1.QueueAdminService",
    "ticketrail.v1.ClusterService",
];

/// The service and its reporter; nothing is served yet.
pub(crate) async fn health() -> (HealthReporter, HealthServer<impl Health>) {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter
        .set_service_status(LIVENESS, ServingStatus::Serving)
        .await;
    report(&reporter, false).await;
    (reporter, service)
}

/// Reports NOT_SERVING while this node knows of no quorum, until the node stops.
pub(crate) async fn watch(reporter: HealthReporter, replica: Replica, stop: CancellationToken) {
    let mut leadership = replica.leadership();
    let mut look = tokio::time::interval(limits::HEALTH_LOOK);
    let mut reported = false;
    loop {
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() { break },
            _ = look.tick() => {}
            () = stop.cancelled() => break,
        }
        let serving = has_quorum(&replica.status());
        if serving != reported {
            report(&reporter, serving).await;
            reported = serving;
        }
    }
    report(&reporter, false).await;
}

/// A leader that a majority answered lately, or contact with one.
fn has_quorum(status: &Status) -> bool {
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

async fn report(reporter: &HealthReporter, serving: bool) {
    let status = if serving {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    for name in SERVING {
        reporter.set_service_status(*name, status).await;
    }
}
