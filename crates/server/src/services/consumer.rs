use std::collections::BTreeMap;
use std::time::Duration;

use ticketrail_broker::{Bound, Haste, PeekedMessage, ReceiveRequest};
use ticketrail_core::command::SettleRange;
use ticketrail_core::view::MessageState;
use ticketrail_core::{Offset, SettleStatus, limits as core};
use ticketrail_proto::error::Problem;
use ticketrail_proto::v1;
use ticketrail_proto::v1::consumer_service_server::ConsumerService;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::consume_stream;
use super::stream::{Frames, Outbox};
use crate::convert::{self, Checked, Receipts, duration_to_proto};
use crate::limits;
use crate::listen::{Deadline, MessageShares};
use crate::node::SharedNode;

/// `ticketrail.v1.ConsumerService`.
pub(crate) struct Consumer(pub(crate) SharedNode);

#[tonic::async_trait]
impl ConsumerService for Consumer {
    type ConsumeStream = Frames<v1::ConsumeResponse>;

    async fn consume(
        &self,
        request: Request<Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        self.0.check_forward(&request)?;
        self.0.check_serving()?;
        let place = self.0.broker.admission().place(Bound::Consumers)?;
        let shares = MessageShares::of(&request);
        let (outbox, frames) = Outbox::new();
        let serve = consume_stream::serve(self.0.clone(), request.into_inner(), shares, outbox);
        self.0.streams.spawn(async move {
            serve.await;
            drop(place);
        });
        Ok(Response::new(frames))
    }

    async fn receive(
        &self,
        request: Request<v1::ReceiveRequest>,
    ) -> Result<Response<v1::ReceiveResponse>, Status> {
        Ok(Response::new(self.receive_some(request).await?))
    }

    async fn settle(
        &self,
        request: Request<v1::SettleRequest>,
    ) -> Result<Response<v1::SettleResponse>, Status> {
        Ok(Response::new(self.settle_items(request).await?))
    }

    async fn peek(
        &self,
        request: Request<v1::PeekRequest>,
    ) -> Result<Response<v1::PeekResponse>, Status> {
        Ok(Response::new(self.peek_page(request).await?))
    }
}

impl Consumer {
    async fn receive_some(
        &self,
        request: Request<v1::ReceiveRequest>,
    ) -> Checked<v1::ReceiveResponse> {
        self.0.check_forward(&request)?;
        let deadline = Deadline::of(&request);
        let request = request.into_inner();
        let asked = receive_request(&request)?;
        let receipts = Receipts::new(self.0.cluster_id, &request.namespace, &request.queue);
        self.0.check_serving()?;
        let _place = self.0.broker.admission().place(Bound::LongPolls)?;
        let (position, deliveries) = self.0.broker.receive(asked, deadline).await?;
        let found = !deliveries.is_empty();
        let deliveries = receipts.deliveries(deliveries, 0)?;
        // They are settled by receipt, maybe elsewhere: nobody waits for it here.
        let _ = self.0.spans.deliver(&request.queue, &deliveries);
        Ok(v1::ReceiveResponse {
            deliveries,
            receive_attempt_id: request.receive_attempt_id,
            position: position.filter(|_| found).map(convert::commit_position),
        })
    }

    async fn settle_items(
        &self,
        request: Request<v1::SettleRequest>,
    ) -> Checked<v1::SettleResponse> {
        self.0.check_forward(&request)?;
        let deadline = Deadline::of(&request);
        let v1::SettleRequest {
            namespace,
            queue,
            items,
        } = request.into_inner();
        convert::queue(&namespace, &queue, "queue")?;
        let receipts = Receipts::new(self.0.cluster_id, &namespace, &queue);
        let batch = SettleBatch::new(&items, &receipts)?;
        self.check_queue(&namespace, &queue, deadline).await?;
        let settled = self
            .0
            .broker
            .settle(batch.ranges.clone(), Haste::Now, deadline)
            .await?;
        Ok(v1::SettleResponse {
            results: batch.results(&settled.exceptions),
            position: Some(convert::commit_position(settled.position)),
        })
    }

    /// The receipts name the incarnation; the name must be there all the same. Only where it is not
    /// known here, the cluster is asked.
    async fn check_queue(&self, namespace: &str, queue: &str, deadline: Instant) -> Checked<()> {
        let named = convert::namespace_or_default(namespace);
        let broker = &self.0.broker;
        if broker
            .replica()
            .with_state(|state| state.queue(named, queue).is_some())
        {
            return Ok(());
        }
        broker
            .read_queue(namespace, queue, deadline, |_, _| ())
            .await
    }

