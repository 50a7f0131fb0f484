//! Backups on this machine: what `ticketrail backup` writes and checks, and the data folder that
//! `ticketrail restore` makes of one. No cluster is asked here.

use std::path::{Path, PathBuf};

use thiserror::Error;
use ticketrail_core::{DiskId, NodeId};
use ticketrail_raft::{Heir, PeerAddress};

pub use ticketrail_raft::{BackupContents, check_backup};
pub use ticketrail_storage::{BackupError, BackupManifest, BackupWriter, Identity, LogPosition};

use crate::config::{Bootstrap, Entrance, ServerConfig, is_reachable};

/// Why nothing was restored.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The configuration says how to come into another cluster.
    #[error(
        "leave out `{setting}`: a restored node is the only member of a new cluster; the others come in through it, with \
         `join` and empty data folders"
    )]
    Entrance {
        /// Which.
        setting: &'static str,
    },
    /// Others could not come in.
    #[error("`{setting}` must be given, at an address that others reach, not `{found}`")]
    Unreachable {
        /// Which.
        setting: &'static str,
        /// What it is.
        found: String,
    },
    /// The backup or the data folder.
    #[error(transparent)]
    Failed(#[from] ticketrail_raft::RestoreError),
}

/// What was restored.
#[derive(Clone, Debug)]
pub struct Restored {
    /// What the backup holds.
    pub contents: BackupContents,
    /// The new cluster.
    pub cluster_id: u128,
    /// Its only member.
    pub node: NodeId,
    /// Its data folder.
    pub data_dir: PathBuf,
}

/// Makes the data folder of a configuration from the backup in `folder`: the node is the only member
/// of a new cluster. Checks all of the backup first. Blocks.
///
/// # Errors
/// [`RestoreError`]
pub fn restore(config: &ServerConfig, folder: &Path) -> Result<Restored, RestoreError> {
    let heir = Heir {
        cluster_id: config
            .cluster_id
            .unwrap_or_else(|| rand::random::<u128>().max(1)),
        node: config.node,
        address: address(config)?,
        disk: DiskId(rand::random::<u128>().max(1)),
    };
    let contents = ticketrail_raft::restore_backup(folder, &config.data_dir, &heir)?;
    Ok(Restored {
        contents,
        cluster_id: heir.cluster_id,
        node: heir.node,
        data_dir: config.data_dir.clone(),
    })
}

/// Where the node is reached: written into the new cluster as its only member's address.
fn address(config: &ServerConfig) -> Result<PeerAddress, RestoreError> {
    let address = match &config.entrance {
        Entrance::Join { .. } => return Err(RestoreError::Entrance { setting: "join" }),
        Entrance::Bootstrap(Bootstrap { members, .. }) if members.len() > 1 => {
            let setting = "bootstrap";
            return Err(RestoreError::Entrance { setting });
        }
        Entrance::Bootstrap(_) | Entrance::None => config.address.clone(),
    };
    for (setting, found) in [
        ("advertise", &address.client),
        ("peer_advertise", &address.peer),
    ] {
        if !is_reachable(found) {
            let found = found.clone();
            return Err(RestoreError::Unreachable { setting, found });
        }
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::WrittenConfig;

    fn refused(more: &str) -> String {
        let text = format!("node_id = 1\ndata_dir = \"nowhere\"\n{more}");
        let written: WrittenConfig = toml::from_str(&text).unwrap();
        let config = written.validate().unwrap();
        let error = restore(&config, Path::new("no-backup")).unwrap_err();
        error.to_string()
    }

    #[test]
    fn a_configuration_that_is_not_for_a_first_member_is_refused() {
        let listens = "listen = \"a:1\"\npeer_listen = \"a:2\"\n";
        let join = refused(&format!("{listens}join = \"b:1\"\n"));
        assert!(join.contains("leave out `join`"), "{join}");
        let others = refused(&format!("{listens}bootstrap = \"1=a:2@a:1,2=b:2@b:1\"\n"));
        assert!(others.contains("leave out `bootstrap`"), "{others}");
        let anywhere = refused("listen = \"0.0.0.0:1\"\npeer_listen = \"a:2\"\n");
        assert!(anywhere.contains("`advertise`"), "{anywhere}");
        // What is left is the folder.
        let alone = refused(&format!("{listens}bootstrap = \"1=a:2@a:1\"\n"));
        assert!(alone.contains("no `manifest`"), "{alone}");
        assert!(!Path::new("nowhere").exists());
    }
}
