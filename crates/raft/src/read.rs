//! Linearizable reads: an index from the leader, then a wait for the local state to reach it. All
//! readers that wait share a round; one that comes while a round runs waits for the next, since the
//! running one may have read the index before.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ticketrail_core::NodeId;
use ticketrail_proto::peer::{self, read_index_response};
use tokio::sync::oneshot;

use crate::error::ReadError;
use crate::node::Node;
use crate::seam::Runtime;
use crate::transport::{PeerRequest, PeerResponse};

/// The rounds of a replica.
#[derive(Default)]
pub(crate) struct Rounds {
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    running: bool,
    readers: Vec<oneshot::Sender<Result<u64, ReadError>>>,
}

impl Rounds {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no panic under this lock")
    }
}

/// Resolves when the local state holds everything that was committed when this was called.
pub(crate) async fn read_index<R: Runtime>(node: Arc<Node<R>>) -> Result<(), ReadError> {
    let timeout = Duration::from_millis(node.config.append_timeout_ms);
    let (reader, index) = oneshot::channel();
    let start = {
        let mut waiting = node.reads.lock();
        waiting.readers.push(reader);
        !std::mem::replace(&mut waiting.running, true)
    };
    if start {
        // A task of its own: a reader that gives up must not take the others with it.
        drop(R::spawn(run_rounds(node.clone())));
    }
    let index = index.await.unwrap_or(Err(ReadError::Stopped))?;
    let applied = node.shared.wait_applied(index);
    match R::timeout(timeout, applied).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(ReadError::Stopped),
        Err(_) => Err(ReadError::Lagging),
    }
}

async fn run_rounds<R: Runtime>(node: Arc<Node<R>>) {
    loop {
        let readers = {
            let mut waiting = node.reads.lock();
            if waiting.readers.is_empty() {
                waiting.running = false;
                return;
            }
            std::mem::take(&mut waiting.readers)
        };
        let index = round(&node).await;
        for reader in readers {
            // An error means that the reader gave up.
            let _ = reader.send(index.clone());
        }
    }
}

async fn round<R: Runtime>(node: &Node<R>) -> Result<u64, ReadError> {
    let leadership = *node.shared.leadership.borrow();
    match leadership.leader {
        Some(leader) if leader == node.config.node_id => node.leader_read_index().await,
        Some(leader) => ask(node, leader).await,
        None => Err(ReadError::NoLeader),
    }
}

async fn ask<R: Runtime>(node: &Node<R>, leader: NodeId) -> Result<u64, ReadError> {
    let timeout = Duration::from_millis(node.config.append_timeout_ms);
    let request = peer::ReadIndexRequest {
        header: node.letterhead.to(leader),
    };
    let call = node
        .transport
        .call(leader, PeerRequest::ReadIndex(request), timeout);
    let not_confirmed = |reason: &str| ReadError::NotConfirmed(reason.to_owned());
    let response = match R::timeout(timeout, call).await {
        Ok(Ok(PeerResponse::ReadIndex(response))) => response,
        Ok(Ok(_)) => return Err(not_confirmed("an answer of another kind")),
        Ok(Err(error)) => return Err(not_confirmed(&error.to_string())),
        Err(_) => return Err(not_confirmed("no answer in time")),
    };
    if !node.letterhead.accepts(response.header.as_ref(), leader) {
        return Err(not_confirmed("an answer from somebody else"));
    }
    match response.result {
        Some(read_index_response::Result::Index(index)) => Ok(index),
        Some(read_index_response::Result::Refused(refused)) => Err(not_confirmed(&refused.reason)),
        None => Err(not_confirmed("an empty answer")),
    }
}
