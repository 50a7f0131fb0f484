//! What no generated client can send: frames by hand, and silence.

use std::time::Instant;

use bytes::{BufMut as _, Bytes, BytesMut};
use ticketrail_tests::cluster::{Cluster, secs};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Code;

const PUBLISH: &str = "/ticketrail.v1.PublisherService/Publish";

/// An answer of the server: its gRPC code.
struct Answer {
    code: Code,
    message: String,
}

/// Sends the beginning of a call's body, and stays silent until the server answers.
async fn call(cluster: &Cluster, grpc_timeout: Option<&str>, bytes: Bytes) -> Answer {
    let stream = TcpStream::connect(cluster.address(1)).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let mut request = http::Request::post(format!("http://{}{PUBLISH}", cluster.address(1)))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(grpc_timeout) = grpc_timeout {
        request = request.header("grpc-timeout", grpc_timeout);
    }
    let (answer, mut body) = client
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    body.send_data(bytes, false).unwrap();
    let answer = timeout(secs(30), answer)
        .await
        .expect("the server answers")
        .unwrap();
    let mut headers = answer.headers().clone();
    if !headers.contains_key("grpc-status") {
        let mut rest = answer.into_body();
        while let Some(data) = rest.data().await {
            rest.flow_control()
                .release_capacity(data.unwrap().len())
                .unwrap();
        }
        headers = rest.trailers().await.unwrap().unwrap();
    }
    connection.abort();
    let text = |name: &str| {
        headers
            .get(name)
            .map(|v| v.to_str().unwrap().to_owned())
            .unwrap_or_default()
    };
    Answer {
        code: Code::from_i32(text("grpc-status").parse().unwrap()),
        message: text("grpc-message"),
    }
}

/// A gRPC message's prefix, and as much of the message as there is.
fn prefixed(length: u32, body: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(length);
    bytes.put_slice(body);
    bytes.freeze()
}

pub(super) async fn a_length_prefix_of_a_gibibyte(cluster: &Cluster) {
    let before = cluster.resident_bytes(1);
    let asked = Instant::now();
    let answer = call(cluster, None, prefixed(1 << 30, &[0; 1_000])).await;
    let refused = matches!(
        answer.code,
        Code::OutOfRange | Code::InvalidArgument | Code::ResourceExhausted
    );
    assert!(refused, "{:?} {}", answer.code, answer.message);
    assert!(
        asked.elapsed() < secs(5),
        "refused by its prefix, not when its time is over"
    );
    let grown = cluster.resident_bytes(1).saturating_sub(before);
    assert!(
        grown < 64 << 20,
        "{} MiB were taken for a message that never came",
        grown >> 20
    );
}

pub(super) async fn half_a_message_and_silence(cluster: &Cluster) {
    let answer = call(cluster, Some("2S"), prefixed(1_000, &[10; 400])).await;
    let ended = matches!(answer.code, Code::DeadlineExceeded | Code::Cancelled);
    assert!(ended, "{:?} {}", answer.code, answer.message);
}

pub(super) async fn half_a_greeting_and_silence(cluster: &Cluster) {
    let mut silent = Vec::new();
    for beginning in [
        &b""[..],
        b"PRI * HTTP/2.0\r\n",
        b"GET / HTTP/1.1\r\n",
        &[0xff; 9],
    ] {
        for _ in 0..20 {
            let mut stream = TcpStream::connect(cluster.address(1)).await.unwrap();
            stream.write_all(beginning).await.unwrap();
            silent.push(stream);
        }
    }
    for mut stream in silent {
        let mut rest = Vec::new();
        let end = timeout(secs(30), stream.read_to_end(&mut rest)).await;
        // Closed or reset, both are an end.
        assert!(end.is_ok(), "a connection that says nothing is closed");
    }
}
