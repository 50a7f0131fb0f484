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

/// Headers of a message.
pub(crate) const HEADERS_MAX: usize = 64;
/// Key of a header.
pub(crate) const HEADER_KEY_BYTES_MAX: usize = 128;
/// Value of a header.
pub(crate) const HEADER_VALUE_BYTES_MAX: usize = 4 << 10;
/// Keys and values of a message's headers together.
pub(crate) const HEADERS_BYTES_MAX: usize = 32 << 10;
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
/// The reported health is looked at so often.
pub(crate) const HEALTH_LOOK: Duration = Duration::from_millis(250);
/// Without a sign of a quorum for so long, a node is not serving.
pub(crate) const QUORUM_SILENCE_MAX: Duration = Duration::from_secs(1);
/// How long a stop waits for calls and streams to end.
pub(crate) const STOP_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a leader that stops waits for another one to lead.
pub(crate) const HAND_OVER_MAX: Duration = Duration::from_millis(500);
/// How long a failed node waits for Raft to end.
pub(crate) const ABORT_WAIT_MAX: Duration = Duration::from_millis(500);
/// Bytes of commands that may wait on this node for their outcome.
pub(crate) const WAITING_BYTES_MAX: u32 = 64 << 20;
/// What a client waits before it tries again after this node stopped.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(100);

/// HTTP/2 window of a stream.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// HTTP/2 window of a connection.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Connections of one listener.
pub(crate) const CONNECTIONS_MAX: usize = 4_096;
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
    assert!(ticketrail_raft::FRAME_BYTES_MAX < PEER_MESSAGE_BYTES_MAX);
    assert!(BATCH_MESSAGES_HARD <= STREAM_CREDIT_MESSAGES as usize);
    assert!(PREFETCH_DEFAULT <= core::PREFETCH_MAX);
    assert!(PAGE_DEFAULT <= PAGE_MAX && PEEK_PAGE_DEFAULT <= PAGE_MAX);
    assert!(RECEIVE_WAIT_MAX.as_secs() < DEADLINE_DEFAULT.as_secs());
    assert!(DEADLINE_DEFAULT.as_secs() < CALL_TIME_MAX.as_secs());
    assert!(RECONNECT_MIN.as_millis() <= RECONNECT_MAX.as_millis());
};
