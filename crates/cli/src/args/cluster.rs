//! The cluster: look at it, change who belongs to it.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Show the nodes: who leads, who is up, how far each one is
    Status {
        /// Show it again each second, until interrupted
        #[arg(long)]
        watch: bool,
    },
    /// Add a running node with an empty disk, as a learner; for a member: set its addresses
    ///
    /// A node that is started with --join does this by itself. One that is started with --cluster-id alone
    /// waits for it.
    Add {
        /// The number of the node; one that was never used
        node: u64,
        /// Where other nodes reach it
        #[arg(long, value_name = "ADDR")]
        peer: String,
        /// Where clients reach it
        #[arg(long, value_name = "ADDR")]
        client: String,
        /// Wait until it has caught up, up to --timeout
        #[arg(long)]
        wait: bool,
    },
    /// Make a learner a voter
    Promote {
        /// The node
        node: u64,
        /// Wait until it has caught up, up to --timeout
        #[arg(long)]
        wait: bool,
    },
    /// Make a voter a learner: it follows and has no vote
    Demote {
        /// The node
        node: u64,
    },
    /// Remove a node for good, up or down; its number is never used again
    #[command(alias = "rm")]
    Remove {
        /// The node
        node: u64,
    },
    /// Make another voter the leader
    Transfer {
        /// The node [default: the most complete of the others]
        node: Option<u64>,
    },
}
