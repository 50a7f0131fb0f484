use std::pin::Pin;
use std::sync::mpsc;

use futures::{Stream, StreamExt};
use ticketrail_proto::v1;
use ticketrail_proto::v1::publish_stream_request::Frame as Request;
use ticketrail_proto::v1::publish_stream_response::Frame as Answer;
use ticketrail_proto::v1::publisher_service_server::PublisherService;
use tokio::sync::oneshot;
use tonic::{Response, Status, Streaming};

use super::replicator::Waiting;

/// Frames of one producer that may be unconfirmed.
const FRAMES_MAX: usize = 1_024;

pub(super) struct Publisher {
    pub(super) waiting: mpsc::Sender<Waiting>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<v1::PublishStreamResponse, Status>> + Send>>;

#[tonic::async_trait]
impl PublisherService for Publisher {
    type PublishStreamStream = Answers;

    async fn publish_stream(
        &self,
        request: tonic::Request<Streaming<v1::PublishStreamRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let waiting = self.waiting.clone();
        let answers = request
            .into_inner()
            .map(move |request| answer(take(&waiting, request)))
            .buffered(FRAMES_MAX);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn publish(
        &self,
        _: tonic::Request<v1::PublishRequest>,
    ) -> Result<Response<v1::PublishResponse>, Status> {
        Err(Status::unimplemented("streams only"))
    }

    async fn open_producer(
        &self,
        _: tonic::Request<v1::OpenProducerRequest>,
    ) -> Result<Response<v1::OpenProducerResponse>, Status> {
        Err(Status::unimplemented("producers have no ids here"))
    }
}

/// What a frame asks for.
enum Taken {
    Opens,
    Stored {
        through_sequence: u64,
        stored: oneshot::Receiver<()>,
    },
}

fn take(
    waiting: &mpsc::Sender<Waiting>,
    request: Result<v1::PublishStreamRequest, Status>,
) -> Result<Taken, Status> {
    let Some(Request::Batch(batch)) = request?.frame else {
        return Ok(Taken::Opens);
    };
    let through_sequence = batch.first_sequence + batch.items.len() as u64 - 1;
    let (answer, stored) = oneshot::channel();
    let sent = waiting.send(Waiting::Publish(batch, answer));
    sent.map_err(|_| Status::unavailable("this node stops"))?;
    Ok(Taken::Stored {
        through_sequence,
        stored,
    })
}

async fn answer(taken: Result<Taken, Status>) -> Result<v1::PublishStreamResponse, Status> {
    let frame = match taken? {
        Taken::Opens => Answer::Opened(v1::PublishOpened::default()),
        Taken::Stored {
            through_sequence,
            stored,
        } => {
            let stored = stored.await;
            stored.map_err(|_| Status::unavailable("this node stops"))?;
            Answer::Confirm(v1::PublishConfirm {
                through_sequence,
                ..Default::default()
            })
        }
    };
    Ok(v1::PublishStreamResponse { frame: Some(frame) })
}
