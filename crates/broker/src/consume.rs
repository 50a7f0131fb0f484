//! Consuming on a stream: a session that the queue hands messages to as long as it has credit.
//!
//! The consumer is part of the replicated state; this node only delivers what its own applied
//! entries say and passes settles on. When the stream breaks the session stays for its grace and
//! may be attached again here or on another node.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use ticketrail_core::command::{
    AttachConsumer, DetachConsumer, SetPrefetch, SettleKind, SettleRange,
};
use ticketrail_core::event::SessionEnd;
use ticketrail_core::limits::PREFETCH_MAX;
use ticketrail_core::{
    Command, Fence, Grant, Offset, Outcome, Owner, Position, QueueId, SessionId,
};
use ticketrail_proto::error::{Problem, Reason};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::broker::{Broker, Inner};
use crate::deliver::{self, BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, Delivery, Seen};
use crate::farewell::Detaching;
use crate::hub::{Now, Resynced, SessionEvent};
use crate::publish::unexpected;
use crate::route::Haste;
use crate::settle::Settled;
use crate::submit::{not_proposed, stopped};
use crate::topology::namespace_or_default;

/// How long the word that a connection ended is tried to be brought into the log; after that
/// `sessions` goes on with it.
const DETACH_MAX: Duration = Duration::from_secs(10);
/// Events that may wait for a session beyond what its prefetch explains.
const EVENTS_SPARE: usize = 1_024;

/// Opens a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumeRequest {
    /// The queue's namespace; empty: the default one.
    pub namespace: String,
    /// The queue's name.
    pub queue: String,
    /// Most unsettled deliveries.
    pub prefetch: u32,
    /// `None`: the queue's.
    pub lease: Option<Duration>,
    /// A session to come back to, or none for a new one.
    pub session: Option<SessionId>,
    /// Acknowledge before delivering: at most once.
    pub auto_ack: bool,
}

/// What a consumer gets.
#[derive(Debug)]
pub enum ConsumerEvent {
    /// Messages, in queue order as far as one batch goes.
    Deliveries(Vec<Delivery>),
    /// Leases ended without its doing.
    LeasesLost {
        /// The queue's incarnation.
        queue: QueueId,
        /// The first.
        first_offset: Offset,
        /// How many.
        count: u32,
    },
    /// It is over.
    Ended(ConsumerEnd),
}

/// Why a consumer is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsumerEnd {
    /// It was closed, here or by its session's end.
    Session(SessionEnd),
    /// Another connection serves the session now.
    Moved,
    /// It did not read what was delivered, or was taken for lost: come back to the session.
    CutOff,
    /// The bytes of a message cannot be read on this node, or an auto-ack failed.
    Failed(Problem),
}

/// An attached consumer. Dropping it without [`ConsumerHandle::close`] is a broken connection.
pub struct Consumer {
    /// For whoever settles and steers while another waits for deliveries.
    pub handle: ConsumerHandle,
    /// The session was known and came back.
    pub resumed: bool,
    /// Commit position of the attachment.
    pub position: Position,
    events: mpsc::Receiver<SessionEvent>,
    grants: VecDeque<(Grant, Seen, bool)>,
    attached_at: u64,
    /// The highest fence that this connection was told of: what was granted later has a higher one.
    told: Fence,
    /// What came in front of grants that were taken already.
    later: VecDeque<SessionEvent>,
    auto_ack: bool,
    /// The acknowledgement of a batch that is to be delivered next.
    acknowledging: Option<BoxFuture<'static, Result<Vec<Delivery>, Problem>>>,
    ended: bool,
}

/// Steers a consumer.
#[derive(Clone)]
pub struct ConsumerHandle {
    inner: Arc<Inner>,
    session: SessionId,
    owner: Owner,
    queue: QueueId,
    /// One command that steers at a time: two on their way at once might change places when a leader
    /// is lost, and the older prefetch would stay.
    turn: Arc<Semaphore>,
}

