use std::ops::Deref;

use ticketrail_core::QueueChanges;
use ticketrail_core::view::QueueView;
use ticketrail_proto::error::Problem;
use ticketrail_proto::v1;
use ticketrail_proto::v1::topology_service_server::TopologyService;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::convert::{self, Checked};
use crate::limits;
use crate::listen::Deadline;
use crate::node::SharedNode;

/// `ticketrail.v1.TopologyService`.
pub(crate) struct Topology(pub(crate) SharedNode);

impl Deref for Topology {
    type Target = SharedNode;

    fn deref(&self) -> &SharedNode {
        &self.0
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl TopologyService for Topology {
    async fn create_namespace(
        &self,
        request: Request<v1::CreateNamespaceRequest>,
    ) -> Answer<v1::CreateNamespaceResponse> {
        let (name, deadline) = self.taken(request, |request| request.name)?;
        convert::new_name(&name, "name")?;
        let exists = |state: &ticketrail_core::State| state.has_namespace(&name);
        let already_existed = self.broker.replica().with_state(exists);
        let written = self.broker.create_namespace(&name, deadline).await?;
        Ok(Response::new(v1::CreateNamespaceResponse {
            namespace: Some(namespace(name)),
            already_existed,
            position: written.position.map(convert::commit_position),
        }))
    }

    async fn get_namespace(
        &self,
        request: Request<v1::GetNamespaceRequest>,
    ) -> Answer<v1::GetNamespaceResponse> {
        let (name, deadline) = self.taken(request, |request| request.name)?;
        convert::namespace(&name)?;
        let name = convert::namespace_or_default(&name);
        if !self
            .broker
            .read(deadline, |state| state.has_namespace(name))
            .await?
        {
            return Err(Problem::namespace_not_found(name).into());
        }
        let namespace = Some(namespace(name.to_owned()));
        Ok(Response::new(v1::GetNamespaceResponse { namespace }))
    }

    async fn list_namespaces(
        &self,
        request: Request<v1::ListNamespacesRequest>,
    ) -> Answer<v1::ListNamespacesResponse> {
        let (request, deadline) = self.taken(request, |request| request)?;
        convert::not_yet(!request.filter.is_empty(), "filter")?;
        let size = convert::page_size(request.page_size, limits::PAGE_DEFAULT)?;
        let after = convert::page_token(&request.page_token)?;
        let read = self.broker.read(deadline, |state| {
            let rest = state
                .namespaces()
                .filter(|name| after.is_none_or(|after| *name > after));
            page(rest.map(str::to_owned), size, String::as_str)
        });
        let (names, next_page_token) = read.await?;
        let namespaces = names.into_iter().map(namespace).collect();
        Ok(Response::new(v1::ListNamespacesResponse {
            namespaces,
            next_page_token,
        }))
    }

    async fn delete_namespace(
        &self,
        request: Request<v1::DeleteNamespaceRequest>,
    ) -> Answer<v1::DeleteNamespaceResponse> {
        let (name, deadline) = self.taken(request, |request| request.name)?;
        convert::name(&name, "name")?;
        let written = self.broker.delete_namespace(&name, deadline).await?;
        let position = written.position.map(convert::commit_position);
        Ok(Response::new(v1::DeleteNamespaceResponse { position }))
    }

    async fn create_queue(
        &self,
        request: Request<v1::CreateQueueRequest>,
    ) -> Answer<v1::CreateQueueResponse> {
        let (request, deadline) = self.taken(request, |request| request)?;
        let v1::CreateQueueRequest {
            namespace,
            name,
            settings,
        } = request;
        convert::namespace(&namespace)?;
        convert::new_name(&name, "name")?;
        let settings = convert::settings(settings.as_ref())?;
        let written = self
            .broker
            .create_queue(&namespace, &name, settings, deadline)
            .await?;
        let (queue, at) = self.look(&namespace, &name)?;
        Ok(Response::new(v1::CreateQueueResponse {
            queue: Some(queue),
            already_existed: !written.value.created,
            position: Some(written.position.map_or(at, convert::commit_position)),
        }))
    }

    async fn get_queue(
        &self,
        request: Request<v1::GetQueueRequest>,
    ) -> Answer<v1::GetQueueResponse> {
        let (request, deadline) = self.taken(request, |request| request)?;
        let v1::GetQueueRequest { namespace, name } = request;
        convert::queue(&namespace, &name, "name")?;
        let queue = self
            .broker
            .read_queue(&namespace, &name, deadline, |_, view| queue(view))
            .await?;
        Ok(Response::new(v1::GetQueueResponse { queue: Some(queue) }))
    }

    async fn list_queues(
        &self,
        request: Request<v1::ListQueuesRequest>,
    ) -> Answer<v1::ListQueuesResponse> {
        let (request, deadline) = self.taken(request, |request| request)?;
        convert::namespace(&request.namespace)?;
        convert::not_yet(!request.filter.is_empty(), "filter")?;
        let size = convert::page_size(request.page_size, limits::PAGE_DEFAULT)?;
        let after = convert::page_token(&request.page_token)?;
        let namespace = convert::namespace_or_default(&request.namespace);
        let read = self.broker.read(deadline, |state| {
            state.has_namespace(namespace).then(|| {
                page(state.queues(namespace, after).map(queue), size, |queue| {
                    queue.name.as_str()
                })
            })
        });
        let found = read.await?;
        let (queues, next_page_token) =
            found.ok_or_else(|| Problem::namespace_not_found(namespace))?;
        Ok(Response::new(v1::ListQueuesResponse {
            queues,
            next_page_token,
        }))
    }

    async fn update_queue(
        &self,
        request: Request<v1::UpdateQueueRequest>,
    ) -> Answer<v1::UpdateQueueResponse> {
        let (request, deadline) = self.taken(request, |request| request)?;
        let v1::UpdateQueueRequest {
            namespace,
            name,
            settings,
            update_mask,
            etag,
        } = request;
        convert::queue(&namespace, &name, "name")?;
        let changes = convert::changes(settings.as_ref(), update_mask.as_ref())?;
        let revision = convert::revision(&etag)?;
        let (queue, position) = self
            .update(&namespace, &name, changes, revision, deadline)
            .await?;
        Ok(Response::new(v1::UpdateQueueResponse {
            queue: Some(queue),
            position: Some(position),
        }))
    }

    async fn delete_queue(
        &self,
        request: Request<v1::DeleteQueueRequest>,
    ) -> Answer<v1::DeleteQueueResponse> {
        let (request, deadline) = self.taken(request, |request| request)?;
        convert::queue(&request.namespace, &request.name, "name")?;
        convert::not_yet(!request.etag.is_empty(), "etag")?;
        convert::not_yet(request.validate_only, "validate_only")?;
        let (namespace, name, if_empty) =
            (&request.namespace, &request.name, request.only_if_empty);
        let written = self
            .broker
            .delete_queue(namespace, name, if_empty, deadline)
            .await?;
        Ok(Response::new(v1::DeleteQueueResponse {
            deleted_messages: written.value,
            position: written.position.map(convert::commit_position),
        }))
    }
}

impl Topology {
    /// A request that this node may serve, and its deadline.
    fn taken<T, U>(&self, request: Request<T>, take: impl Fn(T) -> U) -> Checked<(U, Instant)> {
        self.check_forward(&request)?;
        let deadline = Deadline::of(&request);
        Ok((take(request.into_inner()), deadline))
    }

    /// A queue as this node has it now: at least as new as what was just answered here.
    fn look(&self, namespace: &str, name: &str) -> Checked<(v1::Queue, v1::CommitPosition)> {
        let named = convert::namespace_or_default(namespace);
        let found = self.broker.replica().with_state(|state| {
            let index = state.applied_index();
            state
                .queue(named, name)
                .map(|view| (queue(view), v1::CommitPosition { index, place: 0 }))
        });
        // Deleted by another call in between.
        found.ok_or_else(|| Problem::queue_not_found(named, name))
    }

    async fn update(
        &self,
        namespace: &str,
        name: &str,
        changes: QueueChanges,
        revision: Option<u64>,
        deadline: Instant,
    ) -> Checked<(v1::Queue, v1::CommitPosition)> {
        let written = self
            .broker
            .update_queue(namespace, name, changes, revision, deadline)
            .await?;
        let (queue, at) = self.look(namespace, name)?;
        Ok((queue, written.position.map_or(at, convert::commit_position)))
    }
}

fn namespace(name: String) -> v1::Namespace {
    v1::Namespace {
        name,
        created_at: None,
    }
}

fn queue(view: QueueView<'_>) -> v1::Queue {
    v1::Queue {
        namespace: view.namespace.to_owned(),
        name: view.name.to_owned(),
        settings: Some(convert::settings_to_proto(view.settings)),
        incarnation: view.id.0,
        etag: convert::etag(view.revision),
        created_at: None,
        paused: view.settings.paused,
        dead_letter_blocked: view.parked > 0,
    }
}

/// The first `size` items, and the token of the page after them.
fn page<T>(
    mut items: impl Iterator<Item = T>,
    size: usize,
    name: impl Fn(&T) -> &str,
) -> (Vec<T>, String) {
    let page: Vec<T> = items.by_ref().take(size).collect();
    let more = items.next().is_some();
    let token = page
        .last()
        .filter(|_| more)
        .map(|last| convert::next_page_token(name(last)));
    (page, token.unwrap_or_default())
}
