use std::time::Duration;

use ticketrail_broker::Broker;
use ticketrail_core::QueueChanges;
use ticketrail_core::view::QueueView;
use ticketrail_core::{Position, State};
use ticketrail_proto::v1;
use ticketrail_proto::v1::queue_admin_service_server::QueueAdminService;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::convert::{self, Checked, duration_to_proto};
use crate::listen::Deadline;
use crate::node::SharedNode;

/// `ticketrail.v1.QueueAdminService`.
pub(crate) struct QueueAdmin(pub(crate) SharedNode);

#[tonic::async_trait]
impl QueueAdminService for QueueAdmin {
    async fn purge_queue(
        &self,
        request: Request<v1::PurgeQueueRequest>,
    ) -> Result<Response<v1::PurgeQueueResponse>, Status> {
        self.0.check_forward(&request)?;
        let deadline = Deadline::of(&request);
        let v1::PurgeQueueRequest {
            namespace,
            queue,
            include_delayed,
        } = request.into_inner();
        convert::queue(&namespace, &queue, "queue")?;
        let written = self
            .0
            .broker
            .purge_queue(&namespace, &queue, include_delayed, deadline)
            .await?;
        Ok(Response::new(v1::PurgeQueueResponse {
            purged: written.value,
            position: written.position.map(convert::commit_position),
        }))
    }

    async fn get_queue_stats(
        &self,
        request: Request<v1::GetQueueStatsRequest>,
    ) -> Result<Response<v1::GetQueueStatsResponse>, Status> {
        self.0.check_forward(&request)?;
        let deadline = Deadline::of(&request);
        let v1::GetQueueStatsRequest { namespace, queue } = request.into_inner();
        convert::queue(&namespace, &queue, "queue")?;
        let stats = self
            .0
            .broker
            .read_queue(&namespace, &queue, deadline, |state, view| {
                stats(state, view, &self.0.broker)
            })
            .await?;
        Ok(Response::new(v1::GetQueueStatsResponse {
            stats: Some(stats),
        }))
    }

    async fn pause_queue(
        &self,
        request: Request<v1::PauseQueueRequest>,
    ) -> Result<Response<v1::PauseQueueResponse>, Status> {
        self.0.check_forward(&request)?;
        let deadline = Deadline::of(&request);
        let v1::PauseQueueRequest { namespace, queue } = request.into_inner();
        let position = self.set_paused(&namespace, &queue, true, deadline).await?;
        Ok(Response::new(v1::PauseQueueResponse { position }))
    }

    async fn resume_queue(
        &self,
        request: Request<v1::ResumeQueueRequest>,
    ) -> Result<Response<v1::ResumeQueueResponse>, Status> {
        self.0.check_forward(&request)?;
        let deadline = Deadline::of(&request);
        let v1::ResumeQueueRequest { namespace, queue } = request.into_inner();
        let position = self.set_paused(&namespace, &queue, false, deadline).await?;
        Ok(Response::new(v1::ResumeQueueResponse { position }))
    }
}

impl QueueAdmin {
    async fn set_paused(
        &self,
        namespace: &str,
        queue: &str,
        paused: bool,
        deadline: Instant,
    ) -> Checked<Option<v1::CommitPosition>> {
        convert::queue(namespace, queue, "queue")?;
        let changes = QueueChanges {
            paused: Some(paused),
            ..QueueChanges::default()
        };
        let written = self
            .0
            .broker
            .update_queue(namespace, queue, changes, None, deadline)
            .await?;
        Ok(written.position.map(convert::commit_position))
    }
}

fn stats(state: &State, view: QueueView<'_>, broker: &Broker) -> v1::QueueStats {
    let counters = view.counters;
    let position = Position {
        index: state.applied_index(),
        place: 0,
    };
    // Replicated time stands still while nothing is written, and messages age all the same.
    let now_ms = broker.wall_now_ms();
    let age = |published: ticketrail_core::WallTime| {
        Duration::from_millis(now_ms.saturating_sub(published.0))
    };
    v1::QueueStats {
        position: Some(convert::commit_position(position)),
        ready: view.ready,
        delayed: view.delayed,
        in_flight: view.in_flight,
        parked: view.parked,
        published: counters.published,
        dead_lettered_in: counters.dead_lettered_in,
        redriven_in: 0,
        acknowledged: counters.acknowledged,
        dead_lettered_out: counters.dead_lettered_out,
        expired: counters.expired,
        dropped: counters.dropped,
        purged: counters.purged,
        moved: 0,
        granted: counters.granted,
        redelivered: counters.redelivered,
        bytes: view.bytes,
        consumers: u32::try_from(view.consumers).unwrap_or(u32::MAX),
        oldest_ready_age: view
            .oldest_ready
            .map(|published| duration_to_proto(age(published))),
        paused: view.settings.paused,
    }
}
