//! Settling leases by receipt, on any node.

use ticketrail_core::command::{Settle, SettleRange};
use ticketrail_core::limits::PREFETCH_MAX;
use ticketrail_core::outcome::SettleException;
use ticketrail_core::{Command, Outcome, Position};
use ticketrail_proto::error::Problem;
use tokio::time::Instant;

use crate::broker::{Broker, Inner};
use crate::publish::unexpected;
use crate::route::Haste;

/// Messages that the ranges of one settle may name, repetitions included: while a settle is applied,
/// everything else waits.
pub const SETTLE_MESSAGES_MAX: u64 = 4 * PREFETCH_MAX as u64;

/// What became of a settle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Commit position.
    pub position: Position,
    /// What was not OK, in request order.
    pub exceptions: Vec<SettleException>,
}

impl Broker {
    /// Settles ranges of leases, each on its own.
    ///
    /// # Errors
    /// No range, too many, or too many messages in them; no leader in time; outcome unknown (repeat it: what was settled by
    /// the same receipt says so).
    pub async fn settle(
        &self,
        ranges: Vec<SettleRange>,
        haste: Haste,
        deadline: Instant,
    ) -> Result<Settled, Problem> {
        self.inner.settle(ranges, haste, deadline).await
    }
}

impl Inner {
    pub(crate) async fn settle(
        &self,
        ranges: Vec<SettleRange>,
        haste: Haste,
        deadline: Instant,
    ) -> Result<Settled, Problem> {
        let messages: u64 = ranges.iter().map(|range| u64::from(range.count)).sum();
        if messages > SETTLE_MESSAGES_MAX {
            let must =
                format!("of at most {SETTLE_MESSAGES_MAX} messages together, not {messages}");
            return Err(Problem::invalid_field("ranges", must));
        }
        let command = Command::Settle(Settle { ranges });
        match self.submit_with(&command, &[], haste, deadline).await? {
            (position, Outcome::Settled { exceptions }) => Ok(Settled {
                position,
                exceptions,
            }),
            (_, other) => Err(unexpected(&other)),
        }
    }
}
