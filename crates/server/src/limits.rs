//! Every bound of this room that is not the state machine's own (those are in
//! [`ticketrail_core::limits`]), with what must hold between them.

use std::time::Duration;

use ticketrail_core::limits as core;

/// Body of a message, where the configuration does not say.
pub(crate) const BODY_BYTES_DEFAULT: usize = 1 << 20;
/// The most that the configuration may allow.
pub(crate) const BODY_BYTES_HARD: usize = 16 << 20;
/// Messages of a batch, where the configuration does not say.
pub(crate) const BATCH_MESSAGES_DEFAULT: usize = 100;
/// The most that the configuration may allow.
pub(crate) const BATCH_MESSAGES_HARD: usize = core::PUBLISH_MESSAGES_MAX;
/// Bytes of a batch (bodies, headers, properties), where the configuration does not say.
pub(crate) const BATCH_BYTES_DEFAULT: usize = 4 << 20;
/// The most that the configuration may allow.
pub(crate) const BATCH_BYTES_HARD: usize = 16 << 20;

/// Bytes of settled messages that share a file with live ones, where the configuration does not say.
pub(crate) const DEAD_BYTES_DEFAULT: u64 = 1 << 30;
/// The least that the configuration may say: a segment of the log.
pub(crate) const DEAD_BYTES_LEAST: u64 = 64 << 20;

/// Headers of a message.
pub(crate) const HEADERS_MAX: usize = 64;
/// Key of a header.
pub(crate) const HEADER_KEY_BYTES_MAX: usize = 128;
/// Value of a header.
pub(crate) const HEADER_VALUE_BYTES_MAX: usize = 4 << 10;
/// Keys and values of a message's headers together.
pub(crate) const HEADERS_BYTES_MAX: usize = 32 << 10;
/// A `tracestate` that is passed on; W3C asks for at least this.
pub(crate) const TRACESTATE_BYTES_MAX: usize = 512;
/// A property that is text.
pub(crate) const PROPERTY_BYTES_MAX: usize = 255;
/// A routing key.
pub(crate) const ROUTING_KEY_BYTES_MAX: usize = 255;
/// The name that a consumer gives itself.
pub(crate) const CONSUMER_NAME_BYTES_MAX: usize = 255;

/// Longest wait of a `Receive`.
pub(crate) const RECEIVE_WAIT_MAX: Duration = Duration::from_secs(20);
/// Credit of a `Consume` that does not say.
pub(crate) const PREFETCH_DEFAULT: u32 = 100;
/// Longest `max_batch_wait` of a `Consume`.
pub(crate) const BATCH_WAIT_MAX: Duration = Duration::from_secs(1);
/// Items of a unary `Settle`.
pub(crate) const SETTLE_ITEMS_MAX: usize = 1_000;
/// Ranges of a settlement frame.
pub(crate) const SETTLE_RANGES_MAX: usize = core::SETTLE_RANGES_MAX;

/// Page of a list that does not say.
pub(crate) const PAGE_DEFAULT: u32 = 100;
/// Page of a `Peek` that does not say.
pub(crate) const PEEK_PAGE_DEFAULT: u32 = 20;
/// Largest page.
pub(crate) const PAGE_MAX: u32 = 1_000;
/// What a message on a page counts beside its body.
pub(crate) const PEEKED_OVERHEAD_BYTES: usize = 128;
/// Bytes of messages after which a page or an answer of `Receive` ends early.
pub(crate) const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Messages that may be unconfirmed on one publish stream.
pub(crate) const STREAM_CREDIT_MESSAGES: u32 = 1_024;
/// Bytes that may be unconfirmed on one publish stream; one batch always may.
pub(crate) const STREAM_CREDIT_BYTES: u64 = 8 << 20;
/// A stream's message may wait so long for room before its client is told to pause.
pub(crate) const FLOW_PATIENCE: Duration = Duration::from_millis(100);
/// A client that was told to pause is told again so often, for as long as it lasts.
pub(crate) const FLOW_AGAIN: Duration = Duration::from_secs(1);
/// A client that does not read what waits for it is cut off after so long.
pub(crate) const SLOW_READER_MAX: Duration = Duration::from_secs(60);
/// Frames that wait for a slow client, per stream, beside what HTTP/2 takes; nothing more is read
/// from the broker until they are gone.
pub(crate) const FRAMES_WAITING_MAX: usize = 4;
/// Settlement frames of one stream that wait for their commit; no further frame is read until one
/// is answered.
pub(crate) const SETTLEMENTS_WAITING_MAX: usize = 32;
/// Runs of deliveries that one stream may have unsettled; above any prefetch.
pub(crate) const UNSETTLED_RUNS_MAX: usize = 2 * core::PREFETCH_MAX as usize;
/// Leases that one settlement frame may name, repetitions included.
pub(crate) const SETTLEMENT_RUNS_MAX: usize = 2 * core::PREFETCH_MAX as usize;
/// Messages that one settlement frame may name, repetitions included: a run of many costs the state
/// more than one of few.
pub(crate) const SETTLEMENT_MESSAGES_MAX: u64 = 2 * core::PREFETCH_MAX as u64;
/// Settlement frames that are taken together when they are there at once.
pub(crate) const SETTLEMENTS_TOGETHER_MAX: usize = 64;
/// Confirms that are told together when they are there at once.
pub(crate) const CONFIRMS_TOGETHER_MAX: usize = 64;
/// Messages that a `Peek` reads at a time.
pub(crate) const PEEK_STEP: usize = 16;
/// After a client went away, its last settlements are still waited for so long.
pub(crate) const FAREWELL_MAX: Duration = Duration::from_secs(2);
/// Runs of settled deliveries that a stream remembers, so that a repeated ack is answered exactly.
pub(crate) const SETTLED_RUNS_REMEMBERED: usize = 4_096;

