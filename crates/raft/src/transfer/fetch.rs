//! Fetching a snapshot from a peer: piece by piece, each checked; then the whole, checked again as
//! what it is; then, on this node's disk, the bodies before the file that needs them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::Instant;
use ticketrail_core::NodeId;
use ticketrail_proto::peer::{
    self, open_snapshot_response, read_snapshot_request::Place, read_snapshot_response,
};
use ticketrail_storage::log::BodyWriter;
use ticketrail_storage::{Log, StorageError};

use super::serving::crc_of;
use super::{Progress, TransferCounts};
use crate::codec;
use crate::hold::Holds;
use crate::network::Letterhead;
use crate::seam::Runtime;
use crate::shelf::{Incoming, Shelf, Shelved};
use crate::transport::{PeerRequest, PeerResponse, Transport, TransportError};

/// Longest wait for a piece, or for the answer that a snapshot is open; it is asked for again then: of the
/// same place, or for the same snapshot, which is made meanwhile (see `serving`).
const PIECE_MAX: Duration = Duration::from_secs(3);
/// A connection that breaks is tried again after this pause...
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// ...so many times, for the same piece.
const AGAIN_MAX: u32 = 25;

/// Why a fetch failed. What it had fetched is dropped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The peer does not answer.
    #[error(transparent)]
    Unreachable(#[from] TransportError),
    /// The peer has no such snapshot, or not any more.
    #[error("node {from} refused: {reason}: {message}")]
    Refused {
        from: NodeId,
        reason: String,
        message: String,
    },
    /// What it sent is not what it should be.
    #[error("node {from} sent a broken snapshot: {what}")]
    Broken { from: NodeId, what: String },
    /// Our own disk.
    #[error("the snapshot cannot be written: {0}")]
    Disk(#[from] io::Error),
    /// Likewise.
    #[error("the snapshot cannot be written: {0}")]
    Storage(#[from] StorageError),
    /// This node stops.
    #[error("this node stops")]
    Stopped,
}

/// What a fetch needs of its node; it does not need a running Raft.
#[derive(Clone)]
pub(crate) struct Fetcher {
    pub(crate) letterhead: Letterhead,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) log: Log,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) holds: Arc<Holds>,
    pub(crate) counts: Arc<TransferCounts>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) stop: Arc<AtomicBool>,
    /// Bytes per second at most.
    pub(crate) rate: u64,
}

/// An open snapshot on the other side.
struct Opened {
    from: NodeId,
    snapshot: peer::OpenedSnapshot,
}

impl Fetcher {
    /// Whether this node's disk has everything up to an entry that was applied. Entries are applied
    /// before they are on this disk, and a leader takes what it hears here for kept.
    pub(crate) fn keeps(&self, index: u64) -> bool {
        let in_log = self.log.state().durable_index;
        // What is still to be installed may be discarded.
        let waits = self.log.bodies_wait_for();
        let in_file = self.shelf.newest().and_then(|file| file.last_index());
        let in_file = in_file.filter(|last| waits != Some(*last));
        in_log.max(in_file) >= Some(index)
    }

    /// Fetches a snapshot that ends at `last_index_min` or later. When it returns, bodies and file
    /// are on this node's disk, verified, and the file is the newest on the shelf. The bodies wait for
    /// the install; where it does not come, the caller discards the snapshot.
    pub(crate) async fn fetch<R: Runtime>(
        &self,
        from: NodeId,
        last_index_min: u64,
    ) -> Result<Shelved, FetchError> {
        self.discard::<R>(None).await?;
        let opened = self.open::<R>(from, last_index_min).await?;
        tracing::info!(%from, index = opened.snapshot.last_log_id.map(|id| id.index), file_bytes = opened.snapshot.file_bytes,
            body_bytes = opened.snapshot.body_bytes, "fetching a snapshot");
        let fetched = self.fetch_opened::<R>(&opened, last_index_min).await;
        if fetched.is_err() {
            self.discard_or_warn::<R>(None).await;
        }
        // Also after a failure: it costs the peer disk for as long as it is open. Unanswered, it is
        // closed by its idleness.
        let close = PeerRequest::CloseSnapshot(peer::CloseSnapshotRequest {
            header: self.letterhead.to(from),
            snapshot_id: opened.snapshot.snapshot_id,
        });
        let _ = self.call::<R>(from, close).await;
        fetched
    }

    async fn discard<R: Runtime>(&self, last_index: Option<u64>) -> io::Result<()> {
        let (log, shelf) = (self.log.clone(), self.shelf.clone());
        let discard = move || shelf.discard_fetched(&log, last_index);
        R::blocking(discard).await?
    }

    /// Removes what was fetched, of a snapshot that ends at `last_index` if all of it was. Bodies that
    /// could not be removed are what the next fetch begins with.
    pub(crate) async fn discard_or_warn<R: Runtime>(&self, last_index: Option<u64>) {
        if let Err(error) = self.discard::<R>(last_index).await {
            tracing::warn!(%error, "what was fetched of a snapshot could not be removed");
        }
    }

