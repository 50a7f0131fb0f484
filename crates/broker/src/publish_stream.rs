//! Publishing on a stream: pipelined, each message on its own, confirmed in order.
//!
//! Frames go to the log in the order in which they were sent. When a leader dies some frames are
//! known to be lost while later ones may have got in or been refused for the gap; then nothing new
//! is sent until all are known, and what is missing is sent again in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use ticketrail_core::{Command, Outcome, Rejection};
use ticketrail_proto::error::Problem;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::broker::{Broker, Inner};
use crate::publish::{self, NewMessage, Producer, Published};
use crate::submit::{Attempt, stopped};

/// Most messages of one stream that may be unconfirmed; also what an idempotent producer is
/// remembered by.
pub const UNCONFIRMED_MAX: usize = 1_024;
/// How long one attempt may stay without an outcome.
const ATTEMPT_MAX: Duration = Duration::from_secs(30);
/// The same where the frame can be sent again without harm. Where the connection to a leader broke
/// that goes on leading, nothing else tells that a frame did not arrive, and all wait behind it.
const ATTEMPT_IDEMPOTENT_MAX: Duration = Duration::from_secs(5);
/// Frames that may wait between the caller and the stream's task.
const FRAMES_WAITING: usize = 4;

/// A publishing stream. Dropping it ends it; what was sent may still be stored.
pub struct PublishStream {
    frames: Option<mpsc::Sender<Frame>>,
    confirms: mpsc::Receiver<Confirm>,
    credit: Arc<Semaphore>,
    task: JoinHandle<()>,
    namespace: String,
    producer: Option<Producer>,
}

/// What became of one frame. Frames are confirmed in the order in which they were sent.
#[derive(Debug)]
pub struct Confirm {
    /// Sequence of its first message.
    pub first_sequence: u64,
    /// How many messages it had.
    pub count: u32,
    /// What became of each, or why that is not known.
    pub result: Result<Published, Problem>,
}

struct Frame {
    first_sequence: u64,
    count: u32,
    command: Command,
    bodies: Vec<Bytes>,
    since: Instant,
    _credit: OwnedSemaphorePermit,
}

impl Broker {
    /// Opens a publishing stream.
    #[must_use]
    pub fn publish_stream(&self, namespace: &str, producer: Option<Producer>) -> PublishStream {
        let (frames, incoming) = mpsc::channel(FRAMES_WAITING);
        let (outgoing, confirms) = mpsc::channel(UNCONFIRMED_MAX);
        let driver = Driver {
            inner: Arc::clone(&self.inner),
            idempotent: producer.is_some(),
            first_id: 0,
            window: VecDeque::new(),
            attempts: FuturesUnordered::new(),
            confirms: outgoing,
            next_sequence: None,
            recovering: false,
        };
        PublishStream {
            frames: Some(frames),
            confirms,
            credit: Arc::new(Semaphore::new(UNCONFIRMED_MAX)),
            task: tokio::spawn((self.inner.config.enclose)(driver.run(incoming).boxed())),
            namespace: namespace.to_owned(),
            producer,
        }
    }
}

impl PublishStream {
    /// Messages that may be sent before one must be confirmed.
    #[must_use]
    pub fn credit(&self) -> usize {
        self.credit.available_permits()
    }

    /// Sends a frame of at most [`UNCONFIRMED_MAX`] messages; waits for credit.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn send(
        &mut self,
        first_sequence: u64,
        messages: Vec<NewMessage>,
    ) -> Result<(), Problem> {
        let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
        let credit = Arc::clone(&self.credit);
        let credit = credit
            .acquire_many_owned(count)
            .await
            .map_err(|_| stopped())?;
        let producer = self.producer.map(|producer| (producer, first_sequence));
        let (command, bodies) = publish::command(&self.namespace, producer, false, messages);
        let frame = Frame {
            first_sequence,
            count,
            command,
            bodies,
            since: Instant::now(),
            _credit: credit,
        };
        let frames = self.frames.as_ref().ok_or_else(stopped)?;
        frames.send(frame).await.map_err(|_| stopped())
    }

    /// No more frames will be sent; [`Self::next`] gives the outstanding confirms and then `None`.
    pub fn finish(&mut self) {
        self.frames = None;
    }

    /// The next confirm.
    pub async fn next(&mut self) -> Option<Confirm> {
        self.confirms.recv().await
    }
}

impl Drop for PublishStream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A frame on its way.
struct Sent {
    frame: Frame,
    state: FrameState,
    /// It was sent again for a gap that its predecessors left and have closed since.
    closed_gap: bool,
}

enum FrameState {
    Waiting,
    Lost,
    Done(Result<Published, Problem>),
}

struct Driver {
    inner: Arc<Inner>,
    idempotent: bool,
    /// Number of the window's first frame.
    first_id: u64,
    window: VecDeque<Sent>,
    attempts: FuturesUnordered<BoxFuture<'static, (u64, Result<Attempt, Problem>)>>,
    confirms: mpsc::Sender<Confirm>,
    /// The sequence that follows the last frame that was confirmed without a gap.
    next_sequence: Option<u64>,
    /// A frame of the window is lost: nothing new is sent until it went again.
    recovering: bool,
}