impl Broker {
    /// Attaches a consumer.
    ///
    /// # Errors
    /// No such queue; a bound; the session is on another queue; no leader in time.
    pub async fn consume(
        &self,
        request: ConsumeRequest,
        deadline: Instant,
    ) -> Result<Consumer, Problem> {
        let inner = Arc::clone(&self.inner);
        let session = request.session.unwrap_or_else(|| inner.fresh_session());
        let owner = inner.connect();
        let attach = AttachConsumer {
            namespace: namespace_or_default(&request.namespace).to_owned(),
            queue: request.queue,
            session,
            owner,
            prefetch: request.prefetch,
            lease_ms: request
                .lease
                .map(|lease| u64::try_from(lease.as_millis()).unwrap_or(u64::MAX)),
        };
        // Listening before attaching: the first grants come with the very entry that attaches.
        // The credit may be raised later up to the most; what waits costs memory only when it waits.
        let capacity = PREFETCH_MAX as usize + EVENTS_SPARE;
        let events = inner.hub.serve(session, owner.connection, capacity);
        let mut guard = Unserve {
            inner: &inner,
            session,
            owner,
            is_new: request.session.is_none(),
            armed: true,
            detach: true,
        };
        let attached = inner
            .submit(&Command::AttachConsumer(attach), &[], deadline)
            .await;
        if let Err(problem) = &attached {
            guard.detach = problem.reason() == Reason::OutcomeUnknown;
        }
        let (position, outcome) = attached?;
        let Outcome::Attached {
            queue,
            resumed,
            held,
        } = outcome
        else {
            return Err(unexpected(&outcome));
        };
        guard.armed = false;
        let seen = Seen {
            lease_now: inner.hub.lease_now(),
            at: Instant::now(),
        };
        let told = held.iter().map(last_fence).max().unwrap_or(Fence(0));
        let grants = held.into_iter().map(|grant| (grant, seen, true)).collect();
        drop(guard);
        Ok(Consumer {
            handle: ConsumerHandle {
                inner,
                session,
                owner,
                queue,
                turn: Arc::new(Semaphore::new(1)),
            },
            resumed,
            position,
            events,
            grants,
            attached_at: position.index,
            told,
            later: VecDeque::new(),
            auto_ack: request.auto_ack,
            acknowledging: None,
            ended: false,
        })
    }
}

/// Takes the session's channel back when attaching fails or is dropped in the middle; and, since
/// it may have been attached all the same, says that the connection is gone.
struct Unserve<'a> {
    inner: &'a Arc<Inner>,
    session: SessionId,
    owner: Owner,
    /// Nobody else can know this session, so nothing of it is being worked on. What a session that
    /// came back holds has its grace instead.
    is_new: bool,
    armed: bool,
    /// It may have been attached.
    detach: bool,
}

impl Drop for Unserve<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        self.inner.hub.unserve(self.session, self.owner.connection);
        if self.detach {
            detach_in_background(self.inner, self.session, self.owner, self.is_new);
        }
    }
}

impl Consumer {
    /// The next event. Cancel safe: what was begun goes on with the next call.
    pub async fn next(&mut self) -> ConsumerEvent {
        loop {
            if let Some(acknowledging) = &mut self.acknowledging {
                let acknowledged = acknowledging.await;
                self.acknowledging = None;
                match acknowledged {
                    Ok(batch) if batch.is_empty() => {}
                    Ok(batch) => return ConsumerEvent::Deliveries(batch),
                    Err(problem) => return ConsumerEvent::Ended(ConsumerEnd::Failed(problem)),
                }
            }
            if self.grants.is_empty() {
                let event = match self.later.pop_front() {
                    Some(event) => Some(event),
                    None => self.events.recv().await,
                };
                match self.take_in(event) {
                    Some(ended) => return ended,
                    None => continue,
                }
            }
            self.gather();
            match self.batch() {
                Ok(batch) if batch.is_empty() => {}
                Ok(batch) if !self.auto_ack => return ConsumerEvent::Deliveries(batch),
                Ok(batch) => {
                    let acknowledging = acknowledge(self.handle.clone(), batch);
                    self.acknowledging = Some(Box::pin(acknowledging));
                }
                Err(problem) => return ConsumerEvent::Ended(ConsumerEnd::Failed(problem)),
            }
        }
    }

    /// A batch is being acknowledged and will be delivered by [`Self::next`].
    #[must_use]
    pub fn is_acknowledging(&self) -> bool {
        self.acknowledging.is_some()
    }

    /// Leases that were granted to this consumer and not given out by [`Self::next`]; it will not give
    /// them out any more. Those of a session that came back stay: their work may have begun elsewhere.
    /// To be asked when no grant follows, after a prefetch of 0.
    pub fn take_unstarted(&mut self) -> Vec<SettleRange> {
        while let Ok(event) = self.events.try_recv() {
            self.sort_in(event);
        }
        let (resent, unstarted) = std::mem::take(&mut self.grants)
            .into_iter()
            .partition(|(_, _, resent)| *resent);
        self.grants = resent;
        let range = |(grant, _, _): (Grant, Seen, bool)| SettleRange {
            queue: grant.queue,
            first_offset: grant.first_offset,
            count: grant.count,
            first_fence: grant.first_fence,
            kind: SettleKind::Release,
        };
        let unstarted: VecDeque<(Grant, Seen, bool)> = unstarted;
        unstarted.into_iter().map(range).collect()
    }

