//! One `Consume` stream: deliveries out, settlements in, and the words that steer it.
//!
//! Deliveries are taken from the broker only when nothing waits to be written, so a slow client
//! holds what its credit allows in the replicated state and next to nothing in this process.

mod open;
mod settlements;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, StreamExt};
use ticketrail_broker::{
    Consumer, ConsumerEnd, ConsumerEvent, ConsumerHandle, Delivery, Haste, Settled,
};
use ticketrail_core::command::{SettleKind, SettleRange};
use ticketrail_core::event::SessionEnd;
use ticketrail_core::limits as core;
use ticketrail_proto::error::{Problem, Reason};
use ticketrail_proto::v1::{self, consume_request, consume_response};
use tokio::time::{Instant, timeout};
use tonic::Streaming;

use self::open::{open, prefetch};
use self::settlements::{Batch, Gathered, Settlements, last_of};
use super::stream::{Gone, Outbox, frame_at_hand, next_frame};
use crate::convert::{self, Checked, Receipts};
use crate::limits;
use crate::listen::{MessageShare, MessageShares};
use crate::node::SharedNode;
use crate::spans::Delivered;

type Frames = Streaming<v1::ConsumeRequest>;
type Out = Outbox<v1::ConsumeResponse>;

/// Serves one stream to its end.
pub(super) async fn serve(
    node: SharedNode,
    mut frames: Frames,
    shares: MessageShares,
    mut outbox: Out,
) {
    let opened = tokio::select! {
        opened = open(&node, &mut frames) => opened,
        () = node.stopping.drains() => Err(node.shutting_down()),
        () = outbox.gone() => return,
    };
    let (mut session, opened) = match opened {
        Ok(opened) => opened,
        Err(problem) => return outbox.end(Err(problem)).await,
    };
    // That of the first frame, which is answered.
    drop(shares.next());
    session.shares = Some(shares);
    outbox.push(frame(consume_response::Frame::Opened(opened)));
    match session.run(&mut frames, &mut outbox).await {
        Ok(()) => {
            session.leave().await;
            outbox.end(Ok(())).await;
        }
        Err(End::Problem(problem)) => outbox.end(Err(problem)).await,
        Err(End::Gone) => session.farewell().await,
    }
}

/// Why a stream ends other than well.
enum End {
    Problem(Problem),
    Gone,
}

impl From<Problem> for End {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

fn frame(frame: consume_response::Frame) -> v1::ConsumeResponse {
    v1::ConsumeResponse { frame: Some(frame) }
}

fn first_frame_missing() -> Problem {
    Problem::invalid_field("open", "the first frame of the stream, and only the first")
}

/// The queue that a stream consumes, as its client called it.
struct QueueName {
    namespace: String,
    queue: String,
}

/// Where a stream is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Messages come.
    Delivering,
    /// Asked to stop; what was granted before is still to be delivered.
    Draining { stopped: bool },
    /// Asked to stop and to give everything back.
    Releasing,
    /// Nothing comes any more.
    Drained { released: bool },
    /// This node stops: no grant shall follow, and what was not given out goes back.
    Leaving,
    /// The client was sent elsewhere; what it holds may still be settled here.
    Left,
}

impl Phase {
    fn is_drained(self) -> bool {
        matches!(self, Self::Drained { .. })
    }

    /// The client did not ask to stop before.
    fn may_drain(self) -> bool {
        matches!(self, Self::Delivering | Self::Leaving | Self::Left)
    }
}

/// What a command of this stream did.
enum Done {
    Settled {
        batch: Batch,
        /// How many messages it named.
        messages: u64,
        /// `None`: all that it named is forgotten, so there was nothing to ask.
        settled: Option<Settled>,
    },
    Credit,
    /// No grant follows; so many leases were released.
    Stopped {
        released: Option<u32>,
    },
    /// No grant follows, because this node stops; whether the session is still this stream's.
    Leaving {
        is_ours: bool,
    },
    /// What was not given out is back in the queue, or will come back by its grace.
    Left,
}

