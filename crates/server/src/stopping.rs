//! How a node stops: the phases that calls and streams watch, and what clients are told.

use std::sync::Arc;
use std::time::Duration;

use ticketrail_core::NodeId;
use ticketrail_proto::error::{Problem, Reason};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::limits;
use crate::node::Node;

/// The phases of a stop, each begun once, in this order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stopping {
    refuses: CancellationToken,
    drains: CancellationToken,
    ends: CancellationToken,
}

impl Stopping {
    /// New streams and long polls are refused; health says NOT_SERVING.
    pub(crate) fn refuse(&self) {
        self.refuses.cancel();
    }

    /// Streams bring what is under way to its end and send their clients elsewhere; connections take
    /// nothing new.
    pub(crate) fn drain(&self) {
        self.refuse();
        self.drains.cancel();
    }

    /// Streams end as they are.
    pub(crate) fn end(&self) {
        self.drain();
        self.ends.cancel();
    }

    /// The first phase has begun.
    pub(crate) fn is_refusing(&self) -> bool {
        self.refuses.is_cancelled()
    }

    /// Resolves when the first phase begins.
    pub(crate) fn refuses(&self) -> WaitForCancellationFuture<'_> {
        self.refuses.cancelled()
    }

    /// Resolves when the second phase begins.
    pub(crate) fn drains(&self) -> WaitForCancellationFuture<'_> {
        self.drains.cancelled()
    }

    /// Resolves when the last phase begins.
    pub(crate) fn ends(&self) -> WaitForCancellationFuture<'_> {
        self.ends.cancelled()
    }
}

/// The tasks behind the streams of clients, counted.
#[derive(Clone, Debug)]
pub(crate) struct Streams(Arc<watch::Sender<usize>>);

impl Default for Streams {
    /// None.
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Streams {
    /// Runs the task of a stream.
    pub(crate) fn spawn(&self, serve: impl Future<Output = ()> + Send + 'static) {
        self.0.send_modify(|count| *count += 1);
        let open = Open(self.clone());
        tokio::spawn(async move {
            serve.await;
            drop(open);
        });
    }

    /// Resolves when no stream is open.
    pub(crate) async fn ended(&self) {
        let mut count = self.0.subscribe();
        // The sender lives as long as this.
        let _ = count.wait_for(|count| *count == 0).await;
    }
}

/// One stream, however it ends.
struct Open(Streams);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

impl Node {
    /// Refuses what should not begin on a node that stops.
    pub(crate) fn check_serving(&self) -> Result<(), Problem> {
        match self.stopping.is_refusing() {
            true => Err(self.shutting_down()),
            false => Ok(()),
        }
    }

    /// What is told to calls and streams that do not begin, or are over, because this node stops.
    pub(crate) fn shutting_down(&self) -> Problem {
        let message = "this node stops; go on at another node";
        self.stops(Reason::ShuttingDown, message)
    }

    /// What is told to a stream that a stop cuts off before all that it took is answered.
    pub(crate) fn cut_off(&self) -> Problem {
        let message = "this node stops; whether what is not answered was done is not known: repeat it \
             at another node with the same sequences or receipts";
        self.stops(Reason::OutcomeUnknown, message)
    }

    fn stops(&self, reason: Reason, message: &str) -> Problem {
        self.towards(Problem::new(reason, message).retry_after(limits::RETRY_AFTER))
    }

    /// Adds where the other nodes are.
    pub(crate) fn towards(&self, problem: Problem) -> Problem {
        match self.elsewhere() {
            nodes if nodes.is_empty() => problem,
            nodes => problem.with("nodes", nodes.join(",")),
        }
    }

    /// Where other nodes serve clients: the leader first, then those that were heard of last.
    pub(crate) fn elsewhere(&self) -> Vec<String> {
        let view = self.broker.cluster();
        let silence = |id: NodeId| {
            let node = view.nodes.iter().find(|node| node.node == id);
            let silent_ms = node.and_then(|node| node.silent_ms);
            silent_ms.map_or(Duration::MAX, Duration::from_millis)
        };
        let others = view.status.members.iter().filter(|(id, _)| **id != self.id);
        let mut others: Vec<_> = others
            .map(|(id, member)| {
                let follows = view.status.leader != Some(*id);
                ((follows, silence(*id)), member.address.client.clone())
            })
            .collect();
        others.sort_by_key(|(rank, _)| *rank);
        others.into_iter().map(|(_, address)| address).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_phase_brings_those_before_it() {
        let stopping = Stopping::default();
        assert!(!stopping.is_refusing());
        stopping.drain();
        assert!(stopping.is_refusing() && !stopping.ends.is_cancelled());
        stopping.end();
        stopping.refuses().await;
        stopping.drains().await;
        stopping.ends().await;
    }

    #[tokio::test]
    async fn streams_have_ended_when_the_last_one_has() {
        let streams = Streams::default();
        streams.ended().await;
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        streams.spawn(async move {
            let _ = ended.await;
        });
        assert!(futures::FutureExt::now_or_never(streams.ended()).is_none());
        drop(end);
        streams.ended().await;
    }
}
