//! An ordered, pipelined way to one peer: requests go out in the order in which they were made, over
//! one stream, and are answered in that order, one for one.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;

use futures::future::BoxFuture;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tonic::{Status, Streaming};

use super::pause::Pause;
use crate::limits;

/// Opens the stream that carries a lane: from the requests to the answers.
pub(crate) type Open<Q, A> = Box<
    dyn Fn(mpsc::Receiver<Q>) -> BoxFuture<'static, Result<Streaming<A>, Status>> + Send + Sync,
>;

/// Why a request of a lane brought no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LaneError {
    /// It was not sent.
    NotSent(String),
    /// The stream ended with it under way; whether it arrived is not known.
    Broken(String),
}

/// See the module.
pub(crate) struct Lane<Q, A> {
    calls: mpsc::Sender<Call<Q, A>>,
    room: Arc<Semaphore>,
}

struct Call<Q, A> {
    request: Q,
    waiting: Waiting<A>,
}

/// Who waits for an answer, and the room that the request takes until then.
struct Waiting<A> {
    answer: oneshot::Sender<Result<A, LaneError>>,
    _room: OwnedSemaphorePermit,
}

impl<A> Waiting<A> {
    fn answer(self, answer: Result<A, LaneError>) {
        // An error means that nobody waits any more: its time was over.
        let _ = self.answer.send(answer);
    }
}

impl<Q: Message + 'static, A: Send + 'static> Lane<Q, A> {
    /// A lane and its task, which ends when the lane is dropped.
    pub(crate) fn start(pause: Arc<Pause>, open: Open<Q, A>) -> Self {
        let (calls, waiting) = mpsc::channel(limits::PEER_CALLS_MAX);
        tokio::spawn(
            Carrier {
                calls: waiting,
                pause,
                open,
            }
            .run(),
        );
        Self {
            calls,
            room: Arc::new(Semaphore::new(limits::PEER_BYTES_MAX)),
        }
    }

    /// Sends a request. Its place in the order is taken here, before the future is first polled.
    pub(crate) fn call(
        &self,
        request: Q,
    ) -> impl Future<Output = Result<A, LaneError>> + use<Q, A> {
        let sent = self.send(request);
        async move {
            match sent {
                Some(answered) => answered
                    .await
                    .unwrap_or_else(|_| Err(LaneError::Broken("this node stops".to_owned()))),
                None => Err(LaneError::NotSent("too much waits for it".to_owned())),
            }
        }
    }

    fn send(&self, request: Q) -> Option<oneshot::Receiver<Result<A, LaneError>>> {
        let bytes = request.encoded_len().clamp(1, limits::PEER_BYTES_MAX);
        let bytes = u32::try_from(bytes).ok()?;
        let room = Arc::clone(&self.room).try_acquire_many_owned(bytes).ok()?;
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            answer,
            _room: room,
        };
        self.calls.try_send(Call { request, waiting }).ok()?;
        Some(answered)
    }
}

struct Carrier<Q, A> {
    calls: mpsc::Receiver<Call<Q, A>>,
    pause: Arc<Pause>,
    open: Open<Q, A>,
}

impl<Q: Message + 'static, A: Send + 'static> Carrier<Q, A> {
    async fn run(mut self) {
        while let Some(first) = self.calls.recv().await {
            if let Some(why) = self.pause.blocks(Instant::now()) {
                self.refuse(first, &why);
                continue;
            }
            let (requests, outgoing) = mpsc::channel(limits::PEER_WORK_MAX);
            let opened = timeout(limits::PEER_CONNECT_WAIT_MAX, (self.open)(outgoing)).await;
            match opened.unwrap_or_else(|_| Err(Status::unavailable("no connection in time"))) {
                Ok(answers) => {
                    self.pause.over();
                    self.carry(first, &requests, answers).await;
                }
                Err(status) => {
                    let why = describe(&status);
                    self.pause.failed(&why, Instant::now());
                    self.refuse(first, &why);
                }
            }
        }
    }

    /// Fails a request that cannot be sent, and all that wait behind it.
    fn refuse(&mut self, first: Call<Q, A>, why: &str) {
        let mut next = Some(first);
        while let Some(call) = next {
            call.waiting.answer(Err(LaneError::NotSent(why.to_owned())));
            next = self.calls.try_recv().ok();
        }
    }

    /// Carries requests until the stream ends.
    async fn carry(
        &mut self,
        first: Call<Q, A>,
        requests: &mpsc::Sender<Q>,
        mut answers: Streaming<A>,
    ) {
        let mut unsent = Some(first);
        let mut unanswered: VecDeque<Waiting<A>> = VecDeque::new();
        let why = loop {
            tokio::select! {
                biased;
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => match unanswered.pop_front() {
                        Some(waiting) => waiting.answer(Ok(answer)),
                        None => break "an answer without a request".to_owned(),
                    },
                    Ok(None) => break "the peer closed the stream".to_owned(),
                    Err(status) => break describe(&status),
                },
                room = requests.reserve(), if unsent.is_some() => match (room, unsent.take()) {
                    (Ok(room), Some(Call { request, waiting })) => {
                        room.send(request);
                        unanswered.push_back(waiting);
                    }
                    (_, call) => {
                        unsent = call;
                        break "the connection ended".to_owned();
                    }
                },
                call = self.calls.recv(),
                    if unsent.is_none() && unanswered.len() < limits::PEER_CALLS_MAX =>
                {
                    match call {
                        // What nobody waits for any more is not worth the way.
                        Some(call) if call.waiting.answer.is_closed() => {}
                        Some(call) => unsent = Some(call),
                        None => return,
                    }
                }
            }
        };
        for waiting in unanswered {
            waiting.answer(Err(LaneError::Broken(why.clone())));
        }
        if let Some(Call { waiting, .. }) = unsent {
            waiting.answer(Err(LaneError::NotSent(why)));
        }
    }
}

/// A status in a few words.
pub(crate) fn describe(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