    /// Takes what else is there already, so that one batch carries it.
    fn gather(&mut self) {
        while self.later.is_empty()
            && self.grants.len() < BATCH_MESSAGES_MAX
            && let Ok(event) = self.events.try_recv()
        {
            self.sort_in(event);
        }
    }

    /// Takes a grant to the others, and keeps for later what is no grant.
    fn sort_in(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Granted {
                grant,
                lease_now,
                at,
            } => self.granted(grant, Seen { lease_now, at }),
            // At once: what waits here may have ended meanwhile.
            SessionEvent::Resynced(resynced) => {
                if let Some(end) = self.resync(resynced) {
                    self.grants.clear();
                    self.later.push_back(end);
                }
            }
            other => self.later.push_back(other),
        }
    }

    fn granted(&mut self, grant: Grant, seen: Seen) {
        self.told = self.told.max(last_fence(&grant));
        self.grants.push_back((grant, seen, false));
    }

    fn batch(&mut self) -> Result<Vec<Delivery>, Problem> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let bodies = &self.handle.inner.bodies;
        let lease_now = self.handle.inner.hub.lease_now();
        while let Some((grant, seen, resent)) = self.grants.front_mut() {
            *seen = seen.caught_up(lease_now);
            let used_up = if seen.left(grant.deadline).is_zero() {
                true // Its lease is over: whoever gets it next shall not share it.
            } else {
                deliver::take(bodies, grant, *seen, *resent, &mut batch, &mut bytes)?
            };
            if !used_up {
                break;
            }
            self.grants.pop_front();
            if batch.len() >= BATCH_MESSAGES_MAX || bytes >= BATCH_BYTES_MAX {
                break;
            }
        }
        Ok(batch)
    }

    /// Goes on from what a snapshot says of the session: what it holds and was not delivered here yet
    /// is delivered, once; what waited here and it does not hold any more is not. An event if it is over.
    fn resync(&mut self, resynced: Resynced) -> Option<SessionEvent> {
        if resynced.index < self.attached_at {
            return None; // It was attached after that: its entry says it all.
        }
        let held = match resynced.now {
            Now::Holds(held) => held,
            Now::Moved => return Some(SessionEvent::Moved),
            Now::Gone => return Some(SessionEvent::CutOff),
        };
        let seen = Seen {
            lease_now: resynced.lease_now,
            at: resynced.at,
        };
        let waiting = std::mem::take(&mut self.grants);
        let waits = |fence: Fence| {
            let found = waiting
                .iter()
                .find(|(grant, _, _)| (grant.first_fence..=last_fence(grant)).contains(&fence));
            found.map(|(_, _, resent)| *resent)
        };
        let told = self.told;
        let wanted = |fence: Fence| match waits(fence) {
            Some(resent) => Some(resent),
            None if fence > told => Some(false),
            None => None,
        };
        let mut grants = VecDeque::new();
        for grant in held {
            self.told = self.told.max(last_fence(&grant));
            for (grant, resent) in deliver::split(grant, wanted) {
                grants.push_back((grant, seen, resent));
            }
        }
        self.grants = grants;
        None
    }

    fn take_in(&mut self, event: Option<SessionEvent>) -> Option<ConsumerEvent> {
        let end = match event {
            Some(SessionEvent::Granted {
                grant,
                lease_now,
                at,
            }) => {
                self.granted(grant, Seen { lease_now, at });
                return None;
            }
            Some(SessionEvent::Resynced(resynced)) => {
                let end = self.resync(resynced);
                self.later.extend(end);
                return None;
            }
            Some(SessionEvent::CutOff) => ConsumerEnd::CutOff,
            Some(SessionEvent::LeasesLost {
                queue,
                first_offset,
                count,
            }) => {
                return Some(ConsumerEvent::LeasesLost {
                    queue,
                    first_offset,
                    count,
                });
            }
            Some(SessionEvent::Ended(why)) => ConsumerEnd::Session(why),
            Some(SessionEvent::Moved) => ConsumerEnd::Moved,
            None => ConsumerEnd::CutOff,
        };
        self.ended = end != ConsumerEnd::CutOff;
        Some(ConsumerEvent::Ended(end))
    }
}

