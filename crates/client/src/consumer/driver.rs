//! The task behind a consumer: keeps a stream open to some node, and its session alive across streams.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ticketrail_proto::v1;
use ticketrail_proto::v1::consume_request::Frame as Out;
use ticketrail_proto::v1::consume_response::Frame as In;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::leases::extend_after;
use super::ledger::Call;
use super::session::{SILENCE_MAX, Session, Stopped, ended};
use super::{ConsumerBuilder, PREFETCH, Shared};
use crate::call::UNREACHABLE_MAX;
use crate::client::Client;
use crate::convert::{self, millis};
use crate::error::{CONNECT_FAILED, Error, Result};
use crate::pool::Pick;
use crate::retry::{Backoff, TurnedAway};

/// Frames between the driver and the connection.
const FRAMES_MAX: usize = 4;
/// How long opening a stream may take before another node is asked.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long settling by receipt may hold up taking the session over, whose grace is limited.
const SETTLE_FIRST_MAX: Duration = Duration::from_secs(2);
/// How long the settlements of a call that reached no node wait for the next attempt.
const SETTLE_PAUSE: Duration = Duration::from_millis(200);
/// How long the server may take to drain and end a stream.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Driver {
    options: ConsumerBuilder,
    shared: Arc<Shared>,
    /// Told once, when the first stream is open or cannot be opened.
    opened: Option<oneshot::Sender<Result<()>>>,
    session_id: Bytes,
    lease: Duration,
    /// Settlements by receipt that are on their way.
    by_receipt: JoinSet<()>,
}

/// How a stream ended.
enum End {
    /// The handle is closed, and everything is settled.
    Closed,
    /// Connect again.
    Broken(Error),
    /// The node stops, and has answered what was asked of it: take the session to another one.
    Left,
    /// The consumer is over.
    Fatal(Error),
}

impl Driver {
    pub(super) fn new(
        options: ConsumerBuilder,
        shared: Arc<Shared>,
        opened: oneshot::Sender<Result<()>>,
    ) -> Self {
        Self {
            options,
            shared,
            opened: Some(opened),
            session_id: Bytes::new(),
            lease: Duration::ZERO,
            by_receipt: JoinSet::new(),
        }
    }

    pub(super) async fn run(self) {
        let shared = self.shared.clone();
        tokio::select! {
            () = self.keep_open() => {}
            () = shared.watch_leases() => {}
        }
    }

    async fn keep_open(mut self) {
        let mut backoff = Backoff::default();
        let mut down_since = Instant::now();
        let mut turned_away = TurnedAway::default();
        loop {
            let error = match self.stream(&mut backoff, &mut down_since).await {
                End::Closed => return self.finish(None).await,
                End::Fatal(error) => return self.finish(Some(error)).await,
                End::Broken(error) => error,
                End::Left => {
                    self.shared.lock().ledger.stream_broke();
                    turned_away.reset();
                    continue;
                }
            };
            self.shared.lock().ledger.stream_broke();
            let limit = match self.opened {
                Some(_) if error.reason() == CONNECT_FAILED => UNREACHABLE_MAX,
                Some(_) => self.options.client.timeout,
                None => self.options.give_up_after,
            };
            if down_since.elapsed() >= limit {
                let error = match error.is_connection() {
                    true => self.options.client.none_answered(error),
                    false => error,
                };
                return self.finish(Some(error)).await;
            }
            if self.shared.lock().closing {
                // Nothing more is wanted; only what was asked for is still settled, by receipt.
                self.settle_by_receipt(DRAIN_TIMEOUT).await;
                return self.finish(None).await;
            }
            let shared = &self.options.client.shared;
            let pause = match turned_away.ask_next(&error, shared.pool.len()) {
                true => Duration::ZERO,
                false => backoff.next_within(&shared.stream_budget, error.retry_after()),
            };
            tell_broken(&error, pause);
            tokio::time::sleep(pause).await;
        }
    }

    fn prefetch(&self) -> u32 {
        self.options.prefetch.unwrap_or(PREFETCH)
    }

    async fn finish(mut self, error: Option<Error>) {
        while self.by_receipt.join_next().await.is_some() {}
        if error.is_none() {
            // What could not be settled just before.
            self.settle_by_receipt(DRAIN_TIMEOUT).await;
        }
        if let (None, Some(error)) = (&self.opened, &error) {
            tracing::warn!(%error, reason = error.reason(), "consumer ended");
        }
        if let (Some(opened), Some(error)) = (self.opened.take(), &error) {
            // The builder tells this error itself.
            let _ = opened.send(Err(error.clone()));
        }
        self.shared.end(error);
    }

