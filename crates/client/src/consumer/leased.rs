//! A delivery that a consumer holds, and the answer to its settlement.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ticketrail_proto::v1::SettleOutcome;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::ledger::{Asker, Key, Wish};
use super::shared::Shared;
use crate::delivery::{Delivery, Receipt};
use crate::error::{Error, Result};
use crate::receive::Settlement;

/// A delivery that this consumer holds. It dereferences to [`Delivery`].
///
/// Settle it once. The settling methods do not need to be awaited: settlements travel in the background, many
/// in one frame; await one to know that it is committed. A `Leased` that is dropped keeps its lease
/// until it ends by itself, and then counts as failed.
#[derive(Debug)]
pub struct Leased {
    delivery: Delivery,
    lease: Lease,
}

/// The right to settle a delivery. Dropped without being used, it lets go of the lease, which then ends by itself.
#[derive(Debug)]
struct Lease {
    key: Key,
    receipt: Receipt,
    shared: Arc<Shared>,
    settled: bool,
}

impl Leased {
    pub(super) fn new(key: Key, delivery: Delivery, shared: Arc<Shared>) -> Self {
        let receipt = delivery.receipt().clone();
        let settled = false;
        let lease = Lease {
            key,
            receipt,
            shared,
            settled,
        };
        Self { delivery, lease }
    }

    /// Done: the message is removed for good.
    pub fn ack(self) -> Settling {
        self.settle(Settlement::Ack)
    }

    /// Failed: back to its old place in the queue, after the queue's backoff.
    pub fn nack(self) -> Settling {
        self.settle(Settlement::Nack(None))
    }

    /// Failed: back to its old place in the queue, after this time (0..1 year, whole milliseconds).
    pub fn nack_after(self, delay: Duration) -> Settling {
        self.settle(Settlement::Nack(Some(delay)))
    }

    /// Hopeless: to the dead-letter queue.
    pub fn reject(self) -> Settling {
        self.settle(Settlement::Reject)
    }

    /// Not started: back to its old place, and not counted.
    pub fn release(self) -> Settling {
        self.settle(Settlement::Release)
    }

    /// Settles it in this way; an [`Settlement::Extend`] only lets go of it. So does a duration that is out of its
    /// bounds: the answer is `INVALID_FIELD` then.
    pub fn settle(mut self, settlement: Settlement) -> Settling {
        self.lease.settled = settlement.check().is_ok();
        self.lease.wish(settlement)
    }

    /// Not done yet: the lease lasts so long from now (1 ms..12 h).
    pub fn extend(&self, lease: Duration) -> Settling {
        self.lease.wish(Settlement::Extend(lease))
    }

    /// A token that is cancelled when the lease is lost: stop that work, since somebody else may begin with it.
    ///
    /// It is cancelled when the cluster says so, when the session could not be taken along to another node, when the
    /// consumer ended, or when the lease was not extended in time and no node is there to ask. It is not cancelled by
    /// a settlement.
    pub fn lease_lost(&self) -> CancellationToken {
        self.lease.shared.lease_lost(&self.lease.receipt)
    }

    /// The delivery for a handler, and the lease for whoever calls it.
    pub(crate) fn split(self) -> (Delivery, Worked) {
        (self.delivery, Worked(self.lease))
    }
}

impl Lease {
    fn wish(&self, settlement: Settlement) -> Settling {
        let (reply, answer) = oneshot::channel();
        if let Err(error) = settlement.check() {
            // There is somebody to hear of it: `answer` is still here.
            let _ = reply.send(Err(error));
            return Settling { answer };
        }
        let asker = Asker::Caller(reply);
        let wish = Wish::new(self.key, self.receipt.clone(), settlement, asker);
        self.shared.wish(wish);
        Settling { answer }
    }
}

impl Deref for Leased {
    type Target = Delivery;

    fn deref(&self) -> &Delivery {
        &self.delivery
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.settled {
            self.shared.forget(self.key, &self.receipt);
        }
    }
}

/// What a handler works on, to be settled by the worker that called it. Dropped without being settled, as when
/// its handler is stopped, it is given back as failed.
#[derive(Debug)]
pub(crate) struct Worked(Lease);

impl Worked {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// `false` where the lease was lost, and there is nothing to settle.
    pub(crate) fn settle(mut self, settlement: Settlement, panicked: bool) -> bool {
        self.settle_once(settlement, panicked)
    }

    fn settle_once(&mut self, settlement: Settlement, panicked: bool) -> bool {
        self.0.settled = true;
        let Lease { key, receipt, .. } = &self.0;
        self.0
            .shared
            .settle_worked(*key, receipt, settlement, panicked)
    }
}

impl Drop for Worked {
    fn drop(&mut self) {
        if !self.0.settled {
            self.settle_once(Settlement::Nack(None), false);
        }
    }
}

/// The answer to a settlement, when it is committed. Dropping it takes nothing back.
///
/// [`SettleOutcome::LeaseLost`] means that the message may be worked on again by someone else.
///
/// # Errors
///
/// `INVALID_FIELD` where a duration is out of its bounds: then nothing was sent. `CLOSED` where the consumer ended
/// before the answer came: whether it was done is not known then. What another answer of the cluster says, such as
/// `QUEUE_NOT_FOUND`. Where no node can be asked, it is tried again until the consumer ends.
#[derive(Debug)]
pub struct Settling {
    answer: oneshot::Receiver<Result<SettleOutcome>>,
}

impl Future for Settling {
    type Output = Result<SettleOutcome>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.answer).poll(context);
        answer.map(|answer| answer.unwrap_or_else(|_| Err(Error::closed("consumer"))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Consumer;
    use super::*;

    #[tokio::test]
    async fn a_duration_out_of_bounds_is_answered_here_and_never_sent() {
        let mut consumer = Consumer::holding(1);
        let leased = consumer.next().await.unwrap().unwrap();
        let shared = consumer.shared().clone();
        let receipt = leased.receipt().clone();
        for extension in [Duration::ZERO, Duration::MAX] {
            let error = leased.extend(extension).await.unwrap_err();
            assert_eq!(error.reason(), "INVALID_FIELD");
        }
        assert!(shared.lock().ledger.leases().is_held(&receipt));
        let error = leased.nack_after(Duration::MAX).await.unwrap_err();
        assert_eq!(error.reason(), "INVALID_FIELD");
        let mut state = shared.lock();
        assert!(state.ledger.next_frame().is_empty());
        assert!(!state.ledger.leases().is_held(&receipt), "it is let go of");
    }
}
