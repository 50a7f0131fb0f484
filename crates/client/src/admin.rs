//! What an operator does to a queue.

use ticketrail_proto::v1;

use crate::call::Repeat;
use crate::client::Client;
use crate::error::Result;

impl Client {
    /// Removes the ready messages of a queue for good, and the delayed ones on request.
    ///
    /// # Errors
    ///
    /// `QUEUE_NOT_FOUND`; and what any call may end with: see [`Error`](crate::Error).
    /// Not repeated where the outcome is unknown: messages may have come since.
    pub async fn purge_queue(
        &self,
        queue: impl Into<String>,
        include_delayed: bool,
    ) -> Result<v1::PurgeQueueResponse> {
        let request = v1::PurgeQueueRequest {
            namespace: self.namespace.clone(),
            queue: queue.into(),
            include_delayed,
        };
        self.call(Repeat::IfNothingDone, request, async |channel, request| {
            Self::admin(channel).purge_queue(request).await
        })
        .await
    }

    /// The counts of a queue, exact at one point of the log.
    ///
    /// # Errors
    ///
    /// `QUEUE_NOT_FOUND`; and what any call may end with: see [`Error`](crate::Error).
    pub async fn queue_stats(&self, queue: impl Into<String>) -> Result<v1::QueueStats> {
        let request = v1::GetQueueStatsRequest {
            namespace: self.namespace.clone(),
            queue: queue.into(),
        };
        let response = self
            .call(Repeat::Always, request, async |channel, request| {
                Self::admin(channel).get_queue_stats(request).await
            })
            .await?;
        Ok(response.stats.unwrap_or_default())
    }

    /// Stops granting; publishing goes on.
    ///
    /// # Errors
    ///
    /// `QUEUE_NOT_FOUND`; and what any call may end with: see [`Error`](crate::Error).
    pub async fn pause_queue(&self, queue: impl Into<String>) -> Result<v1::PauseQueueResponse> {
        let request = v1::PauseQueueRequest {
            namespace: self.namespace.clone(),
            queue: queue.into(),
        };
        self.call(Repeat::Always, request, async |channel, request| {
            Self::admin(channel).pause_queue(request).await
        })
        .await
    }

    /// Grants again.
    ///
    /// # Errors
    ///
    /// `QUEUE_NOT_FOUND`; and what any call may end with: see [`Error`](crate::Error).
    pub async fn resume_queue(&self, queue: impl Into<String>) -> Result<v1::ResumeQueueResponse> {
        let request = v1::ResumeQueueRequest {
            namespace: self.namespace.clone(),
            queue: queue.into(),
        };
        self.call(Repeat::Always, request, async |channel, request| {
            Self::admin(channel).resume_queue(request).await
        })
        .await
    }
}
