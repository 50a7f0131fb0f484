//! What a replica is told when it starts, and every limit of this room.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use ticketrail_core::{BootId, NodeId};

/// The Raft group. Directories, records and peer messages carry it; there is one for now.
pub const GROUP: u32 = 0;

/// Largest AppendEntries message in bytes of payload, or one entry: a large batch must not hold up
/// the confirms of small ones.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// AppendEntries messages on their way to one peer at a time.
pub(crate) const FRAMES_IN_FLIGHT_MAX: usize = 32;

/// Bytes of committed entries that apply reads from the log at a time.
pub(crate) const APPLY_BYTES_MAX: usize = 4 << 20;

/// Every so many indexes the digest is kept for comparison.
pub const DIGEST_EVERY: u64 = 100;

/// So many of the kept digests, the newest.
pub const DIGESTS_KEPT: usize = 256;

/// What a replica is told when it starts.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// The cluster.
    pub cluster_id: u128,
    /// This node.
    pub node_id: NodeId,
    /// This run of the node's process.
    pub boot_id: BootId,
    /// Who is asked for a snapshot before Raft starts, when the state here is lost or wrong.
    pub rejoin_from: Vec<NodeId>,
    /// The leader shows that it lives this often.
    pub heartbeat_ms: u64,
    /// Shortest election timeout.
    pub election_min_ms: u64,
    /// Longest election timeout, and the leader's lease.
    pub election_max_ms: u64,
    /// An entry that peers do not acknowledge for so long is sent again.
    pub append_timeout_ms: u64,
    /// Largest entry in bytes; a larger proposal is refused.
    pub entry_bytes_max: usize,
    /// A checkpoint is written this often while something changes...
    pub checkpoint_every: Duration,
    /// ...or when entries of so many bytes were applied since the last...
    pub checkpoint_bytes: u64,
    /// ...or when so many queues changed since: taking their rows holds up apply, and they stay in memory until
    /// they are written.
    pub checkpoint_queues: usize,
    /// A snapshot file is written this often while something changes...
    pub snapshot_every: Duration,
    /// ...or when entries of so many bytes were applied since the last.
    pub snapshot_bytes: u64,
    /// How often segments of the log are looked at for whether they can be recycled.
    pub recycle_every: Duration,
    /// Applied entries that are kept for peers which lag, even where two snapshot files cover them.
    pub log_bytes_kept: u64,
    /// A reader of a snapshot keeps what it reads, and the log from there on, until entries of so many
    /// bytes were applied meanwhile; then it has to start again.
    pub hold_bytes_max: u64,
    /// Bytes of bodies that nothing refers to any more but that share a file with live ones: beyond so
    /// many, files are compacted.
    pub dead_bytes_max: u64,
    /// A snapshot is fetched from a peer at so many bytes per second at most.
    pub fetch_bytes_per_second: u64,
    /// Bytes of one piece of a snapshot that a peer reads, or a single body.
    pub snapshot_piece_bytes: usize,
    /// A planted bug for the simulator: a restarted leader goes on without an election.
    #[doc(hidden)]
    pub planted_leader_restore: bool,
    /// A planted fault for tests: this node applies this entry otherwise than the others.
    #[doc(hidden)]
    pub planted_divergence: Option<u64>,
}

impl ReplicaConfig {
    /// Defaults for production.
    #[must_use]
    pub fn new(cluster_id: u128, node_id: NodeId, boot_id: BootId) -> Self {
        Self {
            cluster_id,
            node_id,
            boot_id,
            rejoin_from: Vec::new(),
            heartbeat_ms: 50,
            election_min_ms: 150,
            election_max_ms: 300,
            append_timeout_ms: 1_000,
            entry_bytes_max: 32 << 20,
            checkpoint_every: Duration::from_secs(1),
            checkpoint_bytes: 32 << 20,
            checkpoint_queues: 10_000,
            snapshot_every: Duration::from_secs(300),
            snapshot_bytes: 1 << 30,
            recycle_every: Duration::from_secs(5),
            log_bytes_kept: 1 << 30,
            dead_bytes_max: 1 << 30,
            hold_bytes_max: 8 << 30,
            fetch_bytes_per_second: 128 << 20,
            snapshot_piece_bytes: 1 << 20,
            planted_leader_restore: false,
            planted_divergence: None,
        }
    }

    /// As openraft wants it.
    pub(crate) fn openraft(&self) -> Result<Config, openraft::ConfigError> {
        Config {
            cluster_name: format!("{:032x}", self.cluster_id),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_min_ms,
            election_timeout_max: self.election_max_ms,
            enable_pre_vote: Some(true),
            // With the default a restarted leader goes on in its old term. If the crash took entries
            // that it had replicated before its own fsync, it uses their log ids again for others.
            enable_leader_restore: Some(self.planted_leader_restore),
            // Snapshot files and purging are ours to time (see `checkpoint`).
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            // A peer that lags gets log entries for as long as the log has them.
            replication_lag_threshold: u64::MAX,
            max_payload_entries: 1_024,
            backoff: "20ms 40ms 80ms ..400ms".to_owned(),
            ..Config::default()
        }
        .validate()
    }
}
