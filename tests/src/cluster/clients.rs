//! Raw generated clients of one address, and what a refusal says.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use ticketrail_proto::v1::cluster_service_client::ClusterServiceClient;
use ticketrail_proto::v1::consumer_service_client::ConsumerServiceClient;
use ticketrail_proto::v1::publisher_service_client::PublisherServiceClient;
use ticketrail_proto::v1::queue_admin_service_client::QueueAdminServiceClient;
use ticketrail_proto::v1::topology_service_client::TopologyServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, IntoRequest, Request, Status};
use tonic_types::StatusExt as _;

/// Larger than all that servers send or take, so that limits are the server's.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// All services at one address, over one connection that is made when needed and again when broken.
#[derive(Clone, Debug)]
pub struct Clients {
    /// The address.
    pub address: String,
    /// The connection.
    pub channel: Channel,
    /// Publishing.
    pub publisher: PublisherServiceClient<Channel>,
    /// Consuming.
    pub consumer: ConsumerServiceClient<Channel>,
    /// Namespaces and queues.
    pub topology: TopologyServiceClient<Channel>,
    /// What operators do to queues.
    pub admin: QueueAdminServiceClient<Channel>,
    /// The cluster.
    pub cluster: ClusterServiceClient<Channel>,
}

impl Clients {
    /// Clients of an address `host:port`; nothing is connected yet. Must be called inside a runtime.
    ///
    /// # Panics
    /// When it is no address.
    #[must_use]
    pub fn of(address: &str) -> Self {
        let endpoint =
            Endpoint::from_shared(format!("http://{address}")).expect("host:port is a URI");
        let channel = endpoint
            .connect_timeout(Duration::from_secs(2))
            .tcp_nodelay(true)
            .connect_lazy();
        macro_rules! client {
            ($client:ident) => {
                $client::new(channel.clone())
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX)
            };
        }
        Self {
            address: address.to_owned(),
            publisher: client!(PublisherServiceClient),
            consumer: client!(ConsumerServiceClient),
            topology: client!(TopologyServiceClient),
            admin: client!(QueueAdminServiceClient),
            cluster: client!(ClusterServiceClient),
            channel,
        }
    }
}

/// A request with a deadline, which the server hears of.
pub fn within<T>(deadline: Duration, message: T) -> Request<T> {
    let mut request = message.into_request();
    request.set_timeout(deadline);
    request
}

/// What a refusal says, in one flat value to compare with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// The gRPC code.
    pub code: i32,
    /// The stable reason of `ErrorInfo`; empty where the status has none.
    pub reason: String,
    /// The first field of `BadRequest`; empty where it names none.
    pub field: String,
    /// The metadata of `ErrorInfo`.
    pub metadata: HashMap<String, String>,
    /// The settings that `PreconditionFailure` names.
    pub differs: Vec<String>,
    /// What `RetryInfo` says, if it is there.
    pub retry_after: Option<Duration>,
    /// The sentence.
    pub message: String,
}

impl Refused {
    /// Whether it is this code with this reason.
    #[must_use]
    pub fn is(&self, code: Code, reason: &str) -> bool {
        self.code == code as i32 && self.reason == reason
    }
}

impl From<&Status> for Refused {
    fn from(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let field = details
            .bad_request()
            .and_then(|bad| bad.field_violations.first());
        let preconditions = details.precondition_failure();
        Self {
            code: status.code() as i32,
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
            field: field.map(|field| field.field.clone()).unwrap_or_default(),
            metadata: info.map(|info| info.metadata.clone()).unwrap_or_default(),
            differs: preconditions
                .map(|failure| {
                    failure
                        .violations
                        .iter()
                        .map(|v| v.subject.clone())
                        .collect()
                })
                .unwrap_or_default(),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
            message: status.message().to_owned(),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            reason,
            field,
            message,
            ..
        } = self;
        write!(
            f,
            "{:?} {reason} field `{field}`: {message}",
            Code::from(self.code)
        )
    }
}

/// Whether the same call may be made again as it is, and whether the first may have had an effect.
#[must_use]
pub fn invites_retry(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
    )
}
