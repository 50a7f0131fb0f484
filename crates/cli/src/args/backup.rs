//! A copy of a cluster, and a new cluster from it.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Serve;

/// Take a consistent copy of a running cluster to a folder, or check one
///
/// Everything that was confirmed before is in it. The copy is made by a follower that is among the
/// endpoints, by the leader only where there is no other. It is checked when it is complete; without its file
/// `manifest` a folder is no backup.
#[derive(Debug, Clone, Args)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
pub(crate) struct Backup {
    /// The folder: empty, or not there yet
    #[arg(long, value_name = "FOLDER", required = true)]
    pub(crate) to: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) verb: Option<BackupVerb>,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum BackupVerb {
    /// Read all of a backup and check every byte, and that each message in it is whole
    Verify {
        /// The folder
        folder: PathBuf,
    },
}

/// Make the data folder of a new cluster's first node from a backup
///
/// Takes the settings of `serve`, by flags, environment or --config, without `bootstrap` and `join`. Start the
/// node with `serve` and the same settings; it is the only member of a new cluster. Others come in with
/// `serve --join` and empty data folders. The backup is checked as a whole before anything is written.
#[derive(Debug, Clone, Args)]
pub(crate) struct Restore {
    /// The folder of the backup
    #[arg(long, value_name = "FOLDER")]
    pub(crate) from: PathBuf,
    #[command(flatten)]
    pub(crate) serve: Serve,
}
