//! A TCP proxy for one link, to cut it, slow it down, or swallow what comes back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// How a link behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// Nothing gets through: connections are closed, new ones refused.
    pub cut: bool,
    /// What the server sends is read and thrown away.
    pub drop_answers: bool,
    /// Each piece of data waits so long, in both directions.
    pub delay: Duration,
}

impl Behaviour {
    /// Everything gets through, as it comes.
    pub const FINE: Self = Self {
        cut: false,
        drop_answers: false,
        delay: Duration::ZERO,
    };
    /// Nothing gets through.
    pub const CUT: Self = Self {
        cut: true,
        ..Self::FINE
    };
}

/// A link through which a client reaches one target. Ends when dropped.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    behaviour: Arc<watch::Sender<Behaviour>>,
    task: JoinHandle<()>,
}

impl Link {
    /// Opens a link to a target `host:port` on a port of its own.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn open(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port for a link");
        let address = listener
            .local_addr()
            .expect("a bound listener has an address");
        let behaviour = Arc::new(watch::Sender::new(Behaviour::default()));
        let task = tokio::spawn(accept(listener, target, Arc::clone(&behaviour)));
        Self {
            address,
            behaviour,
            task,
        }
    }

    /// Where to connect instead of the target.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Changes the behaviour, of open connections too.
    pub fn behave(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    /// Cuts the link.
    pub fn cut(&self) {
        self.behave(Behaviour::CUT);
    }

    /// The link works again.
    pub fn heal(&self) {
        self.behave(Behaviour::FINE);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: String, behaviour: Arc<watch::Sender<Behaviour>>) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(serve(client, target.clone(), behaviour.subscribe()));
    }
}

/// Serves one connection, as the behaviour says, to its end.
pub(super) async fn serve(
    client: TcpStream,
    target: String,
    mut behaviour: watch::Receiver<Behaviour>,
) {
    if behaviour.borrow().cut {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    if client
        .set_nodelay(true)
        .and(server.set_nodelay(true))
        .is_err()
    {
        return;
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let there = copy(from_client, to_server, behaviour.clone(), false);
    let back = copy(from_server, to_client, behaviour.clone(), true);
    // Both halves end with the first: a half-closed link is no link.
    tokio::select! {
        () = there => {}
        () = back => {}
        _ = behaviour.wait_for(|now| now.cut) => {}
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    behaviour: watch::Receiver<Behaviour>,
    answers: bool,
) {
    let mut buffer = vec![0; 64 << 10];
    let mut swallowed = false;
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        let now = *behaviour.borrow();
        if !now.delay.is_zero() {
            sleep(now.delay).await;
        }
        if answers && now.drop_answers {
            swallowed = true;
            continue;
        }
        // A connection with a hole in it is of no use any more.
        if swallowed || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
