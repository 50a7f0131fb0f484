use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use futures::{FutureExt, Stream, StreamExt, stream};
use ticketrail_proto::error::{Problem, Reason};
use tokio::sync::mpsc;
use tokio::time::Instant;
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
    /// Since when nothing moved on although something waits.
    waiting_since: Option<Instant>,
    /// Why it ended, for a client that reads again after it was cut off.
    last_word: Arc<OnceLock<Status>>,
}

impl<T: Send + 'static> Outbox<T> {
    /// An outbox and the stream that it feeds.
    pub(crate) fn new() -> (Self, Frames<T>) {
        let (sender, frames) = mpsc::channel(limits::FRAMES_WAITING_MAX);
        let last_word = Arc::new(OnceLock::new());
        let last = Arc::clone(&last_word);
        let last = stream::once(async move { last.get().cloned().map(Err) });
        let frames = ReceiverStream::new(frames).chain(last.filter_map(std::future::ready));
        (
            Self {
                sender,
                waiting: VecDeque::new(),
                waiting_since: None,
                last_word,
            },
            Box::pin(frames),
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
        let stuck_at = self.stuck_at();
        let room = match self.sender.try_reserve() {
            Ok(room) => room,
            Err(_) => {
                let room = tokio::time::timeout_at(stuck_at, self.sender.reserve()).await;
                let Ok(room) = room else {
                    tracing::info!("a client does not read what waits for it and is cut off");
                    // Nobody else sets it.
                    let _ = self.last_word.set(cut_off().into_status());
                    return Err(Gone);
                };
                room.map_err(|_| Gone)?
            }
        };
        self.waiting_since = None;
        if let Some(frame) = self.waiting.pop_front() {
            room.send(Ok(frame));
        }
        Ok(())
    }

    /// When a client that reads nothing is cut off.
    fn stuck_at(&mut self) -> Instant {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        since + limits::SLOW_READER_MAX
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
        let _ = tokio::time::timeout(limits::LAST_FRAMES_MAX, all).await;
    }
}

fn cut_off() -> Problem {
    let message = format!(
        "the stream was cut off: nothing that was sent on it was read for {} s; open it again",
        limits::SLOW_READER_MAX.as_secs()
    );
    Problem::new(Reason::OutcomeUnknown, message).retry_after(limits::RETRY_AFTER)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_cut_off_and_told_so() {
        let (mut outbox, mut frames) = Outbox::new();
        let much = limits::FRAMES_WAITING_MAX + 2;
        (0..much).for_each(|place| outbox.push(place));
        let began = Instant::now();
        let end = async {
            loop {
                outbox.advance().await?;
            }
        };
        let end: Result<(), Gone> = end.await;
        assert_eq!(end, Err(Gone));
        assert_eq!(began.elapsed(), limits::SLOW_READER_MAX);
        drop(outbox);
        for place in 0..limits::FRAMES_WAITING_MAX {
            assert_eq!(frames.next().await.unwrap().unwrap(), place);
        }
        let told = frames.next().await.unwrap().unwrap_err();
        assert!(told.message().contains("cut off"), "{told}");
        assert!(frames.next().await.is_none());
    }
}
