//! A copy of a running replica, checked, and the first member of a new cluster from it.
#![allow(clippy::unwrap_used)]

mod harness;

use std::path::Path;
use std::sync::Arc;

use harness::{
    Alone, CLUSTER, Cluster, Heard, ack, address, check_bodies, entry, eventually, publish, receive,
};
use tempfile::TempDir;
use ticketrail_core::{BootId, DiskId, NodeId};
use ticketrail_raft::{
    Folders, Heir, Replica, ReplicaConfig, RestoreError, Source, StartError, check_backup,
    restore_backup,
};
use ticketrail_storage::{BackupError, BackupWriter, Identity, LogConfig, LogPosition};

const NEW: u128 = 0x0b5e;
const PIECE: usize = 10 << 10;

fn heir(cluster_id: u128) -> Heir {
    Heir {
        cluster_id,
        node: NodeId(1),
        address: address(NodeId(1)),
        disk: DiskId(5),
    }
}

/// Writes a copy, without the bodies that are not `kept`.
fn write(source: &Source, node: NodeId, folder: &Path, kept: impl Fn(u64) -> bool) {
    let owner = Identity {
        cluster_id: CLUSTER,
        node_id: node.0,
    };
    let last = LogPosition {
        index: source.last_index(),
        term: source.last_term(),
    };
    let mut writer = BackupWriter::create_in(folder, owner, last).unwrap();
    let mut offset = 0;
    while offset < source.file_bytes() {
        let piece = source.read_file(offset, PIECE).unwrap();
        offset += piece.len() as u64;
        writer.push_state(&piece).unwrap();
    }
    let mut next = Some(0);
    while let Some(from) = next {
        let bodies = source.read_bodies(from, PIECE).unwrap();
        for (index, body) in bodies.bodies {
            if kept(index) {
                writer.push_body(index, &body).unwrap();
            }
        }
        next = bodies.next_index;
    }
    writer.finish(1).unwrap();
}

/// A cluster with 420 messages, a few of them leased, many gone, batches that are partly dead.
async fn cluster() -> Cluster {
    let cluster = Cluster::start(3).await;
    for round in 0..20 {
        cluster.insist(&[publish(40), publish(1)]).await;
        let received = cluster.insist(&[receive(20, &format!("r{round}"))]).await;
        cluster.insist(&[ack(&received[0])]).await;
    }
    cluster.insist(&[receive(7, "held")]).await;
    cluster
}

/// The last entry in the copy, and how many messages there are in it.
async fn backup_of(cluster: &Cluster, folder: &Path) -> (u64, u64) {
    let leader = cluster.leader().await;
    let follower = NodeId(leader.0 % 3 + 1);
    let replica = cluster.replica(follower);
    replica.read_index().await.unwrap();
    // More than were published once, where a publish was thought lost and done again.
    let messages = replica.with_state(|state| {
        let queue = state.queue("default", "q").unwrap();
        queue.ready + queue.in_flight
    });
    assert!(messages >= 420, "{messages}");
    let source = replica.export().await.unwrap();
    // What comes later is not in it.
    cluster.insist(&[publish(40)]).await;
    write(&source, follower, folder, |_| true);
    (source.last_index(), messages)
}

