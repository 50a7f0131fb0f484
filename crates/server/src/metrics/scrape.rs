//! One answer of `/metrics`, gathered and written piece by piece.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::time::timeout;

use super::Connections;
use super::names as n;
use super::node::{self, Machine};
use super::process::Process;
use super::queues::{Growing, Numbers, OF_EACH, Queues};
use super::text::Text;
use crate::data_folder::DataFolder;
use crate::limits;
use crate::node::SharedNode;

/// Stands for all queues without series of their own; no queue can have this name.
const OTHERS: &str = "tr.other";

/// All that is watched of a node.
pub(crate) struct Watched {
    pub(crate) node: SharedNode,
    pub(crate) data_dir: PathBuf,
    /// Queues that have series of their own, at most.
    pub(crate) queues_max: usize,
    pub(crate) clients: Arc<Connections>,
    pub(crate) peers: Arc<Connections>,
    pub(crate) scrapers: Arc<Connections>,
    /// Held by the answer that is under way.
    pub(super) turn: AsyncMutex<()>,
    others: Mutex<Growing>,
}

/// Who asked is gone, or reads no more.
struct Gone;

impl Watched {
    pub(crate) fn new(
        node: SharedNode,
        data_dir: PathBuf,
        queues_max: usize,
        clients: Arc<Connections>,
        peers: Arc<Connections>,
    ) -> Self {
        Self {
            node,
            data_dir,
            queues_max,
            clients,
            peers,
            scrapers: Arc::default(),
            turn: AsyncMutex::default(),
            others: Mutex::default(),
        }
    }

    /// Gathers and writes everything; ends early when nobody reads any more. One at a time.
    pub(super) async fn scrape(&self, pieces: mpsc::Sender<Bytes>) {
        let _turn = self.turn.lock().await;
        // An error means that who asked is gone: nobody to tell.
        let _ = self.write(&pieces).await;
    }

    async fn write(&self, pieces: &mpsc::Sender<Bytes>) -> Result<(), Gone> {
        let start = Instant::now();
        let machine = self.machine().await;
        let replica = self.node.broker.replica();
        let mut queues = Queues::gather(replica, self.queues_max).await;
        let now_ms = self.node.broker.wall_now_ms();
        if let Some(others) = &mut queues.others {
            let mut growing = self.others.lock().unwrap_or_else(PoisonError::into_inner);
            growing.grow(others);
        }
        let mut text = Text::default();
        node::write(self, &machine, &mut text);
        sums(&queues, &mut text);
        text.one(&n::SCRAPE_HELD_SECONDS, queues.held.as_secs_f64());
        text.one(&n::SCRAPE_SECONDS, start.elapsed().as_secs_f64());
        for (metric, value) in OF_EACH {
            text.begin(metric);
            for queue in &queues.shown {
                let labels = [queue.namespace.as_str(), queue.name.as_str()];
                text.sample(metric, &labels, value(&queue.numbers, now_ms));
                if text.len() >= limits::SCRAPE_PIECE_BYTES {
                    send(&mut text, pieces).await?;
                }
            }
            if let Some(others) = &queues.others {
                text.sample(metric, &["", OTHERS], value(others, now_ms));
            }
        }
        send(&mut text, pieces).await
    }

    /// What takes system calls, on a thread that may wait.
    async fn machine(&self) -> Machine {
        let root = self.data_dir.clone();
        let look = move || Machine {
            process: Process::read(),
            data: DataFolder::look(&root).ok(),
        };
        let looked = tokio::task::spawn_blocking(look).await;
        looked.unwrap_or_else(|_| Machine {
            process: Process::default(),
            data: None,
        })
    }
}

fn sums(queues: &Queues, text: &mut Text) {
    let Numbers {
        ready,
        in_flight,
        delayed,
        parked,
        ..
    } = queues.all;
    text.begin(&n::MESSAGES);
    for (state, count) in [
        ("ready", ready),
        ("in_flight", in_flight),
        ("delayed", delayed),
        ("parked", parked),
    ] {
        text.sample(&n::MESSAGES, &[state], count);
    }
    text.one(&n::QUEUES, queues.count);
    text.one(&n::QUEUES_SHOWN, queues.shown.len());
    text.one(&n::UNROUTABLE, queues.unroutable);
    text.one(&n::PRODUCERS, queues.producers);
    text.one(&n::ATTACHED_SESSIONS, queues.sessions);
}

async fn send(text: &mut Text, pieces: &mpsc::Sender<Bytes>) -> Result<(), Gone> {
    let piece = Bytes::from(text.take());
    // Who reads no more holds up all others: it is the turn of one at a time.
    match timeout(limits::SCRAPE_READ_MAX, pieces.send(piece)).await {
        Ok(sent) => sent.map_err(|_| Gone),
        Err(_) => Err(Gone),
    }
}