/// Deadline of a call whose client did not set one.
pub(crate) const DEADLINE_DEFAULT: Duration = Duration::from_secs(30);
/// Time taken off a client's deadline, so that our answer still reaches it.
pub(crate) const DEADLINE_MARGIN: Duration = Duration::from_millis(5);
/// A call that is not answered after so long is cut off, whatever it waits for: the backstop for a
/// request that never arrives whole.
pub(crate) const CALL_TIME_MAX: Duration = Duration::from_secs(60);
/// The first frame of a stream must come within this.
pub(crate) const OPEN_WAIT_MAX: Duration = Duration::from_secs(10);
/// A connection must say its HTTP/2 preface and settings within this.
pub(crate) const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(10);
/// Idle connections are pinged so often.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// A connection that does not answer a ping within this is closed.
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The members are looked at so often, beside each change of the leader.
pub(crate) const MEMBERS_LOOK: Duration = Duration::from_millis(250);
/// How long a node is given to say who it is.
pub(crate) const HELLO_WAIT_MAX: Duration = Duration::from_secs(1);
/// How long the log may take to take a node's id in.
pub(crate) const ADMIT_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a node that comes in waits for a call that makes it a member.
pub(crate) const JOIN_WAIT_MAX: Duration = Duration::from_secs(10);
/// Pause before a node that comes in asks again.
pub(crate) const ENTER_AGAIN: Duration = Duration::from_millis(100);
/// A node that still waits to come in says so this often.
pub(crate) const ENTER_TELL: Duration = Duration::from_secs(10);
/// A node without a leader asks this often whether it still belongs to the cluster.
pub(crate) const STANDING_LOOK: Duration = Duration::from_secs(1);
/// Without a sign of a leader for so long, a node asks whether it still belongs to the cluster.
pub(crate) const LEADER_SILENCE_MAX: Duration = Duration::from_secs(2);
/// How often a watched cluster is looked at, where the client does not say.
pub(crate) const WATCH_INTERVAL_DEFAULT: Duration = Duration::from_secs(1);
/// The least that a client may say.
pub(crate) const WATCH_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Backups that one node makes at a time: each keeps what it refers to on the disk.
pub(crate) const BACKUPS_MAX: usize = 1;
/// Bytes of a backup that are sent in one frame; a body that is larger has one of its own.
pub(crate) const BACKUP_PIECE_BYTES: usize = 1 << 20;
/// A node's address.
pub(crate) const ADDRESS_BYTES_MAX: usize = 255;
/// The reported health is looked at so often.
pub(crate) const HEALTH_LOOK: Duration = Duration::from_millis(250);
/// Without a sign of a quorum for so long, a node is not serving.
pub(crate) const QUORUM_SILENCE_MAX: Duration = Duration::from_secs(1);
/// A node that hears of no quorum for so long, which is longer than any election, sends its clients
/// elsewhere.
pub(crate) const ALONE_AFTER: Duration = Duration::from_secs(3);
/// How long a stop waits for calls and streams to end, where the configuration does not say.
pub(crate) const STOP_WAIT_DEFAULT: Duration = Duration::from_secs(10);
/// The least that the configuration may say.
pub(crate) const STOP_WAIT_MIN: Duration = Duration::from_secs(1);
/// The most that the configuration may say.
pub(crate) const STOP_WAIT_HARD: Duration = Duration::from_secs(600);
/// How long a leader that stops waits for another one to lead: an election of the others, should the
/// one that was asked not take it.
pub(crate) const HAND_OVER_MAX: Duration = Duration::from_millis(1_500);
/// How long a consume stream of a node that stops tries to give back what it has not sent.
pub(crate) const LEAVE_WAIT_MAX: Duration = Duration::from_secs(1);
/// How long a stop goes on for clients while no majority is to be heard.
pub(crate) const STOP_ALONE_MAX: Duration = Duration::from_secs(1);
/// How long a stop waits until the log knows of the connections that ended.
pub(crate) const FAREWELL_END_MAX: Duration = Duration::from_secs(1);
/// How long the last frames of a stream may take to be written.
pub(crate) const LAST_FRAMES_MAX: Duration = Duration::from_secs(10);
/// How long a failed node waits for Raft to end.
pub(crate) const ABORT_WAIT_MAX: Duration = Duration::from_millis(500);
/// What a client waits before it tries again after this node stopped.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Entries that a node may be behind what it knows to be committed and still is ready.
pub(crate) const READY_BEHIND_MAX: u64 = 10_000;

