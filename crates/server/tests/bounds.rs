//! What is bounded by number: one too many is refused by name and told when to come back, and one that
//! ends makes room.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::{Cluster, PATIENCE, seconds};
use ticketrail_proto::error::reason_of;
use ticketrail_proto::v1::{self, consume_request, publish_stream_request};
use ticketrail_server::WrittenLimits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

/// So many of each.
const MAX: u32 = 2;

async fn cluster() -> Cluster {
    let limits = WrittenLimits {
        publish_streams_max: Some(MAX),
        consumers_max: Some(MAX),
        long_polls_max: Some(MAX),
        ..WrittenLimits::default()
    };
    let cluster = Cluster::start_with(1, limits).await;
    cluster.queue("orders").await;
    cluster
}

/// A stream that is open until it is dropped.
type Open<Asks, Answers> = (mpsc::Sender<Asks>, Streaming<Answers>);

async fn publish_stream(
    cluster: &Cluster,
) -> Result<Open<v1::PublishStreamRequest, v1::PublishStreamResponse>, Status> {
    let (asks, requests) = mpsc::channel(1);
    let open = publish_stream_request::Frame::Open(v1::PublishOpen::default());
    let open = v1::PublishStreamRequest { frame: Some(open) };
    asks.send(open).await.unwrap();
    let requests = ReceiverStream::new(requests);
    let answers = cluster.publisher(0).publish_stream(requests).await?;
    let mut answers = answers.into_inner();
    answers.message().await?.expect("`opened`");
    Ok((asks, answers))
}

async fn consume_stream(
    cluster: &Cluster,
) -> Result<Open<v1::ConsumeRequest, v1::ConsumeResponse>, Status> {
    let (asks, requests) = mpsc::channel(1);
    let open = consume_request::Frame::Open(v1::ConsumeOpen {
        queue: "orders".to_owned(),
        ..Default::default()
    });
    let open = v1::ConsumeRequest { frame: Some(open) };
    asks.send(open).await.unwrap();
    let requests = ReceiverStream::new(requests);
    let answers = cluster.consumer(0).consume(requests).await?;
    let mut answers = answers.into_inner();
    answers.message().await?.expect("`opened`");
    Ok((asks, answers))
}

async fn long_poll(cluster: &Cluster, wait: i64) -> Result<(), Status> {
    let request = v1::ReceiveRequest {
        queue: "orders".to_owned(),
        max_messages: Some(1),
        wait: seconds(wait),
        ..Default::default()
    };
    cluster.consumer(0).receive(request).await.map(drop)
}

#[track_caller]
fn is_over(status: &Status, bound: &str) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let reason = reason_of(status).expect("a reason");
    assert_eq!(reason.as_str(), "OVERLOADED");
    let metadata = status.get_details_error_info().unwrap().metadata;
    assert_eq!(metadata["bound"], bound);
    assert_eq!(metadata["setting"], format!("limits.{bound}_max"));
    assert!(status.message().contains(&metadata["setting"]), "{status}");
    let retry = status.get_details_retry_info().expect("when to come back");
    assert!(retry.retry_delay.is_some_and(|delay| !delay.is_zero()));
}

