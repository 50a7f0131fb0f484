use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::limits;

/// The HTTP/2 preface and an empty SETTINGS frame: the least that a client says at first.
const GREETING_BYTES: usize = 24 + 9;

/// A connection that ends when `kill` is cancelled, or when the other side does not greet in time;
/// HTTP/2 pings watch over it from then on.
pub(crate) struct Guarded {
    stream: TcpStream,
    killed: Pin<Box<WaitForCancellationFutureOwned>>,
    greeting: Option<Greeting>,
    _room: OwnedSemaphorePermit,
}

struct Greeting {
    bytes: usize,
    deadline: Pin<Box<Sleep>>,
}

/// The connections of a listener, up to [`limits::CONNECTIONS_MAX`] at a time; more are closed.
pub(crate) fn accept(
    listener: TcpListener,
    kill: CancellationToken,
    greeting_wait: Duration,
) -> impl Stream<Item = io::Result<Guarded>> {
    let room = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
    futures::stream::unfold(
        (listener, room, kill),
        move |(listener, room, kill)| async move {
            loop {
                match listener.accept().await {
                    Ok((stream, from)) => {
                        if let Some(guarded) = guard(stream, from, &room, &kill, greeting_wait) {
                            return Some((Ok(guarded), (listener, room, kill)));
                        }
                    }
                    Err(error) => {
                        // Mostly out of file descriptors: asking again at once would only burn time.
                        tracing::warn!(%error, "a connection cannot be accepted");
                        tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                    }
                }
            }
        },
    )
}

fn guard(
    stream: TcpStream,
    from: SocketAddr,
    room: &Arc<Semaphore>,
    kill: &CancellationToken,
    greeting_wait: Duration,
) -> Option<Guarded> {
    let Ok(permit) = Arc::clone(room).try_acquire_owned() else {
        tracing::warn!(%from, max = limits::CONNECTIONS_MAX, "too many connections, one is refused");
        return None;
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%from, %error, "a connection ended at once");
        return None;
    }
    let deadline = Box::pin(tokio::time::sleep(greeting_wait));
    Some(Guarded {
        stream,
        killed: Box::pin(kill.clone().cancelled_owned()),
        greeting: Some(Greeting { bytes: 0, deadline }),
        _room: permit,
    })
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
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn pair(kill: &CancellationToken) -> (TcpStream, Guarded) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut accepted = Box::pin(accept(listener, kill.clone(), Duration::from_millis(50)));
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