    async fn fetch_opened<R: Runtime>(
        &self,
        opened: &Opened,
        last_index_min: u64,
    ) -> Result<Shelved, FetchError> {
        let total = opened.snapshot.file_bytes + opened.snapshot.body_bytes;
        self.progress.set_total(total);
        let mut pace = Pace::<R>::new(self.rate);
        let incoming = self.fetch_file::<R>(opened, &mut pace).await?;
        // Before the bodies, which are most of the work.
        let checked = R::blocking({
            let (shelf, from) = (self.shelf.clone(), opened.from);
            move || incoming.check(&shelf, from.0)
        });
        let checked = checked
            .await?
            .map_err(|error| opened.broken(error.to_string()))?;
        let last = checked.meta().last_log_id.map(codec::id_to_peer);
        let last_index = match last {
            Some(id) if last == opened.snapshot.last_log_id && id.index >= last_index_min => {
                id.index
            }
            _ => return Err(opened.broken("it does not end where it should".to_owned())),
        };
        let bodies = self.fetch_bodies::<R>(opened, &mut pace).await?;
        let shelf = self.shelf.clone();
        let log_and_shelf = move || {
            bodies.finish_for_snapshot(last_index)?;
            let shelved = checked.shelve(&shelf)?;
            Ok::<_, FetchError>(shelved)
        };
        R::blocking(log_and_shelf).await?
    }

    async fn open<R: Runtime>(
        &self,
        from: NodeId,
        last_index_min: u64,
    ) -> Result<Opened, FetchError> {
        let request = PeerRequest::OpenSnapshot(peer::OpenSnapshotRequest {
            header: self.letterhead.to(from),
            last_index_min,
        });
        let result = match self.insist::<R>(from, request).await? {
            PeerResponse::OpenSnapshot(response) => response.result,
            _ => None,
        };
        match result {
            Some(open_snapshot_response::Result::Opened(snapshot)) => Ok(Opened { from, snapshot }),
            Some(open_snapshot_response::Result::Refused(refused)) => Err(refusal(from, refused)),
            None => Err(FetchError::Broken {
                from,
                what: "an empty answer".to_owned(),
            }),
        }
    }

    async fn fetch_file<R: Runtime>(
        &self,
        opened: &Opened,
        pace: &mut Pace<R>,
    ) -> Result<Incoming, FetchError> {
        let mut incoming = self.shelf.incoming()?;
        loop {
            let offset = incoming.bytes();
            let piece = match self.read::<R>(opened, Place::FileOffset(offset)).await? {
                read_snapshot_response::Result::File(piece) => piece,
                _ => return Err(opened.broken("not a piece of the file".to_owned())),
            };
            if piece.offset != offset || crc32c::crc32c(&piece.data) != piece.crc32c {
                return Err(opened.broken(format!("the piece at {offset} fails its check")));
            }
            if piece.data.is_empty() && !piece.last {
                return Err(opened.broken(format!("nothing at {offset}, and not the end")));
            }
            incoming.push(&piece.data)?;
            self.received::<R>(piece.data.len(), pace).await?;
            if piece.last {
                return Ok(incoming);
            }
        }
    }

    async fn fetch_bodies<R: Runtime>(
        &self,
        opened: &Opened,
        pace: &mut Pace<R>,
    ) -> Result<BodyWriter, FetchError> {
        let mut writer = self.log.body_writer()?;
        let mut next = 0;
        loop {
            let piece = match self.read::<R>(opened, Place::BodyIndex(next)).await? {
                read_snapshot_response::Result::Bodies(piece) => piece,
                _ => return Err(opened.broken("not bodies".to_owned())),
            };
            if piece.last {
                return Ok(writer);
            }
            next = check_bodies(&piece, next).map_err(|what| opened.broken(what))?;
            let bytes = piece.bodies.iter().map(|body| body.payload.len()).sum();
            let written = R::blocking(move || {
                for body in &piece.bodies {
                    writer.push(body.index, &body.payload)?;
                }
                Ok::<_, StorageError>(writer)
            });
            writer = written.await??;
            self.received::<R>(bytes, pace).await?;
        }
    }

    async fn received<R: Runtime>(
        &self,
        bytes: usize,
        pace: &mut Pace<R>,
    ) -> Result<(), FetchError> {
        let bytes = bytes as u64;
        self.progress.add(bytes);
        self.counts
            .bytes_received
            .fetch_add(bytes, Ordering::Relaxed);
        self.check_stop()?;
        pace.keep(bytes).await;
        Ok(())
    }

    fn check_stop(&self) -> Result<(), FetchError> {
        if self.stop.load(Ordering::Acquire) {
            return Err(FetchError::Stopped);
        }
        Ok(())
    }

