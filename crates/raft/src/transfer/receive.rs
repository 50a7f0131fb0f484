//! One fetch at a time, begun by a leader's offer and carried to the end whoever leads meanwhile;
//! then the install into Raft, with the newest leader's vote.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use openraft::Snapshot;
use openraft::async_runtime::WatchReceiver;
use ticketrail_core::NodeId;
use ticketrail_proto::peer::{self, OfferOutcome};

use super::TransferProgress;
use super::fetch::Fetcher;
use crate::codec;
use crate::error::PeerRefusal;
use crate::node::Node;
use crate::seam::Runtime;
use crate::shelf::Shelved;
use crate::types::{LogId, Vote, term_of};

/// What this node fetches.
pub(crate) struct Receiving {
    fetcher: Fetcher,
    state: Mutex<State>,
}

#[derive(Default)]
enum State {
    #[default]
    Idle,
    /// Under way, for the leader of this vote.
    Running(Vote),
    /// It failed; the next offer is told, once.
    Failed(String),
}

impl Receiving {
    pub(crate) fn new(fetcher: Fetcher) -> Self {
        Self {
            fetcher,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    /// How far the present fetch is.
    pub(crate) fn progress(&self) -> Option<TransferProgress> {
        let running = matches!(&*self.lock(), State::Running(_));
        running.then(|| self.fetcher.progress.get())
    }

    /// Ends the present fetch, at its next step.
    pub(crate) fn stop(&self) {
        self.fetcher.stop.store(true, Ordering::Release);
    }

    fn newest_vote(&self) -> Option<Vote> {
        match &*self.lock() {
            State::Running(vote) => Some(*vote),
            _ => None,
        }
    }
}

/// Answers a leader that offers a snapshot of entries up to `wanted`, or asks how far it is.
pub(crate) fn on_offer<R: Runtime>(
    node: &Arc<Node<R>>,
    sender: NodeId,
    vote: Vote,
    wanted: LogId,
) -> Result<peer::OfferSnapshotResponse, PeerRefusal> {
    if !vote.is_committed() || term_of(&wanted) > vote.leader_id().term {
        let what = "`vote` is not a leader's, or older than `last_log_id`".to_owned();
        return Err(PeerRefusal::Malformed(what));
    }
    let mut response = peer::OfferSnapshotResponse {
        header: node.letterhead.to(sender),
        ..Default::default()
    };
    let own = node.raft.metrics().borrow_watched().vote;
    if own > vote {
        response.set_outcome(OfferOutcome::HigherVote);
        response.vote = Some(codec::vote_to_peer(&own));
        return Ok(response);
    }
    if node.shared.lock().last >= Some(wanted) {
        let is_kept = node.transfers.receiving.fetcher.keeps(wanted.index);
        response.set_outcome(match is_kept {
            true => OfferOutcome::Installed,
            false => OfferOutcome::Fetching,
        });
        return Ok(response);
    }
    if node.transfers.is_stopping() {
        return Err(PeerRefusal::Stopped);
    }
    let mut state = node.transfers.receiving.lock();
    match &mut *state {
        State::Running(newest) if *newest < vote => *newest = vote,
        State::Running(_) => {}
        State::Failed(reason) => {
            response.set_outcome(OfferOutcome::Failed);
            response.reason = std::mem::take(reason);
            *state = State::Idle;
            return Ok(response);
        }
        State::Idle => {
            *state = State::Running(vote);
            drop(R::spawn(run(node.clone(), sender, wanted)));
        }
    }
    drop(state);
    response.set_outcome(OfferOutcome::Fetching);
    let progress = node.transfers.receiving.fetcher.progress.get();
    response.bytes_done = progress.bytes_done;
    response.bytes_total = progress.bytes_total;
    Ok(response)
}

async fn run<R: Runtime>(node: Arc<Node<R>>, from: NodeId, wanted: LogId) {
    let done = fetch_and_install(&node, from, wanted).await;
    let counts = &node.transfers.counts;
    let state = match done {
        Ok(Some(last)) => {
            counts.installed.fetch_add(1, Ordering::Relaxed);
            tracing::info!(%from, index = last.index, "a snapshot was installed");
            State::Idle
        }
        Ok(None) => {
            tracing::info!(%from, "the log was quicker than a snapshot");
            State::Idle
        }
        Err(reason) => {
            counts.failed.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%from, reason, "a snapshot was not installed");
            State::Failed(reason)
        }
    };
    *node.transfers.receiving.lock() = state;
}

async fn fetch_and_install<R: Runtime>(
    node: &Arc<Node<R>>,
    from: NodeId,
    wanted: LogId,
) -> Result<Option<LogId>, String> {
    // Compaction waits: it would work on a state that is about to be replaced.
    let _hold = {
        let applied = node.shared.lock();
        let holds = &node.transfers.readers.holds;
        holds.take(applied.last.map(|id| id.index), applied.bytes)
    };
    let fetcher = node.transfers.receiving.fetcher.clone();
    let fetched = fetcher.fetch::<R>(from, wanted.index).await;
    let shelved = fetched.map_err(|error| error.to_string())?;
    let last = shelved.meta().last_log_id.ok_or("a snapshot of nothing")?;
    match install(node, shelved, last).await? {
        Installed::Yes => Ok(Some(last)),
        Installed::Overtaken => {
            fetcher.discard_or_warn::<R>(None).await;
            Ok(None)
        }
        Installed::Refused => {
            fetcher.discard_or_warn::<R>(Some(last.index)).await;
            Err("the leader that offered it is not in office any more".to_owned())
        }
    }
}

/// What became of a snapshot for certain.
enum Installed {
    Yes,
    /// The log came further meanwhile.
    Overtaken,
    Refused,
}

/// An error tells nothing of the snapshot, and Raft has ended: a start looks what is there.
async fn install<R: Runtime>(
    node: &Arc<Node<R>>,
    shelved: Shelved,
    last: LogId,
) -> Result<Installed, String> {
    let vote = node.transfers.receiving.newest_vote();
    // Raft takes a snapshot that is newer than the leader who offers it for a broken one.
    let Some(vote) = vote.filter(|vote| vote.leader_id().term >= term_of(&last)) else {
        return Ok(Installed::Refused);
    };
    let snapshot = Snapshot {
        meta: shelved.meta().clone(),
        snapshot: shelved,
    };
    let installed = node.raft.install_full_snapshot(vote, snapshot).await;
    let response = installed.map_err(|error| error.to_string())?;
    if response.vote > vote {
        return Ok(Installed::Refused);
    }
    // It was installed, or passed over as the log is committed further.
    match node.transfers.receiving.fetcher.log.bodies_wait_for() {
        None => Ok(Installed::Yes),
        Some(_) => Ok(Installed::Overtaken),
    }
}
