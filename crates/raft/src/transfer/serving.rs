//! The snapshots that peers read from this node: a few at a time, one for each peer, closed when
//! nobody reads them any more.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ticketrail_core::NodeId;
use ticketrail_proto::peer::{self, read_snapshot_request::Place};
use ticketrail_storage::Log;

use super::TransferCounts;
use super::source::{Bodies, Source, SourceError};
use crate::applied::Clock;
use crate::codec;
use crate::config::ReplicaConfig;
use crate::export::{ExportError, Exports};
use crate::seam::Runtime;

/// Peers that may read at a time.
const OPEN_MAX: usize = 2;
/// A snapshot that is not read from for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(60);

const BUSY: &str = "SNAPSHOT_BUSY";
const BEHIND: &str = "SNAPSHOT_BEHIND";
const GONE: &str = "SNAPSHOT_GONE";
const BROKEN: &str = "SNAPSHOT_BROKEN";

/// See the module.
pub(crate) struct Serving {
    log: Log,
    now: Clock,
    exports: Arc<Exports>,
    counts: Arc<TransferCounts>,
    first_id: u64,
    piece_bytes: usize,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    made: u64,
    closed: bool,
    /// Reserved while one is made.
    opening: usize,
    open: BTreeMap<NodeId, Open>,
}

struct Open {
    id: u64,
    read_at: Duration,
    source: Arc<Source>,
}

/// A place among those that are open, while the snapshot is made; given back also when the peer
/// hangs up meanwhile.
struct Opening<'a>(&'a Serving);

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.lock().opening -= 1;
    }
}

type Refused = peer::SnapshotRefused;

fn refused(reason: &str, message: impl ToString) -> Refused {
    Refused {
        reason: reason.to_owned(),
        message: message.to_string(),
    }
}

impl Serving {
    pub(crate) fn new(
        log: Log,
        now: Clock,
        exports: Arc<Exports>,
        counts: Arc<TransferCounts>,
        config: &ReplicaConfig,
    ) -> Self {
        Self {
            log,
            now,
            exports,
            counts,
            // So that the id of an earlier run's snapshot does not name one of this run.
            first_id: config.boot_id.0 << 16,
            piece_bytes: config.snapshot_piece_bytes,
            table: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no panic under this lock")
    }

    /// Closes what nobody reads any more.
    fn close_idle(&self, table: &mut Table) {
        let now = (self.now)();
        table
            .open
            .retain(|_, open| now.saturating_sub(open.read_at) < IDLE_MAX);
    }

    /// Called now and then, so that a hold does not outlive its reader.
    pub(crate) fn look(&self) {
        self.close_idle(&mut self.lock());
    }

    pub(crate) fn close_all(&self) {
        let mut table = self.lock();
        table.closed = true;
        table.open.clear();
    }

    pub(crate) async fn open(
        &self,
        reader: NodeId,
        last_index_min: u64,
    ) -> Result<peer::OpenedSnapshot, Refused> {
        let opening = self.reserve(reader)?;
        let source = Arc::new(self.make(last_index_min).await?);
        drop(opening);
        let mut table = self.lock();
        if table.closed {
            return Err(refused(GONE, "this node stops"));
        }
        table.made += 1;
        let opened = peer::OpenedSnapshot {
            snapshot_id: self.first_id.wrapping_add(table.made),
            last_log_id: Some(codec::id_to_peer(source.last_log_id())),
            file_bytes: source.file_bytes(),
            body_bytes: source.body_bytes(),
        };
        let open = Open {
            id: opened.snapshot_id,
            read_at: (self.now)(),
            source,
        };
        table.open.insert(reader, open);
        self.counts.opened.fetch_add(1, Ordering::Relaxed);
        tracing::info!(%reader, index = opened.last_log_id.map(|id| id.index), file_bytes = opened.file_bytes,
            body_bytes = opened.body_bytes, "a peer opened a snapshot of this node");
        Ok(opened)
    }

    fn reserve(&self, reader: NodeId) -> Result<Opening<'_>, Refused> {
        let mut table = self.lock();
        self.close_idle(&mut table);
        // A peer that opens another one has lost the first.
        table.open.remove(&reader);
        if table.open.len() + table.opening >= OPEN_MAX {
            return Err(refused(BUSY, "other nodes are reading already"));
        }
        table.opening += 1;
        Ok(Opening(self))
    }

