//! openraft's state machine over the applied state, and its snapshots over snapshot files.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder, Snapshot};
use ticketrail_core::State;
use ticketrail_storage::Log;

use crate::applied::Shared;
use crate::hold::Holds;
use crate::rows;
use crate::seam::Runtime;
use crate::shelf::{Shelf, Shelved, push_all};
use crate::types::{
    CommittedLeaderId, LogId, PeerAddress, SnapshotMeta, StoredMembership, Types, term_of,
};

/// What openraft hands from a builder to a receiver: a snapshot file, not its bytes.
pub(crate) type SnapshotFile = Shelved;

type FileSnapshot = Snapshot<CommittedLeaderId, u64, PeerAddress, SnapshotFile>;

/// The state machine of one replica.
pub(crate) struct Machine<R> {
    shared: Arc<Shared>,
    shelf: Arc<Shelf>,
    log: Log,
    holds: Arc<Holds>,
    runtime: PhantomData<fn() -> R>,
}

impl<R> Machine<R> {
    pub(crate) fn new(shared: Arc<Shared>, shelf: Arc<Shelf>, log: Log, holds: Arc<Holds>) -> Self {
        Self {
            shared,
            shelf,
            log,
            holds,
            runtime: PhantomData,
        }
    }
}

/// Builds a snapshot.
pub(crate) enum Builder {
    /// There is a file already: the checkpoint makes them (see `checkpoint`) and openraft only needs
    /// to know the newest.
    Ready(Box<Shelved>),
    /// The state as it was when the builder was made.
    Rows {
        shelf: Arc<Shelf>,
        meta: Box<SnapshotMeta>,
        version: u32,
        rows: Vec<(Vec<u8>, Vec<u8>)>,
    },
}

impl<R: Runtime> RaftSnapshotBuilder<Types<R>> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<FileSnapshot, io::Error> {
        let shelved = match self {
            Self::Ready(shelved) => (**shelved).clone(),
            Self::Rows {
                shelf,
                meta,
                version,
                rows,
            } => shelf.write((**meta).clone(), *version, push_all(rows))?,
        };
        Ok(as_snapshot(shelved))
    }
}

fn as_snapshot(shelved: Shelved) -> FileSnapshot {
    Snapshot {
        meta: shelved.meta().clone(),
        snapshot: shelved,
    }
}

impl<R: Runtime> RaftStateMachine<Types<R>> for Machine<R> {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.shared.lock();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types<R>>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next.inspect_err(|error| {
                self.shared
                    .fail(&format!("a committed entry cannot be read: {error}"));
            })?;
            let answer = self.shared.apply(entry)?;
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        match self.newest() {
            Some(shelved) if !force => Some(Builder::Ready(Box::new(shelved))),
            None if !force => None,
            _ => Some(self.build_from_state()),
        }
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.build_from_state()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        let shelf = self.shelf.clone();
        let (meta, log) = (meta.clone(), self.log.clone());
        let read = R::blocking(move || {
            let (state, rows) = snapshot.read()?;
            if !shelf.is_of(&snapshot) {
                shelf.write(meta.clone(), state.version(), push_all(&rows))?;
            }
            let last_index = meta.last_log_id.map_or(0, |id| id.index);
            let bodies = log.adopt_bodies(last_index).map_err(io::Error::other)?;
            Ok::<_, io::Error>((state, meta, bodies))
        });
        let (state, meta, bodies) = read.await??;
        // With the state: what the log holds up to there may be other entries than the ones that the
        // snapshot includes, and must not be served as their bodies; openraft purges only later. Nor
        // is what the old state referred to served any more.
        let go_on = || {
            self.holds.break_all();
            bodies.show();
            if let Some(last) = meta.last_log_id {
                self.log.purge(last.index, term_of(&last), Box::new(|_| {}));
            }
        };
        self.shared
            .replace(state, meta.last_log_id, meta.last_membership, go_on);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<FileSnapshot>, io::Error> {
        Ok(self.newest().map(as_snapshot))
    }
}

impl<R> Machine<R> {
    /// Not the one that a peer sent and that is still to be installed: openraft would take it for
    /// installed.
    fn newest(&self) -> Option<Shelved> {
        let applied = self.shared.lock().last;
        self.shelf.newest_upto(applied)
    }

    fn build_from_state(&self) -> Builder {
        let applied = self.shared.lock();
        Builder::Rows {
            shelf: self.shelf.clone(),
            meta: Box::new(SnapshotMeta {
                last_log_id: applied.last,
                last_membership: applied.membership.clone(),
            }),
            version: applied.state.version(),
            rows: rows::encode_all(&applied.state),
        }
    }
}

/// A state and the rows that it was read from.
pub(crate) type StateAndRows = (State, Vec<(Vec<u8>, Vec<u8>)>);