    async fn peek_page(&self, request: Request<v1::PeekRequest>) -> Checked<v1::PeekResponse> {
        self.0.check_forward(&request)?;
        let deadline = Deadline::of(&request);
        let request = request.into_inner();
        convert::queue(&request.namespace, &request.queue, "queue")?;
        let page = convert::page_size(request.page_size, limits::PEEK_PAGE_DEFAULT)?;
        let states = states(&request.states)?;
        let from = peek_from(&request)?;
        let lease_now = self
            .0
            .broker
            .replica()
            .with_state(|state| state.lease_now().0);
        let mut answer = Page {
            messages: Vec::new(),
            bytes: 0,
            without_bodies: request.without_bodies,
        };
        let mut from = from;
        while answer.messages.len() < page && answer.bytes < limits::ANSWER_BYTES_MAX {
            let step = limits::PEEK_STEP.min(page - answer.messages.len());
            let found = self.step(&request, &states, from, step, deadline).await?;
            let is_last = found.len() < step;
            for message in found {
                from = message.peeked.offset.plus(1);
                answer.add(message, lease_now)?;
            }
            if is_last {
                return Ok(v1::PeekResponse {
                    messages: answer.messages,
                    ..Default::default()
                });
            }
        }
        let next_page_token = peek_token(&request, from);
        Ok(v1::PeekResponse {
            messages: answer.messages,
            next_page_token,
        })
    }

    /// Some messages of the asked states, in the order of their offsets.
    async fn step(
        &self,
        request: &v1::PeekRequest,
        states: &[Option<MessageState>],
        from: Offset,
        limit: usize,
        deadline: Instant,
    ) -> Checked<Vec<PeekedMessage>> {
        let (namespace, queue) = (&request.namespace, &request.queue);
        // By offset: a message that changes its state between two looks is shown once.
        let mut found = BTreeMap::new();
        for state in states {
            let (_, messages) = self
                .0
                .broker
                .peek(namespace, queue, *state, from, limit, deadline)
                .await?;
            found.extend(
                messages
                    .into_iter()
                    .map(|message| (message.peeked.offset, message)),
            );
        }
        Ok(found.into_values().take(limit).collect())
    }
}

fn receive_request(request: &v1::ReceiveRequest) -> Checked<ReceiveRequest> {
    convert::queue(&request.namespace, &request.queue, "queue")?;
    if !request.group.is_empty() {
        return Err(Problem::not_yet("group"));
    }
    let max_messages = request.max_messages.unwrap_or(1);
    if !(1..=core::RECEIVE_MESSAGES_MAX).contains(&max_messages) {
        let must = format!("1..{}, it is {max_messages}", core::RECEIVE_MESSAGES_MAX);
        return Err(Problem::invalid_field("max_messages", must));
    }
    let wait = convert::duration(request.wait.as_ref(), limits::RECEIVE_WAIT_MAX, "wait")?;
    let lease_max = Duration::from_millis(core::LEASE_MS_MAX);
    let lease = convert::duration(request.lease_duration.as_ref(), lease_max, "lease_duration")?;
    convert::at_most(
        request.receive_attempt_id.len(),
        core::ATTEMPT_ID_BYTES_MAX,
        "receive_attempt_id",
    )?;
    Ok(ReceiveRequest {
        namespace: request.namespace.clone(),
        queue: request.queue.clone(),
        max_messages,
        wait: wait.unwrap_or_default(),
        lease,
        attempt: request.receive_attempt_id.clone().into_bytes(),
    })
}

/// The ranges of a unary settle, and which items they stand for.
struct SettleBatch {
    ranges: Vec<SettleRange>,
    /// For each range, its first item.
    first_items: Vec<usize>,
    items: Vec<Option<Duration>>,
}

impl SettleBatch {
    fn new(items: &[v1::SettleItem], receipts: &Receipts) -> Checked<Self> {
        if items.is_empty() || items.len() > limits::SETTLE_ITEMS_MAX {
            let must = format!(
                "1..{} items, it has {}",
                limits::SETTLE_ITEMS_MAX,
                items.len()
            );
            return Err(Problem::invalid_field("items", must));
        }
        let mut batch = Self {
            ranges: Vec::new(),
            first_items: Vec::new(),
            items: Vec::new(),
        };
        for (place, item) in items.iter().enumerate() {
            let prefix = format!("items[{place}].");
            let lease = item.lease_duration.as_ref();
            let kind = convert::kind(item.kind, item.delay.as_ref(), lease, &prefix)?;
            let receipt = receipts.read(&item.receipt, || format!("{prefix}receipt"))?;
            batch.items.push(convert::extension(kind));
            match batch.ranges.last_mut() {
                Some(last)
                    if last.queue == receipt.queue
                        && last.kind == kind
                        && last.first_offset.plus(u64::from(last.count)) == receipt.offset
                        && last.first_fence.0 + u64::from(last.count) == receipt.fence.0 =>
                {
                    last.count += 1;
                }
                _ => {
                    batch.first_items.push(place);
                    batch.ranges.push(SettleRange {
                        queue: receipt.queue,
                        first_offset: receipt.offset,
                        count: 1,
                        first_fence: receipt.fence,
                        kind,
                    });
                }
            }
        }
        Ok(batch)
    }

