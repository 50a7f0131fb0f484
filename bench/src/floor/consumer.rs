use std::pin::Pin;
use std::sync::{Arc, mpsc};

use futures::{Stream, StreamExt, stream};
use ticketrail_proto::v1;
use ticketrail_proto::v1::consume_request::Frame as Request;
use ticketrail_proto::v1::consumer_service_server::ConsumerService;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use super::replicator::{Consumers, Waiting};

/// Frames to one consumer that wait to be sent.
const FRAMES_MAX: usize = 1_024;

pub(super) struct Consumer {
    pub(super) waiting: mpsc::Sender<Waiting>,
    pub(super) consumers: Arc<Consumers>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<v1::ConsumeResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ConsumerService for Consumer {
    type ConsumeStream = Answers;

    async fn consume(
        &self,
        request: tonic::Request<Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let (frames, deliveries) = tokio::sync::mpsc::channel(FRAMES_MAX);
        self.consumers.add(frames);
        let waiting = self.waiting.clone();
        // No task of their own: they are taken while deliveries are waited for.
        let settled = request.into_inner().filter_map(move |request| {
            let taken = take(&waiting, request);
            async move { taken.err().map(Err) }
        });
        let answers = stream::select(ReceiverStream::new(deliveries).map(Ok), settled);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn receive(
        &self,
        _: tonic::Request<v1::ReceiveRequest>,
    ) -> Result<Response<v1::ReceiveResponse>, Status> {
        Err(Status::unimplemented("streams only"))
    }

    async fn settle(
        &self,
        _: tonic::Request<v1::SettleRequest>,
    ) -> Result<Response<v1::SettleResponse>, Status> {
        Err(Status::unimplemented("streams only"))
    }

    async fn peek(
        &self,
        _: tonic::Request<v1::PeekRequest>,
    ) -> Result<Response<v1::PeekResponse>, Status> {
        Err(Status::unimplemented("streams only"))
    }
}

fn take(
    waiting: &mpsc::Sender<Waiting>,
    request: Result<v1::ConsumeRequest, Status>,
) -> Result<(), Status> {
    let Some(Request::Settlement(settlement)) = request?.frame else {
        return Ok(());
    };
    let sent = waiting.send(Waiting::Settle(settlement));
    sent.map_err(|_| Status::unavailable("this node stops"))
}