struct Session {
    consumer: Consumer,
    handle: ConsumerHandle,
    node: SharedNode,
    receipts: Receipts,
    name: QueueName,
    auto_ack: bool,
    /// Most deliveries that the client wants unsettled.
    prefetch: u32,
    settlements: Settlements,
    /// Messages of the settlements that are on their way to the log.
    settling: u64,
    /// What a collector was told of and hears of again when it is settled.
    delivered: Delivered,
    /// On their way to the log, answered in this order.
    commands: FuturesOrdered<BoxFuture<'static, Checked<Done>>>,
    phase: Phase,
    /// What the frames of the client take of the budgets.
    shares: Option<MessageShares>,
}

impl Session {
    fn new(
        consumer: Consumer,
        node: SharedNode,
        receipts: Receipts,
        name: QueueName,
        (prefetch, auto_ack): (u32, bool),
    ) -> Self {
        Self {
            handle: consumer.handle.clone(),
            settlements: Settlements::new(consumer.handle.queue()),
            settling: 0,
            consumer,
            node,
            receipts,
            name,
            auto_ack,
            prefetch,
            delivered: Delivered::default(),
            commands: FuturesOrdered::new(),
            phase: Phase::Delivering,
            shares: None,
        }
    }

    async fn run(&mut self, frames: &mut Frames, outbox: &mut Out) -> Result<(), End> {
        let mut open = true;
        let (alone, stopping) = (self.node.alone.clone(), self.node.stopping.clone());
        // Made once: each takes a lock to begin and one to end.
        let (ends, drains, is_alone) = (stopping.ends(), stopping.drains(), alone.begins());
        tokio::pin!(ends, drains, is_alone);
        loop {
            // Who acknowledges by taking may close its side and go on reading.
            let done = !open && (!self.auto_ack || self.phase.is_drained());
            if done && self.commands.is_empty() && outbox.is_empty() {
                return Ok(());
            }
            if self.has_left(outbox) {
                return Err(self.node.shutting_down().into());
            }
            let takes_frames =
                open && !outbox.is_full() && self.commands.len() < limits::SETTLEMENTS_WAITING_MAX;
            let grants = !matches!(
                self.phase,
                Phase::Releasing | Phase::Drained { .. } | Phase::Leaving
            );
            let delivers = outbox.is_empty() && grants && !done;
            let last = self.phase == Phase::Draining { stopped: true };
            tokio::select! {
                biased;
                () = &mut ends => return Err(self.node.cut_off().into()),
                () = &mut is_alone => return Err(self.node.lost_quorum().into()),
                () = &mut drains, if self.phase == Phase::Delivering => self.leave_node(),
                sent = outbox.advance() => sent?,
                Some(did) = self.commands.next(), if !outbox.is_full() => self.did(did?, outbox),
                frame = next_frame(frames), if takes_frames => match frame? {
                    Some(frame) => self.take(frame, frames, &mut open)?,
                    None => open = false,
                },
                event = next_event(&mut self.consumer, last), if delivers => match event {
                    Some(event) => self.tell(event, outbox)?,
                    None => self.drained(None, outbox),
                },
            }
        }
    }

    /// Asks for no more, so that what is not given out by then can go back.
    fn leave_node(&mut self) {
        self.phase = Phase::Leaving;
        let handle = self.handle.clone();
        let deadline = Instant::now() + limits::LEAVE_WAIT_MAX;
        self.commands.push_back(Box::pin(async move {
            let stopped = handle.set_prefetch(0, deadline).await;
            Ok(Done::Leaving {
                is_ours: stopped.is_ok(),
            })
        }));
    }

