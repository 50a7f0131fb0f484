//! How a node stops, what its clients are told, and what health says.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::{Cluster, PATIENCE, channel, item, seconds};
use ticketrail_proto::error::{reason_of, retry_after_of};
use ticketrail_proto::v1::{
    self, consume_request, consume_response, publish_stream_request, publish_stream_response,
};
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

#[track_caller]
fn shutting_down(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(reason_of(status).unwrap().as_str(), "SHUTTING_DOWN");
    assert!(retry_after_of(status).is_some());
}

/// Frames of a client that keeps its side open.
fn open<T: Send + 'static>(first: T) -> impl futures::Stream<Item = T> + Send + 'static {
    futures::StreamExt::chain(tokio_stream::iter([first]), futures::stream::pending())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_long_polls_are_told_that_the_node_stops() {
    let mut cluster = Cluster::start(1).await;
    cluster.queue("orders").await;
    let frame = consume_request::Frame::Open(v1::ConsumeOpen {
        queue: "orders".to_owned(),
        ..Default::default()
    });
    let frame = v1::ConsumeRequest { frame: Some(frame) };
    let mut consume = cluster
        .consumer(0)
        .consume(open(frame))
        .await
        .unwrap()
        .into_inner();
    let frame = publish_stream_request::Frame::Open(v1::PublishOpen::default());
    let frame = v1::PublishStreamRequest { frame: Some(frame) };
    let mut publish = cluster
        .publisher(0)
        .publish_stream(open(frame))
        .await
        .unwrap()
        .into_inner();
    consume.message().await.unwrap().expect("opened");
    publish.message().await.unwrap().expect("opened");
    let poller = cluster.consumer(0);
    let receive = |wait| {
        let request = v1::ReceiveRequest {
            queue: "orders".to_owned(),
            wait,
            ..Default::default()
        };
        let mut poller = poller.clone();
        Box::pin(async move { poller.receive(request).await })
    };
    let mut poll = receive(seconds(20));
    // The poll is there once one that came after it on the same connection is answered.
    tokio::select! {
        biased;
        answer = &mut poll => panic!("nothing to answer: {answer:?}"),
        answer = receive(None) => drop(answer.unwrap()),
    }
    let poll = tokio::spawn(poll);

    let start = Instant::now();
    cluster.stop(0).await.unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "nobody is waited for: {:?}",
        start.elapsed()
    );
    let told = consume.message().await.unwrap().unwrap().frame;
    assert!(
        matches!(told, Some(consume_response::Frame::GoAway(_))),
        "{told:?}"
    );
    shutting_down(&consume.message().await.unwrap_err());
    let told = publish.message().await.unwrap().unwrap().frame;
    assert!(
        matches!(told, Some(publish_stream_response::Frame::GoAway(_))),
        "{told:?}"
    );
    shutting_down(&publish.message().await.unwrap_err());
    let answer = timeout(PATIENCE, poll).await.unwrap().unwrap().unwrap();
    assert!(answer.get_ref().deliveries.is_empty(), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_hands_over() {
    let mut cluster = Cluster::start(3).await;
    cluster.queue("orders").await;
    let leader = cluster.leader().await;
    let term = |view: v1::GetClusterResponse| (view.term, view.leader_node_id);
    let other = (leader + 1) % 3;
    let ask = || async {
        let answer = cluster
            .cluster(other)
            .get_cluster(v1::GetClusterRequest {})
            .await;
        term(answer.unwrap().into_inner())
    };
    let before = ask().await;
    let address = cluster.nodes[other].client_address.clone();
    cluster.stop(leader).await.unwrap();
    let mut asked = v1::cluster_service_client::ClusterServiceClient::new(channel(&address));
    let after = timeout(PATIENCE, async {
        loop {
            let answer = asked.get_cluster(v1::GetClusterRequest {}).await;
            let after = term(answer.unwrap().into_inner());
            if after.1 != 0 && after.1 != before.1 {
                return after;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("another leads");
    assert_eq!(after.0, before.0 + 1, "one election, without a split vote");
}

async fn health(address: &str, service: &str) -> i32 {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = HealthClient::new(channel(address))
        .check(request)
        .await
        .unwrap();
    answer.into_inner().status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_a_node_lives_but_does_not_serve() {
    let mut cluster = Cluster::start(3).await;
    cluster.queue("orders").await;
    cluster.stop(1).await.unwrap();
    cluster.stop(2).await.unwrap();
    let address = cluster.nodes[0].client_address.clone();
    timeout(PATIENCE, async {
        while health(&address, "ticketrail.v1.PublisherService").await != 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("NOT_SERVING in time");
    assert_eq!(health(&address, "liveness").await, 1);

    let batch = v1::PublishRequest {
        items: vec![item("orders", "x")],
        ..Default::default()
    };
    let mut request = tonic::Request::new(batch);
    request.set_timeout(Duration::from_millis(500));
    let start = Instant::now();
    let status = cluster.publisher(0).publish(request).await.unwrap_err();
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "the deadline reaches into the wait"
    );
    // `Cancelled` is what the client's own clock says, where it is quicker than the answer.
    assert!(
        matches!(
            status.code(),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled
        ),
        "nothing was confirmed without a majority: {status:?}"
    );

    cluster.start_again(1).await;
    cluster.serving().await;
    cluster
        .publisher(0)
        .publish(v1::PublishRequest {
            items: vec![item("orders", "y")],
            ..Default::default()
        })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_again_without_being_told_of_the_others() {
    let mut cluster = Cluster::start(3).await;
    cluster.queue("orders").await;
    cluster.stop(2).await.unwrap();
    cluster.forget_bootstrap();
    cluster.start_again(2).await;
    cluster.serving().await;
    assert_eq!(cluster.stats(2, "orders").await.published, 0);
}

#[tokio::test]
async fn a_folder_of_another_cluster_or_an_empty_one_is_refused() {
    let mut cluster = Cluster::start(1).await;
    cluster.stop(0).await.unwrap();
    let other = ticketrail_server::WrittenConfig {
        cluster_id: Some("1".repeat(32)),
        ..cluster.config(0)
    };
    let never = std::future::pending::<()>;
    let error = ticketrail_server::run(other.validate().unwrap(), never())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("`cluster_id` says"), "{error}");
    let empty = ticketrail_server::WrittenConfig {
        bootstrap: None,
        data_dir: Some(cluster.folder().join("empty")),
        ..cluster.config(0)
    };
    let error = ticketrail_server::run(empty.validate().unwrap(), never())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("give `bootstrap`"), "{error}");
    let other_node = ticketrail_server::WrittenConfig {
        node_id: Some(2),
        bootstrap: None,
        ..cluster.config(0)
    };
    let error = ticketrail_server::run(other_node.validate().unwrap(), never())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("node"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_shows_the_public_services_only() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let cluster = Cluster::start(1).await;
    let request = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(cluster.channel(0));
    let mut answers = client
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else {
        panic!("{answer:?}")
    };
    let names: Vec<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for service in [
        "PublisherService",
        "ConsumerService",
        "TopologyService",
        "QueueAdminService",
        "ClusterService",
    ] {
        assert!(
            names.contains(&format!("ticketrail.v1.{service}")),
            "{names:?}"
        );
    }
    assert!(names.iter().all(|name| !name.contains("peer")), "{names:?}");
}
