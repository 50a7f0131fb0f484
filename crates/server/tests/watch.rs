//! What those who watch a node are told over gRPC: the cluster and its disks, and health.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};

use support::{Cluster, PATIENCE, channel};
use ticketrail_proto::error::reason_of;
use ticketrail_proto::v1;
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

#[track_caller]
fn shutting_down(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(reason_of(status).unwrap().as_str(), "SHUTTING_DOWN");
}

async fn watch(cluster: &Cluster, place: usize) -> Streaming<v1::WatchClusterResponse> {
    let interval = Some(prost_types::Duration {
        seconds: 0,
        nanos: 100_000_000,
    });
    let request = v1::WatchClusterRequest { interval };
    let watching = cluster.cluster(place).watch_cluster(request).await;
    watching.unwrap().into_inner()
}

/// The first answer that is as wanted.
async fn told(
    watching: &mut Streaming<v1::WatchClusterResponse>,
    wanted: impl Fn(&v1::GetClusterResponse) -> bool,
) -> v1::GetClusterResponse {
    let mut last = None;
    let told = async {
        loop {
            let answer = watching.message().await.unwrap().expect("it goes on");
            let seen = answer.cluster.unwrap();
            if wanted(&seen) {
                return seen;
            }
            last = Some(seen);
        }
    };
    let told = timeout(PATIENCE, told).await;
    told.unwrap_or_else(|_| panic!("not told in time; last: {last:#?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_of_another_leader_and_ends_with_the_node() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let watched = (leader + 1) % 3;
    let mut watching = watch(&cluster, watched).await;
    let first = told(&mut watching, |_| true).await;
    assert_eq!(first.answering_node_id, cluster.nodes[watched].id);
    assert_eq!(first.leader_node_id, cluster.nodes[leader].id);
    cluster.stop(leader).await.unwrap();
    let other = |seen: &v1::GetClusterResponse| {
        ![0, first.leader_node_id].contains(&seen.leader_node_id) && seen.term > first.term
    };
    told(&mut watching, other).await;
    cluster.stop(watched).await.unwrap();
    let end = async {
        loop {
            match watching.message().await {
                Ok(answer) => drop(answer.expect("it says why it ends")),
                Err(status) => return status,
            }
        }
    };
    shutting_down(&timeout(PATIENCE, end).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_is_not_made_to_look_all_the_time() {
    let cluster = Cluster::start(1).await;
    let nanos = 99_999_999;
    let interval = Some(prost_types::Duration { seconds: 0, nanos });
    let request = v1::WatchClusterRequest { interval };
    let refused = cluster.cluster(0).watch_cluster(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("interval"), "{refused:?}");
}

const SEGMENT_BYTES: u64 = 64 << 20;

fn bytes_in(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).unwrap();
    files
        .map(|file| match file.unwrap().metadata() {
            Ok(known) => known.len(),
            // Renamed or removed since the folder was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => panic!("{error}"),
        })
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_tells_what_it_takes_of_its_disk() {
    let cluster = Cluster::start(1).await;
    let mut watching = watch(&cluster, 0).await;
    let log = cluster.folder_of(0).join("log");
    // Segments come and go: until both are of the same moment.
    let same = |seen: &v1::GetClusterResponse| {
        let Some(disk) = &seen.disk else { return false };
        let bodies = disk.live_body_bytes + disk.dead_body_bytes;
        let told = disk.log_bytes + disk.spare_bytes + bodies;
        // Beside: the segment that is made ahead; identity, vote, lock.
        let beside = SEGMENT_BYTES + (1 << 20);
        disk.checkpoint_bytes > 0 && (told..told + beside).contains(&bytes_in(&log))
    };
    let disk = told(&mut watching, same).await.disk.unwrap();
    assert!(disk.log_bytes > 0 && disk.body_bytes_max > 0, "{disk:?}");
    assert!(
        disk.free_bytes > 0 && disk.free_bytes < disk.size_bytes,
        "{disk:?}"
    );
    assert!(disk.free_bytes_min > 0, "{disk:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_over_health_do_not_hold_up_a_stop() {
    let mut cluster = Cluster::start(1).await;
    let mut watches = Vec::new();
    for service in ["", "liveness", "readiness"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let mut client = HealthClient::new(channel(&cluster.nodes[0].client_address));
        let mut watching = client.watch(request).await.unwrap().into_inner();
        watching.message().await.unwrap().expect("a first answer");
        watches.push(watching);
    }
    let start = Instant::now();
    cluster.stop(0).await.unwrap();
    let took = start.elapsed();
    assert!(
        took < Duration::from_secs(5),
        "nobody is waited for: {took:?}"
    );
    for mut watching in watches {
        let end = loop {
            match watching.message().await {
                Ok(change) => drop(change.expect("it says why it ends")),
                Err(status) => break status,
            }
        };
        shutting_down(&end);
    }
}
