use ticketrail_broker::Bound;
use ticketrail_proto::error::Problem;
use ticketrail_proto::v1;
use ticketrail_proto::v1::publisher_service_server::PublisherService;
use tonic::{Request, Response, Status, Streaming};

use super::publish_stream;
use super::stream::{Frames, Outbox};
use crate::convert::{self, Checked, Trace};
use crate::listen::{Deadline, MessageShares};
use crate::node::SharedNode;

/// `ticketrail.v1.PublisherService`.
pub(crate) struct Publisher(pub(crate) SharedNode);

#[tonic::async_trait]
impl PublisherService for Publisher {
    async fn publish(
        &self,
        request: Request<v1::PublishRequest>,
    ) -> Result<Response<v1::PublishResponse>, Status> {
        Ok(Response::new(self.publish_batch(request).await?))
    }

    type PublishStreamStream = Frames<v1::PublishStreamResponse>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<v1::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        self.0.check_forward(&request)?;
        self.0.check_serving()?;
        let place = self.0.broker.admission().place(Bound::PublishStreams)?;
        let (trace, shares) = (Trace::of(&request), MessageShares::of(&request));
        let (outbox, frames) = Outbox::new();
        let node = self.0.clone();
        let serve = publish_stream::serve(node, trace, request.into_inner(), shares, outbox);
        self.0.streams.spawn(async move {
            serve.await;
            drop(place);
        });
        Ok(Response::new(frames))
    }

    async fn open_producer(
        &self,
        request: Request<v1::OpenProducerRequest>,
    ) -> Result<Response<v1::OpenProducerResponse>, Status> {
        self.0.check_forward(&request)?;
        let deadline = Deadline::of(&request);
        let v1::OpenProducerRequest { namespace, name } = request.into_inner();
        convert::namespace(&namespace)?;
        let name = (!name.is_empty()).then_some(name);
        if let Some(name) = &name {
            convert::new_name(name, "name")?;
        }
        let written = self
            .0
            .broker
            .open_producer(&namespace, name, deadline)
            .await?;
        let (producer, last_sequence) = written.value;
        Ok(Response::new(v1::OpenProducerResponse {
            producer_id: convert::id_to_proto(producer.id.0),
            epoch: producer.epoch,
            last_sequence,
            position: written.position.map(convert::commit_position),
        }))
    }
}

impl Publisher {
    async fn publish_batch(
        &self,
        request: Request<v1::PublishRequest>,
    ) -> Checked<v1::PublishResponse> {
        self.0.check_forward(&request)?;
        let (deadline, trace) = (Deadline::of(&request), Trace::of(&request));
        let request = request.into_inner();
        convert::namespace(&request.namespace)?;
        if !request.request_id.is_empty() {
            return Err(Problem::not_yet("request_id"));
        }
        let producer = request
            .producer
            .as_ref()
            .map(convert::producer)
            .transpose()?;
        let mut publishing = self.0.spans.publishing(&request.items, &trace);
        let messages = convert::batch(request.items, &self.0.limits, &trace)?;
        let count = messages.len();
        publishing.handed_over();
        let published = self
            .0
            .broker
            .publish(&request.namespace, producer, messages, deadline)
            .await;
        publishing.done(published.as_ref());
        let published = published?;
        Ok(v1::PublishResponse {
            results: convert::item_results(&published, count)?,
            position: Some(convert::commit_position(published.position)),
        })
    }
}
