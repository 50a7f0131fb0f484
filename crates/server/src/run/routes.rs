//! What clients can call.

use std::sync::Arc;

use ticketrail_proto::PUBLIC_DESCRIPTORS;
use ticketrail_proto::v1::cluster_service_server::ClusterServiceServer;
use ticketrail_proto::v1::consumer_service_server::ConsumerServiceServer;
use ticketrail_proto::v1::publisher_service_server::PublisherServiceServer;
use ticketrail_proto::v1::queue_admin_service_server::QueueAdminServiceServer;
use ticketrail_proto::v1::topology_service_server::TopologyServiceServer;
use tonic::transport::server::Router;
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::layer::util::{Identity, Stack};

use super::RunError;
use crate::limits;
use crate::listen::{CallLayer, client_server};
use crate::node::SharedNode;
use crate::services;

/// All public services, with reflection where it is wished.
pub(super) fn routes(
    node: &SharedNode,
    health: HealthServer<impl Health>,
    reflection: bool,
) -> Result<Router<Stack<CallLayer, Identity>>, RunError> {
    let bounds = node.limits;
    let request_max = limits::request_bytes_max(bounds.batch_bytes_max, bounds.body_bytes_max);
    macro_rules! service {
        ($server:ident, $service:ident) => {
            $server::new(services::$service(node.clone()))
                .max_decoding_message_size(request_max)
                .max_encoding_message_size(limits::PEER_MESSAGE_BYTES_MAX)
        };
    }
    let mut routes = client_server()
        .layer(CallLayer {
            calls: Arc::clone(&node.calls),
            admission: Arc::clone(node.broker.admission()),
            request_bytes_max: request_max,
        })
        .add_service(service!(PublisherServiceServer, Publisher))
        .add_service(service!(ConsumerServiceServer, Consumer))
        .add_service(service!(TopologyServiceServer, Topology))
        .add_service(service!(QueueAdminServiceServer, QueueAdmin))
        .add_service(service!(ClusterServiceServer, Cluster))
        .add_service(health);
    if reflection {
        let descriptors = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(PUBLIC_DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let broken = |error: tonic_reflection::server::Error| RunError::Start(error.to_string());
        routes = routes
            .add_service(descriptors().build_v1().map_err(broken)?)
            .add_service(descriptors().build_v1alpha().map_err(broken)?);
    }
    Ok(routes)
}