/// Queues with series of their own, where the configuration does not say.
pub(crate) const METRICS_QUEUES_DEFAULT: usize = 1_000;
/// The most that the configuration may allow: some 300 bytes each while an answer is written.
pub(crate) const METRICS_QUEUES_HARD: usize = 20_000;
/// Queues that are looked at before the state is let go of.
pub(crate) const QUEUES_PER_HOLD: usize = 500;
/// Text of an answer that is sent at a time.
pub(crate) const SCRAPE_PIECE_BYTES: usize = 64 << 10;
/// Such pieces that wait for who asked.
pub(crate) const SCRAPE_PIECES_MAX: usize = 2;
/// An answer must begin within this, the one before it included.
pub(crate) const SCRAPE_WAIT_MAX: Duration = Duration::from_secs(10);
/// A piece that nobody takes for so long is the last.
pub(crate) const SCRAPE_READ_MAX: Duration = Duration::from_secs(10);
/// Connections of the metrics listener.
pub(crate) const SCRAPERS_MAX: usize = 64;
/// One of them must say what it wants within this.
pub(crate) const SCRAPER_WAIT_MAX: Duration = Duration::from_secs(60);
/// A request's line and headers together.
pub(crate) const SCRAPER_BUFFER_BYTES: usize = 16 << 10;

/// HTTP/2 window of a client's stream: what it may send before anything of it is read. Only publish and
/// consume streams are ever left unread, so their number bounds what is.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// HTTP/2 window of a client's connection: above those of all its streams together, so that streams that
/// wait for room hold nothing else up, such as settles.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = CONNECTION_STREAMS_MAX * STREAM_WINDOW_BYTES;
/// The windows of all publish streams may take one of so many parts of the memory, and so may those of
/// all consume streams.
pub(crate) const WINDOWS_PART: u64 = 8;
/// HTTP/2 window of a stream between nodes.
pub(crate) const PEER_STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// HTTP/2 window of a connection between nodes.
pub(crate) const PEER_CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Connections of clients, where the configuration does not say.
pub(crate) const CONNECTIONS_DEFAULT: usize = 16_384;
/// Connections of other nodes: a few each.
pub(crate) const PEER_CONNECTIONS_MAX: usize = 1_024;
/// Connections too many that are told so at a time; others are just closed.
pub(crate) const TURNED_AWAY_MAX: usize = 64;
/// How long such a connection may take to read why.
pub(crate) const TURN_AWAY_WAIT_MAX: Duration = Duration::from_millis(500);
/// Memory at which publishes are refused, in percent of the machine's, where the configuration does
/// not say.
pub(crate) const MEMORY_PERCENT_DEFAULT: u64 = 60;
/// The least that the configuration may allow: what a node takes anyhow.
pub(crate) const MEMORY_BYTES_MIN: u64 = 256 << 20;
/// Memory and disk are measured so often.
pub(crate) const MEASURE_EVERY: Duration = Duration::from_millis(250);
/// The files of the data folder are looked at so often.
pub(crate) const DATA_FOLDER_LOOK_EVERY: Duration = Duration::from_secs(5);
/// An export of spans may take so long.
#[cfg(feature = "otlp")]
pub(crate) const SPANS_EXPORT_MAX: Duration = Duration::from_secs(5);
/// The last spans have so long when the node stops.
#[cfg(feature = "otlp")]
pub(crate) const SPANS_LAST_EXPORT_MAX: Duration = Duration::from_secs(1);
/// Deliveries of a stream whose settlement is told to a collector; beyond, that of the oldest is not.
#[cfg(feature = "otlp")]
pub(crate) const SPANS_UNSETTLED_MAX: usize = 10_000;
/// Files that a node opens beside its connections.
pub(crate) const FILES_BESIDE: u64 = 1_024;
/// Pause after a connection that could not be accepted.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Streams of one client connection.
pub(crate) const CONNECTION_STREAMS_MAX: u32 = 1_024;
/// Names and values of a request's metadata together.
pub(crate) const METADATA_BYTES_MAX: u32 = 16 << 10;
/// Room in a request beside its messages' bytes: field tags, lengths, names.
pub(crate) const REQUEST_OVERHEAD_BYTES: usize = 1 << 20;

