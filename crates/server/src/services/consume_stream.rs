//! One `Consume` stream: deliveries out, settlements in, and the words that steer it.
//!
//! Deliveries are taken from the broker only when nothing waits to be written, so a slow client
//! holds what its credit allows in the replicated state and next to nothing in this process.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, StreamExt};
use ticketrail_broker::{
    ConsumeRequest, Consumer, ConsumerEnd, ConsumerEvent, ConsumerHandle, Delivery, Settled,
};
use ticketrail_core::command::{SettleKind, SettleRange};
use ticketrail_core::event::SessionEnd;
use ticketrail_core::outcome::SettleException;
use ticketrail_core::{QueueId, limits as core};
use ticketrail_proto::error::{Problem, Reason};
use ticketrail_proto::v1::{self, consume_request, consume_response};
use tokio::time::{Instant, timeout};
use tonic::Streaming;

use super::stream::{Gone, Outbox, frame_at_hand, next_frame};
use crate::convert::{self, Checked, Held, Receipts, Run, duration_to_proto};
use crate::limits;
use crate::node::{SharedNode, shutting_down};

type Frames = Streaming<v1::ConsumeRequest>;
type Out = Outbox<v1::ConsumeResponse>;

/// Serves one stream to its end.
pub(super) async fn serve(node: SharedNode, mut frames: Frames, mut outbox: Out) {
    let opened = tokio::select! {
        opened = open(&node, &mut frames) => opened,
        () = node.stop.cancelled() => Err(shutting_down()),
        () = outbox.gone() => return,
    };
    let (mut session, opened) = match opened {
        Ok(opened) => opened,
        Err(problem) => return outbox.end(Err(problem)).await,
    };
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

async fn open(node: &SharedNode, frames: &mut Frames) -> Checked<(Session, v1::ConsumeOpened)> {
    let first = timeout(limits::OPEN_WAIT_MAX, next_frame(frames)).await;
    let first = first.unwrap_or_else(|_| Err(first_frame_missing()))?;
    let Some(consume_request::Frame::Open(open)) = first.and_then(|first| first.frame) else {
        return Err(first_frame_missing());
    };
    let request = consume_request(&open).map_err(|problem| problem.inside("open"))?;
    let receipts = Receipts::new(node.cluster_id, &open.namespace, &open.queue);
    let (prefetch, auto_ack) = (request.prefetch, open.auto_ack);
    let (asked_session, asked_lease) = (request.session, request.lease);
    let deadline = Instant::now() + limits::DEADLINE_DEFAULT;
    let consumer = node.broker.consume(request, deadline).await?;
    if asked_session.is_some() && !consumer.resumed {
        // It was made just now, by asking: it holds nothing that anyone has seen.
        consumer.handle.close(deadline).await?;
        return Err(Problem::from(&ticketrail_core::Rejection::SessionNotFound));
    }
    let queue = consumer.handle.queue();
    let lease = asked_lease
        .or_else(|| queue_lease(node, queue))
        .unwrap_or_default();
    let opened = v1::ConsumeOpened {
        session_id: convert::id_to_proto(consumer.handle.session().0),
        lease_duration: Some(duration_to_proto(lease)),
        session_grace: Some(duration_to_proto(Duration::from_millis(
            core::SESSION_GRACE_MS,
        ))),
        prefetch,
        resumed: consumer.resumed,
    };
    let session = Session {
        handle: consumer.handle.clone(),
        consumer,
        stop: node.stop.clone(),
        receipts,
        queue,
        queue_name: open.queue,
        namespace: open.namespace,
        auto_ack,
        held: Held::default(),
        settlements: 0,
        through: 0,
        released: false,
        commands: FuturesOrdered::new(),
        phase: Phase::Delivering,
    };
    Ok((session, opened))
}

fn queue_lease(node: &SharedNode, queue: QueueId) -> Option<Duration> {
    node.broker.replica().with_state(|state| {
        state
            .queue_by_id(queue)
            .map(|view| Duration::from_millis(view.settings.lease_ms))
    })
}

fn consume_request(open: &v1::ConsumeOpen) -> Checked<ConsumeRequest> {
    convert::queue(&open.namespace, &open.queue, "queue")?;
    convert::not_yet(open.prefetch_bytes.is_some(), "prefetch_bytes")?;
    convert::not_yet(
        open.consumer_priority.unwrap_or_default() != 0,
        "consumer_priority",
    )?;
    convert::not_yet(!open.group.is_empty(), "group")?;
    let name_bytes = open.consumer_name.len();
    convert::at_most(name_bytes, limits::CONSUMER_NAME_BYTES_MAX, "consumer_name")?;
    // Frames never wait to be filled here, which is within every wait that may be asked for.
    convert::duration(
        open.max_batch_wait.as_ref(),
        limits::BATCH_WAIT_MAX,
        "max_batch_wait",
    )?;
    let lease = open.lease_duration.as_ref();
    let lease_ms = convert::millis(lease, 1..=core::LEASE_MS_MAX, "lease_duration")?;
    let session = match open.session_id.is_empty() {
        true => None,
        false => Some(convert::session_id(&open.session_id, "session_id")?),
    };
    Ok(ConsumeRequest {
        namespace: open.namespace.clone(),
        queue: open.queue.clone(),
        prefetch: prefetch(
            open.prefetch.unwrap_or(limits::PREFETCH_DEFAULT),
            "prefetch",
        )?,
        lease: lease_ms.map(Duration::from_millis),
        session,
        // This room acknowledges, so that several batches can be under way (see `take_over`).
        auto_ack: false,
    })
}

fn prefetch(asked: u32, field: &str) -> Checked<u32> {
    if !(1..=core::PREFETCH_MAX).contains(&asked) {
        let must = format!("1..{}, it is {asked}", core::PREFETCH_MAX);
        return Err(Problem::invalid_field(field, must));
    }
    Ok(asked)
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
    Drained,
}

/// What a command of this stream did.
enum Done {
    /// `None`: all that it named is forgotten, so there was nothing to ask.
    Settled(Batch, Option<Settled>),
    Credit,
    /// These are acknowledged, and may be delivered now.
    TakenOver(Vec<Delivery>),
    /// No grant follows; so many leases were released.
    Stopped {
        released: Option<u32>,
    },
}

/// Settlement frames that went as one command.
#[derive(Default)]
struct Batch {
    /// The last settlement that is through with this command; 0 where it is not the frame's last.
    through: u64,
    /// Settled deliveries that are not remembered any more.
    forgotten: Vec<v1::SettleException>,
    /// For each range of the command, the settlement and the first delivery that it stands for.
    parts: Vec<(u64, u64)>,
    first_offsets: Vec<u64>,
}

struct Session {
    consumer: Consumer,
    handle: ConsumerHandle,
    stop: tokio_util::sync::CancellationToken,
    receipts: Receipts,
    queue: QueueId,
    namespace: String,
    queue_name: String,
    auto_ack: bool,
    held: Held,
    /// Settlement frames that came, and those that are answered.
    settlements: u64,
    through: u64,
    released: bool,
    commands: FuturesOrdered<BoxFuture<'static, Checked<Done>>>,
    phase: Phase,
}

impl Session {
    async fn run(&mut self, frames: &mut Frames, outbox: &mut Out) -> Result<(), End> {
        let mut open = true;
        loop {
            self.drain(outbox)?;
            // Who acknowledges by taking may close its side and go on reading.
            let done = !open && (!self.auto_ack || self.phase == Phase::Drained);
            if done && self.commands.is_empty() && outbox.is_empty() {
                return Ok(());
            }
            let takes_frames =
                open && !outbox.is_full() && self.commands.len() < limits::SETTLEMENTS_WAITING_MAX;
            let taking_over = self.auto_ack && self.commands.len() >= limits::FRAMES_WAITING_MAX;
            let grants = matches!(self.phase, Phase::Delivering | Phase::Draining { .. });
            let delivers = outbox.is_empty() && grants && !done && !taking_over;
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(shutting_down().into()),
                sent = outbox.advance() => sent?,
                Some(did) = self.commands.next(), if !outbox.is_full() => self.did(did?, outbox)?,
                frame = next_frame(frames), if takes_frames => match frame? {
                    Some(frame) => self.take(frame, frames, &mut open)?,
                    None => open = false,
                },
                event = self.consumer.next(), if delivers => self.tell(event, outbox)?,
            }
        }
    }

    /// Once the broker grants nothing more: delivers what was granted before, then says so.
    fn drain(&mut self, outbox: &mut Out) -> Result<(), End> {
        let taking_over = self.auto_ack && !self.commands.is_empty();
        let stopped = self.phase == Phase::Draining { stopped: true };
        if !stopped || taking_over || !outbox.is_empty() {
            return Ok(());
        }
        match self.consumer.next().now_or_never() {
            Some(event) => self.tell(event, outbox),
            None => {
                self.drained(0, outbox);
                Ok(())
            }
        }
    }

    fn drained(&mut self, released: u32, outbox: &mut Out) {
        self.phase = Phase::Drained;
        outbox.push(frame(consume_response::Frame::Drained(
            v1::ConsumeDrained { released },
        )));
    }

    /// What the broker says.
    fn tell(&mut self, event: ConsumerEvent, outbox: &mut Out) -> Result<(), End> {
        match event {
            ConsumerEvent::Deliveries(deliveries) if self.auto_ack => self.take_over(deliveries),
            ConsumerEvent::Deliveries(deliveries) => self.deliver(deliveries, outbox)?,
            ConsumerEvent::LeasesLost {
                first_offset,
                count,
                ..
            } => {
                let delivery_ids = self.held.lost(first_offset, count);
                if !delivery_ids.is_empty() {
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
        let first_id = self.held.next_id();
        for delivery in &deliveries {
            self.held.sent(delivery.offset, delivery.fence);
        }
        if self.auto_ack {
            // A settlement of what was acknowledged is told so.
            self.held.leases(first_id, self.held.next_id() - 1, true);
        }
        let deliveries = self.receipts.deliveries(deliveries, first_id)?;
        let deliveries = v1::ConsumeDeliveries { deliveries };
        outbox.push(frame(consume_response::Frame::Deliveries(deliveries)));
        Ok(())
    }

    /// At most once: acknowledges deliveries before they are written.
    fn take_over(&mut self, deliveries: Vec<Delivery>) {
        let ranges = ack_ranges(&deliveries);
        let handle = self.handle.clone();
        self.commands.push_back(Box::pin(async move {
            let deadline = Instant::now() + limits::DEADLINE_DEFAULT;
            let settled = handle.settle(ranges, deadline).await?;
            Ok(Done::TakenOver(still_held(deliveries, &settled)))
        }));
    }

    fn ended(&self, end: ConsumerEnd) -> Problem {
        let queue = || {
            let namespace = convert::namespace_or_default(&self.namespace);
            Problem::queue_not_found(namespace, &self.queue_name)
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
    ) -> Result<(), End> {
        let mut next = Some(first);
        let mut ranges = Vec::new();
        let mut batch = Batch::default();
        let mut together = 0;
        while let Some(frame) = next.take() {
            match frame.frame {
                Some(consume_request::Frame::Settlement(settlement)) => {
                    self.settlement(&settlement, &mut ranges, &mut batch)?;
                    together += 1;
                }
                other => {
                    self.settle(std::mem::take(&mut ranges), &mut batch);
                    return Ok(self.steer(other)?);
                }
            }
            if together == limits::SETTLEMENTS_TOGETHER_MAX
                || ranges.len() >= core::SETTLE_RANGES_MAX
            {
                break;
            }
            match frame_at_hand(frames) {
                Some(Ok(None)) => *open = false,
                Some(more) => next = more?,
                None => {}
            }
        }
        self.settle(ranges, &mut batch);
        Ok(())
    }

    fn settlement(
        &mut self,
        settlement: &v1::ConsumeSettlement,
        ranges: &mut Vec<SettleRange>,
        batch: &mut Batch,
    ) -> Checked<()> {
        let asked = &settlement.ranges;
        if asked.is_empty() || asked.len() > limits::SETTLE_RANGES_MAX {
            let must = format!(
                "1..{} ranges, it has {}",
                limits::SETTLE_RANGES_MAX,
                asked.len()
            );
            return Err(Problem::invalid_field("settlement.ranges", must));
        }
        self.settlements += 1;
        batch.through = self.settlements;
        let already = ranges.len();
        for (place, range) in asked.iter().enumerate() {
            let (kind, runs) = self.range(range, &format!("settlement.ranges[{place}]."))?;
            forgotten(range, &runs, self.settlements, &mut batch.forgotten);
            for run in runs {
                batch.parts.push((self.settlements, run.first_id));
                batch.first_offsets.push(run.first_offset.0);
                ranges.push(SettleRange {
                    queue: self.queue,
                    first_offset: run.first_offset,
                    count: u32::try_from(run.count).unwrap_or(u32::MAX),
                    first_fence: run.first_fence,
                    kind,
                });
            }
            if ranges.len() - already > limits::SETTLEMENT_RUNS_MAX {
                let must = "without so many repetitions of the same deliveries";
                return Err(Problem::invalid_field("settlement.ranges", must));
            }
        }
        Ok(())
    }

    fn range(&mut self, range: &v1::SettleRange, prefix: &str) -> Checked<(SettleKind, Vec<Run>)> {
        let lease = range.lease_duration.as_ref();
        let kind = convert::kind(range.kind, range.delay.as_ref(), lease, prefix)?;
        let first = range.first_delivery_id;
        let last = last_of(range);
        let ends = convert::extension(kind).is_none();
        let runs = self.held.leases(first, last, ends);
        let runs =
            runs.ok_or_else(|| unknown_delivery(first, last, self.held.next_id(), prefix))?;
        Ok((kind, runs))
    }

    /// Hands gathered settlements to the broker, in commands of the size that one may have.
    fn settle(&mut self, mut ranges: Vec<SettleRange>, batch: &mut Batch) {
        if batch.through == 0 {
            return;
        }
        if ranges.is_empty() {
            let nothing = Ok(Done::Settled(std::mem::take(batch), None));
            self.commands.push_back(Box::pin(async { nothing }));
        }
        while !ranges.is_empty() {
            let rest = ranges.split_off(ranges.len().min(core::SETTLE_RANGES_MAX));
            let parts_rest = batch.parts.split_off(ranges.len());
            let offsets_rest = batch.first_offsets.split_off(ranges.len());
            let parts = std::mem::replace(&mut batch.parts, parts_rest);
            let first_offsets = std::mem::replace(&mut batch.first_offsets, offsets_rest);
            // Only with its last command is a settlement through.
            let through = if rest.is_empty() { batch.through } else { 0 };
            let forgotten = std::mem::take(&mut batch.forgotten);
            let sent = Batch {
                through,
                forgotten,
                parts,
                first_offsets,
            };
            let handle = self.handle.clone();
            let ranges = std::mem::replace(&mut ranges, rest);
            self.commands.push_back(Box::pin(async move {
                let deadline = Instant::now() + limits::DEADLINE_DEFAULT;
                let settled = handle.settle(ranges, deadline).await?;
                Ok(Done::Settled(sent, Some(settled)))
            }));
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
                    self.commands.push_back(Box::pin(async move {
                        handle.set_prefetch(prefetch, deadline).await?;
                        Ok(Done::Credit)
                    }));
                }
            }
            Some(consume_request::Frame::Drain(drain)) if self.phase == Phase::Delivering => {
                self.phase = match drain.release_unsettled {
                    true => Phase::Releasing,
                    false => Phase::Draining { stopped: false },
                };
                let unsettled = u32::try_from(self.held.unsettled()).unwrap_or(u32::MAX);
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
    fn did(&mut self, done: Done, outbox: &mut Out) -> Checked<()> {
        match done {
            Done::Settled(batch, settled) => self.told(batch, settled, outbox),
            Done::Credit => {}
            Done::TakenOver(deliveries) if deliveries.is_empty() => {}
            Done::TakenOver(deliveries) => self.deliver(deliveries, outbox)?,
            Done::Stopped {
                released: Some(released),
            } => {
                self.released = true;
                self.drained(released, outbox);
            }
            Done::Stopped { released: None } => self.phase = Phase::Draining { stopped: true },
        }
        Ok(())
    }

    /// Adds what settlements did to the frame that waits, or to a new one.
    fn told(&mut self, batch: Batch, settled: Option<Settled>, outbox: &mut Out) {
        self.through = self.through.max(batch.through);
        let refused = settled.iter().flat_map(|settled| &settled.exceptions);
        let refused = refused.filter_map(|exception| told_one(&batch, exception));
        let exceptions = refused.chain(batch.forgotten.iter().copied());
        let position = settled
            .as_ref()
            .map(|settled| convert::commit_position(settled.position));
        if let Some(v1::ConsumeResponse {
            frame: Some(consume_response::Frame::Settled(waiting)),
        }) = outbox.last_mut()
            && waiting.exceptions.len() < limits::SETTLE_RANGES_MAX
        {
            waiting.through_settlement = self.through;
            waiting.exceptions.extend(exceptions);
            waiting.position = position.or(waiting.position);
            return;
        }
        outbox.push(frame(consume_response::Frame::Settled(
            v1::ConsumeSettled {
                through_settlement: self.through,
                exceptions: exceptions.collect(),
                position,
            },
        )));
    }

    /// The client closed its side after all was said: a session that holds nothing ends at once.
    async fn leave(&mut self) {
        if self.released || self.held.unsettled() > 0 {
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

fn last_of(range: &v1::SettleRange) -> u64 {
    match range.last_delivery_id {
        0 => range.first_delivery_id,
        last => last,
    }
}

/// The deliveries of a range that are in none of the runs.
fn forgotten(
    range: &v1::SettleRange,
    runs: &[Run],
    settlement: u64,
    forgotten: &mut Vec<v1::SettleException>,
) {
    let mut next = range.first_delivery_id;
    let ends = runs
        .iter()
        .map(|run| (run.first_id, run.first_id + run.count));
    for (first, end) in ends.chain([(last_of(range) + 1, 0)]) {
        if next < first {
            forgotten.push(v1::SettleException {
                settlement,
                first_delivery_id: next,
                last_delivery_id: first - 1,
                outcome: v1::SettleOutcome::NotFound as i32,
            });
        }
        next = end;
    }
}

/// Neighbouring deliveries as ranges to acknowledge.
fn ack_ranges(deliveries: &[Delivery]) -> Vec<SettleRange> {
    let mut ranges: Vec<SettleRange> = Vec::new();
    for delivery in deliveries {
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
                first_fence: delivery.fence,
                kind: SettleKind::Ack,
            }),
        }
    }
    ranges
}

/// The deliveries whose acknowledgement was accepted.
fn still_held(mut deliveries: Vec<Delivery>, settled: &Settled) -> Vec<Delivery> {
    let refused = |offset: u64| {
        let mut refused = settled.exceptions.iter();
        refused.any(|e| (e.first_offset.0..e.first_offset.0 + u64::from(e.count)).contains(&offset))
    };
    deliveries.retain(|delivery| !refused(delivery.offset.0));
    deliveries
}

fn unknown_delivery(first: u64, last: u64, next: u64, prefix: &str) -> Problem {
    let field = format!("{prefix}first_delivery_id");
    let known = match next {
        1 => "none was sent yet".to_owned(),
        next => format!("1..={} were sent", next - 1),
    };
    let message = format!("`{field}`: deliveries {first}..={last} are not on this stream; {known}");
    Problem::new(Reason::UnknownDelivery, message.clone()).field(field, message)
}

fn told_one(batch: &Batch, exception: &SettleException) -> Option<v1::SettleException> {
    let range = exception.range as usize;
    let (settlement, first_id) = *batch.parts.get(range)?;
    let first = first_id + (exception.first_offset.0 - batch.first_offsets.get(range)?);
    Some(v1::SettleException {
        settlement,
        first_delivery_id: first,
        last_delivery_id: first + u64::from(exception.count) - 1,
        outcome: convert::outcome(exception.status) as i32,
    })
}