    /// No grant follows: what the client has not seen goes back, uncounted, before it hears of the stop.
    fn release_unstarted(&mut self) {
        let unstarted = self.consumer.take_unstarted();
        let handle = self.handle.clone();
        let deadline = Instant::now() + limits::LEAVE_WAIT_MAX;
        self.commands.push_back(Box::pin(async move {
            for ranges in unstarted.chunks(core::SETTLE_RANGES_MAX) {
                if let Err(problem) = handle.settle(ranges.to_vec(), Haste::Now, deadline).await {
                    tracing::debug!(%problem, "unstarted deliveries are left to their session");
                }
            }
            Ok(Done::Left)
        }));
    }

    fn go_away(&mut self, outbox: &mut Out) {
        self.phase = Phase::Left;
        let addresses = self.node.elsewhere();
        let go_away = v1::GoAway { addresses };
        outbox.push(frame(consume_response::Frame::GoAway(go_away)));
    }

    /// This node stops, and the client has nothing left to do here.
    fn has_left(&self, outbox: &Out) -> bool {
        self.phase == Phase::Left
            && self.commands.is_empty()
            && outbox.is_empty()
            && self.settlements.held.unsettled() == 0
            && !self.consumer.is_acknowledging()
    }

    fn drained(&mut self, released: Option<u32>, outbox: &mut Out) {
        self.phase = Phase::Drained {
            released: released.is_some(),
        };
        let drained = v1::ConsumeDrained {
            released: released.unwrap_or_default(),
        };
        outbox.push(frame(consume_response::Frame::Drained(drained)));
    }

    /// What the broker says.
    fn tell(&mut self, event: ConsumerEvent, outbox: &mut Out) -> Result<(), End> {
        match event {
            ConsumerEvent::Deliveries(deliveries) => self.deliver(deliveries, outbox)?,
            ConsumerEvent::LeasesLost {
                first_offset,
                count,
                ..
            } => {
                let delivery_ids = self.settlements.held.lost(first_offset, count);
                if !delivery_ids.is_empty() {
                    self.delivered.forget(&delivery_ids);
                    let reason = v1::LeaseLostReason::Expired as i32;
                    let lost = v1::ConsumeLeaseLost {
                        delivery_ids,
                        reason,
                    };
                    outbox.push(frame(consume_response::Frame::LeaseLost(lost)));
                }
            }
            ConsumerEvent::Ended(end) => {
                let problem = self.ended(end);
                let refusal = Some(problem.clone().into_refusal());
                let cancelled = v1::ConsumeCancelled { refusal };
                outbox.push(frame(consume_response::Frame::Cancelled(cancelled)));
                return Err(problem.into());
            }
        }
        Ok(())
    }

    fn deliver(&mut self, deliveries: Vec<Delivery>, outbox: &mut Out) -> Checked<()> {
        let held = &mut self.settlements.held;
        let first_id = held.next_id();
        for delivery in &deliveries {
            held.sent(delivery.offset, delivery.fence);
        }
        if self.auto_ack {
            // The broker acknowledged them; a settlement of them is told so.
            held.leases(first_id, held.next_id() - 1, true);
        }
        let deliveries = self.receipts.deliveries(deliveries, first_id)?;
        let delivered = self.node.spans.deliver(&self.name.queue, &deliveries);
        if !self.auto_ack {
            self.delivered.add(delivered);
        }
        let deliveries = v1::ConsumeDeliveries { deliveries };
        outbox.push(frame(consume_response::Frame::Deliveries(deliveries)));
        Ok(())
    }

    fn ended(&self, end: ConsumerEnd) -> Problem {
        let queue = || {
            let namespace = convert::namespace_or_default(&self.name.namespace);
            Problem::queue_not_found(namespace, &self.name.queue)
        };
        match end {
            ConsumerEnd::Session(SessionEnd::QueueDeleted) => queue(),
            ConsumerEnd::Session(SessionEnd::Closed | SessionEnd::GraceOver) => {
                Problem::from(&ticketrail_core::Rejection::SessionNotFound)
            }
            ConsumerEnd::Moved => Problem::new(
                Reason::SessionMoved,
                "another stream took the session over; this one gets nothing more",
            ),
            ConsumerEnd::CutOff => Problem::new(
                Reason::OutcomeUnknown,
                "the stream was cut off: its deliveries were not read in time, or the cluster took \
                 this node for lost; open it again with the session id",
            )
            .retry_after(limits::RETRY_AFTER),
            ConsumerEnd::Failed(problem) => problem,
        }
    }