fn last_fence(grant: &Grant) -> Fence {
    Fence(grant.first_fence.0 + u64::from(grant.count.saturating_sub(1)))
}

/// Acknowledges a batch before it is delivered; gives what was still held.
async fn acknowledge(
    handle: ConsumerHandle,
    batch: Vec<Delivery>,
) -> Result<Vec<Delivery>, Problem> {
    let ranges = ranges(&batch, SettleKind::Ack);
    let deadline = Instant::now() + DETACH_MAX;
    let settled = handle.settle(ranges, Haste::Now, deadline).await?;
    let refused = |delivery: &Delivery| {
        settled.exceptions.iter().any(|exception| {
            let first = exception.first_offset.0;
            (first..first + u64::from(exception.count)).contains(&delivery.offset.0)
        })
    };
    Ok(batch
        .into_iter()
        .filter(|delivery| !refused(delivery))
        .collect())
}

/// Neighbouring deliveries together.
fn ranges(batch: &[Delivery], kind: SettleKind) -> Vec<SettleRange> {
    let mut ranges: Vec<SettleRange> = Vec::new();
    for delivery in batch {
        match ranges.last_mut() {
            Some(last)
                if last.first_offset.plus(u64::from(last.count)) == delivery.offset
                    && last.first_fence.0 + u64::from(last.count) == delivery.fence.0 =>
            {
                last.count += 1;
            }
            _ => ranges.push(SettleRange {
                queue: delivery.queue,
                first_offset: delivery.offset,
                count: 1,
                first_fence: Fence(delivery.fence.0),
                kind,
            }),
        }
    }
    ranges
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let ConsumerHandle {
            inner,
            session,
            owner,
            ..
        } = &self.handle;
        inner.hub.unserve(*session, owner.connection);
        if !self.ended {
            detach_in_background(inner, *session, *owner, false);
        }
    }
}

fn detach_in_background(inner: &Arc<Inner>, session: SessionId, owner: Owner, release: bool) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return;
    };
    let detaching = Detaching::begin(inner);
    let enclose = Arc::clone(&inner.config.enclose);
    let task = async move {
        let detach = Command::DetachConsumer(DetachConsumer {
            session,
            owner,
            release,
        });
        let result = detaching
            .inner()
            .submit(&detach, &[], Instant::now() + DETACH_MAX)
            .await;
        if let Err(problem) = result
            && problem.reason() != Reason::SessionNotFound
        {
            tracing::debug!(%session, %problem, "the end of a connection was not recorded");
        }
    };
    runtime.spawn(enclose(task.boxed()));
}

impl ConsumerHandle {
    /// The session, to come back to.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The queue's incarnation.
    #[must_use]
    pub fn queue(&self) -> QueueId {
        self.queue
    }

    /// Settles ranges of leases.
    ///
    /// # Errors
    /// As [`Broker::settle`].
    pub async fn settle(
        &self,
        ranges: Vec<SettleRange>,
        haste: Haste,
        deadline: Instant,
    ) -> Result<Settled, Problem> {
        self.inner.settle(ranges, haste, deadline).await
    }

    /// Changes the prefetch; 0 stops deliveries.
    ///
    /// # Errors
    /// The session is over or elsewhere; no leader in time.
    pub async fn set_prefetch(&self, prefetch: u32, deadline: Instant) -> Result<(), Problem> {
        let (session, owner) = (self.session, self.owner);
        let command = Command::SetPrefetch(SetPrefetch {
            session,
            owner,
            prefetch,
        });
        self.steer(command, deadline).await
    }

    /// Ends the session; what it holds goes back at once, without penalty.
    ///
    /// # Errors
    /// The session is over or elsewhere; no leader in time.
    pub async fn close(&self, deadline: Instant) -> Result<(), Problem> {
        let (session, owner) = (self.session, self.owner);
        let command = Command::DetachConsumer(DetachConsumer {
            session,
            owner,
            release: true,
        });
        self.steer(command, deadline).await
    }

    /// Gets a command that changes the session into the log, after those that were called before.
    async fn steer(&self, command: Command, deadline: Instant) -> Result<(), Problem> {
        let turn = tokio::time::timeout_at(deadline, self.turn.acquire()).await;
        let _turn = turn.map_err(|_| not_proposed())?.map_err(|_| stopped())?;
        self.inner.submit(&command, &[], deadline).await.map(drop)
    }
}
