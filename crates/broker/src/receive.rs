//! Receiving by long poll: waits on this node and asks the log only when there is something.

use std::sync::Arc;
use std::time::Duration;

use ticketrail_core::command::Receive;
use ticketrail_core::{Command, Outcome, Position, QueueId};
use ticketrail_proto::error::Problem;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::broker::{Broker, Inner};
use crate::deliver::{self, Delivery, Seen};
use crate::hub::Hub;
use crate::publish::unexpected;
use crate::topology::namespace_or_default;

/// Asks for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiveRequest {
    /// The queue's namespace; empty: the default one.
    pub namespace: String,
    /// The queue's name.
    pub queue: String,
    /// Most messages.
    pub max_messages: u32,
    /// How long to wait for the first; zero: answer at once.
    pub wait: Duration,
    /// `None`: the queue's; zero: show and lease nothing.
    pub lease: Option<Duration>,
    /// The client's attempt id; empty: a fresh one, so that the call cannot be repeated.
    pub attempt: Vec<u8>,
}

struct Look {
    id: QueueId,
    ready: u64,
    paused: bool,
}

impl Look {
    fn promises(&self) -> bool {
        self.ready > 0 && !self.paused
    }
}

/// A queue's bell, given back however the wait ends.
struct Bell<'a> {
    hub: &'a Hub,
    queue: QueueId,
    bell: Arc<Notify>,
}

impl<'a> Bell<'a> {
    fn of(hub: &'a Hub, queue: QueueId) -> Self {
        let bell = hub.poll(queue);
        Self { hub, queue, bell }
    }
}

impl Drop for Bell<'_> {
    fn drop(&mut self) {
        self.hub.unpoll(self.queue, &self.bell);
    }
}

impl Broker {
    /// Leases up to `max_messages`, waiting up to `wait` for the first, but not once this node stops.
    /// `None` position: nothing was there and nothing was written. Push consumers of the queue are
    /// served first.
    ///
    /// # Errors
    /// No such queue; a bound; no leader in time; outcome unknown (repeat with the same attempt).
    pub async fn receive(
        &self,
        request: ReceiveRequest,
        deadline: Instant,
    ) -> Result<(Option<Position>, Vec<Delivery>), Problem> {
        let inner = &self.inner;
        let until = deadline.min(Instant::now() + request.wait);
        let command = inner.receive_command(&request);
        // A repeated attempt may have been answered already, also by another node: the log knows.
        let mut ask = !request.attempt.is_empty();
        let mut fresh = false;
        loop {
            let look = inner.look(&request);
            if ask || look.as_ref().is_some_and(Look::promises) {
                let (position, deliveries) = inner.receive_once(&command, deadline).await?;
                // What an attempt was answered with may be settled or expired since: that is its
                // answer for as long as it is remembered, whatever else is ready.
                if !deliveries.is_empty() || Instant::now() >= until || inner.was_answered(&request)
                {
                    return Ok((Some(position), deliveries));
                }
                (ask, fresh) = (false, true);
                continue;
            }
            if !fresh {
                // Nothing in sight here, but this replica may be behind what the caller knows.
                inner.read_barrier(deadline).await?;
                fresh = true;
                continue;
            }
            let Some(Look { id, .. }) = look else {
                return Err(inner.not_found(&request.namespace, &request.queue));
            };
            if !inner.wait_for_ready(id, &request, until).await {
                return Ok((None, Vec::new()));
            }
        }
    }
}

impl Inner {
    fn receive_command(&self, request: &ReceiveRequest) -> Command {
        let attempt = if request.attempt.is_empty() {
            (self.config.entropy)().to_be_bytes().to_vec()
        } else {
            request.attempt.clone()
        };
        Command::Receive(Receive {
            namespace: namespace_or_default(&request.namespace).to_owned(),
            queue: request.queue.clone(),
            max_messages: request.max_messages,
            lease_ms: request
                .lease
                .map(|lease| u64::try_from(lease.as_millis()).unwrap_or(u64::MAX)),
            attempt,
        })
    }

    fn was_answered(&self, request: &ReceiveRequest) -> bool {
        let namespace = namespace_or_default(&request.namespace);
        self.replica.with_state(|state| {
            let queue = state.queue(namespace, &request.queue);
            queue.is_some_and(|view| state.remembers_attempt(view.id, &request.attempt))
        })
    }

    fn look(&self, request: &ReceiveRequest) -> Option<Look> {
        let namespace = namespace_or_default(&request.namespace);
        self.replica.with_state(|state| {
            let view = state.queue(namespace, &request.queue)?;
            Some(Look {
                id: view.id,
                ready: view.ready,
                paused: view.settings.paused,
            })
        })
    }

    async fn receive_once(
        &self,
        command: &Command,
        deadline: Instant,
    ) -> Result<(Position, Vec<Delivery>), Problem> {
        let (position, outcome) = self.submit(command, &[], deadline).await?;
        let Outcome::Received { grants } = outcome else {
            return Err(unexpected(&outcome));
        };
        let seen = Seen {
            lease_now: self.hub.lease_now(),
            at: Instant::now(),
        };
        Ok((position, deliver::all(&self.bodies, grants, seen)?))
    }

    /// Waits until the queue has something ready by this node's view; `false`: time is up, or
    /// the node stops.
    async fn wait_for_ready(&self, id: QueueId, request: &ReceiveRequest, until: Instant) -> bool {
        let bell = Bell::of(&self.hub, id);
        let found = async {
            loop {
                let rung = bell.bell.notified();
                tokio::pin!(rung);
                // Armed before looking, so that nothing is missed in between.
                rung.as_mut().enable();
                match self.look(request) {
                    Some(look) if look.id == id && !look.promises() => rung.await,
                    _ => return,
                }
            }
        };
        tokio::select! {
            found = tokio::time::timeout_at(until, found) => found.is_ok(),
            () = self.farewell.begun() => false,
        }
    }

    /// What is missing: the queue, or its namespace already.
    pub(crate) fn not_found(&self, namespace: &str, queue: &str) -> Problem {
        let namespace = namespace_or_default(namespace);
        let known = self
            .replica
            .with_state(|state| state.namespaces().any(|name| name == namespace));
        if known {
            Problem::queue_not_found(namespace, queue)
        } else {
            Problem::namespace_not_found(namespace)
        }
    }
}