    async fn read<R: Runtime>(
        &self,
        opened: &Opened,
        place: Place,
    ) -> Result<read_snapshot_response::Result, FetchError> {
        let request = PeerRequest::ReadSnapshot(peer::ReadSnapshotRequest {
            header: self.letterhead.to(opened.from),
            snapshot_id: opened.snapshot.snapshot_id,
            place: Some(place),
        });
        let result = match self.insist::<R>(opened.from, request).await? {
            PeerResponse::ReadSnapshot(response) => response.result,
            _ => None,
        };
        match result {
            Some(read_snapshot_response::Result::Refused(refused)) => {
                Err(refusal(opened.from, refused))
            }
            Some(result) => Ok(result),
            None => Err(opened.broken("an empty answer".to_owned())),
        }
    }

    /// Asks again while the connection is broken: the place to read on from is ours, so nothing is
    /// lost by it.
    async fn insist<R: Runtime>(
        &self,
        from: NodeId,
        request: PeerRequest,
    ) -> Result<PeerResponse, FetchError> {
        let mut tries = 0;
        loop {
            self.check_stop()?;
            match self.call::<R>(from, request.clone()).await {
                Ok(response) => return Ok(response),
                Err(error @ TransportError::Refused { .. }) => return Err(error.into()),
                Err(error) if tries == AGAIN_MAX => return Err(error.into()),
                Err(error) => {
                    tracing::debug!(%from, %error, "a piece of a snapshot did not come");
                    self.counts.resumed.fetch_add(1, Ordering::Relaxed);
                    tries += 1;
                }
            }
            R::sleep(AGAIN_AFTER).await;
        }
    }

    async fn call<R: Runtime>(
        &self,
        from: NodeId,
        request: PeerRequest,
    ) -> Result<PeerResponse, TransportError> {
        let call = self.transport.call(from, request, PIECE_MAX);
        let response = match R::timeout(PIECE_MAX, call).await {
            Ok(response) => response?,
            Err(_) => return Err(TransportError::TimedOut { target: from }),
        };
        if !self.letterhead.accepts(response.header(), from) {
            let reason = "an answer from somebody else".to_owned();
            return Err(TransportError::Refused {
                target: from,
                reason,
            });
        }
        Ok(response)
    }
}

impl Opened {
    fn broken(&self, what: String) -> FetchError {
        let from = self.from;
        FetchError::Broken { from, what }
    }
}

fn refusal(from: NodeId, refused: peer::SnapshotRefused) -> FetchError {
    FetchError::Refused {
        from,
        reason: refused.reason,
        message: refused.message,
    }
}

/// Checks a piece that was asked for from index `next` on; from where to read on.
fn check_bodies(piece: &peer::BodyPiece, next: u64) -> Result<u64, String> {
    if crc_of(&piece.bodies) != piece.crc32c {
        return Err(format!("the bodies from {next} on fail their check"));
    }
    let mut at_least = next;
    for body in &piece.bodies {
        if body.index < at_least {
            return Err(format!("body {} is out of order", body.index));
        }
        at_least = body.index + 1;
    }
    if piece.bodies.is_empty() || piece.next_index < at_least {
        return Err(format!("the bodies from {next} on lead nowhere"));
    }
    Ok(piece.next_index)
}

/// Keeps a fetch from taking the whole network and disk.
struct Pace<R: Runtime> {
    rate: u64,
    start: R::Instant,
    bytes: u64,
}

impl<R: Runtime> Pace<R> {
    fn new(rate: u64) -> Self {
        Self {
            rate: rate.max(1),
            start: R::Instant::now(),
            bytes: 0,
        }
    }

    /// Waits until so many more bytes are allowed.
    async fn keep(&mut self, bytes: u64) {
        self.bytes += bytes;
        let due_us = u128::from(self.bytes) * 1_000_000 / u128::from(self.rate);
        let due = Duration::from_micros(u64::try_from(due_us).unwrap_or(u64::MAX));
        let early = due.saturating_sub(self.start.elapsed());
        if !early.is_zero() {
            R::sleep(early).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn piece(indexes: &[u64], next_index: u64) -> peer::BodyPiece {
        let body = |index: &u64| peer::SnapshotBody {
            index: *index,
            payload: Bytes::from_static(b"body"),
        };
        let bodies: Vec<_> = indexes.iter().map(body).collect();
        peer::BodyPiece {
            crc32c: crc_of(&bodies),
            bodies,
            next_index,
            last: false,
        }
    }

    #[test]
    fn only_bodies_that_go_on_from_where_they_were_asked_for_pass() {
        assert_eq!(check_bodies(&piece(&[5, 9], 10), 5), Ok(10));
        assert!(check_bodies(&piece(&[5, 9], 10), 6).is_err());
        assert!(check_bodies(&piece(&[9, 5], 10), 5).is_err());
        assert!(check_bodies(&piece(&[5, 9], 9), 5).is_err());
        assert!(check_bodies(&piece(&[], 9), 5).is_err());
        let mut flipped = piece(&[5, 9], 10);
        flipped.bodies[1].payload = Bytes::from_static(b"bode");
        assert!(check_bodies(&flipped, 5).is_err());
    }
}
