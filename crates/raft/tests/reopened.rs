//! A checkpoint store that found no room and is opened anew.
#![allow(clippy::unwrap_used)]

mod harness;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::{Alone, CLUSTER, Heard, create_queue, entry, eventually, members, publish};
use tempfile::TempDir;
use ticketrail_core::command::Bootstrap;
use ticketrail_core::{BootId, Command, NodeId};
use ticketrail_raft::{CheckpointOpener, Folders, Replica, ReplicaConfig};
use ticketrail_storage::sim::{Fault, OpKind, SimDisk};
use ticketrail_storage::{CheckpointError, CheckpointStore, MemoryCheckpoint};

const NODE: NodeId = NodeId(1);
const ENOSPC: i32 = 28;

/// Opens whatever store lies there.
#[derive(Clone, Default)]
struct Opener {
    store: Arc<Mutex<MemoryCheckpoint>>,
    /// Opens that find an earlier handle still open.
    locked: Arc<AtomicU64>,
    set_aside: Arc<AtomicU64>,
}

impl CheckpointOpener for Opener {
    fn open(&mut self) -> Result<Box<dyn CheckpointStore>, CheckpointError> {
        let less = |left: u64| left.checked_sub(1);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        if self.locked.fetch_update(set, fetch, less).is_ok() {
            return Err(CheckpointError::Io {
                operation: "open",
                source: io::ErrorKind::WouldBlock.into(),
            });
        }
        Ok(Box::new(self.store.lock().unwrap().clone()))
    }

    fn set_aside(&mut self) -> io::Result<String> {
        self.set_aside.fetch_add(1, Ordering::Relaxed);
        *self.store.lock().unwrap() = MemoryCheckpoint::new();
        Ok("nowhere".to_owned())
    }
}

async fn start(root: &Path, opener: &Opener, boot: u64) -> (Replica, Folders) {
    start_with(root, opener, boot, |config| {
        config.checkpoint_every = Duration::from_millis(20);
    })
    .await
}

async fn start_with(
    root: &Path,
    opener: &Opener,
    boot: u64,
    change: impl FnOnce(&mut ReplicaConfig),
) -> (Replica, Folders) {
    let (folders, mut storage, _) = Folders::open(root, CLUSTER, NODE.0).unwrap();
    storage.checkpoint = Box::new(opener.clone());
    let mut config = ReplicaConfig::new(CLUSTER, NODE, BootId(boot));
    change(&mut config);
    let heard: Arc<Heard> = Arc::default();
    let replica = Replica::start(config, storage, Arc::new(Alone), heard);
    let replica = replica.await.unwrap();
    if !replica.is_initialized() {
        replica.bootstrap(members(1)).await.unwrap();
    }
    eventually("a leader", async || {
        replica.read_index().await.is_ok().then_some(())
    })
    .await;
    (replica, folders)
}

async fn stop(replica: Replica, folders: Folders) {
    replica.shutdown().await;
    drop(replica);
    let closed = tokio::task::spawn_blocking(|| folders.close());
    closed.await.unwrap().unwrap();
}

async fn propose(replica: &Replica, command: Command) {
    let term = replica.leadership().borrow().term;
    replica.propose(term, entry(&[command])).await.unwrap();
}

/// All that was applied is in a checkpoint.
async fn written(replica: &Replica) {
    eventually("a checkpoint", async || {
        assert!(replica.failure().borrow().is_none());
        let applied = replica.status().applied_index;
        (Some(replica.figures().checkpoint_index) == applied).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_comes_back_as_it_was_earlier_is_written_anew() {
    let (root, disk, opener) = (TempDir::new().unwrap(), SimDisk::new(1), Opener::default());
    *opener.store.lock().unwrap() = MemoryCheckpoint::on(&disk);
    let (replica, folders) = start(root.path(), &opener, 1).await;
    let bootstrap = Bootstrap {
        cluster_id: CLUSTER,
        hash_seed: 7,
    };
    propose(&replica, Command::Bootstrap(bootstrap)).await;
    propose(&replica, create_queue("q")).await;
    written(&replica).await;

    // What is opened next is as the store is now, and at first it is still held.
    {
        let mut store = opener.store.lock().unwrap();
        *store = store.fork(&disk);
        opener.locked.store(1, Ordering::Relaxed);
    }
    propose(&replica, create_queue("second")).await;
    written(&replica).await;
    disk.add_fault(Fault {
        kind: OpKind::Write,
        name_prefix: "checkpoint".to_owned(),
        skip: 0,
        count: 1,
        os_error: ENOSPC,
    });
    propose(&replica, publish(10)).await;
    written(&replica).await;
    assert_eq!(opener.locked.load(Ordering::Relaxed), 0);
    let wanted = replica.status();
    stop(replica, folders).await;

    let (replica, folders) = start(root.path(), &opener, 2).await;
    assert_eq!(opener.set_aside.load(Ordering::Relaxed), 0);
    replica.with_state(|state| {
        assert!(state.queue("default", "second").is_some());
        assert_eq!(state.queue("default", "q").unwrap().ready, 10);
    });
    assert!(replica.status().applied_index > wanted.applied_index);
    stop(replica, folders).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_changed_queues_are_written_before_their_time() {
    let (root, opener) = (TempDir::new().unwrap(), Opener::default());
    let (replica, folders) = start_with(root.path(), &opener, 1, |config| {
        config.checkpoint_every = Duration::from_secs(3_600);
        config.checkpoint_queues = 3;
    })
    .await;
    let bootstrap = Bootstrap {
        cluster_id: CLUSTER,
        hash_seed: 7,
    };
    propose(&replica, Command::Bootstrap(bootstrap)).await;
    for name in ["a", "b", "c"] {
        propose(&replica, create_queue(name)).await;
    }
    written(&replica).await;
    stop(replica, folders).await;
}
