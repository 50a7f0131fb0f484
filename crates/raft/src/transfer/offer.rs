//! The leader's half: a peer needs entries that the log does not have any more. The peer is told,
//! and asked again and again how far it is; while it fetches, the log from the snapshot on is kept for it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use openraft::errors::{ReplicationClosed, StreamingError, Unreachable};
use openraft::raft::SnapshotResponse;
use ticketrail_core::NodeId;
use ticketrail_proto::peer::{self, OfferOutcome};

use super::{TransferProgress, Transfers};
use crate::applied::Shared;
use crate::codec;
use crate::hold::Hold;
use crate::network::Letterhead;
use crate::seam::Runtime;
use crate::transport::{PeerRequest, PeerResponse, Transport, TransportError};
use crate::types::{LogId, SnapshotMeta, Types, Vote};

/// How often the peer is asked.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// A peer that does not answer so many times in a row is left to Raft's own pauses.
const SILENT_MAX: u32 = 5;
/// The log is kept for so long after the peer has installed the snapshot: Raft has to ask it for what
/// follows.
const LINGER: Duration = Duration::from_secs(10);

/// What an offer needs.
pub(crate) struct Offering {
    pub(crate) letterhead: Letterhead,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) transfers: Arc<Transfers>,
    pub(crate) shared: Arc<Shared>,
}

type Failure<R> = StreamingError<Types<R>>;

fn unreachable<R: Runtime>(what: impl ToString) -> Failure<R> {
    let error = std::io::Error::other(what.to_string());
    StreamingError::Unreachable(Unreachable::new(&error))
}

impl Offering {
    /// Brings `target` to the end of the snapshot, or later.
    pub(crate) async fn run<R: Runtime>(
        &self,
        target: NodeId,
        vote: Vote,
        meta: &SnapshotMeta,
        cancel: impl Future<Output = ReplicationClosed>,
    ) -> Result<SnapshotResponse<Types<R>>, Failure<R>> {
        let Some(wanted) = meta.last_log_id else {
            return Err(unreachable("a snapshot of nothing"));
        };
        tracing::info!(%target, index = wanted.index, "a node lags behind the log that is kept here: it is offered a snapshot");
        let mut hold = None;
        let asking = self.ask_on::<R>(target, vote, wanted, &mut hold);
        let ended = match select(pin!(asking), pin!(cancel)).await {
            Either::Left((ended, _)) => ended,
            Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        };
        self.transfers.note_member(target, None);
        if ended.is_ok() {
            let hold = hold.unwrap_or_else(|| self.hold(wanted));
            drop(R::spawn(async move {
                R::sleep(LINGER).await;
                drop(hold);
            }));
        }
        ended
    }

    async fn ask_on<R: Runtime>(
        &self,
        target: NodeId,
        vote: Vote,
        wanted: LogId,
        hold: &mut Option<Hold>,
    ) -> Result<SnapshotResponse<Types<R>>, Failure<R>> {
        let mut silent = 0;
        loop {
            if self.transfers.is_stopping() {
                let closed = ReplicationClosed::new("this node stops");
                return Err(StreamingError::Closed(closed));
            }
            match self.ask::<R>(target, vote, wanted).await {
                Ok(answer) => {
                    silent = 0;
                    if let Some(response) = self.take(target, vote, answer)? {
                        return Ok(response);
                    }
                    hold.get_or_insert_with(|| self.hold(wanted));
                }
                Err(error) => {
                    silent += 1;
                    if silent >= SILENT_MAX {
                        return Err(unreachable(error));
                    }
                }
            }
            R::sleep(ASK_EVERY).await;
        }
    }

    /// Raft goes on from the snapshot that it knows, which may end before the one that the peer
    /// fetches. Taken when the peer fetches: one that is away for long must not keep this disk full.
    fn hold(&self, wanted: LogId) -> Hold {
        let applied_bytes = self.shared.lock().bytes;
        let holds = &self.transfers.readers.holds;
        holds.take(Some(wanted.index), applied_bytes)
    }

    #[allow(clippy::result_large_err, reason = "the error is openraft's")]
    fn take<R: Runtime>(
        &self,
        target: NodeId,
        vote: Vote,
        answer: peer::OfferSnapshotResponse,
    ) -> Result<Option<SnapshotResponse<Types<R>>>, Failure<R>> {
        match answer.outcome() {
            OfferOutcome::Fetching => {
                let progress = TransferProgress {
                    bytes_done: answer.bytes_done,
                    bytes_total: answer.bytes_total,
                };
                self.transfers.note_member(target, Some(progress));
                Ok(None)
            }
            OfferOutcome::Installed => {
                tracing::info!(%target, "a node has installed a snapshot");
                Ok(Some(SnapshotResponse::new(vote)))
            }
            OfferOutcome::Failed => {
                tracing::warn!(%target, reason = answer.reason, "a node did not install a snapshot; it is offered again");
                Err(unreachable(answer.reason))
            }
            OfferOutcome::HigherVote => codec::vote_from_peer(answer.vote)
                .map(|vote| Some(SnapshotResponse::new(vote)))
                .ok_or_else(|| unreachable("a higher vote is missing")),
            OfferOutcome::Unspecified => Err(unreachable("an answer without outcome")),
        }
    }

