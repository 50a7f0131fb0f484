//! When a publish stream must pause: tells its client, and tells it again while it lasts, so that the
//! silence is not taken for a broken connection.

use std::time::Duration;

use ticketrail_broker::{Admission, Blocked, Purse};
use ticketrail_proto::error::Reason;
use ticketrail_proto::v1;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::convert::duration_to_proto;
use crate::limits;
use crate::listen::MessageShares;

/// What a stream may do, and what its client was told.
pub(super) struct Flow {
    blocked: watch::Receiver<Option<Blocked>>,
    /// Since when the stream's next message waits for room.
    waiting: watch::Receiver<Option<Instant>>,
    purse: Purse,
    /// When the client is told again, while it is told to pause.
    again_at: Option<Instant>,
}

impl Flow {
    /// Of a stream whose messages are counted so.
    pub(super) fn new(admission: &Admission, shares: &MessageShares) -> Self {
        Self {
            blocked: admission.blocked(),
            waiting: shares.waiting(),
            purse: admission.publish.of_streams(),
            again_at: None,
        }
    }

    /// Nothing is to be read from the client now.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.borrow().is_some()
    }

    /// The next word to the client, when one is due. Cancel safe.
    pub(super) async fn next(&mut self) -> v1::PublishFlow {
        loop {
            let now = Instant::now();
            let due = match (self.pause(now), self.again_at) {
                (Some(retry_after), again_at) if again_at.is_none_or(|at| at <= now) => {
                    self.again_at = Some(now + limits::FLOW_AGAIN);
                    return paused(retry_after);
                }
                (None, Some(_)) => {
                    self.again_at = None;
                    return open();
                }
                (Some(_), again_at) => again_at,
                (None, None) => self.waiting_told_at(),
            };
            let wake = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let (blocked, waiting) = (self.blocked.changed(), self.waiting.changed());
            tokio::select! {
                // An error: the node stops, which the stream is told otherwise.
                changed = blocked => if changed.is_err() { std::future::pending().await },
                changed = waiting => if changed.is_err() { std::future::pending().await },
                () = wake => {}
            }
        }
    }

    /// How long the client shall pause, if it shall.
    fn pause(&self, now: Instant) -> Option<Duration> {
        if let Some(blocked) = *self.blocked.borrow() {
            return Some(blocked.retry_after());
        }
        let told_at = self.waiting_told_at()?;
        (told_at <= now).then(|| self.purse.retry_after())
    }

    fn waiting_told_at(&self) -> Option<Instant> {
        let since = *self.waiting.borrow();
        since.map(|since| since + limits::FLOW_PATIENCE)
    }
}

fn paused(retry_after: Duration) -> v1::PublishFlow {
    v1::PublishFlow {
        credit_messages: 0,
        credit_bytes: 0,
        blocked: true,
        reason: Reason::Overloaded.as_str().to_owned(),
        retry_after: Some(duration_to_proto(retry_after)),
    }
}

fn open() -> v1::PublishFlow {
    v1::PublishFlow {
        credit_messages: limits::STREAM_CREDIT_MESSAGES,
        credit_bytes: limits::STREAM_CREDIT_BYTES,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use ticketrail_broker::AdmissionConfig;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_told_again_and_again_and_its_end_once() {
        let admission = Admission::new(AdmissionConfig {
            disk_free_bytes_min: 100,
            disk_free_percent_min: 0,
            ..AdmissionConfig::default()
        });
        let request = tonic::Request::new(());
        let shares = MessageShares::of(&request);
        let mut flow = Flow::new(&admission, &shares);
        assert!(flow.next().now_or_never().is_none());
        admission.disk_measured(99, 1_000);
        assert!(flow.is_blocked());
        let told = flow.next().now_or_never().unwrap();
        assert!(told.blocked && told.credit_messages == 0 && told.retry_after.is_some());
        assert_eq!(told.reason, "OVERLOADED");
        assert!(flow.next().now_or_never().is_none());
        let before = Instant::now();
        assert!(flow.next().await.blocked);
        assert_eq!(before.elapsed(), limits::FLOW_AGAIN);
        admission.disk_measured(900, 1_000);
        let told = flow.next().now_or_never().unwrap();
        assert!(!told.blocked && told.credit_messages == limits::STREAM_CREDIT_MESSAGES);
        assert!(flow.next().now_or_never().is_none());
    }
}
