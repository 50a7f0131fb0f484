use std::net::SocketAddr;
use std::sync::{Arc, mpsc};

use anyhow::Result;
use ticketrail_proto::v1::consumer_service_server::ConsumerServiceServer;
use ticketrail_proto::v1::publisher_service_server::PublisherServiceServer;

use super::consumer::Consumer;
use super::publisher::Publisher;
use super::replicator::{Consumers, Replicator};
use super::store::Store;

/// Serves clients, and replicates what they send.
pub(super) async fn serve(
    listen: SocketAddr,
    followers: &[SocketAddr],
    store: Store,
) -> Result<()> {
    let replicator = Replicator::connect(store, followers)?;
    let (waiting, taken) = mpsc::channel();
    let consumers = Arc::<Consumers>::default();
    let consumer = Consumer {
        waiting: waiting.clone(),
        consumers: Arc::clone(&consumers),
    };
    let replicating = tokio::task::spawn_blocking(move || replicator.run(&taken, &consumers));
    let serving = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(PublisherServiceServer::new(Publisher { waiting }))
        .add_service(ConsumerServiceServer::new(consumer))
        .serve(listen);
    tokio::select! {
        served = serving => Ok(served?),
        replicated = replicating => replicated?,
    }
}