/// Largest message between nodes: one entry with a batch of the hard size, and what is around it.
pub(crate) const PEER_MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Messages that wait to be sent to one peer, or for its answer, per kind.
pub(crate) const PEER_CALLS_MAX: usize = 256;
/// Bytes of messages that wait to be sent to one peer, or for its answer, per kind.
pub(crate) const PEER_BYTES_MAX: usize = 64 << 20;
/// Messages of one peer's stream that are worked on at a time.
pub(crate) const PEER_WORK_MAX: usize = 64;
/// First pause before a broken stream to a peer is opened again; doubles up to the next.
pub(crate) const RECONNECT_MIN: Duration = Duration::from_millis(50);
/// Longest such pause.
pub(crate) const RECONNECT_MAX: Duration = Duration::from_secs(1);
/// A silent peer is pinged so often, and cut off when it does not answer within this.
pub(crate) const PEER_KEEPALIVE: Duration = Duration::from_secs(5);
/// A connection to a peer must stand within this.
pub(crate) const PEER_CONNECT_WAIT_MAX: Duration = Duration::from_secs(1);
/// A leader whose connection ended is dialled so often before it is taken for alive.
pub(crate) const GONE_TRIES: u32 = 3;
/// Pause between two such tries.
pub(crate) const GONE_PAUSE: Duration = Duration::from_millis(10);
/// How long the answer to one may take.
pub(crate) const GONE_WAIT_MAX: Duration = Duration::from_millis(100);
/// A leader must have taken forwarded commands within this.
pub(crate) const FORWARD_WAIT_MAX: Duration = Duration::from_secs(2);

/// The largest request that is decoded for batches of up to `batch_bytes`: above our own limits, so
/// that a request that breaks one of those is told which.
#[must_use]
pub(crate) const fn request_bytes_max(batch_bytes: usize, body_bytes: usize) -> usize {
    batch_bytes + body_bytes + REQUEST_OVERHEAD_BYTES
}

const _: () = {
    assert!(BODY_BYTES_DEFAULT <= BODY_BYTES_HARD);
    assert!(BATCH_MESSAGES_DEFAULT <= BATCH_MESSAGES_HARD);
    assert!(BATCH_BYTES_DEFAULT <= BATCH_BYTES_HARD);
    assert!(BODY_BYTES_DEFAULT <= BATCH_BYTES_DEFAULT);
    assert!(BODY_BYTES_HARD <= BATCH_BYTES_HARD);
    assert!(HEADER_KEY_BYTES_MAX + HEADER_VALUE_BYTES_MAX <= HEADERS_BYTES_MAX);
    assert!(HEADERS_BYTES_MAX <= REQUEST_OVERHEAD_BYTES);
    assert!(request_bytes_max(BATCH_BYTES_HARD, BODY_BYTES_HARD) < PEER_MESSAGE_BYTES_MAX);
    assert!(PEER_MESSAGE_BYTES_MAX <= PEER_BYTES_MAX);
    assert!(2 * BACKUP_PIECE_BYTES < PEER_MESSAGE_BYTES_MAX);
    assert!(ticketrail_raft::FRAME_BYTES_MAX < PEER_MESSAGE_BYTES_MAX);
    assert!(BATCH_MESSAGES_HARD <= STREAM_CREDIT_MESSAGES as usize);
    assert!(STREAM_CREDIT_MESSAGES as usize <= ticketrail_broker::UNCONFIRMED_MAX);
    assert!(PREFETCH_DEFAULT <= core::PREFETCH_MAX);
    assert!(METRICS_QUEUES_DEFAULT <= METRICS_QUEUES_HARD);
    assert!(2 * SETTLEMENT_MESSAGES_MAX <= ticketrail_broker::SETTLE_MESSAGES_MAX);
    assert!(PAGE_DEFAULT <= PAGE_MAX && PEEK_PAGE_DEFAULT <= PAGE_MAX);
    assert!(RECEIVE_WAIT_MAX.as_secs() < DEADLINE_DEFAULT.as_secs());
    assert!(DEADLINE_DEFAULT.as_secs() < CALL_TIME_MAX.as_secs());
    assert!(CONNECTION_WINDOW_BYTES / STREAM_WINDOW_BYTES == CONNECTION_STREAMS_MAX);
    assert!(CONNECTION_WINDOW_BYTES <= i32::MAX as u32);
    assert!(MEMORY_BYTES_MIN / WINDOWS_PART >= STREAM_WINDOW_BYTES as u64);
    assert!(RECONNECT_MIN.as_millis() <= RECONNECT_MAX.as_millis());
};
