//! Body segments that came with a snapshot and wait for it to be installed.
//!
//! They lack what died between the state that is here and the snapshot's, and new body segments are read before old ones: so they
//! are not read before that state is here. Until then they have a name that tells the snapshot's last entry. A start finds them by
//! it, and the caller tells, by the state that it starts with, whether they are to be read or to be removed.

use std::io;
use std::sync::Arc;

use super::{BodySegment, file, name};
use crate::error::StorageError;
use crate::identity::Identity;
use crate::log::shared::Shared;

pub(super) const INCOMING_PREFIX: &str = "body-of-";

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Incoming {
    /// Last entry of the snapshot.
    pub(crate) snapshot: u64,
    pub(crate) id: u64,
}

impl Incoming {
    pub(super) fn name(self) -> String {
        format!("{INCOMING_PREFIX}{:016x}-{:016x}", self.snapshot, self.id)
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        let (snapshot, id) = name.strip_prefix(INCOMING_PREFIX)?.split_once('-')?;
        let number = |digits: &str| {
            let is_whole = digits.len() == 16;
            u64::from_str_radix(digits, 16).ok().filter(|_| is_whole)
        };
        Some(Self {
            snapshot: number(snapshot)?,
            id: number(id)?,
        })
    }
}

/// Body segments that belong to the log now, but are not read yet.
#[must_use = "they are not read before they are shown"]
pub struct AdoptedBodies {
    shared: Arc<Shared>,
    segments: Vec<BodySegment>,
}

impl AdoptedBodies {
    /// From now on they are read, before all older ones.
    pub fn show(self) {
        let mut state = self.shared.lock();
        for segment in self.segments {
            state.bodies.add(segment);
        }
    }
}

/// Gives those that wait for this snapshot their lasting names, durably so.
pub(crate) fn adopt(
    shared: &Arc<Shared>,
    owner: Identity,
    snapshot: u64,
) -> Result<AdoptedBodies, StorageError> {
    let waiting = shared.lock().incoming.clone();
    let of_it = || waiting.iter().filter(|waits| waits.snapshot == snapshot);
    // All are whole before any is the log's.
    let open = |waits: &Incoming| file::open(&*shared.disk, owner, waits.id, &waits.name());
    let segments = of_it().map(open).collect::<Result<Vec<_>, _>>()?;
    for waits in of_it() {
        let name = name(waits.id);
        let renamed = shared.disk.rename(&waits.name(), &name);
        renamed.map_err(|error| StorageError::io("name", &name, error))?;
    }
    if !segments.is_empty() {
        sync(shared)?;
    }
    let mut state = shared.lock();
    state.incoming.retain(|waits| waits.snapshot != snapshot);
    drop(state);
    Ok(AdoptedBodies {
        shared: shared.clone(),
        segments,
    })
}

/// Removes all that wait.
pub(crate) fn discard(shared: &Shared) -> Result<(), StorageError> {
    let waiting = shared.lock().incoming.clone();
    for incoming in &waiting {
        let name = incoming.name();
        match shared.disk.remove(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StorageError::io("remove", &name, error));
            }
            _ => {}
        }
        shared.lock().incoming.retain(|waits| waits != incoming);
    }
    if !waiting.is_empty() {
        sync(shared)?;
    }
    Ok(())
}

fn sync(shared: &Shared) -> Result<(), StorageError> {
    let synced = shared.disk.sync_dir();
    synced.map_err(|error| StorageError::io("sync", ".", error))
}
