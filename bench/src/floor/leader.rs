use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{Stream, StreamExt};
use prost::Message;
use ticketrail_proto::v1;
use ticketrail_proto::v1::publish_stream_request::Frame as Request;
use ticketrail_proto::v1::publish_stream_response::Frame as Answer;
use ticketrail_proto::v1::publisher_service_server::{PublisherService, PublisherServiceServer};
use tokio::sync::oneshot;
use tonic::{Response, Status, Streaming};

use super::store::Store;

/// How long the followers may take to start.
const FOLLOWERS_WITHIN: Duration = Duration::from_secs(10);

/// Between two attempts to reach one.
const CONNECT_EVERY: Duration = Duration::from_millis(10);
/// Frames of one producer that may be unconfirmed.
const FRAMES_MAX: usize = 1_024;

/// A frame of a producer, and who waits for it.
type Waiting = (v1::PublishBatch, oneshot::Sender<()>);

pub(super) async fn serve(
    listen: SocketAddr,
    followers: &[SocketAddr],
    store: Store,
) -> Result<()> {
    let followers: Vec<_> = followers.iter().map(connect).collect::<Result<_>>()?;
    let (frames, waiting) = mpsc::channel();
    let replicator = Replicator { store, followers };
    let replicating = tokio::task::spawn_blocking(move || replicator.run(&waiting));
    let serving = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(PublisherServiceServer::new(Publisher { frames }))
        .serve(listen);
    tokio::select! {
        served = serving => Ok(served?),
        replicated = replicating => replicated?,
    }
}

fn connect(follower: &SocketAddr) -> Result<Follower> {
    let begun = Instant::now();
    let stream = loop {
        match TcpStream::connect(follower) {
            Ok(stream) => break stream,
            Err(error) if begun.elapsed() > FOLLOWERS_WITHIN => {
                return Err(error).context(follower.to_string());
            }
            Err(_) => std::thread::sleep(CONNECT_EVERY),
        }
    };
    stream.set_nodelay(true)?;
    Ok(Follower { stream, behind: 0 })
}

struct Follower {
    stream: TcpStream,
    /// Batches that it has not acknowledged.
    behind: u64,
}

/// The thread that replicates: sends a batch, writes it, waits for the first follower that has it too.
struct Replicator {
    store: Store,
    followers: Vec<Follower>,
}

impl Replicator {
    fn run(mut self, waiting: &mpsc::Receiver<Waiting>) -> Result<()> {
        let (mut batch, mut answers) = (Vec::new(), Vec::new());
        while let Ok(first) = waiting.recv() {
            batch.clear();
            batch.extend([0; 4]);
            for (frame, answer) in std::iter::once(first).chain(waiting.try_iter()) {
                frame.encode(&mut batch)?;
                answers.push(answer);
            }
            let length = u32::try_from(batch.len() - 4)?;
            batch[..4].copy_from_slice(&length.to_le_bytes());
            for follower in &mut self.followers {
                follower.stream.write_all(&batch)?;
                follower.behind += 1;
            }
            self.store.append(&batch[4..])?;
            while self.followers.iter().all(|follower| follower.behind > 0) {
                self.hear()?;
            }
            for answer in answers.drain(..) {
                // An error: that producer is gone.
                let _ = answer.send(());
            }
        }
        Ok(())
    }

    /// Waits for acknowledgements and takes those that are there.
    fn hear(&mut self) -> Result<()> {
        let polled = |follower: &Follower| libc::pollfd {
            fd: follower.stream.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let mut polls: Vec<_> = self.followers.iter().map(polled).collect();
        // SAFETY: the array and its length are one vector's, and its descriptors are open.
        let ready = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, -1) };
        if ready < 0 {
            let error = std::io::Error::last_os_error();
            // Interrupted: the caller asks again.
            ensure!(error.kind() == ErrorKind::Interrupted, error);
            return Ok(());
        }
        for (poll, follower) in polls.iter().zip(&mut self.followers) {
            if poll.revents != 0 {
                let heard = follower.stream.read(&mut [0; 64])?;
                ensure!(heard > 0, "a follower is gone");
                follower.behind -= heard as u64;
            }
        }
        Ok(())
    }
}

struct Publisher {
    frames: mpsc::Sender<Waiting>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<v1::PublishStreamResponse, Status>> + Send>>;

#[tonic::async_trait]
impl PublisherService for Publisher {
    type PublishStreamStream = Answers;

    async fn publish_stream(
        &self,
        request: tonic::Request<Streaming<v1::PublishStreamRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let frames = self.frames.clone();
        let answers = request
            .into_inner()
            .map(move |request| answer(take(&frames, request)))
            .buffered(FRAMES_MAX);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn publish(
        &self,
        _: tonic::Request<v1::PublishRequest>,
    ) -> Result<Response<v1::PublishResponse>, Status> {
        Err(Status::unimplemented("streams only"))
    }

    async fn open_producer(
        &self,
        _: tonic::Request<v1::OpenProducerRequest>,
    ) -> Result<Response<v1::OpenProducerResponse>, Status> {
        Err(Status::unimplemented("producers have no ids here"))
    }
}

/// What a frame asks for.
enum Taken {
    Opens,
    Stored {
        through_sequence: u64,
        stored: oneshot::Receiver<()>,
    },
}

fn take(
    frames: &mpsc::Sender<Waiting>,
    request: Result<v1::PublishStreamRequest, Status>,
) -> Result<Taken, Status> {
    let Some(Request::Batch(batch)) = request?.frame else {
        return Ok(Taken::Opens);
    };
    let through_sequence = batch.first_sequence + batch.items.len() as u64 - 1;
    let (answer, stored) = oneshot::channel();
    let sent = frames.send((batch, answer));
    sent.map_err(|_| Status::unavailable("this node stops"))?;
    Ok(Taken::Stored {
        through_sequence,
        stored,
    })
}

async fn answer(taken: Result<Taken, Status>) -> Result<v1::PublishStreamResponse, Status> {
    let frame = match taken? {
        Taken::Opens => Answer::Opened(v1::PublishOpened::default()),
        Taken::Stored {
            through_sequence,
            stored,
        } => {
            let stored = stored.await;
            stored.map_err(|_| Status::unavailable("this node stops"))?;
            Answer::Confirm(v1::PublishConfirm {
                through_sequence,
                ..Default::default()
            })
        }
    };
    Ok(v1::PublishStreamResponse { frame: Some(frame) })
}