/// The server sees the end of a stream or connection a moment after its client.
async fn again<T>(attempt: impl AsyncFn() -> Result<T, Status>, bound: &str) -> T {
    let attempts = async {
        loop {
            match attempt().await {
                Ok(open) => return open,
                Err(status) => is_over(&status, bound),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, attempts)
        .await
        .expect("there is room again")
}

/// Opens as many as there may be, then one more; ends one, and opens another.
async fn is_bounded<T>(open: impl AsyncFn() -> Result<T, Status>, bound: &str) {
    let mut all = Vec::new();
    for _ in 0..MAX {
        all.push(open().await.unwrap());
    }
    for _ in 0..2 {
        is_over(&open().await.err().expect("one too many"), bound);
    }
    all.pop();
    all.push(again(&open, bound).await);
    is_over(&open().await.err().expect("one too many again"), bound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_each_kind_are_bounded() {
    let cluster = cluster().await;
    is_bounded(async || publish_stream(&cluster).await, "publish_streams").await;
    is_bounded(async || consume_stream(&cluster).await, "consumers").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_polls_are_bounded() {
    let cluster = Arc::new(cluster().await);
    let mut polls = JoinSet::new();
    let mut poll = || {
        let cluster = Arc::clone(&cluster);
        polls.spawn(async move { long_poll(&cluster, 20).await })
    };
    // All but one wait; which one is refused is nobody's business.
    let mut waiting: Vec<_> = (0..=MAX).map(|_| poll()).collect();
    let ended = timeout(PATIENCE, polls.join_next_with_id()).await;
    let (refused, answer) = ended.expect("a refusal in time").unwrap().unwrap();
    is_over(&answer.expect_err("one too many"), "long_polls");
    waiting.retain(|poll| poll.id() != refused);
    is_over(&long_poll(&cluster, 0).await.unwrap_err(), "long_polls");
    waiting.pop().unwrap().abort();
    again(async || long_poll(&cluster, 0).await, "long_polls").await;
}

/// The preface and empty SETTINGS.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;

/// HTTP/2 by hand: a client that keeps to no bound by itself.
struct ByHand(TcpStream);

#[derive(Debug)]
struct Frame {
    kind: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl ByHand {
    async fn connect(cluster: &Cluster) -> Self {
        let address = &cluster.nodes[0].client_address;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(GREETING).await.unwrap();
        Self(stream)
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.0.write_all(&[&head, payload].concat()).await.unwrap();
    }

    async fn next(&mut self) -> Frame {
        let read = async {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.unwrap();
            let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | u32::from(*byte));
            let mut payload = vec![0; number(&head[..3]) as usize];
            self.0.read_exact(&mut payload).await.unwrap();
            Frame {
                kind: head[3],
                stream: number(&head[5..]),
                payload,
            }
        };
        timeout(PATIENCE, read).await.expect("a frame in time")
    }

    /// Begins a call of `Publish`; with `END_STREAM` it has no request.
    async fn call(&mut self, stream: u32, flags: u8) {
        let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        // HPACK: POST and http of the static table, then literals with names of it, then `te`.
        let block = [
            vec![0x83, 0x86, 0x04],
            text("/ticketrail.v1.PublisherService/Publish"),
            vec![0x01],
            text("x"),
            vec![0x0f, 0x10],
            text("application/grpc"),
            vec![0x00],
            text("te"),
            text("trailers"),
        ];
        let flags = flags | END_HEADERS;
        self.send(HEADERS, flags, stream, &block.concat()).await;
    }

    /// The next frame of a stream.
    async fn of_stream(&mut self, stream: u32) -> Frame {
        loop {
            let frame = self.next().await;
            if frame.stream == stream {
                return frame;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_connection_are_bounded() {
    /// What ARCHITECTURE.md tells.
    const STREAMS: u32 = 1_024;
    let cluster = Cluster::start(1).await;
    let mut client = ByHand::connect(&cluster).await;
    let settings = client.next().await;
    assert_eq!(settings.kind, SETTINGS);
    let told = |id: u8, value: u32| [&[0, id], &value.to_be_bytes()[..]].concat();
    let mut settings = settings.payload.chunks(6);
    let streams_max = told(3, STREAMS);
    assert!(
        settings.any(|setting| setting == streams_max),
        "a client is told, and waits"
    );
    // One that does not: calls whose requests never come.
    let id = |place: u32| 2 * place + 1;
    for place in 0..=STREAMS {
        client.call(id(place), 0).await;
    }
    let refused = client.of_stream(id(STREAMS)).await;
    assert_eq!(refused.kind, RST_STREAM);
    // gRPC libraries say UNAVAILABLE for it: it was surely not begun, and may be tried again.
    assert_eq!(refused.payload, REFUSED_STREAM.to_be_bytes());
    client
        .send(RST_STREAM, 0, id(0), &CANCEL.to_be_bytes())
        .await;
    client.call(id(STREAMS + 1), END_STREAM).await;
    let answer = client.of_stream(id(STREAMS + 1)).await;
    assert!([HEADERS, DATA].contains(&answer.kind), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_bounded() {
    let limits = WrittenLimits {
        connections_max: Some(MAX),
        ..WrittenLimits::default()
    };
    let cluster = Cluster::start_with(1, limits).await;
    // There is no call to give a status to: the connection itself is told.
    let connect = async || {
        let mut client = ByHand::connect(&cluster).await;
        loop {
            let frame = client.next().await;
            match frame.kind {
                GOAWAY => return Err(String::from_utf8_lossy(&frame.payload).into_owned()),
                SETTINGS if !frame.payload.is_empty() => return Ok(client),
                _ => {}
            }
        }
    };
    let again = async || {
        let attempts = async {
            loop {
                match connect().await {
                    Ok(open) => return open,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        timeout(PATIENCE, attempts)
            .await
            .expect("there is room again")
    };
    // Those that saw the node start are on their way out.
    let mut all = vec![again().await, again().await];
    assert_eq!(all.len(), MAX as usize);
    for _ in 0..2 {
        let why = connect().await.err().expect("one too many");
        assert!(why.contains("limits.connections_max"), "{why}");
        assert!(connect().await.is_err());
        all.pop();
        all.push(again().await);
    }
}
