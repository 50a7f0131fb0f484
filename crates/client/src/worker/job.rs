//! What a handler is called with.

use std::ops::Deref;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::consumer::Shared;
use crate::delivery::Delivery;

/// A delivery that a handler works on. It dereferences to [`Delivery`].
///
/// It is settled by what the handler returns; see [`Worker`](crate::Worker).
#[derive(Debug)]
pub struct Job {
    delivery: Delivery,
    shared: Arc<Shared>,
}

impl Job {
    pub(super) fn new(delivery: Delivery, shared: Arc<Shared>) -> Self {
        Self { delivery, shared }
    }

    /// A token that is cancelled when the lease is lost: stop then, since somebody else may begin with the message. What
    /// the handler returns after that settles nothing.
    ///
    /// It is cancelled when the cluster says so, when the session could not be taken along to another node, and when
    /// the consumer ended. It is also cancelled when the lease could not be extended before its end, as far as is
    /// known here; if it turns out to last, what the handler returns still counts.
    ///
    /// ```no_run
    /// # use ticketrail_client::{Client, Failure};
    /// # async fn cook(_: &[u8]) -> Result<(), Failure> { Ok(()) }
    /// # async fn example(client: Client) -> ticketrail_client::Result<()> {
    /// client
    ///     .consumer("orders")
    ///     .handle(|job| async move {
    ///         match job.lease_lost().run_until_cancelled(cook(job.body())).await {
    ///             Some(cooked) => cooked,
    ///             None => Err(Failure::new("somebody else cooks it")),
    ///         }
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn lease_lost(&self) -> CancellationToken {
        self.shared.lease_lost(self.delivery.receipt())
    }
}

impl Deref for Job {
    type Target = Delivery;

    fn deref(&self) -> &Delivery {
        &self.delivery
    }
}
