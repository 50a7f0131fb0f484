//! Whether a node says that it is well: the standard gRPC health service.

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::call::Repeat;
use crate::client::Client;
use crate::error::Result;

/// What is asked of a node's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthOf {
    /// Clients should be sent there: it serves, and has caught up.
    Readiness,
    /// The process lives, with or without a majority.
    Liveness,
}

impl HealthOf {
    fn name(self) -> &'static str {
        match self {
            Self::Readiness => "readiness",
            Self::Liveness => "liveness",
        }
    }
}

impl Client {
    /// Whether the node that answers is well. A client of one endpoint asks that node.
    ///
    /// # Errors
    ///
    /// `CONNECT_FAILED` and its like when no node answers in time.
    pub async fn health(&self, of: HealthOf) -> Result<bool> {
        let service = of.name().to_owned();
        let request = HealthCheckRequest { service };
        let answer = self
            .call(Repeat::Always, request, async |channel, request| {
                HealthClient::new(channel).check(request).await
            })
            .await?;
        Ok(answer.status == i32::from(ServingStatus::Serving))
    }
}
