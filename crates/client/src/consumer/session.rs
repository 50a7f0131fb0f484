//! One open stream of a consumer.

use std::time::Duration;

use ticketrail_proto::v1;
use ticketrail_proto::v1::consume_request::Frame as Out;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::time::Instant;
use tonic::Streaming;

use super::leases::extend_after;
use crate::error::{CONNECTION_BROKEN, Error, Result};
use crate::pool::Pick;

/// How long a settlement may wait for its answer before another node is asked.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long a node that stops may take to answer the settlements that were sent to it, before the session goes
/// to another node without their answers.
const LEAVE_MAX: Duration = Duration::from_secs(1);

pub(super) struct Session {
    pub(super) outbound: mpsc::Sender<v1::ConsumeRequest>,
    pub(super) inbound: Streaming<v1::ConsumeResponse>,
    pub(super) pick: Pick,
    /// Since when a settlement waits for an answer.
    pub(super) waiting_since: Option<Instant>,
    pub(super) next_extension: Instant,
    /// Since when the node is known to stop.
    pub(super) leaving_since: Option<Instant>,
    /// The node was asked for no more deliveries; and whether to take all back.
    stopped: Option<Stopped>,
    /// None will follow.
    pub(super) drained: bool,
}

/// What becomes of the deliveries that are held when no more are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// They are settled one by one.
    Settles,
    /// The node gives all back, uncounted.
    GivesBack,
}

impl Session {
    pub(super) fn new(
        outbound: mpsc::Sender<v1::ConsumeRequest>,
        inbound: Streaming<v1::ConsumeResponse>,
        pick: Pick,
    ) -> Self {
        Self {
            outbound,
            inbound,
            pick,
            waiting_since: None,
            next_extension: Instant::now(),
            leaving_since: None,
            stopped: None,
            drained: false,
        }
    }

    pub(super) async fn send(&self, frame: Out) -> Result<()> {
        let frame = v1::ConsumeRequest { frame: Some(frame) };
        match self.outbound.send_timeout(frame, SILENCE_MAX).await {
            Ok(()) => Ok(()),
            Err(SendTimeoutError::Timeout(_)) => {
                Err(Error::timed_out(&self.pick.endpoint, SILENCE_MAX))
            }
            Err(SendTimeoutError::Closed(_)) => Err(ended(&self.pick)),
        }
    }

    /// Asks for no more deliveries, once.
    pub(super) async fn stop(&mut self, stopped: Stopped) -> Result<()> {
        if self.stopped.is_some() {
            return Ok(());
        }
        self.stopped = Some(stopped);
        let release_unsettled = stopped == Stopped::GivesBack;
        self.send(Out::Drain(v1::ConsumeDrain { release_unsettled }))
            .await
    }

    /// All that is held goes back by itself.
    pub(super) fn gives_back(&self) -> bool {
        self.stopped == Some(Stopped::GivesBack)
    }

    /// Has leases extended in time of which the first ends then: those of a session that was away for a while.
    pub(super) fn extend_before(&mut self, first_end: Option<Instant>, lease: Duration) {
        let due = first_end.and_then(|end| end.checked_sub(extend_after(lease)));
        self.next_extension = due.map_or(self.next_extension, |due| due.min(self.next_extension));
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving_since.is_some()
    }

    pub(super) fn has_left(&self) -> bool {
        self.leaving_since
            .is_some_and(|since| since.elapsed() >= LEAVE_MAX)
    }

    pub(super) fn is_silent(&self) -> bool {
        self.waiting_since
            .is_some_and(|since| since.elapsed() >= SILENCE_MAX)
    }

    pub(super) fn wake(&self) -> Duration {
        let extension = self
            .next_extension
            .saturating_duration_since(Instant::now());
        let longest = match self.leaving_since {
            Some(since) => LEAVE_MAX.saturating_sub(since.elapsed()),
            None => Duration::from_secs(1),
        };
        extension.min(longest).max(Duration::from_millis(10))
    }
}

pub(super) fn ended(pick: &Pick) -> Error {
    let message = format!("{} ended the stream", pick.endpoint);
    Error::new(tonic::Code::Unavailable, CONNECTION_BROKEN, message)
}
