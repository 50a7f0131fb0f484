//! The end of a node that stops in order: long polls go home with what there is, and the log hears of
//! the connections that ended here, so that the others need not find out by this node's silence.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::broker::{Broker, Inner};

/// What a stop waits for.
#[derive(Debug)]
pub(crate) struct Farewell {
    /// Nobody waits for messages any more.
    begun: watch::Sender<bool>,
    /// Ends of connections that are on their way to the log.
    detaching: watch::Sender<usize>,
}

impl Default for Farewell {
    fn default() -> Self {
        Self {
            begun: watch::Sender::new(false),
            detaching: watch::Sender::new(0),
        }
    }
}

impl Farewell {
    /// Resolves when the stop has begun.
    pub(crate) async fn begun(&self) {
        let mut begun = self.begun.subscribe();
        // The sender lives as long as this.
        let _ = begun.wait_for(|begun| *begun).await;
    }
}

/// The end of a connection is on its way for as long as this lives.
pub(crate) struct Detaching(Arc<Inner>);

impl Detaching {
    pub(crate) fn begin(inner: &Arc<Inner>) -> Self {
        inner.farewell.detaching.send_modify(|count| *count += 1);
        Self(Arc::clone(inner))
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }
}

impl Drop for Detaching {
    fn drop(&mut self) {
        self.0.farewell.detaching.send_modify(|count| *count -= 1);
    }
}

impl Broker {
    /// The node stops soon: long polls are answered at once, empty where nothing is ready.
    pub fn begin_farewell(&self) {
        self.inner.farewell.begun.send_replace(true);
    }

    /// Waits until the log knows of all connections that ended here; `false`: not by `deadline`.
    pub async fn end_farewell(&self, deadline: Instant) -> bool {
        let mut detaching = self.inner.farewell.detaching.subscribe();
        let all = detaching.wait_for(|count| *count == 0);
        timeout_at(deadline, all).await.is_ok()
    }
}