    async fn stream(&mut self, backoff: &mut Backoff, down_since: &mut Instant) -> End {
        if !self.session_id.is_empty() {
            self.settle_by_receipt(SETTLE_FIRST_MAX).await;
        }
        let pick = self.options.client.shared.pool.pick(Instant::now());
        let opening = tokio::time::timeout(OPEN_TIMEOUT, self.open(pick.clone())).await;
        let opening =
            opening.unwrap_or_else(|_| Err(Error::timed_out(&pick.endpoint, OPEN_TIMEOUT)));
        let (mut session, opened) = match opening {
            Ok(opened) => opened,
            Err(error) => return self.open_failed(&pick, error),
        };
        self.options.client.shared.pool.succeeded(pick.index);
        self.begin(&mut session, opened);
        let end = self.drive(&mut session, backoff).await;
        *down_since = Instant::now();
        if let End::Broken(error) = &end {
            self.stream_failed(&pick, error);
        }
        end
    }

    fn open_failed(&mut self, pick: &Pick, error: Error) -> End {
        if error.reason() == "SESSION_NOT_FOUND" {
            self.session_id = Bytes::new();
            return End::Broken(error);
        }
        if error.is_retryable() || error.is_connection() {
            self.stream_failed(pick, &error);
            return End::Broken(error);
        }
        End::Fatal(error)
    }

    /// A stream breaks for what is wrong with its node, whatever the words.
    fn stream_failed(&self, pick: &Pick, error: &Error) {
        let pool = &self.options.client.shared.pool;
        match error.names_others() {
            true => pool.note(pick.index, error, Instant::now()),
            false => pool.failed(pick.index, Instant::now()),
        }
    }

    async fn open(&self, pick: Pick) -> Result<(Session, v1::ConsumeOpened)> {
        let (outbound, frames) = mpsc::channel(FRAMES_MAX);
        let open = v1::ConsumeOpen {
            namespace: self.options.client.namespace.clone(),
            queue: self.options.queue.clone(),
            prefetch: Some(self.shared.lock().prefetch.unwrap_or(self.prefetch())),
            lease_duration: self.options.lease.map(convert::to_proto),
            session_id: self.session_id.clone(),
            consumer_name: self.options.name.clone(),
            ..Default::default()
        };
        let first = v1::ConsumeRequest {
            frame: Some(Out::Open(open)),
        };
        outbound
            .try_send(first)
            .expect("the channel is new and has room");
        let mut inbound = Client::consumer_service(pick.channel.clone())
            .consume(ReceiverStream::new(frames))
            .await
            .map_err(|status| Error::from_status(&status, &pick.endpoint))?
            .into_inner();
        loop {
            let response = inbound.message().await;
            match response.map_err(|status| Error::from_status(&status, &pick.endpoint))? {
                Some(v1::ConsumeResponse {
                    frame: Some(In::Opened(opened)),
                }) => {
                    return Ok((Session::new(outbound, inbound, pick), opened));
                }
                Some(_) => {}
                None => return Err(ended(&pick)),
            }
        }
    }

    fn begin(&mut self, session: &mut Session, opened: v1::ConsumeOpened) {
        let (endpoint, resumed) = (&session.pick.endpoint, opened.resumed);
        tracing::debug!(endpoint, resumed, "consume stream opened");
        self.session_id = opened.session_id;
        self.lease = convert::from_proto(opened.lease_duration).unwrap_or_default();
        session.next_extension = Instant::now() + extend_after(self.lease);
        self.shared.lock().ledger.stream_opened(opened.resumed);
        if let Some(told) = self.opened.take() {
            // Whoever started the consumer may have gone; then it is closing already.
            let _ = told.send(Ok(()));
        }
    }

    async fn drive(&mut self, session: &mut Session, backoff: &mut Backoff) -> End {
        let mut told_prefetch = self.shared.lock().prefetch;
        loop {
            if self.shared.lock().closing {
                return self.drain(session).await;
            }
            self.extend(session);
            if session.is_leaving() {
                // What waits goes to the next node; what was sent is answered by this one.
                if session.has_left() || !self.shared.lock().ledger.is_waiting() {
                    return End::Left;
                }
            } else if let Err(error) = self.say(session, &mut told_prefetch).await {
                return End::Broken(error);
            }
            let wake = session.wake();
            tokio::select! {
                biased;
                response = session.inbound.message() => {
                    if let Some(end) = self.handle(session, response) {
                        return end;
                    }
                    backoff.reset();
                }
                () = self.shared.wished.notified() => {}
                () = tokio::time::sleep(wake) => {
                    if session.is_silent() {
                        return End::Broken(Error::timed_out(&session.pick.endpoint, SILENCE_MAX));
                    }
                }
                Some(_) = self.by_receipt.join_next() => {}
            }
        }
    }

