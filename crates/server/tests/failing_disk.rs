//! A disk that refuses to sync: the node stops within a second and confirms nothing more.
#![allow(clippy::unwrap_used)]

mod support;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::{PATIENCE, channel, item};
use ticketrail_proto::v1;
use ticketrail_proto::v1::publisher_service_client::PublisherServiceClient;
use ticketrail_proto::v1::topology_service_client::TopologyServiceClient;
use ticketrail_server::{Listeners, Machine, RunError, WrittenConfig, run_with};
use ticketrail_storage::{Disk, DiskFile, DiskLock, OsDisk};
use tokio::net::TcpListener;
use tokio::time::timeout;

struct FailingDisk {
    real: OsDisk,
    fails: Arc<AtomicBool>,
}

struct FailingFile {
    real: Arc<dyn DiskFile>,
    fails: Arc<AtomicBool>,
}

impl FailingDisk {
    fn file(&self, real: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(FailingFile {
            real,
            fails: Arc::clone(&self.fails),
        })
    }
}

impl Disk for FailingDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.real.create(name)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.real.open(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.real.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.real.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.real.list()
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.real.sync_dir()
    }

    fn lock(&self) -> io::Result<DiskLock> {
        self.real.lock()
    }
}

impl DiskFile for FailingFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.real.read_at(buf, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.real.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(io::Error::other("the disk refuses to sync"));
        }
        self.real.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.real.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.real.len()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_refuses_to_sync_stops_and_confirms_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let clients = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peers = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = clients.local_addr().unwrap().to_string();
    let peer_address = peers.local_addr().unwrap().to_string();
    let config = WrittenConfig {
        node_id: Some(1),
        bootstrap: Some(format!("1={peer_address}@{address}")),
        listen: Some(address.clone()),
        peer_listen: Some(peer_address),
        data_dir: Some(folder.path().to_owned()),
        ..WrittenConfig::default()
    };
    let fails = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&fails);
    let machine = Machine {
        disk_of: Arc::new(move |folder| {
            let fails = Arc::clone(&switch);
            Ok(Arc::new(FailingDisk {
                real: OsDisk::new(folder)?,
                fails,
            }))
        }),
        ..Machine::default()
    };
    let listeners = Listeners { clients, peers };
    let config = config.validate().unwrap();
    let running = tokio::spawn(run_with(config, listeners, machine, std::future::pending()));

    let queue = v1::CreateQueueRequest {
        name: "orders".to_owned(),
        ..Default::default()
    };
    let create = async {
        while TopologyServiceClient::new(channel(&address))
            .create_queue(queue.clone())
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, create).await.expect("the node serves");
    let batch = || v1::PublishRequest {
        items: vec![item("orders", "x")],
        ..Default::default()
    };
    let mut publisher = PublisherServiceClient::new(channel(&address));
    publisher.publish(batch()).await.unwrap();

    fails.store(true, Ordering::SeqCst);
    let failed_at = Instant::now();
    let answer = timeout(PATIENCE, publisher.publish(batch()))
        .await
        .expect("it is told");
    assert!(answer.is_err(), "nothing is confirmed: {answer:?}");
    let ended = timeout(PATIENCE, running)
        .await
        .expect("the node stops")
        .unwrap();
    assert!(
        failed_at.elapsed() < Duration::from_secs(1),
        "after {:?}",
        failed_at.elapsed()
    );
    let Err(RunError::Failed(reason)) = ended else {
        panic!("{ended:?}")
    };
    assert!(reason.contains("the disk refuses to sync"), "{reason}");
    assert!(
        PublisherServiceClient::new(channel(&address))
            .publish(batch())
            .await
            .is_err()
    );
}