    /// A frame of the client; settlements that are there already go together.
    fn take(
        &mut self,
        first: v1::ConsumeRequest,
        frames: &mut Frames,
        open: &mut bool,
    ) -> Checked<()> {
        let mut gathered = Gathered::default();
        let mut next = Some(first);
        while let Some(frame) = next.take() {
            gathered.shares.extend(self.share());
            let Some(consume_request::Frame::Settlement(settlement)) = frame.frame else {
                self.settle(gathered);
                return self.steer(frame.frame);
            };
            self.settlements.gather(&settlement, &mut gathered)?;
            for range in &settlement.ranges {
                let ids = range.first_delivery_id..=last_of(range);
                self.delivered
                    .settle(ids, range.kind, &mut gathered.settling);
            }
            if gathered.is_full() {
                break;
            }
            match frame_at_hand(frames) {
                Some(Ok(None)) => *open = false,
                Some(more) => next = more?,
                None => {}
            }
        }
        self.settle(gathered);
        Ok(())
    }

    fn share(&self) -> Option<MessageShare> {
        self.shares.as_ref().and_then(MessageShares::next)
    }

    /// Hands gathered settlements to the broker.
    fn settle(&mut self, mut gathered: Gathered) {
        let shares = Arc::new(std::mem::take(&mut gathered.shares));
        let mut settling = Some(std::mem::take(&mut gathered.settling));
        let commands = gathered.into_commands();
        let last = commands.len().saturating_sub(1);
        let messages =
            |ranges: &[SettleRange]| ranges.iter().map(|range| u64::from(range.count)).sum();
        self.settling += commands
            .iter()
            .map(|(_, ranges)| messages(ranges))
            .sum::<u64>();
        for (place, (batch, ranges)) in commands.into_iter().enumerate() {
            let (handle, shares) = (self.handle.clone(), Arc::clone(&shares));
            let settling = settling.take_if(|_| place == last);
            let (haste, messages) = (self.haste(&ranges), messages(&ranges));
            self.commands.push_back(Box::pin(async move {
                let _shares = shares;
                if ranges.is_empty() {
                    return Ok(Done::Settled {
                        batch,
                        messages,
                        settled: None,
                    });
                }
                let deadline = Instant::now() + limits::DEADLINE_DEFAULT;
                let settled = handle.settle(ranges, haste, deadline).await;
                if let Some(settling) = settling {
                    settling.done(settled.as_ref().map(drop));
                }
                Ok(Done::Settled {
                    batch,
                    messages,
                    settled: Some(settled?),
                })
            }));
        }
    }

    /// Acknowledgements hold no delivery up while the consumer has credit to spare: then whatever is ready was
    /// handed out before they came. Who waits for the answer does so a few milliseconds longer. Where an
    /// acknowledgement lets another message go, as in a queue that keeps the order of groups, it must not wait.
    fn haste(&self, ranges: &[SettleRange]) -> Haste {
        let out = self.settlements.held.unsettled() + self.settling;
        let spares = 2 * out <= u64::from(self.prefetch) && self.phase == Phase::Delivering;
        match spares && ranges.iter().all(|range| range.kind == SettleKind::Ack) {
            true => Haste::WithOthers,
            false => Haste::Now,
        }
    }

