use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{ConfigError, WrittenSnapshots, WrittenTracing};

/// The configuration as someone wrote it: nothing is checked, everything may be missing. Flags fill
/// one, a file another, and [`WrittenConfig::or`] lays them over each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenConfig {
    /// Number of this node; never used again once its disk is gone (required; at least 1).
    pub node_id: Option<u64>,
    /// Where clients are served, `host:port` (required).
    pub listen: Option<String>,
    /// Where other nodes are served, `host:port`; peers are trusted, so keep it away from clients
    /// (required).
    pub peer_listen: Option<String>,
    /// Folder of everything that this node keeps (required).
    pub data_dir: Option<PathBuf>,
    /// Whether clients may ask the server for its protos (default `true`).
    pub reflection: Option<bool>,
    /// The first members, alike on each of them: `1=PEER_HOST:PORT@CLIENT_HOST:PORT,2=...`. Used by
    /// the very first start only (default none).
    pub bootstrap: Option<String>,
    /// Identity of the cluster, 32 hexadecimal digits, alike on all nodes; used by the very first
    /// start only. Give a random one where the same addresses have served another cluster before
    /// (default made from `bootstrap`; 32 hexadecimal digits, not all 0).
    pub cluster_id: Option<String>,
    /// Members to come in through, as clients reach them, instead of `bootstrap`: `host:port,...`. For a
    /// node with a new id (default none).
    pub join: Option<String>,
    /// With `join`: follow and never vote (default `false`).
    pub learner: Option<bool>,
    /// Where clients reach this node, `host:port`. For a node that joins, or moved; of a first member
    /// `bootstrap` says it (default `listen`).
    pub advertise: Option<String>,
    /// Where other nodes reach this node, `host:port`. For a node that joins, or moved; of a first
    /// member `bootstrap` says it (default `peer_listen`).
    pub peer_advertise: Option<String>,
    /// Bounds of what clients may send.
    #[serde(default)]
    pub limits: WrittenLimits,
    /// What is kept on disk.
    #[serde(default)]
    pub storage: WrittenStorage,
    /// What is kept for nodes that lag, and how they catch up.
    #[serde(default)]
    pub snapshots: WrittenSnapshots,
    /// How the node stops.
    #[serde(default)]
    pub stop: WrittenStop,
    /// What watchers are told, and where.
    #[serde(default)]
    pub metrics: WrittenMetrics,
    /// What is logged, and how.
    #[serde(default)]
    pub log: WrittenLog,
    /// Where spans of messages go.
    #[serde(default)]
    pub tracing: WrittenTracing,
}

/// What is kept on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenStorage {
    /// Bytes of settled messages that may stay because others in the same file do, before those are
    /// moved together (default 1 GiB; at least 64 MiB).
    pub dead_bytes_max: Option<u64>,
}

/// How the node stops.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenStop {
    /// How long calls and streams have to end, in milliseconds (default 10,000; 1,000 to 600,000).
    pub timeout_ms: Option<u64>,
}

/// What is logged, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenLog {
    /// How a line looks: for people or one JSON object (default `text`; `text` or `json`).
    pub format: Option<String>,
    /// Which lines are written: a level, or directives such as `info,ticketrail_raft=debug` (default
    /// `info,openraft=warn`).
    pub filter: Option<String>,
}

/// What watchers are told, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenMetrics {
    /// Where `/metrics`, `/healthz` and `/readyz` are served over plain HTTP, `host:port` (default
    /// nowhere).
    pub listen: Option<String>,
    /// Queues that have series of their own, the oldest; all others are summed up (default 1,000;
    /// 0 to 20,000).
    pub queues_max: Option<usize>,
}

