//! What became of the messages of a worker.

use ticketrail_proto::v1::SettleOutcome;

use crate::error::Result;
use crate::receive::Settlement;

/// Counts of what a [`Worker`](crate::Worker) did so far.
///
/// When it has ended, `begun` is the sum of `acknowledged`, `nacked`, `rejected`, `lost` and `unanswered`; before,
/// the rest is under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkSummary {
    /// Deliveries that a handler was called with.
    pub begun: u64,
    /// Acknowledged: the handler returned `Ok`, and that is committed.
    pub acknowledged: u64,
    /// Given back as failed, to be delivered again: the handler returned `Err`, panicked, or did not end within
    /// the drain's time.
    pub nacked: u64,
    /// Sent to the dead letters: the handler returned [`Failure::reject`](crate::Failure::reject).
    pub rejected: u64,
    /// Handlers that panicked.
    pub panicked: u64,
    /// Not settled, since the lease was lost before: somebody else works on the message, or did.
    pub lost: u64,
    /// Settled without an answer: whether it was done is not known. The message may come again.
    pub unanswered: u64,
    /// Given back before any handler saw them; these are not counted as deliveries.
    pub released: u64,
}

impl WorkSummary {
    /// What a settlement of a worker came to.
    pub(super) fn settled(&mut self, settlement: Settlement, outcome: &Result<SettleOutcome>) {
        let done = match outcome {
            Ok(SettleOutcome::Ok | SettleOutcome::AlreadySettled) => match settlement {
                Settlement::Ack => &mut self.acknowledged,
                Settlement::Nack(_) => &mut self.nacked,
                Settlement::Reject => &mut self.rejected,
                Settlement::Release => &mut self.released,
                Settlement::Extend(_) => return,
            },
            // Nobody had begun: it comes again, and that is all.
            _ if settlement == Settlement::Release => return,
            Ok(_) => &mut self.lost,
            Err(_) => &mut self.unanswered,
        };
        *done += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn what_was_begun_ends_in_one_count_each() {
        let mut summary = WorkSummary::default();
        let settlements = [
            (Settlement::Ack, Ok(SettleOutcome::Ok)),
            (Settlement::Ack, Ok(SettleOutcome::AlreadySettled)),
            (Settlement::Nack(None), Ok(SettleOutcome::Ok)),
            (Settlement::Reject, Ok(SettleOutcome::Ok)),
            (Settlement::Ack, Ok(SettleOutcome::LeaseLost)),
            (Settlement::Nack(None), Ok(SettleOutcome::NotFound)),
            (Settlement::Ack, Err(Error::closed("consumer"))),
            (Settlement::Release, Ok(SettleOutcome::Ok)),
            (Settlement::Release, Ok(SettleOutcome::LeaseLost)),
            (Settlement::Release, Err(Error::closed("consumer"))),
        ];
        for (settlement, outcome) in settlements {
            summary.settled(settlement, &outcome);
        }
        let expected = WorkSummary {
            acknowledged: 2,
            nacked: 1,
            rejected: 1,
            lost: 2,
            unanswered: 1,
            released: 1,
            ..WorkSummary::default()
        };
        assert_eq!(summary, expected);
    }
}
