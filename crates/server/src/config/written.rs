use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ConfigError;

/// The configuration as someone wrote it: nothing is checked, everything may be missing. Flags fill
/// one, a file another, and [`WrittenConfig::or`] lays them over each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenConfig {
    /// Number of this node, 1 or more; never used again once its disk is gone.
    pub node_id: Option<u64>,
    /// Where clients are served, `host:port`.
    pub listen: Option<String>,
    /// Where other nodes are served, `host:port`.
    pub peer_listen: Option<String>,
    /// Folder of everything that this node keeps.
    pub data_dir: Option<PathBuf>,
    /// Whether server reflection is on (default: yes).
    pub reflection: Option<bool>,
    /// The first members, alike on each of them: `1=PEER_HOST:PORT@CLIENT_HOST:PORT,2=...`. Used by
    /// the very first start only.
    pub bootstrap: Option<String>,
    /// Identity of the cluster, 32 hexadecimal digits, alike on all nodes; used by the very first
    /// start only. Made from `bootstrap` where it is not given: give a random one where the same
    /// addresses have served another cluster before.
    pub cluster_id: Option<String>,
    /// Bounds of what clients may send.
    #[serde(default)]
    pub limits: WrittenLimits,
}

/// Bounds of what clients may send.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenLimits {
    /// Largest body in bytes (default 1 MiB, at most 16 MiB).
    pub body_bytes_max: Option<usize>,
    /// Most messages of a batch (default 100, at most 1,000).
    pub batch_messages_max: Option<usize>,
    /// Most bytes of a batch (default 4 MiB, at most 16 MiB).
    pub batch_bytes_max: Option<usize>,
}

impl WrittenConfig {
    /// Reads a TOML file; a key that is not known is an error.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |why: String| ConfigError::File {
            path: path.to_owned(),
            why,
        };
        let text = std::fs::read_to_string(path).map_err(|e| unreadable(e.to_string()))?;
        Self::parse(&text).map_err(unreadable)
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    /// This, and where it says nothing, what `other` says.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            node_id: self.node_id.or(other.node_id),
            listen: self.listen.or(other.listen),
            peer_listen: self.peer_listen.or(other.peer_listen),
            data_dir: self.data_dir.or(other.data_dir),
            reflection: self.reflection.or(other.reflection),
            bootstrap: self.bootstrap.or(other.bootstrap),
            cluster_id: self.cluster_id.or(other.cluster_id),
            limits: WrittenLimits {
                body_bytes_max: self.limits.body_bytes_max.or(other.limits.body_bytes_max),
                batch_messages_max: self
                    .limits
                    .batch_messages_max
                    .or(other.limits.batch_messages_max),
                batch_bytes_max: self.limits.batch_bytes_max.or(other.limits.batch_bytes_max),
            },
        }
    }
}
