//! Clients: what users of a broker do, over a connection to one node at a time, and what they were
//! told.

mod consumer;
mod owner;
mod publisher;
mod receiver;
mod settling;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use ticketrail_broker::{Broker, NewMessage, Problem};
use ticketrail_proto::error::Reason;
use ticketrail_proto::stored::encode_message;
use tokio::time::Instant;

use super::dice::Dice;
use super::history::History;
use super::network::{Network, Reachable};

/// The queue that all use; what it gives up goes to [`DEAD`].
pub(crate) const WORK: &str = "work";
/// Dead letters.
pub(crate) const DEAD: &str = "dead";

/// What a client's node may take for a call, where it is patient.
const PATIENCE: Duration = Duration::from_secs(2);
/// What it waits beyond that for the answer.
const ANSWER_WAIT: Duration = Duration::from_millis(200);

/// What became of a call.
#[derive(Debug)]
pub(crate) enum Told<T> {
    Done(T),
    /// It surely did nothing.
    Refused(Problem),
    Unknown,
}

/// One client and the node that it is connected to.
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) network: Arc<Network>,
    pub(crate) history: Arc<History>,
    pub(crate) dice: Dice,
    stop: Arc<AtomicBool>,
    /// A planted bug: it reads without asking for a read index.
    stale_reads: bool,
    node: Option<u64>,
    made: u64,
}

impl Client {
    pub(crate) fn new(
        id: u64,
        network: Arc<Network>,
        history: Arc<History>,
        dice: Dice,
        stop: Arc<AtomicBool>,
        stale_reads: bool,
    ) -> Self {
        Self {
            id,
            network,
            history,
            dice,
            stop,
            stale_reads,
            node: None,
            made: 0,
        }
    }

    /// Works until told to stop, as the client of this number does.
    pub(crate) fn run(self) -> BoxFuture<'static, ()> {
        match self.id % 4 {
            0 => owner::run(self).boxed(),
            1 => publisher::run(self).boxed(),
            2 => receiver::run(self).boxed(),
            _ => consumer::run(self).boxed(),
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    async fn pause(&mut self, first_ms: u64, last_ms: u64) {
        let ms = self.dice.between(first_ms, last_ms);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// The node of the connection; another one where it is gone, and now and then.
    fn connection(&mut self) -> Option<Reachable> {
        let running = self.network.running();
        if running.is_empty() {
            return None;
        }
        let stays = self.dice.percent(95);
        let connected = running
            .iter()
            .find(|node| stays && Some(node.id) == self.node);
        let node = match connected {
            Some(node) => node.clone(),
            None => running[self.dice.below(running.len() as u64) as usize].clone(),
        };
        self.node = Some(node.id);
        Some(node)
    }

    /// Asks a node; the answer may be lost.
    pub(crate) async fn call<T, F>(&mut self, make: impl FnOnce(Broker, Instant) -> F) -> Told<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Problem>> + Send + 'static,
    {
        let Some(node) = self.connection() else {
            self.pause(10, 50).await;
            return Told::Refused(Problem::no_leader(Duration::ZERO));
        };
        let patience = if self.dice.percent(10) {
            Duration::from_millis(self.dice.between(5, 300))
        } else {
            PATIENCE
        };
        let deadline = Instant::now() + patience;
        let task = node.life.spawn(make(node.broker.clone(), deadline));
        let answer = tokio::time::timeout_at(deadline + ANSWER_WAIT, task).await;
        let answer = match answer {
            Ok(Ok(answer)) if !self.dice.percent(1) => answer,
            _ => Err(Problem::outcome_unknown(Duration::ZERO)),
        };
        match answer {
            Ok(done) => Told::Done(done),
            Err(problem) if problem.reason() == Reason::OutcomeUnknown => {
                self.node = None;
                self.history.count(|counts| counts.unknown += 1);
                Told::Unknown
            }
            Err(problem) => {
                if problem.reason() == Reason::NoLeader {
                    self.node = None;
                }
                Told::Refused(problem)
            }
        }
    }

    /// A message that nobody made before.
    fn message(&mut self) -> Bytes {
        self.made += 1;
        let filler = self.dice.between(1, 300) as usize;
        let body = format!("{}-{}-{}", self.id, self.made, "x".repeat(filler));
        encode_message(&ticketrail_proto::v1::Message {
            body: body.into(),
            ..Default::default()
        })
    }

    fn messages(&mut self, most: u64) -> Vec<Bytes> {
        let count = self.dice.between(1, most);
        let messages: Vec<Bytes> = (0..count).map(|_| self.message()).collect();
        self.history.publish_tried(&messages);
        messages
    }
}

/// As a broker takes them.
fn new_messages(messages: &[Bytes]) -> Vec<NewMessage> {
    let new = |message: &Bytes| NewMessage {
        routing_key: WORK.to_owned(),
        mandatory: true,
        message: message.clone(),
        given: None,
    };
    messages.iter().map(new).collect()
}
