//! After a confirmed acknowledgement a message is not granted again; what nobody tried to settle is
//! still there.

use std::collections::{BTreeMap, BTreeSet};

use ticketrail_core::{Fence, MessageId, QueueId};

use super::Violation;

/// Deliveries and settles, as the clients saw them.
#[derive(Default)]
pub struct Deliveries {
    /// By message and queue: the fence of the lease that was acknowledged.
    acked: BTreeMap<(MessageId, QueueId), Fence>,
    settle_tried: BTreeSet<MessageId>,
}

/// What a delivery was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// As it should be.
    Well,
    /// A grant from before an acknowledgement, which came to the client after it: a node that lags
    /// hands it out, and its token is no longer any good.
    Late,
}

impl Deliveries {
    /// A message came to a client under this fence.
    ///
    /// # Errors
    /// It was granted after its acknowledgement was confirmed.
    pub fn delivered(
        &self,
        id: MessageId,
        queue: QueueId,
        fence: Fence,
    ) -> Result<Delivered, Violation> {
        match self.acked.get(&(id, queue)) {
            Some(acked) if fence > *acked => Err(format!(
                "message {id} was granted again ({fence:?}) after its confirmed ack ({acked:?})"
            )),
            Some(_) => Ok(Delivered::Late),
            None => Ok(Delivered::Well),
        }
    }

    /// A client is about to settle a message for good.
    pub fn settle_tried(&mut self, id: MessageId) {
        self.settle_tried.insert(id);
    }

    /// A client was told that a message is acknowledged.
    pub fn acked(&mut self, id: MessageId, queue: QueueId, fence: Fence) {
        self.acked.insert((id, queue), fence);
    }

    /// When all is over: what was confirmed and not settled is there, what was acknowledged is not.
    ///
    /// # Errors
    /// Messages that are lost, or back.
    pub fn check_present(
        &self,
        confirmed: impl Iterator<Item = MessageId>,
        present: &BTreeSet<MessageId>,
    ) -> Result<(), Violation> {
        let lost: Vec<_> = confirmed
            .filter(|id| !self.settle_tried.contains(id) && !present.contains(id))
            .collect();
        if !lost.is_empty() {
            return Err(format!(
                "{} confirmed messages are lost: {lost:?}",
                lost.len()
            ));
        }
        let back: Vec<_> = self
            .acked
            .keys()
            .map(|(id, _)| id)
            .filter(|id| present.contains(id))
            .collect();
        if !back.is_empty() {
            return Err(format!(
                "{} acknowledged messages are back: {back:?}",
                back.len()
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const QUEUE: QueueId = QueueId(7);

    #[test]
    fn a_grant_after_the_ack_is_told_and_one_from_before_it_is_late() {
        let mut deliveries = Deliveries::default();
        let id = MessageId(1);
        assert_eq!(
            deliveries.delivered(id, QUEUE, Fence(4)),
            Ok(Delivered::Well)
        );
        deliveries.acked(id, QUEUE, Fence(5));
        assert_eq!(
            deliveries.delivered(id, QUEUE, Fence(4)),
            Ok(Delivered::Late)
        );
        assert!(deliveries.delivered(id, QUEUE, Fence(6)).is_err());
    }

    #[test]
    fn the_lost_and_the_returned_are_told() {
        let mut deliveries = Deliveries::default();
        deliveries.settle_tried(MessageId(1));
        deliveries.acked(MessageId(1), QUEUE, Fence(1));
        let confirmed = || [MessageId(1), MessageId(2)].into_iter();
        let present = |ids: &[u64]| ids.iter().map(|id| MessageId(*id)).collect();
        deliveries
            .check_present(confirmed(), &present(&[2]))
            .unwrap();
        assert!(
            deliveries
                .check_present(confirmed(), &present(&[]))
                .is_err()
        );
        assert!(
            deliveries
                .check_present(confirmed(), &present(&[1, 2]))
                .is_err()
        );
    }
}
