//! The health of nodes.

use clap::Args;

/// Say whether clients should be sent to a node: for health checks of containers and scripts
///
/// Each of --endpoints is asked. The exit code is 0 when all of them are ready, else 3.
#[derive(Debug, Clone, Args)]
pub(crate) struct Health {
    /// Ask only whether the process lives, with or without a majority
    #[arg(long)]
    pub(crate) live: bool,
}