    /// A frame that is no settlement.
    fn steer(&mut self, frame: Option<consume_request::Frame>) -> Checked<()> {
        let handle = self.handle.clone();
        let deadline = Instant::now() + limits::DEADLINE_DEFAULT;
        match frame {
            Some(consume_request::Frame::Credit(credit)) => {
                convert::not_yet(credit.prefetch_bytes.is_some(), "credit.prefetch_bytes")?;
                let prefetch = prefetch(credit.prefetch, "credit.prefetch")?;
                if self.phase == Phase::Delivering {
                    self.prefetch = prefetch;
                    self.commands.push_back(Box::pin(async move {
                        handle.set_prefetch(prefetch, deadline).await?;
                        Ok(Done::Credit)
                    }));
                }
            }
            Some(consume_request::Frame::Drain(drain)) if self.phase.may_drain() => {
                self.phase = match drain.release_unsettled {
                    true => Phase::Releasing,
                    false => Phase::Draining { stopped: false },
                };
                let unsettled =
                    u32::try_from(self.settlements.held.unsettled()).unwrap_or(u32::MAX);
                self.commands.push_back(Box::pin(async move {
                    if drain.release_unsettled {
                        handle.close(deadline).await?;
                        return Ok(Done::Stopped {
                            released: Some(unsettled),
                        });
                    }
                    handle.set_prefetch(0, deadline).await?;
                    Ok(Done::Stopped { released: None })
                }));
            }
            Some(consume_request::Frame::Drain(_)) => {}
            Some(consume_request::Frame::Open(_)) => return Err(first_frame_missing()),
            Some(consume_request::Frame::Settlement(_)) | None => {
                let must = "one of `credit`, `settlement` and `drain`";
                return Err(Problem::invalid_field("frame", must));
            }
        }
        Ok(())
    }

    /// What a command did.
    fn did(&mut self, done: Done, outbox: &mut Out) {
        match done {
            Done::Settled {
                batch,
                messages,
                settled,
            } => {
                self.settling -= messages;
                let told = self.settlements.answer(&batch, settled.as_ref());
                tell_settled(told, outbox);
            }
            Done::Credit => {}
            Done::Stopped { released: None } => self.phase = Phase::Draining { stopped: true },
            Done::Stopped { released } => self.drained(released, outbox),
            // The client may have asked to stop meanwhile, which says more.
            Done::Leaving { .. } | Done::Left if self.phase != Phase::Leaving => {}
            Done::Leaving { is_ours: true } => self.release_unstarted(),
            Done::Leaving { is_ours: false } | Done::Left => self.go_away(outbox),
        }
    }

    /// The client closed its side after all was said: a session that holds nothing ends at once.
    async fn leave(&mut self) {
        let released = self.phase == Phase::Drained { released: true };
        if released || self.settlements.held.unsettled() > 0 {
            return;
        }
        let deadline = Instant::now() + limits::FAREWELL_MAX;
        if let Err(problem) = self.handle.close(deadline).await {
            tracing::debug!(%problem, "a session is left to its grace");
        }
    }

    /// The client is gone: what it settled last is still brought through.
    async fn farewell(mut self) {
        let last = async { while self.commands.next().await.is_some() {} };
        if timeout(limits::FAREWELL_MAX, last).await.is_err() {
            tracing::debug!("the last settlements of a client that went away did not get through");
        }
    }
}

/// The next event; with `last`, `None` once none is left that was granted before. Cancel safe.
async fn next_event(consumer: &mut Consumer, last: bool) -> Option<ConsumerEvent> {
    poll_fn(|cx| {
        let next = pin!(consumer.next()).poll(cx);
        match next {
            Poll::Ready(event) => Poll::Ready(Some(event)),
            Poll::Pending if last && !consumer.is_acknowledging() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Adds an answer to the one that waits to be written, or puts it behind what waits.
fn tell_settled(told: v1::ConsumeSettled, outbox: &mut Out) {
    if let Some(v1::ConsumeResponse {
        frame: Some(consume_response::Frame::Settled(waiting)),
    }) = outbox.last_mut()
        && waiting.exceptions.len() < limits::SETTLE_RANGES_MAX
    {
        waiting.through_settlement = told.through_settlement;
        waiting.exceptions.extend(told.exceptions);
        waiting.position = told.position.or(waiting.position);
        return;
    }
    outbox.push(frame(consume_response::Frame::Settled(told)));
}
