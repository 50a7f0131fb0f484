//! From what is on the disk, and if that is not enough from a peer, to the state that Raft starts with.

use std::sync::atomic::Ordering;

use ticketrail_core::NodeId;

use crate::config::ReplicaConfig;
use crate::error::StartError;
use crate::replica::Storage;
use crate::restore::{self, Restored};
use crate::seam::Runtime;
use crate::transfer::{Fetcher, rejoin};

/// Restores the state; where it is lost or proved wrong, takes a peer's first, for as long as that
/// takes.
pub(crate) async fn restored<R: Runtime>(
    config: &ReplicaConfig,
    storage: &mut Storage,
    fetcher: &Fetcher,
) -> Result<Restored, StartError> {
    let peers = config.rejoin_from.iter().copied();
    let peers: Vec<NodeId> = peers.filter(|id| *id != config.node_id).collect();
    if marked_wrong(fetcher)? {
        replace_wrong::<R>(storage, fetcher, &peers).await?;
    }
    let restored = restore::restore(&mut *storage.checkpoint, &fetcher.shelf, &storage.log);
    let Err(StartError::StateLost { purged, applied }) = restored else {
        return restored;
    };
    if peers.is_empty() {
        return Err(StartError::StateLost { purged, applied });
    }
    tracing::error!(
        purged,
        applied,
        "the state here ends before the log begins: it is taken from a peer"
    );
    fetch::<R>(fetcher, &peers, purged).await?;
    let counted = &fetcher.counts.replaced_lost;
    counted.fetch_add(1, Ordering::Relaxed);
    restore::restore(&mut *storage.checkpoint, &fetcher.shelf, &storage.log)
}

fn io(doing: &'static str) -> impl FnOnce(std::io::Error) -> StartError {
    move |source| StartError::Io { doing, source }
}

fn marked_wrong(fetcher: &Fetcher) -> Result<bool, StartError> {
    let marked = fetcher.shelf.is_marked_wrong();
    marked.map_err(io("reading the snapshot files"))
}

/// The mark goes last: whatever moment a crash takes, the wrong state is not started with.
async fn replace_wrong<R: Runtime>(
    storage: &mut Storage,
    fetcher: &Fetcher,
    peers: &[NodeId],
) -> Result<(), StartError> {
    if peers.is_empty() {
        return Err(StartError::Diverged);
    }
    tracing::error!("the state here differs from a majority's: it is taken from a peer");
    restore::set_aside(&mut *storage.checkpoint)?;
    let discarded = fetcher.shelf.discard();
    discarded.map_err(io("removing the snapshot files"))?;
    let purged = storage.log.state().purged.map_or(0, |purged| purged.index);
    fetch::<R>(fetcher, peers, purged).await?;
    let counted = &fetcher.counts.replaced_wrong;
    counted.fetch_add(1, Ordering::Relaxed);
    let unmarked = fetcher.shelf.unmark();
    unmarked.map_err(io("removing the mark of a wrong state"))
}

async fn fetch<R: Runtime>(
    fetcher: &Fetcher,
    peers: &[NodeId],
    last_index_min: u64,
) -> Result<(), StartError> {
    let fetched = rejoin::<R>(fetcher, peers, last_index_min).await;
    let shelved = fetched.map_err(|error| StartError::Rejoin(error.to_string()))?;
    let index = shelved.last_index();
    tracing::info!(index, "the state was taken from a peer");
    Ok(())
}