    /// Says all that is to be said on this stream.
    async fn say(&mut self, session: &mut Session, told_prefetch: &mut Option<u32>) -> Result<()> {
        if self.shared.lock().stopping {
            // First: what is given back would otherwise make room for more.
            session.stop(Stopped::Settles).await?;
            self.shared.lock().ledger.release_buffer();
        }
        self.send_wishes(session).await?;
        let prefetch = self.shared.lock().prefetch;
        if prefetch != *told_prefetch {
            *told_prefetch = prefetch;
            let credit = v1::ConsumeCredit {
                prefetch: prefetch.unwrap_or(1),
                ..Default::default()
            };
            session.send(Out::Credit(credit)).await?;
        }
        Ok(())
    }

    fn extend(&mut self, session: &mut Session) {
        let now = Instant::now();
        if session.next_extension > now {
            return;
        }
        session.next_extension = now + extend_after(self.lease);
        if self.options.auto_extend {
            self.shared.lock().ledger.extend_all(self.lease);
        }
    }

    /// Sends all settlements that are wished for.
    async fn send_wishes(&mut self, session: &mut Session) -> Result<()> {
        loop {
            let ranges = self.shared.lock().ledger.next_frame();
            if ranges.is_empty() {
                break;
            }
            session.waiting_since.get_or_insert_with(Instant::now);
            tracing::trace!(ranges = ranges.len(), "settling");
            session
                .send(Out::Settlement(v1::ConsumeSettlement { ranges }))
                .await?;
        }
        self.call_by_receipt();
        Ok(())
    }

    /// Has settled by receipt what this stream does not know; `false` where there is nothing.
    fn call_by_receipt(&mut self) -> bool {
        let Some(call) = self.shared.lock().ledger.next_call() else {
            return false;
        };
        let client = self.options.client.clone();
        let queue = self.options.queue.clone();
        self.by_receipt
            .spawn(settle(client, queue, self.shared.clone(), call));
        true
    }

    /// Settles by receipt what no stream has confirmed, before the leases are sent again.
    async fn settle_by_receipt(&mut self, at_most: Duration) {
        if !self.call_by_receipt() {
            return;
        }
        let all = async { while self.by_receipt.join_next().await.is_some() {} };
        // What is not done by then goes on in the background.
        let _ = tokio::time::timeout(at_most, all).await;
    }

    fn handle(
        &mut self,
        session: &mut Session,
        response: std::result::Result<Option<v1::ConsumeResponse>, Status>,
    ) -> Option<End> {
        let response = match response {
            Ok(Some(response)) => response,
            Ok(None) => return Some(End::Broken(ended(&session.pick))),
            Err(status) => {
                let error = Error::from_status(&status, &session.pick.endpoint);
                return Some(stream_error(error));
            }
        };
        match response.frame {
            Some(In::Deliveries(batch)) => {
                tracing::trace!(messages = batch.deliveries.len(), "delivered");
                let mut state = self.shared.lock();
                let first_end = state.ledger.deliver(batch.deliveries, Instant::now());
                drop(state);
                session.extend_before(first_end, self.lease);
                self.shared.delivered.wake();
            }
            Some(In::Settled(settled)) => {
                let mut state = self.shared.lock();
                state.ledger.settled(settled);
                session.waiting_since = state.ledger.is_waiting().then(Instant::now);
            }
            Some(In::LeaseLost(lost)) => {
                tell_lost(&lost);
                self.shared.lock().ledger.lost(&lost.delivery_ids);
            }
            Some(In::Cancelled(cancelled)) => {
                let error = cancelled.refusal.as_ref().map(Error::from);
                return Some(error.map_or_else(|| End::Broken(ended(&session.pick)), stream_error));
            }
            Some(In::GoAway(go_away)) => {
                let endpoint = &session.pick.endpoint;
                tracing::debug!(
                    endpoint,
                    "the node stops; taking the session to another one"
                );
                let now = Instant::now();
                let addresses = go_away.addresses.iter().map(String::as_str);
                let pool = &self.options.client.shared.pool;
                pool.leaves(session.pick.index, addresses, now);
                session.leaving_since = Some(now);
            }
            Some(In::Drained(_)) => session.drained = true,
            Some(In::Opened(_)) | None => {}
        }
        None
    }