impl Driver {
    async fn run(mut self, mut frames: mpsc::Receiver<Frame>) {
        let mut open = true;
        while open || !self.window.is_empty() {
            tokio::select! {
                biased;
                Some((id, result)) = self.attempts.next(), if !self.attempts.is_empty() => {
                    self.note(id, result);
                }
                frame = frames.recv(), if open && !self.recovering => match frame {
                    Some(frame) => self.send(frame),
                    None => open = false,
                },
                // All outcomes are known, and a frame among them goes again.
                else => {}
            }
            if self.recovering && self.attempts.is_empty() {
                self.send_lost_again().await;
            }
            if self.confirm().await.is_err() {
                return;
            }
        }
    }

    fn send(&mut self, frame: Frame) {
        let id = self.first_id + self.window.len() as u64;
        self.attempt(id, &frame);
        self.window.push_back(Sent {
            frame,
            state: FrameState::Waiting,
            closed_gap: false,
        });
    }

    fn attempt(&self, id: u64, frame: &Frame) {
        let inner = Arc::clone(&self.inner);
        let (command, bodies) = (frame.command.clone(), frame.bodies.clone());
        let at_most = match self.idempotent {
            true => ATTEMPT_IDEMPOTENT_MAX,
            false => ATTEMPT_MAX,
        };
        self.attempts.push(Box::pin(async move {
            let deadline = Instant::now() + at_most;
            (id, inner.attempt(&command, &bodies, deadline).await)
        }));
    }

    fn note(&mut self, id: u64, result: Result<Attempt, Problem>) {
        let state = match result {
            Ok(Attempt::Lost) => FrameState::Lost,
            Ok(Attempt::Applied(applied)) => match applied.outcome {
                Outcome::Rejected(rejection) => FrameState::Done(Err(Problem::from(&rejection))),
                outcome => FrameState::Done(publish::published(applied.position, outcome)),
            },
            // Sequences make it safe to send a frame again whose outcome is not known.
            Err(_) if self.idempotent => FrameState::Lost,
            Err(problem) => FrameState::Done(Err(problem)),
        };
        let place = id
            .checked_sub(self.first_id)
            .and_then(|place| usize::try_from(place).ok());
        if let Some(sent) = place.and_then(|place| self.window.get_mut(place)) {
            if let FrameState::Done(Ok(_)) = &state {
                let counts = self.inner.hub.counts();
                counts.note_confirm(&sent.frame.command, sent.frame.since);
            }
            self.recovering |= matches!(state, FrameState::Lost);
            sent.state = state;
        }
    }

    /// All outcomes are known: what was lost, and what was refused for the gap that this left, goes
    /// again, in order.
    async fn send_lost_again(&mut self) {
        self.recovering = false;
        let mut gap = false;
        let mut again = Vec::new();
        for (place, sent) in self.window.iter_mut().enumerate() {
            let lost = matches!(sent.state, FrameState::Lost);
            let refused =
                matches!(&sent.state, FrameState::Done(result) if refused_for_gap(result));
            if lost || (gap && refused) {
                gap = true;
                sent.state = FrameState::Waiting;
                again.push(place);
            }
        }
        // Either way out of the pause the frames are tried again: the stream lives on.
        let _ = self.inner.before_again(Instant::now() + ATTEMPT_MAX).await;
        for place in again {
            self.attempt(self.first_id + place as u64, &self.window[place].frame);
        }
    }

    /// Tells what is known, in order; `Err`: nobody listens.
    async fn confirm(&mut self) -> Result<(), ()> {
        while let Some(sent) = self.window.front_mut() {
            let FrameState::Done(result) = &sent.state else {
                return Ok(());
            };
            let gap = refused_for_gap(result);
            // Entries may overtake each other while a leader gains its lease: where all before
            // this frame got in, the gap that it was refused for is closed by now.
            if gap && !sent.closed_gap && self.next_sequence == Some(sent.frame.first_sequence) {
                sent.closed_gap = true;
                sent.state = FrameState::Lost;
                self.recovering = true;
                return Ok(());
            }
            let Some(Sent {
                frame,
                state: FrameState::Done(result),
                ..
            }) = self.window.pop_front()
            else {
                return Err(());
            };
            self.first_id += 1;
            let Frame {
                first_sequence,
                count,
                ..
            } = frame;
            self.next_sequence = (!gap).then(|| first_sequence + u64::from(count));
            let confirm = Confirm {
                first_sequence,
                count,
                result,
            };
            self.confirms.send(confirm).await.map_err(|_| ())?;
        }
        Ok(())
    }
}

fn refused_for_gap(result: &Result<Published, Problem>) -> bool {
    let Ok(published) = result else { return false };
    published
        .refused
        .iter()
        .any(|item| matches!(item.rejection, Rejection::OutOfSequence { .. }))
}
