//! A queue to create, in the words of a test.

use std::time::Duration;

use ticketrail_proto::v1::{
    CreateQueueRequest, DeadLetterTarget, GetQueueStatsRequest, PeekRequest, PeekedMessage, Queue,
    QueueSettings, QueueStats, RetryBackoff,
};

use super::{Cluster, Refused, duration, secs, until, within};

/// Describes a queue of the default namespace.
#[derive(Debug)]
pub struct QueueSpec<'a> {
    cluster: &'a Cluster,
    name: String,
    settings: QueueSettings,
}

impl<'a> QueueSpec<'a> {
    pub(super) fn new(cluster: &'a Cluster, name: &str) -> Self {
        Self {
            cluster,
            name: name.to_owned(),
            settings: QueueSettings::default(),
        }
    }

    /// Its `lease_duration`.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease_duration = Some(duration(lease));
        self
    }

    /// Its `max_deliveries`.
    #[must_use]
    pub fn max_deliveries(mut self, deliveries: u32) -> Self {
        self.settings.max_deliveries = Some(deliveries);
        self
    }

    /// The queue of its dead letters.
    #[must_use]
    pub fn dead_letters_to(mut self, queue: &str) -> Self {
        let routing_key = Some(queue.to_owned());
        self.settings.dead_letter = Some(DeadLetterTarget {
            exchange: String::new(),
            routing_key,
        });
        self
    }

    /// A fixed wait after each failed delivery.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.settings.retry_backoff = Some(RetryBackoff {
            base: Some(duration(wait)),
            factor: Some(1.0),
            max: Some(duration(wait)),
            jitter_percent: Some(0),
        });
        self
    }

    /// Creates it, through whichever node answers.
    pub async fn create(self) -> Queue {
        let request = CreateQueueRequest {
            namespace: String::new(),
            name: self.name,
            settings: Some(self.settings),
        };
        until("a queue to be created", secs(20), async || {
            let mut last = None;
            for id in self.cluster.running() {
                let call = within(secs(5), request.clone());
                match self.cluster.on(id).topology.create_queue(call).await {
                    Ok(answer) => {
                        return Ok(answer.into_inner().queue.expect("a queue is answered"));
                    }
                    Err(status) => last = Some(Refused::from(&status).to_string()),
                }
            }
            Err(last)
        })
        .await
    }
}

impl Cluster {
    /// The counts of a queue of the default namespace, from whichever node answers.
    pub async fn stats(&self, queue: &str) -> QueueStats {
        let queue = queue.to_owned();
        let request = GetQueueStatsRequest {
            namespace: String::new(),
            queue,
        };
        until("counts of a queue", secs(20), async || {
            let mut last = None;
            for id in self.running() {
                let call = within(secs(5), request.clone());
                match self.on(id).admin.get_queue_stats(call).await {
                    Ok(answer) => {
                        return Ok(answer.into_inner().stats.expect("counts are answered"));
                    }
                    Err(status) => last = Some(Refused::from(&status).to_string()),
                }
            }
            Err(last)
        })
        .await
    }

    /// Everything in a queue of the default namespace, page by page.
    pub async fn peek_all(&self, queue: &str) -> Vec<PeekedMessage> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = PeekRequest {
                queue: queue.to_owned(),
                page_size: Some(1_000),
                page_token,
                ..PeekRequest::default()
            };
            let page = until("a page of messages", secs(20), async || {
                let mut clients = self.on(self.leader().await);
                let page = clients
                    .consumer
                    .peek(within(secs(10), request.clone()))
                    .await;
                page.map_err(|status| Refused::from(&status).to_string())
            });
            let page = page.await.into_inner();
            all.extend(page.messages);
            if page.next_page_token.is_empty() {
                return all;
            }
            page_token = page.next_page_token;
        }
    }
}
