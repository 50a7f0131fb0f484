//! Whatever a client sends: a status with its reason and the field named, no effect, and a node that
//! serves as before, with its memory back.

mod consuming;
mod frames;
mod publishing;
mod watched;

use std::fs;

use bytes::Bytes;
use futures::future::join_all;
use ticketrail_proto::peer::peer_service_client::PeerServiceClient;
use ticketrail_proto::peer::{Header, VoteRequest};
use ticketrail_proto::v1::{DeleteQueueRequest, SettleKind, SettleOutcome};
use ticketrail_tests::cluster::checks::{agreed, conserved};
use ticketrail_tests::cluster::consumer::{body, receive, settle};
use ticketrail_tests::cluster::producer::{batch, item};
use ticketrail_tests::cluster::{Cluster, Refused, secs, until, within};
use tonic::Code;

/// What a node's memory may have grown by after all of this: allocators keep some.
const GROWTH_BYTES_MAX: u64 = 96 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_sent_is_refused_by_name_and_changes_nothing() {
    let cluster = Cluster::start().await;
    cluster.queue("orders").create().await;
    cluster.queue("others").create().await;
    works(&cluster).await;
    let memory: Vec<u64> = cluster
        .ids()
        .iter()
        .map(|id| cluster.resident_bytes(*id))
        .collect();

    publishing::topology(&cluster).await;
    publishing::publishing(&cluster).await;
    publishing::producers(&cluster).await;
    consuming::consuming(&cluster).await;
    consuming::settling(&cluster).await;
    consuming::frames_of_a_stream(&cluster).await;
    receipts_of_an_earlier_incarnation(&cluster).await;
    a_queue_named_like_a_path_touches_no_file(&cluster).await;
    a_peer_of_another_cluster_is_refused(&cluster).await;
    frames::a_length_prefix_of_a_gibibyte(&cluster).await;
    frames::half_a_message_and_silence(&cluster).await;
    frames::half_a_greeting_and_silence(&cluster).await;
    a_flood_of_oversize_bodies(&cluster).await;

    works(&cluster).await;
    for (id, before) in cluster.ids().into_iter().zip(memory) {
        until(
            &format!("the memory of node {id} to be back"),
            secs(20),
            async || {
                let grown = cluster.resident_bytes(id).saturating_sub(before);
                if grown <= GROWTH_BYTES_MAX {
                    Ok(())
                } else {
                    Err(format!("{} MiB more", grown >> 20))
                }
            },
        )
        .await;
    }
    agreed(&cluster).await;
}

/// Every node publishes, delivers and acknowledges.
async fn works(cluster: &Cluster) {
    for id in cluster.ids() {
        let node = cluster.on(id);
        let request = batch(vec![item("others", format!("through {id}"))]);
        node.publisher
            .clone()
            .publish(within(secs(10), request))
            .await
            .unwrap();
        let taken = receive(&node, "others", 1).await.unwrap().remove(0);
        assert_eq!(body(&taken), format!("through {id}"));
        let outcome = settle(&node, "others", &[taken.receipt], SettleKind::Ack)
            .await
            .unwrap();
        assert_eq!(outcome, [SettleOutcome::Ok]);
    }
    conserved("others", &cluster.stats("others").await);
}

async fn receipts_of_an_earlier_incarnation(cluster: &Cluster) {
    cluster.queue("reborn").create().await;
    let mut node = cluster.on(1);
    let request = batch(vec![item("reborn", "first life")]);
    node.publisher
        .publish(within(secs(10), request.clone()))
        .await
        .unwrap();
    let old = receive(&node, "reborn", 1).await.unwrap().remove(0);
    let delete = DeleteQueueRequest {
        name: "reborn".to_owned(),
        ..DeleteQueueRequest::default()
    };
    node.topology
        .delete_queue(within(secs(10), delete))
        .await
        .unwrap();
    cluster.queue("reborn").create().await;
    node.publisher
        .publish(within(secs(10), request))
        .await
        .unwrap();
    let new = receive(&node, "reborn", 1).await.unwrap().remove(0);
    assert_eq!(old.offset, new.offset, "the same place, another life");
    for id in cluster.ids() {
        let stale = std::slice::from_ref(&old.receipt);
        let outcome = settle(&cluster.on(id), "reborn", stale, SettleKind::Ack)
            .await
            .unwrap();
        assert_eq!(outcome, [SettleOutcome::NotFound], "node {id}");
    }
    assert_eq!(
        settle(&node, "reborn", &[new.receipt], SettleKind::Ack)
            .await
            .unwrap(),
        [SettleOutcome::Ok]
    );
}

async fn a_queue_named_like_a_path_touches_no_file(cluster: &Cluster) {
    let name = "../../etc/passwd";
    let before = fs::read("/etc/passwd").unwrap();
    cluster.queue(name).create().await;
    let node = cluster.on(2);
    let request = batch(vec![item(name, "root::0:0:::")]);
    node.publisher
        .clone()
        .publish(within(secs(10), request))
        .await
        .unwrap();
    let taken = receive(&node, name, 1).await.unwrap().remove(0);
    assert_eq!(body(&taken), "root::0:0:::");
    assert_eq!(
        settle(&node, name, &[taken.receipt], SettleKind::Ack)
            .await
            .unwrap(),
        [SettleOutcome::Ok]
    );
    assert_eq!(fs::read("/etc/passwd").unwrap(), before);
    for id in cluster.ids() {
        let mut folders = vec![cluster.data_dir(id).parent().unwrap().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                assert_ne!(path.file_name().unwrap(), "passwd");
                folders.extend(path.is_dir().then_some(path));
            }
        }
    }
}

async fn a_peer_of_another_cluster_is_refused(cluster: &Cluster) {
    let before = cluster.view(1).await.unwrap();
    let mut peer = PeerServiceClient::connect(format!("http://{}", cluster.peer_address(1)))
        .await
        .unwrap();
    let ours = cluster.cluster_id();
    for (cluster_id, target, what) in [(ours + 1, 1, "another cluster"), (ours, 3, "another node")]
    {
        let header = Header {
            cluster_id: Bytes::copy_from_slice(&cluster_id.to_be_bytes()),
            sender_node_id: 2,
            target_node_id: target,
            group_id: 0,
            boot_id: 7,
        };
        let vote = Some(ticketrail_proto::peer::Vote {
            term: before.term + 100,
            node_id: 2,
            committed: false,
        });
        let request = VoteRequest {
            header: Some(header),
            vote,
            ..VoteRequest::default()
        };
        let refused = Refused::from(&peer.vote(within(secs(5), request)).await.unwrap_err());
        assert!(
            refused.is(Code::FailedPrecondition, "WRONG_CLUSTER"),
            "{what}: {refused}"
        );
    }
    assert_eq!(
        cluster.view(1).await.unwrap().term,
        before.term,
        "no vote was counted"
    );
}

/// Far more bytes at once than a node may hold for its clients.
async fn a_flood_of_oversize_bodies(cluster: &Cluster) {
    let body = Bytes::from(vec![7; 3 << 20]);
    for id in cluster.ids() {
        let calls = (0..20).map(|_| {
            let mut publisher = cluster.on(id).publisher;
            let request = batch(vec![item("orders", body.clone())]);
            async move { publisher.publish(within(secs(20), request)).await }
        });
        for answer in join_all(calls).await {
            let refused = Refused::from(&answer.unwrap_err());
            assert!(
                refused.is(Code::InvalidArgument, "INVALID_FIELD"),
                "{refused}"
            );
            assert_eq!(refused.field, "items[0].message.body");
        }
    }
}
