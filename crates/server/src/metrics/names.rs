//! Every metric: its name, kind, labels and meaning. `docs/operations.md` has the same table, which a
//! test compares. Names are in base units (seconds, bytes), counters end in `_total`.

/// What a metric's values mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    /// As Prometheus writes it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric.
#[derive(Debug)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Names of its labels, in the order in which their values are given.
    pub(crate) labels: &'static [&'static str],
    pub(crate) help: &'static str,
}

macro_rules! metrics {
    ($($metric:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(crate) const $metric: Metric = Metric {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
        };)*

        /// All of them.
        #[cfg(test)]
        pub(crate) const ALL: &[Metric] = &[$($metric,)*];
    };
}

metrics! {
    // The queues; the same on every node, to within its lag.
    QUEUE_READY = Gauge "ticketrail_queue_ready" ["namespace", "queue"]
        "Messages that can be granted now.";
    QUEUE_IN_FLIGHT = Gauge "ticketrail_queue_in_flight" ["namespace", "queue"]
        "Messages that are leased.";
    QUEUE_DELAYED = Gauge "ticketrail_queue_delayed" ["namespace", "queue"]
        "Messages that wait for their time.";
    QUEUE_PARKED = Gauge "ticketrail_queue_parked" ["namespace", "queue"]
        "Dead letters whose target is missing; an operator should make it.";
    QUEUE_BYTES = Gauge "ticketrail_queue_bytes" ["namespace", "queue"]
        "Bytes of the messages in any state.";
    QUEUE_OLDEST_READY_AGE = Gauge "ticketrail_queue_oldest_ready_age_seconds" ["namespace", "queue"]
        "Age of the first ready message, since it was published; 0 where none is ready.";
    QUEUE_CONSUMERS = Gauge "ticketrail_queue_consumers" ["namespace", "queue"]
        "Sessions that consume, those in their grace included.";
    QUEUE_PAUSED = Gauge "ticketrail_queue_paused" ["namespace", "queue"]
        "1 while the queue grants nothing because an operator paused it.";
    QUEUE_PUBLISHED = Counter "ticketrail_queue_published_total" ["namespace", "queue"]
        "Messages stored by publishes.";
    QUEUE_PUBLISHED_BYTES = Counter "ticketrail_queue_published_bytes_total" ["namespace", "queue"]
        "Their bytes.";
    QUEUE_DELIVERED = Counter "ticketrail_queue_delivered_total" ["namespace", "queue"]
        "Messages granted, each delivery counted.";
    QUEUE_REDELIVERED = Counter "ticketrail_queue_redelivered_total" ["namespace", "queue"]
        "Of these, messages that had been granted before.";
    QUEUE_ACKNOWLEDGED = Counter "ticketrail_queue_acknowledged_total" ["namespace", "queue"]
        "Messages acknowledged.";
    QUEUE_LEASES_EXPIRED = Counter "ticketrail_queue_leases_expired_total" ["namespace", "queue"]
        "Leases that ended by their time or with their session.";
    QUEUE_DEAD_LETTERED_IN = Counter "ticketrail_queue_dead_lettered_in_total" ["namespace", "queue"]
        "Dead letters that came here; above 0 this is a dead-letter queue.";
    QUEUE_DEAD_LETTERED_OUT = Counter "ticketrail_queue_dead_lettered_out_total" ["namespace", "queue"]
        "Messages given up and moved to the dead-letter target.";
    QUEUE_EXPIRED = Counter "ticketrail_queue_expired_total" ["namespace", "queue"]
        "Messages removed by their time to live.";
    QUEUE_DROPPED = Counter "ticketrail_queue_dropped_total" ["namespace", "queue"]
        "Messages given up where no dead-letter target is set.";
    QUEUE_PURGED = Counter "ticketrail_queue_purged_total" ["namespace", "queue"]
        "Messages removed by purges.";
    QUEUES = Gauge "ticketrail_queues" []
        "Queues that there are.";
    QUEUES_SHOWN = Gauge "ticketrail_queues_shown" []
        "Queues with series of their own; all others are summed up as queue `tr.other`.";
    MESSAGES = Gauge "ticketrail_messages" ["state"]
        "Messages of all queues in this state.";
    UNROUTABLE = Counter "ticketrail_unroutable_total" []
        "Messages accepted that reached no queue.";
    PRODUCERS = Gauge "ticketrail_producers" []
        "Idempotent producers that are remembered.";
    ATTACHED_SESSIONS = Gauge "ticketrail_attached_sessions" []
        "Consumer sessions of the whole cluster.";

    // What clients get from this node.
    CONFIRM_SECONDS = Histogram "ticketrail_confirm_seconds" []
        "From a publish frame's arrival at this node to its confirm: on a majority's disks and applied.";
    SETTLE_SECONDS = Histogram "ticketrail_settle_seconds" []
        "From a settlement's arrival at this node to its answer.";
    COMMAND_SECONDS = Histogram "ticketrail_command_seconds" []
        "The same of all other commands: receives, attaches, declarations.";
    CALLS = Counter "ticketrail_calls_total" ["method", "code"]
        "Calls and streams that ended, by gRPC method and status.";
    CALLS_IN_FLIGHT = Gauge "ticketrail_calls_in_flight" ["method"]
        "Calls and streams that are open.";
    REFUSALS = Counter "ticketrail_refusals_total" ["reason"]
        "Calls, streams and single messages that were refused, by reason.";
    CONNECTIONS = Gauge "ticketrail_connections" ["listener"]
        "Connections that are open.";
    CONNECTIONS_ACCEPTED = Counter "ticketrail_connections_accepted_total" ["listener"]
        "Connections that were accepted.";
    CONNECTIONS_REFUSED = Counter "ticketrail_connections_refused_total" ["listener"]
        "Connections that were closed at once because there were too many.";
    SESSIONS = Gauge "ticketrail_sessions" []
        "Consumer sessions that this node serves.";
    LONG_POLLS = Gauge "ticketrail_long_polls" []
        "Receives that wait for a message at this node.";
    WAITING_COMMANDS = Gauge "ticketrail_waiting_commands" []
        "Commands that wait at this node for their outcome.";
    WAITING_BYTES = Gauge "ticketrail_waiting_bytes" []
        "Bytes of these commands.";

    // What this node lets in. One unit each: bytes, entries, streams or calls.
    BOUND_USED = Gauge "ticketrail_bound_used" ["bound"]
        "What is taken of each bound of this node, in the unit of its setting; `disk` is all that is taken of the file system.";
    BOUND_MAX = Gauge "ticketrail_bound_max" ["bound"]
        "The bound; for `disk` what may be taken before publishes are refused.";
    BOUND_REFUSALS = Counter "ticketrail_bound_refusals_total" ["bound"]
        "Requests, streams and connections that a bound refused; `publish_bytes` and `reserved_bytes` are the two lanes.";
    SHORT = Gauge "ticketrail_short" ["bound"]
        "1 while this node is short of memory or disk, or behind with applying.";
    PUBLISHES_BLOCKED = Gauge "ticketrail_publishes_blocked" ["bound"]
        "1 while this node refuses all publishes because it, or a node that it replicates to, is short of this.";

    // Raft.
    SERVING = Gauge "ticketrail_serving" []
        "1 while this node knows of a leader that a majority follows.";
    READY = Gauge "ticketrail_ready" []
        "1 while it is serving, has applied what it knows to be committed, and does not stop.";
    IS_LEADER = Gauge "ticketrail_raft_is_leader" []
        "1 on the leader.";
    LEADER_ID = Gauge "ticketrail_raft_leader_id" []
        "The leader as this node knows it; 0 for none.";
    TERM = Gauge "ticketrail_raft_term" []
        "The term.";
    LEADER_CHANGES = Counter "ticketrail_raft_leader_changes_total" []
        "How often this node learned of another leader or term.";
    LAST_LOG_INDEX = Gauge "ticketrail_raft_last_log_index" []
        "The last entry of this node's log.";
    DURABLE_INDEX = Gauge "ticketrail_raft_durable_index" []
        "The last entry that is on this node's disk.";
    COMMIT_INDEX = Gauge "ticketrail_raft_commit_index" []
        "The last entry that this node knows to be committed.";
    APPLIED_INDEX = Gauge "ticketrail_raft_applied_index" []
        "The last entry that this node has applied.";
    SNAPSHOT_INDEX = Gauge "ticketrail_raft_snapshot_index" []
        "The last entry that the newest snapshot file covers.";
    PURGED_INDEX = Gauge "ticketrail_raft_purged_index" []
        "The last entry that Raft needs no more.";
    LEADER_CONTACT_AGE = Gauge "ticketrail_raft_leader_contact_age_seconds" []
        "On a follower: since the leader was last heard.";
    QUORUM_ACK_AGE = Gauge "ticketrail_raft_quorum_ack_age_seconds" []
        "On the leader: since a majority last answered.";
    MEMBERS = Gauge "ticketrail_raft_members" ["voter"]
        "Members of the cluster, by whether they vote.";
    PEER_LAG = Gauge "ticketrail_raft_peer_lag_entries" ["peer"]
        "On the leader: entries that a peer does not have on its disk yet.";
    PEER_ANSWER_AGE = Gauge "ticketrail_raft_peer_answer_age_seconds" ["peer"]
        "On the leader: since a peer last answered.";
    PEER_SILENCE = Gauge "ticketrail_peer_silence_seconds" ["peer"]
        "Since a peer's process was last heard of.";
    ENTRY_COMMANDS = Histogram "ticketrail_entry_commands" []
        "Commands of each entry that this node proposed as the leader; 0 is a tick of the clock.";
    ENTRY_BYTES = Histogram "ticketrail_entry_bytes" []
        "Bytes of each entry that this node proposed as the leader.";
    DIGESTS_AGREED = Counter "ticketrail_digests_agreed_total" []
        "As the leader: entries at which a majority was found to have the same state.";
    DIGESTS_UNDECIDED = Counter "ticketrail_digests_undecided_total" []
        "As the leader: entries at which the states of nodes differed before a majority was known.";
    DIGESTS_DIFFER = Counter "ticketrail_digests_differ_total" []
        "As the leader: other nodes whose state differed from a majority's; each is told, and stops.";
    STATE_REPLACED = Gauge "ticketrail_state_replaced" ["why"]
        "1 where this node took its state from another one when it started, because its own was proved wrong, or lost.";
    CLOCK_ALARM = Gauge "ticketrail_clock_alarm" []
        "On the leader: 1 while no majority of the nodes' wall clocks agrees within 5 s.";
    CLOCK_AHEAD = Gauge "ticketrail_clock_ahead_seconds" []
        "This node's wall clock before the median of the nodes' clocks; below 0 it is behind.";

    // The disk.
    LOG_SYNC_SECONDS = Histogram "ticketrail_log_sync_seconds" []
        "Duration of each sync of the log.";
    LOG_WRITTEN_BYTES = Counter "ticketrail_log_written_bytes_total" []
        "Bytes written to the log, headers and padding included.";
    LOG_SEGMENTS_BEGUN = Counter "ticketrail_log_segments_begun_total" []
        "Segments of the log that were begun.";
    LOG_SEGMENTS = Gauge "ticketrail_log_segments" []
        "Segments of the log.";
    LOG_SEGMENT_BYTES = Gauge "ticketrail_log_segment_bytes" []
        "Bytes of their files.";
    LOG_ENTRY_BYTES = Gauge "ticketrail_log_entry_bytes" []
        "Bytes of the entries in them.";
    LOG_SPARE_SEGMENTS = Gauge "ticketrail_log_spare_segments" []
        "Unused segment files that are kept for later.";
    LOG_QUEUED_BYTES = Gauge "ticketrail_log_queued_bytes" []
        "Bytes of entries that wait for their sync.";
    LOG_CACHED_BYTES = Gauge "ticketrail_log_cached_bytes" []
        "Bytes of entries in memory.";
    CHECKPOINT_SECONDS = Histogram "ticketrail_checkpoint_seconds" []
        "Duration of writing each checkpoint.";
    CHECKPOINT_INDEX = Gauge "ticketrail_checkpoint_index" []
        "The last entry that the newest checkpoint of this process covers; 0 before the first.";
    CHECKPOINT_AGE = Gauge "ticketrail_checkpoint_age_seconds" []
        "Since the newest checkpoint; an idle node writes none.";
    SNAPSHOT_SECONDS = Histogram "ticketrail_snapshot_seconds" []
        "Duration of writing each snapshot file.";
    SNAPSHOTS_SENT = Counter "ticketrail_snapshots_sent_total" []
        "Snapshots that other nodes began to read here.";
    SNAPSHOT_SENT_BYTES = Counter "ticketrail_snapshot_sent_bytes_total" []
        "Bytes of them that were read.";
    SNAPSHOTS_INSTALLED = Counter "ticketrail_snapshots_installed_total" []
        "Snapshots of other nodes that were installed here.";
    SNAPSHOT_RECEIVED_BYTES = Counter "ticketrail_snapshot_received_bytes_total" []
        "Bytes of snapshots that came from other nodes.";
    SNAPSHOT_PIECES_RETRIED = Counter "ticketrail_snapshot_pieces_retried_total" []
        "Pieces that did not come and were asked for again; the rest of the snapshot was kept.";
    SNAPSHOT_FAILURES = Counter "ticketrail_snapshot_failures_total" []
        "Snapshots of other nodes that could not be fetched or installed; the leader offers the next.";
    LOG_FOLDER_BYTES = Gauge "ticketrail_log_folder_bytes" ["use"]
        "What the folder `log` is for: the log that Raft needs, bodies that are kept (live, and dead among them), spare segments.";
    BODIES_BYTES_MAX = Gauge "ticketrail_bodies_bytes_max" []
        "What live and dead bodies together may take before the dead ones are compacted away.";
    COMPACTIONS = Counter "ticketrail_compactions_total" ["result"]
        "Compactions of bodies, done or given up; giving one up loses nothing.";
    COMPACTION_MOVED_BYTES = Counter "ticketrail_compaction_moved_bytes_total" []
        "Bytes of live bodies that compaction wrote anew.";
    COMPACTION_FREED_BYTES = Counter "ticketrail_compaction_freed_bytes_total" []
        "Bytes of files that compaction freed.";
    DISK_USED = Gauge "ticketrail_disk_used_bytes" ["folder"]
        "Bytes that the files of each folder in the data folder take.";
    DISK_NEWEST_AGE = Gauge "ticketrail_disk_newest_file_age_seconds" ["folder"]
        "Since something in the folder was last written; for `snapshots` the age of the newest file.";
    DISK_FREE = Gauge "ticketrail_disk_free_bytes" []
        "Bytes that are free for this process on the file system of the data folder.";
    DISK_SIZE = Gauge "ticketrail_disk_size_bytes" []
        "Bytes of that file system.";

    // The process, in the words that all exporters use.
    BUILD_INFO = Gauge "ticketrail_build_info" ["version", "cluster", "node"]
        "1; what runs here.";
    PROCESS_CPU = Counter "process_cpu_seconds_total" []
        "CPU time of the process, user and system.";
    PROCESS_MEMORY = Gauge "process_resident_memory_bytes" []
        "Resident memory.";
    PROCESS_START = Gauge "process_start_time_seconds" []
        "When the process started, seconds since 1970.";
    PROCESS_FDS = Gauge "process_open_fds" []
        "Open files and sockets.";
    PROCESS_FDS_MAX = Gauge "process_max_fds" []
        "How many there may be.";
    SCRAPE_SECONDS = Gauge "ticketrail_scrape_seconds" []
        "How long the numbers of this answer took to gather.";
    SCRAPE_HELD_SECONDS = Gauge "ticketrail_scrape_held_seconds" []
        "The longest that gathering them kept the state from being changed.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;

    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
    const BEGIN: &str = "<!-- metrics: begin -->\n";
    const END: &str = "<!-- metrics: end -->";

    fn table() -> String {
        let mut table =
            String::from("| metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n");
        for metric in ALL {
            let (name, kind) = (metric.name, metric.kind.as_str());
            let labels = metric.labels.join(", ");
            table += &format!("| `{name}` | {kind} | {labels} | {} |\n", metric.help);
        }
        table
    }

    /// `TICKETRAIL_WRITE_DOCS=1 cargo test -p ticketrail-server names` writes the table anew.
    #[test]
    fn the_page_for_operators_tells_of_every_metric() {
        let page = fs::read_to_string(PAGE).unwrap();
        let (before, rest) = page.split_once(BEGIN).unwrap();
        let (found, after) = rest.split_once(END).unwrap();
        if std::env::var_os("TICKETRAIL_WRITE_DOCS").is_some() {
            let new = format!("{before}{BEGIN}{}{END}{after}", table());
            fs::write(PAGE, new).unwrap();
            return;
        }
        assert_eq!(found, table(), "see the comment of this test");
    }

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        let names: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len(), "each name once");
        for Metric {
            name, kind, help, ..
        } in ALL
        {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            assert!(name.bytes().all(plain), "{name}");
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert!(
                help.ends_with('.') && !help.contains(['|', '\n', '\\']),
                "{name}"
            );
        }
    }
}