    async fn make(&self, last_index_min: u64) -> Result<Source, Refused> {
        let export = self.exports.ask().await.map_err(|error| match error {
            ExportError::Empty => refused(BEHIND, error),
            ExportError::Busy => refused(BUSY, error),
            ExportError::Stopped => refused(GONE, error),
        })?;
        let index = export.file.last_index().unwrap_or(0);
        if index < last_index_min {
            let message = format!("this node is at entry {index}, not at {last_index_min} yet");
            return Err(refused(BEHIND, message));
        }
        Source::open(export, self.log.clone()).map_err(|error| refused(BROKEN, error))
    }

    pub(crate) fn close(&self, reader: NodeId, id: u64) {
        let mut table = self.lock();
        if table.open.get(&reader).is_some_and(|open| open.id == id) {
            table.open.remove(&reader);
        }
    }

    fn find(&self, reader: NodeId, id: u64) -> Result<Arc<Source>, Refused> {
        let mut table = self.lock();
        self.close_idle(&mut table);
        let open = table.open.get_mut(&reader).filter(|open| open.id == id);
        let open = open.ok_or_else(|| refused(GONE, "it is not open"))?;
        open.read_at = (self.now)();
        Ok(open.source.clone())
    }

    pub(crate) async fn read<R: Runtime>(
        &self,
        reader: NodeId,
        id: u64,
        place: Place,
    ) -> Result<peer::read_snapshot_response::Result, Refused> {
        use peer::read_snapshot_response::Result::{Bodies as BodiesResult, File};
        let source = self.find(reader, id)?;
        let piece_bytes = self.piece_bytes;
        let piece = R::blocking(move || match place {
            Place::FileOffset(offset) => file_piece(&source, offset, piece_bytes).map(File),
            Place::BodyIndex(index) => source
                .read_bodies(index, piece_bytes)
                .map(|bodies| BodiesResult(body_piece(index, bodies))),
        });
        let piece = piece.await.map_err(|error| refused(BROKEN, error))?;
        let piece = piece.map_err(|error| match error {
            SourceError::Gone => refused(GONE, error),
            error => {
                tracing::error!(%reader, %error, "a snapshot cannot be read for a peer");
                refused(BROKEN, error)
            }
        })?;
        let bytes = match &piece {
            File(piece) => piece.data.len(),
            BodiesResult(piece) => piece.bodies.iter().map(|body| body.payload.len()).sum(),
            _ => 0,
        };
        let sent = &self.counts.bytes_sent;
        sent.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(piece)
    }
}

fn file_piece(
    source: &Source,
    offset: u64,
    bytes_max: usize,
) -> Result<peer::FilePiece, SourceError> {
    let data = source.read_file(offset, bytes_max)?;
    Ok(peer::FilePiece {
        offset,
        crc32c: crc32c::crc32c(&data),
        last: offset + data.len() as u64 == source.file_bytes(),
        data,
    })
}

fn body_piece(from_index: u64, found: Bodies) -> peer::BodyPiece {
    let body = |(index, payload)| peer::SnapshotBody { index, payload };
    let bodies: Vec<_> = found.bodies.into_iter().map(body).collect();
    peer::BodyPiece {
        crc32c: crc_of(&bodies),
        next_index: found.next_index.unwrap_or(from_index),
        last: found.next_index.is_none(),
        bodies,
    }
}

/// The check of a piece of bodies: over all indexes and payloads, in order.
pub(super) fn crc_of(bodies: &[peer::SnapshotBody]) -> u32 {
    bodies.iter().fold(0, |crc, body| {
        let crc = crc32c::crc32c_append(crc, &body.index.to_le_bytes());
        crc32c::crc32c_append(crc, &body.payload)
    })
}