    fn results(
        &self,
        exceptions: &[ticketrail_core::outcome::SettleException],
    ) -> Vec<v1::SettleResult> {
        let mut outcomes: Vec<Option<SettleStatus>> = vec![None; self.items.len()];
        for exception in exceptions {
            let range = exception.range as usize;
            let (Some(first_item), Some(asked)) =
                (self.first_items.get(range), self.ranges.get(range))
            else {
                continue;
            };
            let skipped = (exception.first_offset.0 - asked.first_offset.0) as usize;
            let first = first_item + skipped;
            outcomes[first..first + exception.count as usize].fill(Some(exception.status));
        }
        let result =
            |(outcome, extension): (Option<SettleStatus>, &Option<Duration>)| v1::SettleResult {
                outcome: outcome.map_or(v1::SettleOutcome::Ok, convert::outcome) as i32,
                lease_remaining: extension
                    .filter(|_| outcome.is_none())
                    .map(duration_to_proto),
            };
        outcomes.into_iter().zip(&self.items).map(result).collect()
    }
}

/// The states that are asked for, each one filter; `None` is all.
fn states(asked: &[i32]) -> Checked<Vec<Option<MessageState>>> {
    let mut states = Vec::new();
    for (place, &state) in asked.iter().enumerate() {
        let state = match v1::MessageState::try_from(state) {
            Ok(v1::MessageState::Ready) => MessageState::Ready,
            Ok(v1::MessageState::Delayed) => MessageState::Delayed,
            Ok(v1::MessageState::InFlight) => MessageState::InFlight,
            Ok(v1::MessageState::Parked) => MessageState::Parked,
            Ok(v1::MessageState::Unspecified) | Err(_) => {
                let must = format!("READY, DELAYED, IN_FLIGHT or PARKED, it is {state}");
                return Err(Problem::invalid_field(format!("states[{place}]"), must));
            }
        };
        states.push(Some(state));
    }
    states.sort_unstable();
    states.dedup();
    if states.is_empty() || states.len() == 4 {
        Ok(vec![None])
    } else {
        Ok(states)
    }
}

/// Ties a page token to its queue and filter.
fn peek_filter(request: &v1::PeekRequest) -> u64 {
    let mut states = request.states.clone();
    states.sort_unstable();
    states.dedup();
    let filter = format!("{:?}/{}", states, request.without_bodies);
    let tag = ticketrail_proto::receipt::queue_tag(
        convert::namespace_or_default(&request.namespace),
        &request.queue,
    );
    (u64::from(tag) << 32) | u64::from(ticketrail_proto::receipt::queue_tag(&filter, ""))
}

fn peek_token(request: &v1::PeekRequest, from: Offset) -> String {
    format!("{:016x}:{}", peek_filter(request), from.0)
}

fn peek_from(request: &v1::PeekRequest) -> Checked<Offset> {
    if request.page_token.is_empty() {
        return Ok(Offset(request.from_offset));
    }
    if request.from_offset != 0 {
        return Err(Problem::invalid_field(
            "from_offset",
            "0 together with `page_token`",
        ));
    }
    let (filter, from) = request
        .page_token
        .split_once(':')
        .ok_or_else(convert::bad_token)?;
    if filter != format!("{:016x}", peek_filter(request)) {
        return Err(convert::bad_token());
    }
    from.parse().map(Offset).map_err(|_| convert::bad_token())
}

struct Page {
    messages: Vec<v1::PeekedMessage>,
    bytes: usize,
    without_bodies: bool,
}

impl Page {
    fn add(&mut self, found: PeekedMessage, lease_now_ms: u64) -> Checked<()> {
        let PeekedMessage {
            peeked,
            routing_key,
            message,
            ..
        } = found;
        let mut message = convert::message(message)?;
        let body_bytes = message.body.len();
        if self.without_bodies {
            message.body = bytes::Bytes::new();
        }
        self.bytes += message.body.len() + limits::PEEKED_OVERHEAD_BYTES;
        let state = match peeked.state {
            MessageState::Ready => v1::MessageState::Ready,
            MessageState::Delayed => v1::MessageState::Delayed,
            MessageState::InFlight => v1::MessageState::InFlight,
            MessageState::Parked => v1::MessageState::Parked,
        };
        let remaining = |due: ticketrail_core::LeaseTime| {
            Duration::from_millis(due.0.saturating_sub(lease_now_ms))
        };
        self.messages.push(v1::PeekedMessage {
            state: state as i32,
            message_id: peeked.message_id.0,
            offset: peeked.offset.0,
            delivery_count: peeked.delivery_count,
            published_at: Some(convert::timestamp(peeked.published_at)),
            position: Some(convert::commit_position(peeked.body.position)),
            exchange: String::new(),
            routing_key,
            message: Some(message),
            body_bytes: body_bytes as u64,
            deaths: convert::deaths(&peeked.deaths),
            time_remaining: peeked.due.map(|due| duration_to_proto(remaining(due))),
        });
        Ok(())
    }
}