    async fn ask<R: Runtime>(
        &self,
        target: NodeId,
        vote: Vote,
        wanted: LogId,
    ) -> Result<peer::OfferSnapshotResponse, TransportError> {
        let request = PeerRequest::OfferSnapshot(peer::OfferSnapshotRequest {
            header: self.letterhead.to(target),
            vote: Some(codec::vote_to_peer(&vote)),
            last_log_id: Some(codec::id_to_peer(wanted)),
        });
        let call = self.transport.call(target, request, ANSWER_MAX);
        match R::timeout(ANSWER_MAX, call).await {
            Ok(Ok(PeerResponse::OfferSnapshot(answer)))
                if self.letterhead.accepts(answer.header.as_ref(), target) =>
            {
                Ok(answer)
            }
            Ok(Ok(_)) => Err(TransportError::Refused {
                target,
                reason: "an answer of another kind, or from somebody else".to_owned(),
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(TransportError::TimedOut { target }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::pending;
    use std::sync::Mutex;

    use futures::future::BoxFuture;
    use openraft_rt_tokio::TokioRuntime;
    use ticketrail_core::{BootId, State};
    use ticketrail_storage::sim::SimDisk;
    use ticketrail_storage::{Identity, Log, LogConfig};

    use super::super::{Fetcher, Serving};
    use super::*;
    use crate::applied::{Applied, AppliedEntry, AppliedSink, Clock, Replaced};
    use crate::checkpoint::Readers;
    use crate::config::ReplicaConfig;
    use crate::shelf::Shelf;
    use crate::types::{StoredMembership, log_id};

    const LEADER: NodeId = NodeId(1);
    const PEER: NodeId = NodeId(2);

    struct Deaf;

    impl AppliedSink for Deaf {
        fn applied(&self, _: &State, _: AppliedEntry<'_>) {}
        fn replaced(&self, _: &State, _: Replaced) {}
        fn polls(&self) -> bool {
            false
        }
    }

    /// A peer that answers as it is told to, and notes whether the log was held when it was asked.
    struct Peer {
        answers: Mutex<VecDeque<Option<OfferOutcome>>>,
        readers: Readers,
        held: Mutex<Vec<bool>>,
    }

    fn letterhead(node: NodeId) -> Letterhead {
        Letterhead::new(&ReplicaConfig::new(7, node, BootId(1)))
    }

    impl Transport for Peer {
        fn call(
            &self,
            target: NodeId,
            _: PeerRequest,
            _: Duration,
        ) -> BoxFuture<'static, Result<PeerResponse, TransportError>> {
            self.held.lock().unwrap().push(self.readers.holds.any());
            let answer = match self.answers.lock().unwrap().pop_front().flatten() {
                None => Err(TransportError::TimedOut { target }),
                Some(outcome) => {
                    let mut answer = peer::OfferSnapshotResponse {
                        header: letterhead(target).to(LEADER),
                        ..Default::default()
                    };
                    answer.set_outcome(outcome);
                    Ok(PeerResponse::OfferSnapshot(answer))
                }
            };
            Box::pin(std::future::ready(answer))
        }
    }

    /// Offers to a peer that answers so, `None`: not at all. Whether it came to an end, whether the log
    /// was held at each call, and whether it is afterwards.
    async fn offer(answers: &[Option<OfferOutcome>]) -> (bool, Vec<bool>, bool) {
        let (disk, config) = (SimDisk::new(1), ReplicaConfig::new(7, LEADER, BootId(1)));
        let disk = Arc::new(disk);
        let (log, _writer, _) = Log::open(disk.clone(), LogConfig::new(7, LEADER.0)).unwrap();
        let owner = Identity {
            cluster_id: 7,
            node_id: LEADER.0,
        };
        let readers = Readers::default();
        let peer = Arc::new(Peer {
            answers: Mutex::new(answers.iter().copied().collect()),
            readers: readers.clone(),
            held: Mutex::default(),
        });
        let fetcher = Fetcher {
            letterhead: letterhead(LEADER),
            transport: peer.clone(),
            log: log.clone(),
            shelf: Arc::new(Shelf::open(disk, owner).unwrap()),
            holds: readers.holds.clone(),
            counts: Arc::default(),
            progress: Arc::default(),
            stop: Arc::default(),
            rate: 1,
        };
        let (now, exports): (Clock, _) = (Arc::new(|| Duration::ZERO), readers.exports.clone());
        let serving = Serving::new(log, now.clone(), exports, Arc::default(), &config);
        let applied = Applied::new(State::new(), None, StoredMembership::default());
        let offering = Offering {
            letterhead: letterhead(LEADER),
            transport: peer.clone(),
            transfers: Arc::new(Transfers::new(readers.clone(), serving, fetcher)),
            shared: Arc::new(Shared::new(LEADER, now, Arc::new(Deaf), applied, None)),
        };
        let vote = Vote::new_committed(1, LEADER.0);
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(1, 10)),
            ..SnapshotMeta::default()
        };
        let ended = offering.run::<TokioRuntime>(PEER, vote, &meta, pending());
        let is_ok = ended.await.is_ok();
        let held = std::mem::take(&mut *peer.held.lock().unwrap());
        (is_ok, held, readers.holds.any())
    }

    /// Its disk may be in repair for a week: it must not keep this one from being purged.
    #[tokio::test]
    async fn a_peer_that_does_not_answer_holds_nothing() {
        let (is_ok, held, is_held) = offer(&[]).await;
        assert!(!is_ok && !is_held);
        assert_eq!(held, [false; SILENT_MAX as usize]);
    }

    #[tokio::test]
    async fn the_log_is_kept_for_a_peer_that_fetches_and_a_moment_longer() {
        let (fetching, installed) = (OfferOutcome::Fetching, OfferOutcome::Installed);
        let (is_ok, held, is_held) = offer(&[Some(fetching), None, Some(installed)]).await;
        assert_eq!(held, [false, true, true]);
        assert!(is_ok && is_held);
    }
}
