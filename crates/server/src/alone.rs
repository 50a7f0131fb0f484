//! A node that hears of no majority: it can do nothing for its clients, which others may serve.

use std::sync::Arc;

use ticketrail_proto::error::{Problem, Reason};
use tokio::sync::watch;

use crate::limits;
use crate::node::Node;
use crate::services::has_quorum;

/// Whether this node has been without a quorum for longer than an election takes.
#[derive(Clone, Debug)]
pub(crate) struct Alone(Arc<watch::Sender<bool>>);

impl Default for Alone {
    /// It is not.
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Alone {
    /// It is, or not any more.
    pub(crate) fn set(&self, alone: bool) {
        let changed = |known: &mut bool| std::mem::replace(known, alone) != alone;
        if self.0.send_if_modified(changed) {
            tracing::warn!(alone, "a quorum was lost or found");
        }
    }

    /// It is.
    pub(crate) fn is(&self) -> bool {
        *self.0.borrow()
    }

    /// It is, and a look now finds no quorum either.
    fn is_still(&self, has_quorum: impl FnOnce() -> bool) -> bool {
        if self.is() && has_quorum() {
            // Found since the last look at it.
            self.set(false);
        }
        self.is()
    }

    /// Resolves when it is.
    pub(crate) async fn begins(&self) {
        let mut alone = self.0.subscribe();
        // The sender lives as long as this.
        let _ = alone.wait_for(|alone| *alone).await;
    }
}

impl Node {
    /// Refuses at once what would only wait in vain; nothing was done.
    pub(crate) fn check_quorum(&self) -> Result<(), Problem> {
        let has_quorum = || has_quorum(&self.broker.replica().status());
        match self.alone.is_still(has_quorum) {
            true => Err(self.towards(Problem::no_leader(limits::RETRY_AFTER))),
            false => Ok(()),
        }
    }

    /// What is told to a stream whose node lost its quorum.
    pub(crate) fn lost_quorum(&self) -> Problem {
        let message = "this node hears of no majority; whether what is not answered was done is not known: \
             repeat it at another node with the same sequences or receipts";
        let problem = Problem::new(Reason::OutcomeUnknown, message);
        self.towards(problem.retry_after(limits::RETRY_AFTER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_found_since_the_last_look_refuses_nothing() {
        let alone = Alone::default();
        alone.set(true);
        assert!(alone.is_still(|| false), "none is heard");
        assert!(!alone.is_still(|| true), "one is heard again");
        assert!(!alone.is(), "and that is known from then on");
    }

    #[test]
    fn a_node_that_has_a_quorum_looks_no_further() {
        assert!(!Alone::default().is_still(|| unreachable!("it is not asked for")));
    }
}
