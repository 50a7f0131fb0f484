//! A node whose state is lost, or ends before its log begins, or was proved wrong: identity, vote and
//! log are good, so it fetches a snapshot from a peer before it starts Raft, and goes on from there.
//!
//! That is safe for what it has voted and acknowledged: the snapshot holds only what is committed, the
//! vote stays as it is, and the log stays where it goes on from the snapshot. Where it does not (the
//! snapshot is beyond its end, or of another term there), what is dropped is covered by the snapshot
//! or was never committed.

use std::time::Duration;

use ticketrail_core::NodeId;

use super::fetch::{FetchError, Fetcher};
use crate::seam::Runtime;
use crate::shelf::Shelved;

/// Pause after every peer was asked in vain.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Fetches a snapshot that ends at `last_index_min` or later from whichever peer has one; tries for as
/// long as it takes.
pub(crate) async fn rejoin<R: Runtime>(
    fetcher: &Fetcher,
    peers: &[NodeId],
    last_index_min: u64,
) -> Result<Shelved, FetchError> {
    let _hold = fetcher.holds.take(None, 0);
    let mut told = None;
    loop {
        for peer in peers {
            match fetcher.fetch::<R>(*peer, last_index_min).await {
                Ok(shelved) => return Ok(shelved),
                Err(error @ (FetchError::Disk(_) | FetchError::Storage(_))) => return Err(error),
                Err(FetchError::Stopped) => return Err(FetchError::Stopped),
                Err(error) => {
                    let text = error.to_string();
                    if told.as_ref() != Some(&text) {
                        tracing::warn!(%peer, reason = text, last_index_min, "waiting for a snapshot to rejoin with");
                        told = Some(text);
                    }
                }
            }
        }
        R::sleep(AGAIN_AFTER).await;
    }
}