async fn start(root: &Path, boot: u64) -> (Replica, Folders) {
    let config = LogConfig::new(NEW, 1);
    let (folders, storage, _) = Folders::open_with(root, config).unwrap();
    let config = ReplicaConfig::new(NEW, NodeId(1), BootId(boot));
    let heard: Arc<Heard> = Arc::default();
    let replica = Replica::start(config, storage, Arc::new(Alone), heard);
    let replica = replica.await.unwrap();
    eventually("a leader", async || {
        let lead = *replica.leadership().borrow();
        (lead.is_leader && replica.read_index().await.is_ok()).then_some(())
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_cluster_holds_what_the_backup_holds_and_goes_on() {
    let cluster = cluster().await;
    let home = TempDir::new().unwrap();
    let (folder, root) = (home.path().join("backup"), home.path().join("data"));
    let (last_index, messages) = backup_of(&cluster, &folder).await;
    let contents = check_backup(&folder).unwrap();
    assert_eq!(contents.manifest.last.index, last_index);
    assert_eq!((contents.queues, contents.messages), (1, messages));
    assert_eq!(
        restore_backup(&folder, &root, &heir(NEW)).unwrap(),
        contents
    );

    let (replica, folders) = start(&root, 1).await;
    assert_eq!(check_bodies(&replica), messages);
    replica.with_state(|state| {
        assert_eq!(state.cluster_id(), Some(NEW));
        assert_eq!(state.sessions().count() + state.nodes().count(), 0);
        let queue = state.queue("default", "q").unwrap();
        assert_eq!((queue.ready, queue.in_flight), (messages, 0));
    });
    let status = replica.status();
    assert_eq!(status.members.len(), 1);
    assert!(status.term > contents.manifest.last.term);
    let publishes = [publish(40)];
    let term = replica.leadership().borrow().term;
    replica.propose(term, entry(&publishes)).await.unwrap();
    stop(replica, folders).await;

    let (replica, folders) = start(&root, 2).await;
    assert_eq!(check_bodies(&replica), messages + 40);
    stop(replica, folders).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_empty_folder_is_restored_to_and_an_unfinished_one_is_not_started() {
    let cluster = cluster().await;
    let home = TempDir::new().unwrap();
    let (folder, root) = (home.path().join("backup"), home.path().join("data"));
    backup_of(&cluster, &folder).await;
    let same = restore_backup(&folder, &root, &heir(CLUSTER));
    assert!(matches!(same, Err(RestoreError::SameCluster(CLUSTER))));
    assert!(!root.exists(), "nothing was touched");

    restore_backup(&folder, &root, &heir(NEW)).unwrap();
    let again = restore_backup(&folder, &root, &heir(NEW)).unwrap_err();
    assert!(matches!(again, RestoreError::NotEmpty(_)), "{again}");

    // As a crash leaves it.
    std::fs::write(root.join("restore-unfinished"), b"").unwrap();
    let refused = Folders::open(&root, NEW, 1).map(drop).unwrap_err();
    assert!(
        matches!(refused, StartError::UnfinishedRestore(_)),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_without_a_body_that_is_wanted_is_found_out_before_anything_is_written() {
    let cluster = cluster().await;
    let home = TempDir::new().unwrap();
    let leader = cluster.leader().await;
    let replica = cluster.replica(leader);
    let source = replica.export().await.unwrap();
    let wanted = replica.with_state(|state| {
        let queue = state.queue("default", "q").unwrap().id;
        let all = state.peek(queue, None, ticketrail_core::Offset(0), 1_000);
        let mut indexes: Vec<u64> = all.iter().map(|one| one.body.position.index).collect();
        indexes.dedup();
        indexes
    });
    for lost in [
        wanted[0],
        wanted[wanted.len() / 2],
        wanted[wanted.len() - 1],
    ] {
        let folder = home.path().join(format!("without-{lost}"));
        write(&source, leader, &folder, |index| index != lost);
        let root = home.path().join("data");
        let broken = restore_backup(&folder, &root, &heir(NEW)).unwrap_err();
        let told = format!("the bytes of log entry {lost} are missing");
        assert!(broken.to_string().contains(&told), "{broken}");
        assert!(!root.exists());
    }
    // Nor is one that was not finished.
    let folder = home.path().join("unfinished");
    write(&source, leader, &folder, |_| true);
    std::fs::remove_file(folder.join("manifest")).unwrap();
    let unfinished = check_backup(&folder).unwrap_err();
    assert!(
        matches!(unfinished, RestoreError::Backup(BackupError::Unfinished)),
        "{unfinished}"
    );
}