/// Bounds of what clients may send.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenLimits {
    /// Largest body in bytes (default 1 MiB; 1 B to 16 MiB).
    pub body_bytes_max: Option<usize>,
    /// Most messages of a batch (default 100; 1 to 1,000).
    pub batch_messages_max: Option<usize>,
    /// Most bytes of a batch (default 4 MiB; 1 MiB to 16 MiB, never less than `body_bytes_max`).
    pub batch_bytes_max: Option<usize>,
    /// Bytes of publishes under way; a quarter is for unary calls alone (default 64 MiB; at least 24 MiB,
    /// four of the largest requests).
    pub publish_bytes_max: Option<u32>,
    /// Bytes of publishes under way on one connection (default 32 MiB; at least 24 MiB, four of the largest
    /// requests).
    pub connection_bytes_max: Option<u32>,
    /// Bytes of all other requests under way (default 32 MiB; at least 6 MiB, the largest request).
    pub reserved_bytes_max: Option<u32>,
    /// Resident memory in bytes at which publishes are refused (default 60 % of the machine's or its control
    /// group's; at least 256 MiB).
    pub memory_bytes_max: Option<u64>,
    /// Free bytes of the disk below which publishes are refused (default 512 MiB; at least 0 B).
    pub disk_free_bytes_min: Option<u64>,
    /// The same in percent of the disk; the larger counts (default 1; 0 to 90).
    pub disk_free_percent_min: Option<u8>,
    /// Committed entries that are not applied yet at which publishes are refused (default 4,096; at
    /// least 1).
    pub apply_lag_entries_max: Option<u32>,
    /// Connections of clients; the process needs as many open files (default 16,384; at least 1).
    pub connections_max: Option<u32>,
    /// Open publish streams (default 8,192, or as many as the memory allows; at least 1, at most 512 per GiB
    /// of `memory_bytes_max`).
    pub publish_streams_max: Option<u32>,
    /// Open consume streams (default 16,384, or as many as the memory allows; at least 1, at most 512 per GiB
    /// of `memory_bytes_max`).
    pub consumers_max: Option<u32>,
    /// Calls that wait for messages (default 16,384; at least 1).
    pub long_polls_max: Option<u32>,
}

impl WrittenLimits {
    fn or(self, other: Self) -> Self {
        Self {
            body_bytes_max: self.body_bytes_max.or(other.body_bytes_max),
            batch_messages_max: self.batch_messages_max.or(other.batch_messages_max),
            batch_bytes_max: self.batch_bytes_max.or(other.batch_bytes_max),
            publish_bytes_max: self.publish_bytes_max.or(other.publish_bytes_max),
            connection_bytes_max: self.connection_bytes_max.or(other.connection_bytes_max),
            reserved_bytes_max: self.reserved_bytes_max.or(other.reserved_bytes_max),
            memory_bytes_max: self.memory_bytes_max.or(other.memory_bytes_max),
            disk_free_bytes_min: self.disk_free_bytes_min.or(other.disk_free_bytes_min),
            disk_free_percent_min: self.disk_free_percent_min.or(other.disk_free_percent_min),
            apply_lag_entries_max: self.apply_lag_entries_max.or(other.apply_lag_entries_max),
            connections_max: self.connections_max.or(other.connections_max),
            publish_streams_max: self.publish_streams_max.or(other.publish_streams_max),
            consumers_max: self.consumers_max.or(other.consumers_max),
            long_polls_max: self.long_polls_max.or(other.long_polls_max),
        }
    }
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
            join: self.join.or(other.join),
            learner: self.learner.or(other.learner),
            advertise: self.advertise.or(other.advertise),
            peer_advertise: self.peer_advertise.or(other.peer_advertise),
            storage: WrittenStorage {
                dead_bytes_max: self.storage.dead_bytes_max.or(other.storage.dead_bytes_max),
            },
            snapshots: self.snapshots.or(other.snapshots),
            limits: self.limits.or(other.limits),
            stop: WrittenStop {
                timeout_ms: self.stop.timeout_ms.or(other.stop.timeout_ms),
            },
            log: WrittenLog {
                format: self.log.format.or(other.log.format),
                filter: self.log.filter.or(other.log.filter),
            },
            metrics: WrittenMetrics {
                listen: self.metrics.listen.or(other.metrics.listen),
                queues_max: self.metrics.queues_max.or(other.metrics.queues_max),
            },
            tracing: self.tracing.or(other.tracing),
        }
    }
}
