use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use ticketrail_broker::{Admission, Bound, PublishBudget};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::limits;
use crate::metrics::{self, Connections};

/// The HTTP/2 preface and an empty SETTINGS frame: the least that a client says at first.
const GREETING_BYTES: usize = 24 + 9;

/// A connection that ends when `kill` is cancelled, or when the other side does not greet in time;
/// HTTP/2 pings watch over it from then on.
pub(crate) struct Guarded {
    stream: TcpStream,
    killed: Pin<Box<WaitForCancellationFutureOwned>>,
    greeting: Option<Greeting>,
    connection: Connection,
    _room: OwnedSemaphorePermit,
    _counted: metrics::Connection,
}

/// What a connection may have under way. A request extension.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    /// Bytes of publishes.
    pub(crate) publish: PublishBudget,
}

/// What a listener lets in.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    /// Connections at a time; more are closed.
    pub(crate) connections_max: usize,
    /// Where connections are counted.
    pub(crate) counts: Arc<Connections>,
    /// Time for the greeting.
    pub(crate) greeting_wait: Duration,
    /// Bytes of publishes under way on one connection.
    pub(crate) connection_bytes_max: u32,
    /// For clients: those too many are told so, and counted here.
    pub(crate) admission: Option<Arc<Admission>>,
}

struct Greeting {
    bytes: usize,
    deadline: Pin<Box<Sleep>>,
}

/// What the connections of a listener share.
struct Lobby {
    door: Door,
    room: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
    kill: CancellationToken,
}

/// The connections of a listener that its door lets in.
pub(crate) fn accept(
    listener: TcpListener,
    kill: CancellationToken,
    door: Door,
) -> impl Stream<Item = io::Result<Guarded>> {
    let lobby = Lobby {
        room: Arc::new(Semaphore::new(door.connections_max)),
        turned_away: Arc::new(Semaphore::new(limits::TURNED_AWAY_MAX)),
        door,
        kill,
    };
    futures::stream::unfold((listener, lobby), move |(listener, lobby)| async move {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    if let Some(guarded) = lobby.guard(stream, from) {
                        return Some((Ok(guarded), (listener, lobby)));
                    }
                }
                Err(error) => {
                    // Mostly out of file descriptors: asking again at once would only burn time.
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

impl Lobby {
    fn guard(&self, stream: TcpStream, from: SocketAddr) -> Option<Guarded> {
        let door = &self.door;
        let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
            turn_away(stream, from, door, &self.turned_away);
            return None;
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%from, %error, "a connection ended at once");
            return None;
        }
        let deadline = Box::pin(tokio::time::sleep(door.greeting_wait));
        Some(Guarded {
            stream,
            killed: Box::pin(self.kill.clone().cancelled_owned()),
            greeting: Some(Greeting { bytes: 0, deadline }),
            connection: Connection {
                publish: PublishBudget::new(door.connection_bytes_max),
            },
            _room: permit,
            _counted: door.counts.accept(),
        })
    }
}

/// Says goodbye to a connection that has no place, in words that its client can show, and gives it
/// a moment to read them.
fn turn_away(mut stream: TcpStream, from: SocketAddr, door: &Door, at_once: &Arc<Semaphore>) {
    door.counts.refuse();
    tracing::debug!(%from, max = door.connections_max, "too many connections, one is refused");
    let Some(admission) = &door.admission else {
        return;
    };
    admission.count_refusal(Bound::Connections);
    let Ok(permit) = Arc::clone(at_once).try_acquire_owned() else {
        return;
    };
    let farewell = farewell(&format!(
        "this node has {} connections, as many as it may (`{}`); close some, or use another node",
        door.connections_max,
        Bound::Connections.setting()
    ));
    tokio::spawn(async move {
        let said = async {
            stream.write_all(&farewell).await?;
            stream.shutdown().await?;
            // Closing while something is unread would take the words back.
            let mut unread = [0; 1_024];
            while stream.read(&mut unread).await? > 0 {}
            io::Result::Ok(())
        };
        // Whoever does not listen, or is gone, needs no words.
        let _ = tokio::time::timeout(limits::TURN_AWAY_WAIT_MAX, said).await;
        drop(permit);
    });
}

/// Empty HTTP/2 settings and a GOAWAY of ENHANCE_YOUR_CALM that says why.
fn farewell(why: &str) -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const NO_STREAM_ENHANCE_YOUR_CALM: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 0xb];
    let length = u8::try_from(NO_STREAM_ENHANCE_YOUR_CALM.len() + why.len()).unwrap_or(u8::MAX);
    let why = &why.as_bytes()[..usize::from(length) - NO_STREAM_ENHANCE_YOUR_CALM.len()];
    let goaway = [0, 0, length, 7, 0, 0, 0, 0, 0];
    [&SETTINGS[..], &goaway, &NO_STREAM_ENHANCE_YOUR_CALM, why].concat()
}

impl Guarded {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.killed.as_mut().poll(cx).is_ready() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if let Some(greeting) = &mut self.greeting
            && greeting.deadline.as_mut().poll(cx).is_ready()
        {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some(greeting) = &mut self.greeting {
            greeting.bytes += buf.filled().len() - before;
            if greeting.bytes >= GREETING_BYTES {
                self.greeting = None;
            }
        }
        read
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connected for Guarded {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.connection.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use ticketrail_broker::AdmissionConfig;

    fn door(connections_max: usize) -> Door {
        Door {
            connections_max,
            connection_bytes_max: 1 << 20,
            greeting_wait: Duration::from_millis(50),
            counts: Arc::default(),
            admission: Some(Arc::new(Admission::new(AdmissionConfig::default()))),
        }
    }

    async fn pair(kill: &CancellationToken) -> (TcpStream, Guarded) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut accepted = Box::pin(accept(listener, kill.clone(), door(1)));
        let client = TcpStream::connect(address).await.unwrap();
        (client, accepted.next().await.unwrap().unwrap())
    }

    #[tokio::test]
    async fn silence_before_the_greeting_ends_a_connection() {
        let (_client, mut guarded) = pair(&CancellationToken::new()).await;
        let error = guarded.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_connection_too_many_is_told_why() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let door = door(1);
        let admission = door.admission.clone().unwrap();
        let counts = Arc::clone(&door.counts);
        let mut accepted = Box::pin(accept(listener, CancellationToken::new(), door));
        let _first = TcpStream::connect(address).await.unwrap();
        let _guarded = accepted.next().await.unwrap().unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(&[0; 64]).await.unwrap();
        let mut said = Vec::new();
        tokio::select! {
            read = second.read_to_end(&mut said) => drop(read.unwrap()),
            _ = accepted.next() => panic!("there is room for one"),
        }
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("limits.connections_max"), "{said}");
        assert_eq!(admission.refusals().of(Bound::Connections), 1);
        assert_eq!(counts.counts(), (1, 1, 1));
    }

    #[tokio::test]
    async fn a_killed_connection_reads_no_more() {
        let kill = CancellationToken::new();
        let (mut client, mut guarded) = pair(&kill).await;
        client.write_all(&[7]).await.unwrap();
        assert_eq!(guarded.read_u8().await.unwrap(), 7);
        kill.cancel();
        let error = guarded.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }
}
