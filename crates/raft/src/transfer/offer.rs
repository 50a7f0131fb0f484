//! The leader's half: a peer needs entries that the log does not have any more. The peer is told,
//! and asked again and again how far it is; meanwhile the log from the snapshot on is kept for it.

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
        // Raft goes on from the snapshot that it knows, which may end before the one that the peer
        // fetches.
        let hold = {
            let applied_bytes = self.shared.lock().bytes;
            let holds = &self.transfers.readers.holds;
            holds.take(Some(wanted.index), applied_bytes)
        };
        tracing::info!(%target, index = wanted.index, "a node lags behind the log that is kept here: it is offered a snapshot");
        let asking = self.ask_on::<R>(target, vote, wanted);
        let ended = match select(pin!(asking), pin!(cancel)).await {
            Either::Left((ended, _)) => ended,
            Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        };
        self.transfers.note_member(target, None);
        if ended.is_ok() {
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
