use std::collections::VecDeque;
use std::pin::Pin;

use futures::{FutureExt, Stream};
use ticketrail_proto::error::Problem;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::limits;
use crate::listen::frame_problem;

/// The answers of a stream.
pub(crate) type Frames<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What waits to be written to a client. Bounded by its users: while something waits, nothing is
/// taken from the broker.
pub(crate) struct Outbox<T> {
    sender: mpsc::Sender<Result<T, Status>>,
    waiting: VecDeque<T>,
}

impl<T: Send + 'static> Outbox<T> {
    /// An outbox and the stream that it feeds.
    pub(crate) fn new() -> (Self, Frames<T>) {
        let (sender, frames) = mpsc::channel(limits::FRAMES_WAITING_MAX);
        (
            Self {
                sender,
                waiting: VecDeque::new(),
            },
            Box::pin(ReceiverStream::new(frames)),
        )
    }

    /// Puts a frame behind those that wait.
    pub(crate) fn push(&mut self, frame: T) {
        self.waiting.push_back(frame);
    }

    /// The last frame that waits, to be added to.
    pub(crate) fn last_mut(&mut self) -> Option<&mut T> {
        self.waiting.back_mut()
    }

    /// Nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// As much waits as should.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= limits::FRAMES_WAITING_MAX
    }

    /// Moves the first frame on, as soon as there is room; waits for ever where none waits. `Err`:
    /// the client is gone. Cancel safe.
    pub(crate) async fn advance(&mut self) -> Result<(), Gone> {
        if self.waiting.is_empty() {
            self.sender.closed().await;
            return Err(Gone);
        }
        let room = self.sender.reserve().await.map_err(|_| Gone)?;
        if let Some(frame) = self.waiting.pop_front() {
            room.send(Ok(frame));
        }
        Ok(())
    }

    /// Resolves when the client is gone.
    pub(crate) async fn gone(&self) {
        self.sender.closed().await;
    }

    /// Writes what waits, then ends the stream, with a problem or well.
    pub(crate) async fn end(mut self, end: Result<(), Problem>) {
        let all = async {
            while !self.waiting.is_empty() {
                self.advance().await?;
            }
            match end {
                Ok(()) => Ok(()),
                Err(problem) => self
                    .sender
                    .send(Err(problem.into_status()))
                    .await
                    .map_err(|_| Gone),
            }
        };
        // A client that does not read does not see how its stream ended; nobody waits for it.
        let _ = tokio::time::timeout(limits::STOP_WAIT_MAX, all).await;
    }
}

/// The client is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// The next frame of a client; `None`: it closed its side. Cancel safe.
pub(crate) async fn next_frame<T>(frames: &mut Streaming<T>) -> Result<Option<T>, Problem> {
    frames
        .message()
        .await
        .map_err(|status| frame_problem(&status))
}

/// A frame that is there already.
pub(crate) fn frame_at_hand<T>(frames: &mut Streaming<T>) -> Option<Result<Option<T>, Problem>> {
    next_frame(frames).now_or_never()
}
