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
use crate::export::{Asked, ExportError, Exports};
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
    /// Asked for by peers that hung up before it was made: they come back.
    asked: BTreeMap<NodeId, (Duration, Asked)>,
    open: BTreeMap<NodeId, Open>,
}

struct Open {
    opened: peer::OpenedSnapshot,
    read_at: Duration,
    is_read: bool,
    source: Arc<Source>,
}

/// A place among those that are open, while the snapshot is made. What was asked for is kept when the
/// peer hangs up meanwhile: making it may take longer than a peer waits at a time.
struct Opening<'a> {
    serving: &'a Serving,
    reader: NodeId,
    since: Duration,
    asked: Option<Asked>,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let mut table = self.serving.lock();
        table.opening -= 1;
        if let Some(asked) = self.asked.take().filter(|_| !table.closed) {
            table.asked.insert(self.reader, (self.since, asked));
        }
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
        let is_recent = |at: Duration| now.saturating_sub(at) < IDLE_MAX;
        table.open.retain(|_, open| is_recent(open.read_at));
        table.asked.retain(|_, (since, _)| is_recent(*since));
    }

    /// Called now and then, so that a hold does not outlive its reader.
    pub(crate) fn look(&self) {
        self.close_idle(&mut self.lock());
    }

    pub(crate) fn close_all(&self) {
        let mut table = self.lock();
        table.closed = true;
        table.asked.clear();
        table.open.clear();
    }

    pub(crate) async fn open(
        &self,
        reader: NodeId,
        last_index_min: u64,
    ) -> Result<peer::OpenedSnapshot, Refused> {
        if let Some(opened) = self.unread(reader, last_index_min) {
            return Ok(opened);
        }
        let mut opening = self.reserve(reader)?;
        let source = Arc::new(self.make(&mut opening, last_index_min).await?);
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
            opened: opened.clone(),
            read_at: (self.now)(),
            is_read: false,
            source,
        };
        table.open.insert(reader, open);
        self.counts.opened.fetch_add(1, Ordering::Relaxed);
        tracing::info!(%reader, index = opened.last_log_id.map(|id| id.index), file_bytes = opened.file_bytes,
            body_bytes = opened.body_bytes, "a peer opened a snapshot of this node");
        Ok(opened)
    }

    /// What the peer has opened and not read: it did not hear that it is open.
    fn unread(&self, reader: NodeId, last_index_min: u64) -> Option<peer::OpenedSnapshot> {
        let mut table = self.lock();
        self.close_idle(&mut table);
        let open = table.open.get_mut(&reader)?;
        if open.is_read || open.source.last_index() < last_index_min {
            return None;
        }
        open.read_at = (self.now)();
        Some(open.opened.clone())
    }

    fn reserve(&self, reader: NodeId) -> Result<Opening<'_>, Refused> {
        let mut table = self.lock();
        self.close_idle(&mut table);
        // A peer that opens another one has lost the first.
        table.open.remove(&reader);
        let asked_by_others = table.asked.keys().filter(|other| **other != reader);
        if table.open.len() + asked_by_others.count() + table.opening >= OPEN_MAX {
            return Err(refused(BUSY, "other nodes are reading already"));
        }
        table.opening += 1;
        Ok(Opening {
            serving: self,
            reader,
            since: (self.now)(),
            asked: table.asked.remove(&reader).map(|(_, asked)| asked),
        })
    }

    async fn make(
        &self,
        opening: &mut Opening<'_>,
        last_index_min: u64,
    ) -> Result<Source, Refused> {
        let refusal = |error| match error {
            ExportError::Empty => refused(BEHIND, error),
            ExportError::Busy => refused(BUSY, error),
            ExportError::Stopped => refused(GONE, error),
        };
        let asked = match &mut opening.asked {
            Some(asked) => asked,
            none => none.insert(self.exports.ask().map_err(refusal)?),
        };
        let exported = asked.exported().await;
        opening.asked = None;
        let export = exported.map_err(refusal)?;
        let index = export.file.last_index().unwrap_or(0);
        if index < last_index_min {
            let message = format!("this node is at entry {index}, not at {last_index_min} yet");
            return Err(refused(BEHIND, message));
        }
        Source::open(export, self.log.clone()).map_err(|error| refused(BROKEN, error))
    }

    pub(crate) fn close(&self, reader: NodeId, id: u64) {
        let mut table = self.lock();
        let is_this = |open: &Open| open.opened.snapshot_id == id;
        if table.open.get(&reader).is_some_and(is_this) {
            table.open.remove(&reader);
        }
    }

    fn find(&self, reader: NodeId, id: u64) -> Result<Arc<Source>, Refused> {
        let mut table = self.lock();
        self.close_idle(&mut table);
        let open = table.open.get_mut(&reader);
        let open = open.filter(|open| open.opened.snapshot_id == id);
        let open = open.ok_or_else(|| refused(GONE, "it is not open"))?;
        open.read_at = (self.now)();
        open.is_read = true;
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use futures::FutureExt;
    use ticketrail_core::BootId;
    use ticketrail_storage::sim::SimDisk;
    use ticketrail_storage::{Identity, LogConfig};

    use super::*;
    use crate::export::Export;
    use crate::hold::Holds;
    use crate::shelf::{Shelf, push_all};
    use crate::types::{SnapshotMeta, log_id};

    const READER: NodeId = NodeId(2);

    /// Answers those who wait with a snapshot of nothing up to entry 10; how many there were.
    fn make(exports: &Exports, shelf: &Shelf) -> usize {
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(1, 10)),
            ..SnapshotMeta::default()
        };
        let file = shelf.write(meta, 1, push_all(&[])).unwrap();
        let export = || Export {
            file: file.clone(),
            bodies: Vec::new(),
            hold: Arc::<Holds>::default().take(Some(10), 0),
        };
        let waiting = exports.take().into_iter();
        waiting
            .filter_map(|waiting| waiting.send(Ok(export())).ok())
            .count()
    }

    /// A large state takes longer to be written than a peer waits for one answer.
    #[tokio::test]
    async fn what_is_made_for_a_peer_that_hung_up_is_there_when_it_comes_back() {
        let (disk, exports) = (Arc::new(SimDisk::new(1)), Arc::<Exports>::default());
        let (log, _writer, _) = Log::open(disk.clone(), LogConfig::new(7, 1)).unwrap();
        let owner = Identity {
            cluster_id: 7,
            node_id: 1,
        };
        let shelf = Shelf::open(disk, owner).unwrap();
        let config = ReplicaConfig::new(7, NodeId(1), BootId(1));
        let seconds = Arc::new(AtomicU64::new(0));
        let clock = seconds.clone();
        let now = Arc::new(move || Duration::from_secs(clock.load(Ordering::Relaxed)));
        let serving = Serving::new(log, now, exports.clone(), Arc::default(), &config);
        let open = || serving.open(READER, 5).now_or_never();

        for _ in 0..2 {
            assert!(open().is_none());
            assert!(exports.is_wanted(), "it is made all the same");
        }
        assert_eq!(make(&exports, &shelf), 1);
        let opened = open().unwrap().unwrap();
        // Its answer may be lost, too.
        assert_eq!(open().unwrap().unwrap(), opened);
        assert!(!exports.is_wanted());
        // One that was begun to be read is not read by two.
        serving.find(READER, opened.snapshot_id).unwrap();
        assert!(open().is_none());

        // Nobody came for this one.
        assert_eq!(make(&exports, &shelf), 1);
        seconds.fetch_add(IDLE_MAX.as_secs(), Ordering::Relaxed);
        serving.look();
        assert!(open().is_none());
        assert_eq!(make(&exports, &shelf), 1);
    }
}
