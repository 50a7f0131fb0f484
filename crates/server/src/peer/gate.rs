use ticketrail_proto::error::{Problem, Reason};
use tokio::sync::watch;

/// Keeps a node with an empty disk out of Raft until it is known that it may be who it says: a node
/// that lost its disk has forgotten what it voted for and what it acknowledged.
#[derive(Debug)]
pub(crate) struct Gate(watch::Sender<bool>);

impl Gate {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// The node takes part from now on.
    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    /// Resolves when the node takes part.
    pub(crate) async fn opened(&self) {
        // The sender is ours, so it cannot be gone.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }

    /// Refuses while the node takes no part.
    pub(crate) fn check(&self) -> Result<(), Problem> {
        if *self.0.borrow() {
            return Ok(());
        }
        let message = "this node's disk is empty and it has no part in the cluster yet";
        Err(Problem::new(Reason::NotBootstrapped, message))
    }
}
