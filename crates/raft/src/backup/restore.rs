//! From a backup to the data folder of a new cluster's first member.
//!
//! What is durable before what: a mark that the folder is unfinished; then log folder with vote and
//! bodies, then the snapshot file; then the mark goes. A node does not start on a marked folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::{Arc, mpsc};

use ticketrail_core::{DiskId, NodeId, State};
use ticketrail_proto::stored::keep_bodies;
use ticketrail_storage::{Identity, Log, LogConfig, OsDisk};

use super::contents::{BodyError, Opened};
use super::{BackupContents, RestoreError, while_doing};
use crate::codec;
use crate::folders::{Folders, UNFINISHED};
use crate::rows;
use crate::shelf::{Shelf, push_all};
use crate::types::{
    LogId, Membership, PeerAddress, SnapshotMeta, StoredMembership, Vote, log_id, term_of,
};

/// The first member of the cluster that takes over.
#[derive(Clone, Debug)]
pub struct Heir {
    /// The new cluster.
    pub cluster_id: u128,
    /// The member.
    pub node: NodeId,
    /// Where it is reached.
    pub address: PeerAddress,
    /// Its disk.
    pub disk: DiskId,
}

/// Makes the data folder `root` from the backup in `folder`, which is checked as a whole before
/// anything is written. What it was the state of, see [`State::take_over`]. Blocks.
///
/// # Errors
/// [`RestoreError`]. After a failure or a crash the folder is marked as unfinished, if it was touched.
pub fn restore_backup(
    folder: &Path,
    root: &Path,
    heir: &Heir,
) -> Result<BackupContents, RestoreError> {
    let mut opened = Opened::read(folder)?;
    let contents = opened.contents;
    if contents.manifest.owner.cluster_id == heir.cluster_id {
        return Err(RestoreError::SameCluster(heir.cluster_id));
    }
    opened.check_bodies()?;
    let taken = opened.state.take_over(heir.cluster_id);
    taken.map_err(|halt| RestoreError::Broken(halt.reason))?;
    begin(root)?;
    let config = LogConfig::new(heir.cluster_id, heir.node.0);
    let real = |folder: &Path| Ok(Arc::new(OsDisk::new(folder)?) as _);
    let (folders, storage, _) = Folders::open_unfinished(root, config, heir.disk, &real)?;
    let last = contents.manifest.last;
    let last = log_id(last.term, last.index);
    fill_log(&storage.log, &opened, heir.node, last)?;
    let owner = Identity {
        cluster_id: heir.cluster_id,
        node_id: heir.node.0,
    };
    let shelf = Shelf::open(storage.snapshots.clone(), owner);
    let shelf = shelf.map_err(while_doing("opening the snapshots"))?;
    shelve(&shelf, &opened.state, heir, last).map_err(while_doing("writing the state"))?;
    drop(storage);
    folders.close()?;
    end(root).map_err(while_doing("finishing the data folder"))?;
    Ok(contents)
}

/// An empty folder with the mark.
fn begin(root: &Path) -> Result<(), RestoreError> {
    fs::create_dir_all(root).map_err(while_doing("making the data folder"))?;
    let mut there = fs::read_dir(root).map_err(while_doing("reading the data folder"))?;
    if there.next().is_some() {
        return Err(RestoreError::NotEmpty(root.display().to_string()));
    }
    let mark = || -> io::Result<()> {
        File::create_new(root.join(UNFINISHED))?.sync_all()?;
        File::open(root)?.sync_all()?;
        match root
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    mark().map_err(while_doing("marking the data folder"))
}

fn end(root: &Path) -> io::Result<()> {
    fs::remove_file(root.join(UNFINISHED))?;
    File::open(root)?.sync_all()
}

/// The bodies, the end of the log, and a vote: so the first election is of a later term than the last
/// entry's.
fn fill_log(log: &Log, opened: &Opened, node: NodeId, last: LogId) -> Result<(), RestoreError> {
    let mut writer = log.body_writer()?;
    opened.each_body(&mut |index, payload, items| {
        let kept = keep_bodies(payload, items)?;
        let pushed = writer.push(index, &kept);
        pushed.map_err(|error| BodyError::Other(error.into()))
    })?;
    writer.finish()?;
    let vote = codec::vote_to_disk(&Vote::new(term_of(&last), node.0));
    wait_for(|done| log.save_vote(vote, done))?;
    wait_for(|done| log.purge(last.index, term_of(&last), done))
}

/// Waits until the log's writer has done something.
fn wait_for(ask: impl FnOnce(ticketrail_storage::Done)) -> Result<(), RestoreError> {
    let (told, hear) = mpsc::sync_channel(1);
    // Nobody hears it any more only where this function has ended.
    ask(Box::new(move |done| drop(told.send(done))));
    let done = hear
        .recv()
        .unwrap_or_else(|_| Err(io::Error::other("the log stopped")));
    done.map_err(while_doing("writing the log"))
}

fn shelve(shelf: &Shelf, state: &State, heir: &Heir, last: LogId) -> io::Result<()> {
    let node = heir.node.0;
    let nodes = BTreeMap::from([(node, heir.address.clone())]);
    let members = Membership::new(vec![BTreeSet::from([node])], nodes).map_err(io::Error::other)?;
    let meta = SnapshotMeta {
        last_log_id: Some(last),
        last_membership: StoredMembership::new(Some(last), members),
    };
    let rows = rows::encode_all(state);
    shelf
        .write(meta, state.version(), push_all(&rows))
        .map(drop)
}
