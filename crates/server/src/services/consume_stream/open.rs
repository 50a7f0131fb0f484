//! The first frame of a consume stream.

use std::time::Duration;

use ticketrail_broker::ConsumeRequest;
use ticketrail_core::view::QueueView;
use ticketrail_core::{QueueId, Rejection, State, limits as core};
use ticketrail_proto::error::Problem;
use ticketrail_proto::v1::{self, consume_request};
use tokio::time::{Instant, timeout};

use super::super::stream::next_frame;
use super::{Frames, QueueName, Session, first_frame_missing};
use crate::convert::{self, Checked, Receipts, duration_to_proto};
use crate::limits;
use crate::node::SharedNode;

/// Takes the first frame and attaches the consumer.
pub(super) async fn open(
    node: &SharedNode,
    frames: &mut Frames,
) -> Checked<(Session, v1::ConsumeOpened)> {
    let first = timeout(limits::OPEN_WAIT_MAX, next_frame(frames)).await;
    let first = first.unwrap_or_else(|_| Err(first_frame_missing()))?;
    let Some(consume_request::Frame::Open(open)) = first.and_then(|first| first.frame) else {
        return Err(first_frame_missing());
    };
    let request = consume_request(&open).map_err(|problem| problem.inside("open"))?;
    let receipts = Receipts::new(node.cluster_id, &open.namespace, &open.queue);
    let (prefetch, auto_ack) = (request.prefetch, open.auto_ack);
    let (asked_session, asked_lease) = (request.session, request.lease);
    let deadline = Instant::now() + limits::DEADLINE_DEFAULT;
    if let Some(session) = asked_session {
        // Asked first, because attaching would make it, and hand it messages.
        let is_there = |state: &State, _: QueueView<'_>| state.session(session).is_some();
        let read = node
            .broker
            .read_queue(&open.namespace, &open.queue, deadline, is_there);
        if !read.await? {
            return Err(Problem::from(&Rejection::SessionNotFound));
        }
    }
    let consumer = node.broker.consume(request, deadline).await?;
    if asked_session.is_some() && !consumer.resumed {
        // It ended in between and was made just now: it holds nothing that anyone has seen.
        consumer.handle.close(deadline).await?;
        return Err(Problem::from(&Rejection::SessionNotFound));
    }
    let queue = consumer.handle.queue();
    let lease = asked_lease
        .or_else(|| queue_lease(node, queue))
        .unwrap_or_default();
    let opened = v1::ConsumeOpened {
        session_id: convert::id_to_proto(consumer.handle.session().0),
        lease_duration: Some(duration_to_proto(lease)),
        session_grace: Some(duration_to_proto(Duration::from_millis(
            core::SESSION_GRACE_MS,
        ))),
        prefetch,
        resumed: consumer.resumed,
    };
    let name = QueueName {
        namespace: open.namespace,
        queue: open.queue,
    };
    let session = Session::new(consumer, node.clone(), receipts, name, (prefetch, auto_ack));
    Ok((session, opened))
}

fn queue_lease(node: &SharedNode, queue: QueueId) -> Option<Duration> {
    node.broker.replica().with_state(|state| {
        state
            .queue_by_id(queue)
            .map(|view| Duration::from_millis(view.settings.lease_ms))
    })
}

fn consume_request(open: &v1::ConsumeOpen) -> Checked<ConsumeRequest> {
    convert::queue(&open.namespace, &open.queue, "queue")?;
    convert::not_yet(open.prefetch_bytes.is_some(), "prefetch_bytes")?;
    convert::not_yet(
        open.consumer_priority.unwrap_or_default() != 0,
        "consumer_priority",
    )?;
    convert::not_yet(!open.group.is_empty(), "group")?;
    let name_bytes = open.consumer_name.len();
    convert::at_most(name_bytes, limits::CONSUMER_NAME_BYTES_MAX, "consumer_name")?;
    // Frames never wait to be filled here, which is within every wait that may be asked for.
    convert::duration(
        open.max_batch_wait.as_ref(),
        limits::BATCH_WAIT_MAX,
        "max_batch_wait",
    )?;
    let lease = open.lease_duration.as_ref();
    let lease_ms = convert::millis(lease, 1..=core::LEASE_MS_MAX, "lease_duration")?;
    let session = match open.session_id.is_empty() {
        true => None,
        false => Some(convert::session_id(&open.session_id, "session_id")?),
    };
    Ok(ConsumeRequest {
        namespace: open.namespace.clone(),
        queue: open.queue.clone(),
        prefetch: prefetch(
            open.prefetch.unwrap_or(limits::PREFETCH_DEFAULT),
            "prefetch",
        )?,
        lease: lease_ms.map(Duration::from_millis),
        session,
        auto_ack: open.auto_ack,
    })
}

/// A credit inside its bounds.
pub(super) fn prefetch(asked: u32, field: &str) -> Checked<u32> {
    if !(1..=core::PREFETCH_MAX).contains(&asked) {
        let must = format!("1..{}, it is {asked}", core::PREFETCH_MAX);
        return Err(Problem::invalid_field(field, must));
    }
    Ok(asked)
}