    /// Settles what was asked for, gives the rest back, and ends the stream.
    async fn drain(&mut self, session: &mut Session) -> End {
        self.shared.lock().ledger.release_buffer();
        let draining = async {
            self.send_wishes(session).await?;
            session.stop(Stopped::GivesBack).await?;
            while !session.drained || self.shared.lock().ledger.is_waiting() {
                let response = session.inbound.message().await;
                match self.handle(session, response) {
                    None => self.shared.lock().ledger.release_buffer(),
                    Some(End::Closed | End::Left) => break,
                    Some(End::Broken(error) | End::Fatal(error)) => return Err(error),
                }
                if !session.gives_back() {
                    self.send_wishes(session).await?;
                }
            }
            let (closed, _) = mpsc::channel(1);
            session.outbound = closed;
            while let Ok(Some(_)) = session.inbound.message().await {}
            Ok(())
        };
        match tokio::time::timeout(DRAIN_TIMEOUT, draining).await {
            Ok(Ok(())) => End::Closed,
            Ok(Err(error)) => End::Broken(error),
            Err(_) => End::Broken(Error::timed_out(&session.pick.endpoint, DRAIN_TIMEOUT)),
        }
    }
}

/// Settles by receipt. What reached no node that could do it is wished again, unless the consumer is about to end.
async fn settle(client: Client, queue: String, shared: Arc<Shared>, call: Call) {
    let is_last = shared.lock().closing;
    let result = client.settle(queue, call.items).await;
    let again = !is_last && result.as_ref().is_err_and(may_settle_later);
    if again {
        tokio::time::sleep(SETTLE_PAUSE).await;
    }
    let mut state = shared.lock();
    match again {
        true => state.ledger.call_again(call.number),
        false => state.ledger.called(call.number, result),
    }
    drop(state);
    shared.wished.notify_one();
}

/// A settlement may be repeated, so that an unknown outcome is no obstacle.
fn may_settle_later(error: &Error) -> bool {
    error.is_retryable() || error.code() == Code::DeadlineExceeded
}

fn stream_error(error: Error) -> End {
    if error.is_retryable() || error.is_connection() {
        End::Broken(error)
    } else {
        End::Fatal(error)
    }
}

fn tell_lost(lost: &v1::ConsumeLeaseLost) {
    let leases = lost.delivery_ids.len();
    let reason = lost.reason().as_str_name();
    match lost.reason() {
        // By this client, after a stream broke.
        v1::LeaseLostReason::SettledElsewhere => tracing::debug!(leases, reason, "leases lost"),
        _ => tracing::warn!(leases, reason, "leases lost"),
    }
}

fn tell_broken(error: &Error, pause: Duration) {
    tracing::warn!(
        %error,
        reason = error.reason(),
        pause_ms = millis(pause),
        "consume stream broke; opening another one"
    );
}

#[cfg(test)]
mod tests {
    use super::super::Consumer;
    use super::*;
    use crate::client::ClientOptions;
    use crate::receive::Settlement;

    /// A consumer whose work is done, and which has no stream; and what is to be settled by receipt.
    async fn without_stream() -> (Consumer, Call) {
        let mut consumer = Consumer::holding(1);
        let (_, worked) = consumer.next().await.unwrap().unwrap().split();
        consumer.shared.lock().ledger.stream_broke();
        assert!(worked.settle(Settlement::Ack, false));
        let call = consumer.shared.lock().ledger.next_call().unwrap();
        (consumer, call)
    }

    async fn settle_at_nobody(shared: &Arc<Shared>, call: Call) {
        let client = ClientOptions::new()
            .timeout(Duration::from_secs(1))
            .connect_lazy(["http://127.0.0.1:1"])
            .unwrap();
        settle(client, "orders".into(), shared.clone(), call).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_node_could_settle_is_settled_later() {
        let (consumer, call) = without_stream().await;
        let shared = &consumer.shared;
        let items = call.items.clone();
        settle_at_nobody(shared, call).await;
        let mut state = shared.lock();
        assert_eq!(state.ledger.summary().unanswered, 0);
        assert_eq!(state.ledger.next_call().unwrap().items, items);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_it_is_told_that_nobody_knows() {
        let (consumer, call) = without_stream().await;
        let shared = &consumer.shared;
        shared.lock().closing = true;
        settle_at_nobody(shared, call).await;
        let mut state = shared.lock();
        assert_eq!(state.ledger.summary().unanswered, 1);
        assert!(state.ledger.next_call().is_none());
    }
}
