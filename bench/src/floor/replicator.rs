use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use prost::Message;
use ticketrail_proto::v1;
use ticketrail_proto::v1::consume_response::Frame;
use tokio::sync::mpsc::Sender;
use tokio::sync::oneshot;

use super::store::Store;

/// How long the followers may take to start.
const FOLLOWERS_WITHIN: Duration = Duration::from_secs(10);
/// Between two attempts to reach one.
const CONNECT_EVERY: Duration = Duration::from_millis(10);

/// What is to be on the disks of a majority.
pub(super) enum Waiting {
    /// A frame of a producer, and who waits for it.
    Publish(v1::PublishBatch, oneshot::Sender<()>),
    /// Acknowledgements, which go with the next messages.
    Settle(v1::ConsumeSettlement),
}

/// Who messages are delivered to, in turn.
#[derive(Default)]
pub(super) struct Consumers(Mutex<VecDeque<Consumer>>);

struct Consumer {
    frames: Sender<v1::ConsumeResponse>,
    last_delivery_id: u64,
}

impl Consumers {
    pub(super) fn add(&self, frames: Sender<v1::ConsumeResponse>) {
        let consumer = Consumer {
            frames,
            last_delivery_id: 0,
        };
        self.lock().push_back(consumer);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Consumer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives these messages to the next consumer that is there, if any is.
    fn deliver(&self, batch: v1::PublishBatch) {
        let mut consumers = self.lock();
        while let Some(mut next) = consumers.pop_front() {
            let deliveries = batch.items.iter().map(|item| {
                next.last_delivery_id += 1;
                v1::Delivery {
                    delivery_id: next.last_delivery_id,
                    message: item.message.clone(),
                    ..Default::default()
                }
            });
            let deliveries = v1::ConsumeDeliveries {
                deliveries: deliveries.collect(),
            };
            let frame = Some(Frame::Deliveries(deliveries));
            // Waits where the consumer is slow; an error: it is gone.
            if next
                .frames
                .blocking_send(v1::ConsumeResponse { frame })
                .is_ok()
            {
                consumers.push_back(next);
                return;
            }
        }
    }
}

struct Follower {
    stream: TcpStream,
    /// Batches that it has not acknowledged.
    behind: u64,
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

/// The thread that replicates: sends a batch, writes it, waits for the first follower that has it too.
pub(super) struct Replicator {
    store: Store,
    followers: Vec<Follower>,
}

impl Replicator {
    pub(super) fn connect(store: Store, followers: &[SocketAddr]) -> Result<Self> {
        let followers = followers.iter().map(connect).collect::<Result<_>>()?;
        Ok(Self { store, followers })
    }

    pub(super) fn run(
        mut self,
        waiting: &mpsc::Receiver<Waiting>,
        consumers: &Consumers,
    ) -> Result<()> {
        let (mut batch, mut stored) = (vec![0; 4], Vec::new());
        while let Ok(first) = waiting.recv() {
            for one in std::iter::once(first).chain(waiting.try_iter()) {
                match one {
                    Waiting::Publish(frame, answer) => {
                        frame.encode(&mut batch)?;
                        stored.push((frame, answer));
                    }
                    Waiting::Settle(frame) => frame.encode(&mut batch)?,
                }
            }
            if stored.is_empty() {
                continue;
            }
            self.replicate(&mut batch)?;
            for (frame, answer) in stored.drain(..) {
                // An error: that producer is gone.
                let _ = answer.send(());
                consumers.deliver(frame);
            }
            batch.truncate(4);
        }
        Ok(())
    }

    /// Returns when a majority has it on disk; its first four bytes are for its length.
    fn replicate(&mut self, batch: &mut [u8]) -> Result<()> {
        let length = u32::try_from(batch.len() - 4)?;
        batch[..4].copy_from_slice(&length.to_le_bytes());
        for follower in &mut self.followers {
            follower.stream.write_all(batch)?;
            follower.behind += 1;
        }
        self.store.append(&batch[4..])?;
        while self.followers.iter().all(|follower| follower.behind > 0) {
            self.hear()?;
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
