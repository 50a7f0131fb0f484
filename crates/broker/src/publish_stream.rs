//! Publishing on a stream: pipelined, each message on its own, confirmed in order.
//!
//! Frames go to the log in the order in which they were sent. When a leader dies some frames are
//! known to be lost while later ones may have got in or been refused for the gap; then nothing new
//! is sent until all are known, and what is missing is sent again in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use ticketrail_core::{Command, Outcome, Rejection};
use ticketrail_proto::error::Problem;
use tokio::time::Instant;

use crate::broker::{Broker, Inner};
use crate::publish::{self, NewMessage, Producer, Published};
use crate::route::Haste;
use crate::submit::Attempt;

/// Most messages of one stream that may be unconfirmed; also what an idempotent producer is
/// remembered by.
pub const UNCONFIRMED_MAX: usize = 1_024;
/// How long one attempt may stay without an outcome.
const ATTEMPT_MAX: Duration = Duration::from_secs(30);
/// The same where the frame can be sent again without harm. Where the connection to a leader broke
/// that goes on leading, nothing else tells that a frame did not arrive, and all wait behind it.
const ATTEMPT_IDEMPOTENT_MAX: Duration = Duration::from_secs(5);

/// A publishing stream. It has no task: what was sent moves while [`Self::next`] is waited for. Dropping
/// it ends it; what was sent may still be stored.
pub struct PublishStream {
    inner: Arc<Inner>,
    namespace: String,
    producer: Option<Producer>,
    /// Number of the window's first frame.
    first_id: u64,
    window: VecDeque<Sent>,
    attempts: FuturesUnordered<BoxFuture<'static, (u64, Result<Attempt, Problem>)>>,
    /// The sequence that follows the last frame that was confirmed without a gap.
    next_sequence: Option<u64>,
    /// A frame of the window is lost: nothing new goes out until it went again.
    recovering: bool,
    /// What is waited for before it does.
    pause: Option<BoxFuture<'static, ()>>,
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

/// A frame on its way.
struct Sent {
    first_sequence: u64,
    count: u32,
    frame: Arc<Frame>,
    since: Instant,
    state: FrameState,
    /// It was sent again for a gap that its predecessors left and have closed since.
    closed_gap: bool,
}

/// What goes to the log, as often as it takes.
struct Frame {
    command: Command,
    bodies: Vec<Bytes>,
}

enum FrameState {
    Waiting,
    Lost,
    Done(Result<Published, Problem>),
}

impl Broker {
    /// Opens a publishing stream.
    #[must_use]
    pub fn publish_stream(&self, namespace: &str, producer: Option<Producer>) -> PublishStream {
        PublishStream {
            inner: Arc::clone(&self.inner),
            namespace: namespace.to_owned(),
            producer,
            first_id: 0,
            window: VecDeque::new(),
            attempts: FuturesUnordered::new(),
            next_sequence: None,
            recovering: false,
            pause: None,
        }
    }
}

impl PublishStream {
    /// Puts a frame behind those that were sent. The caller sees to it that at most
    /// [`UNCONFIRMED_MAX`] messages are unconfirmed.
    pub fn send(&mut self, first_sequence: u64, messages: Vec<NewMessage>) {
        let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
        let producer = self.producer.map(|producer| (producer, first_sequence));
        let (command, bodies) = publish::command(&self.namespace, producer, false, messages);
        let frame = Arc::new(Frame { command, bodies });
        let state = match self.recovering {
            // It goes with those before it.
            true => FrameState::Lost,
            false => {
                self.attempt(self.first_id + self.window.len() as u64, &frame);
                FrameState::Waiting
            }
        };
        self.window.push_back(Sent {
            first_sequence,
            count,
            frame,
            since: Instant::now(),
            state,
            closed_gap: false,
        });
    }

    /// The next confirm; `None`: nothing is unconfirmed. Cancel safe.
    pub async fn next(&mut self) -> Option<Confirm> {
        loop {
            if let Some(confirm) = self.confirm() {
                return Some(confirm);
            }
            if let Some((id, result)) = self.attempts.next().await {
                self.note(id, result);
            } else if self.recovering {
                self.before_again().await;
                self.send_lost_again();
            } else {
                return None;
            }
        }
    }

    fn attempt(&self, id: u64, frame: &Arc<Frame>) {
        let (inner, frame) = (Arc::clone(&self.inner), Arc::clone(frame));
        let at_most = match self.producer {
            Some(_) => ATTEMPT_IDEMPOTENT_MAX,
            None => ATTEMPT_MAX,
        };
        self.attempts.push(Box::pin(async move {
            let deadline = Instant::now() + at_most;
            let attempt = inner.attempt(&frame.command, &frame.bodies, Haste::Now, deadline);
            (id, attempt.await)
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
            Err(_) if self.producer.is_some() => FrameState::Lost,
            Err(problem) => FrameState::Done(Err(problem)),
        };
        let place = id
            .checked_sub(self.first_id)
            .and_then(|place| usize::try_from(place).ok());
        if let Some(sent) = place.and_then(|place| self.window.get_mut(place)) {
            if let FrameState::Done(Ok(_)) = &state {
                let counts = self.inner.hub.counts();
                counts.note_confirm(&sent.frame.command, sent.since);
            }
            self.recovering |= matches!(state, FrameState::Lost);
            sent.state = state;
        }
    }

    /// The pause before what is lost goes again. Cancel safe: it goes on where it was.
    async fn before_again(&mut self) {
        let inner = &self.inner;
        let pause = self.pause.get_or_insert_with(|| {
            let inner = Arc::clone(inner);
            Box::pin(async move {
                // Either way out of it the frames are tried again: the stream lives on.
                let _ = inner.before_again(Instant::now() + ATTEMPT_MAX).await;
            })
        });
        pause.await;
        self.pause = None;
    }

    /// All outcomes are known: what was lost, and what was refused for the gap that this left, goes
    /// again, in order.
    fn send_lost_again(&mut self) {
        self.recovering = false;
        let mut gap = false;
        for place in 0..self.window.len() {
            let sent = &mut self.window[place];
            let lost = matches!(sent.state, FrameState::Lost);
            let refused =
                matches!(&sent.state, FrameState::Done(result) if refused_for_gap(result));
            if lost || (gap && refused) {
                gap = true;
                sent.state = FrameState::Waiting;
                let frame = Arc::clone(&sent.frame);
                self.attempt(self.first_id + place as u64, &frame);
            }
        }
    }

    /// What is known of the window's first frame.
    fn confirm(&mut self) -> Option<Confirm> {
        let sent = self.window.front_mut()?;
        let FrameState::Done(result) = &sent.state else {
            return None;
        };
        let gap = refused_for_gap(result);
        // Entries may overtake each other while a leader gains its lease: where all before
        // this frame got in, the gap that it was refused for is closed by now.
        if gap && !sent.closed_gap && self.next_sequence == Some(sent.first_sequence) {
            sent.closed_gap = true;
            sent.state = FrameState::Lost;
            self.recovering = true;
            return None;
        }
        let sent = self.window.pop_front()?;
        let FrameState::Done(result) = sent.state else {
            return None;
        };
        self.first_id += 1;
        let end = sent.first_sequence + u64::from(sent.count);
        self.next_sequence = (!gap).then_some(end);
        Some(Confirm {
            first_sequence: sent.first_sequence,
            count: sent.count,
            result,
        })
    }
}

fn refused_for_gap(result: &Result<Published, Problem>) -> bool {
    let Ok(published) = result else { return false };
    published
        .refused
        .iter()
        .any(|item| matches!(item.rejection, Rejection::OutOfSequence { .. }))
}
