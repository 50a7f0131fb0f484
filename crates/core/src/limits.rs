//! Every bound that the state machine holds, in one place.

/// Longest name of a namespace, queue or producer, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 255;
/// Names that begin so belong to the broker.
pub const RESERVED_PREFIX: &str = "tr.";
/// The namespace that is always there; an empty namespace in a request means this one.
pub const DEFAULT_NAMESPACE: &str = "default";
/// Namespaces in a cluster.
pub const NAMESPACES_MAX: usize = 10_000;
/// Queues in a cluster; in this crate's own tests few enough to be reached.
pub const QUEUES_MAX: usize = if cfg!(test) { 200 } else { 1_000_000 };
/// Consumers attached in a cluster.
pub const SESSIONS_MAX: usize = 100_000;
/// Node ids that a cluster remembers, those of removed nodes included.
pub const NODES_MAX: usize = 10_000;
/// Producers remembered in a cluster; at the cap new ones are refused, live ones never evicted.
pub const PRODUCERS_MAX: usize = 100_000;
/// Messages of one `Publish`.
pub const PUBLISH_MESSAGES_MAX: usize = 1_000;
/// Settled ranges of one `Settle`.
pub const SETTLE_RANGES_MAX: usize = 10_000;
/// Messages of one `Receive`.
pub const RECEIVE_MESSAGES_MAX: u32 = 1_000;
/// Most unsettled deliveries that one consumer may hold.
pub const PREFETCH_MAX: u32 = 65_536;
/// Longest lease, 12 h in ms.
pub const LEASE_MS_MAX: u64 = 12 * 3_600_000;
/// Lease of a queue that does not say, 30 s in ms.
pub const LEASE_MS_DEFAULT: u64 = 30_000;
/// Longest delay of a nack, 1 year in ms.
pub const DELAY_MS_MAX: u64 = 366 * 86_400_000;
/// Deliveries before a message is given up, where the queue does not say.
pub const MAX_DELIVERIES_DEFAULT: u32 = 10;
/// How long a session whose connection broke may come back, in ms of lease time.
pub const SESSION_GRACE_MS: u64 = 5_000;
/// How long a settled message answers `already_settled`, in ms of lease time.
pub const SETTLED_MEMORY_MS: u64 = 300_000;
/// Settled messages are remembered in buckets of so many ms.
pub const SETTLED_BUCKET_MS: u64 = 10_000;
/// How long a receive attempt is remembered, in ms of lease time.
pub const ATTEMPT_MEMORY_MS: u64 = 300_000;
/// Receive attempts remembered per queue; beyond it the oldest are forgotten.
pub const ATTEMPTS_MAX: usize = 10_000;
/// Longest receive attempt id, in bytes.
pub const ATTEMPT_ID_BYTES_MAX: usize = 128;
/// Idle producers are forgotten after so long, 7 days in ms of wall time.
pub const PRODUCER_IDLE_MS: u64 = 7 * 86_400_000;
/// (sequence, digest, id) kept per producer, at most.
pub const PRODUCER_WINDOW_MAX: usize = 1_024;
/// The same, at least, however many producers there are.
pub const PRODUCER_WINDOW_MIN: usize = 16;
/// Kept for all producers together; divides evenly among them between the two bounds above.
pub const PRODUCER_WINDOWS_TOTAL: usize = 4 * 1_024 * 1_024;
/// Stored messages of a producer in one row of the state, so that a busy producer rewrites little.
pub const PRODUCER_CHUNK: u64 = 64;
/// A producer's last use is kept in steps of so many ms of wall time, rounded down; it is forgotten
/// [`PRODUCER_IDLE_MS`] after the end of that step.
pub const PRODUCER_USE_STEP_MS: u64 = 3_600_000;
/// Openings of a named producer that are remembered for retries; older ones count as new.
pub const PRODUCER_OPENERS_MAX: usize = 16;
/// Message ids that a cluster out of a backup leaves out: the cluster that the backup is of may go on
/// for a while, and who remembers ids must not take new messages for those (half a year at 60,000 a
/// second).
pub const MESSAGE_ID_GAP: u64 = 1 << 40;
/// One entry moves lease time on by at most so much, in ms: a leader that was paused cannot
/// expire what is queued behind it.
pub const LEASE_STEP_MS_MAX: u64 = 1_000;
/// Timers that one entry may fire, one per message (or per session that holds none); the rest waits for
/// the next. Moving parked dead letters counts too.
pub const EXPIRIES_PER_ENTRY_MAX: usize = 1_000;
/// Neighbouring messages in one state that one `PurgeQueue` removes, at most: some milliseconds.
pub const PURGE_SPANS_MAX: usize = 1_000;
/// Messages that it removes, at most: neighbours may be of a publish each.
pub const PURGE_MESSAGES_MAX: u64 = 10_000;
/// Messages that one consumer is handed in its turn, before the next one's turn.
pub const ROUND_ROBIN_QUANTUM: u32 = 16;
/// Deaths that a dead letter's history keeps; one record per queue and reason.
pub const DEATHS_MAX: usize = 32;
/// Live bodies are counted per so many log indexes.
pub const BODY_BUCKET_INDEXES: u64 = 64;
/// Messages that may move between queues during one survey of live bodies.
pub const SURVEY_MOVES_MAX: usize = 1 << 20;
/// Spans of messages (ready, delayed, returned, settled) that begin among so many offsets are one row.
pub const SPAN_BLOCK: u64 = 256;
/// Runs are packed into chunks of about so many bytes: finding a message unpacks half of one.
pub const RUN_CHUNK_BYTES: usize = 256;

const _: () = {
    assert!(PRODUCER_WINDOW_MIN <= PRODUCER_WINDOW_MAX);
    assert!(PRODUCER_WINDOWS_TOTAL >= PRODUCERS_MAX * PRODUCER_WINDOW_MIN);
    assert!(PRODUCER_WINDOW_MIN as u64 <= PRODUCER_CHUNK);
    assert!(SETTLED_MEMORY_MS.is_multiple_of(SETTLED_BUCKET_MS));
    assert!(ROUND_ROBIN_QUANTUM <= PREFETCH_MAX);
    assert!(LEASE_MS_DEFAULT <= LEASE_MS_MAX);
};
