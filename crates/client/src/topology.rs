//! Namespaces, queues and the cluster: what exists.

use ticketrail_proto::v1;

use crate::call::Repeat;
use crate::client::Client;
use crate::error::Result;

/// How many items a page of a listing asks for.
const PAGE_SIZE: u32 = 500;

impl Client {
    /// Creates a namespace; one that exists is answered as it is, with `already_existed`.
    ///
    /// # Errors
    ///
    /// `INVALID_FIELD`, `TOO_MANY_NAMESPACES`; and what any call may end with: see [`Error`](crate::Error).
    pub async fn create_namespace(
        &self,
        name: impl Into<String>,
    ) -> Result<v1::CreateNamespaceResponse> {
        let request = v1::CreateNamespaceRequest { name: name.into() };
        self.call(Repeat::Always, request, async |channel, request| {
            Self::topology(channel).create_namespace(request).await
        })
        .await
    }

    /// Shows a namespace.
    ///
    /// # Errors
    ///
    /// `NAMESPACE_NOT_FOUND`; and what any call may end with: see [`Error`](crate::Error).
    pub async fn get_namespace(&self, name: impl Into<String>) -> Result<v1::Namespace> {
        let request = v1::GetNamespaceRequest { name: name.into() };
        let response = self
            .call(Repeat::Always, request, async |channel, request| {
                Self::topology(channel).get_namespace(request).await
            })
            .await?;
        Ok(response.namespace.unwrap_or_default())
    }

    /// All namespaces, by name.
    ///
    /// # Errors
    ///
    /// What any call may end with: see [`Error`](crate::Error).
    pub async fn list_namespaces(&self) -> Result<Vec<v1::Namespace>> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListNamespacesRequest {
                page_size: Some(PAGE_SIZE),
                page_token,
                ..Default::default()
            };
            let page = self
                .call(Repeat::Always, request, async |channel, request| {
                    Self::topology(channel).list_namespaces(request).await
                })
                .await?;
            all.extend(page.namespaces);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// Deletes an empty namespace.
    ///
    /// # Errors
    ///
    /// `NAMESPACE_NOT_FOUND`, `NAMESPACE_NOT_EMPTY`, `INVALID_FIELD` for `default`; and what any call may end with: see [`Error`](crate::Error).
    /// Not repeated where the outcome is unknown.
    pub async fn delete_namespace(
        &self,
        name: impl Into<String>,
    ) -> Result<v1::DeleteNamespaceResponse> {
        let request = v1::DeleteNamespaceRequest { name: name.into() };
        self.call(Repeat::IfNothingDone, request, async |channel, request| {
            Self::topology(channel).delete_namespace(request).await
        })
        .await
    }

    /// Creates a queue; one that exists with the same settings is answered as it is, with
    /// `already_existed`, and one with other settings is refused with `ALREADY_EXISTS`.
    ///
    /// # Errors
    ///
    /// `ALREADY_EXISTS` (the settings that differ are the [violations](crate::Error::violations)),
    /// `NAMESPACE_NOT_FOUND`, `INVALID_FIELD`, `TOO_MANY_QUEUES`; and what any call may end with: see [`Error`](crate::Error).
    pub async fn create_queue(
        &self,
        name: impl Into<String>,
        settings: v1::QueueSettings,
    ) -> Result<v1::CreateQueueResponse> {
        let request = v1::CreateQueueRequest {
            namespace: self.namespace.clone(),
            name: name.into(),
            settings: Some(settings),
        };
        self.call(Repeat::Always, request, async |channel, request| {
            Self::topology(channel).create_queue(request).await
        })
        .await
    }

    /// Shows a queue.
    ///
    /// # Errors
    ///
    /// `QUEUE_NOT_FOUND`; and what any call may end with: see [`Error`](crate::Error).
    pub async fn get_queue(&self, name: impl Into<String>) -> Result<v1::Queue> {
        let request = v1::GetQueueRequest {
            namespace: self.namespace.clone(),
            name: name.into(),
        };
        let response = self
            .call(Repeat::Always, request, async |channel, request| {
                Self::topology(channel).get_queue(request).await
            })
            .await?;
        Ok(response.queue.unwrap_or_default())
    }

    /// A page of the queues of the namespace, by name; `page_token` is the `next_page_token` of the page before,
    /// empty for the first one.
    ///
    /// # Errors
    ///
    /// `NAMESPACE_NOT_FOUND`, `INVALID_FIELD` for the token; and what any call may end with: see [`Error`](crate::Error).
    pub async fn list_queues_page(
        &self,
        page_token: impl Into<String>,
    ) -> Result<v1::ListQueuesResponse> {
        let request = v1::ListQueuesRequest {
            namespace: self.namespace.clone(),
            page_size: Some(PAGE_SIZE),
            page_token: page_token.into(),
            ..Default::default()
        };
        self.call(Repeat::Always, request, async |channel, request| {
            Self::topology(channel).list_queues(request).await
        })
        .await
    }

    /// All queues of the namespace, by name.
    ///
    /// # Errors
    ///
    /// `NAMESPACE_NOT_FOUND`; and what any call may end with: see [`Error`](crate::Error).
    pub async fn list_queues(&self) -> Result<Vec<v1::Queue>> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let page = self.list_queues_page(page_token).await?;
            all.extend(page.queues);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// Changes those settings of a queue that `fields` names (the field names of [`v1::QueueSettings`]).
    ///
    /// # Errors
    ///
    /// `QUEUE_NOT_FOUND`, `INVALID_FIELD`; and what any call may end with: see [`Error`](crate::Error).
    pub async fn update_queue(
        &self,
        name: impl Into<String>,
        settings: v1::QueueSettings,
        fields: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<v1::UpdateQueueResponse> {
        let paths = fields.into_iter().map(Into::into).collect();
        let request = v1::UpdateQueueRequest {
            namespace: self.namespace.clone(),
            name: name.into(),
            settings: Some(settings),
            update_mask: Some(prost_types::FieldMask { paths }),
            etag: String::new(),
        };
        self.call(Repeat::Always, request, async |channel, request| {
            Self::topology(channel).update_queue(request).await
        })
        .await
    }

    /// Deletes a queue and all its messages.
    ///
    /// # Errors
    ///
    /// `QUEUE_NOT_FOUND`; and what any call may end with: see [`Error`](crate::Error).
    /// Not repeated where the outcome is unknown; asking again deletes what is left.
    pub async fn delete_queue(&self, name: impl Into<String>) -> Result<v1::DeleteQueueResponse> {
        let request = v1::DeleteQueueRequest {
            namespace: self.namespace.clone(),
            name: name.into(),
            ..Default::default()
        };
        self.call(Repeat::IfNothingDone, request, async |channel, request| {
            Self::topology(channel).delete_queue(request).await
        })
        .await
    }

    /// The cluster as one node sees it.
    ///
    /// # Errors
    ///
    /// What any call may end with: see [`Error`](crate::Error).
    pub async fn cluster(&self) -> Result<v1::GetClusterResponse> {
        self.call(
            Repeat::Always,
            v1::GetClusterRequest {},
            async |channel, request| Self::cluster_service(channel).get_cluster(request).await,
        )
        .await
    }
}
