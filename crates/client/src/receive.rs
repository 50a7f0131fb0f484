//! Consuming without a stream: take some messages, settle them by receipt, look without taking.

use std::time::Duration;

use ticketrail_proto::v1;
use tokio::time::Instant;

use crate::call::Repeat;
use crate::client::Client;
use crate::convert;
use crate::delivery::{Delivery, Receipt};
use crate::error::{Error, Result};

/// How many settlements one call carries.
const SETTLE_ITEMS_MAX: usize = 1_000;
/// The longest delay of a nack: a year, be it a leap year.
pub(crate) const NACK_DELAY_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// The shortest extension of a lease.
const EXTEND_MIN: Duration = Duration::from_millis(1);
/// The longest extension of a lease.
const EXTEND_MAX: Duration = Duration::from_secs(12 * 60 * 60);

/// What a [`Client::receive`] asks for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    max_messages: Option<u32>,
    wait: Duration,
    lease: Option<Duration>,
    attempt_id: Option<String>,
}

impl Wanted {
    /// At most so many messages (1..1,000), without waiting.
    pub fn up_to(max_messages: u32) -> Self {
        Self {
            max_messages: Some(max_messages),
            ..Self::default()
        }
    }

    /// Waits so long for the first message (0..20 s).
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Holds each message so long (0..12 h) instead of the queue's `lease_duration`; zero looks without
    /// taking.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Asks again for what an earlier call with this id was given, in case its answer was lost with the
    /// whole process. Within one call the client does that by itself.
    #[must_use]
    pub fn attempt_id(mut self, id: impl Into<String>) -> Self {
        self.attempt_id = Some(id.into());
        self
    }
}

/// How one lease ends, or goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// Done: the message is removed for good.
    Ack,
    /// Failed: back to its old place, after the delay (0..1 year), or the queue's backoff where there is none.
    Nack(Option<Duration>),
    /// Hopeless: to the dead-letter queue.
    Reject,
    /// Not started: back to its old place, and this grant is not counted.
    Release,
    /// Not done yet: the lease lasts so long from now (1 ms..12 h).
    Extend(Duration),
}

impl Settlement {
    /// Refuses what the server would refuse: on a stream that would end the stream, with all that it holds.
    pub(crate) fn check(self) -> Result<()> {
        let message = match self {
            Self::Nack(Some(delay)) if delay > NACK_DELAY_MAX => {
                format!("the delay is {delay:?}; it must be 0..1 year")
            }
            Self::Extend(lease) if !(EXTEND_MIN..=EXTEND_MAX).contains(&lease) => {
                format!("the lease is {lease:?}; it must be 1 ms..12 h")
            }
            _ => return Ok(()),
        };
        Err(Error::invalid("INVALID_FIELD", message))
    }

    pub(crate) fn kind(self) -> v1::SettleKind {
        match self {
            Self::Ack => v1::SettleKind::Ack,
            Self::Nack(_) => v1::SettleKind::Nack,
            Self::Reject => v1::SettleKind::Reject,
            Self::Release => v1::SettleKind::Release,
            Self::Extend(_) => v1::SettleKind::Extend,
        }
    }

    pub(crate) fn delay(self) -> Option<prost_types::Duration> {
        match self {
            Self::Nack(delay) => delay.map(convert::to_proto),
            _ => None,
        }
    }

    pub(crate) fn lease_duration(self) -> Option<prost_types::Duration> {
        match self {
            Self::Extend(lease) => Some(convert::to_proto(lease)),
            _ => None,
        }
    }
}

impl Client {
    /// Takes messages from a queue, perhaps none. A lost answer is asked for again, so nothing is leased
    /// to nobody.
    ///
    /// # Errors
    ///
    /// `QUEUE_NOT_FOUND`, `INVALID_FIELD`; and what any call may end with: see [`Error`](crate::Error).
    /// Cancelled, it may leave messages leased to nobody until their leases end, unless it is repeated with its
    /// [`attempt_id`](Wanted::attempt_id).
    pub async fn receive(&self, queue: impl Into<String>, wanted: Wanted) -> Result<Vec<Delivery>> {
        let request = v1::ReceiveRequest {
            namespace: self.namespace.clone(),
            queue: queue.into(),
            max_messages: wanted.max_messages,
            wait: Some(convert::to_proto(wanted.wait)),
            lease_duration: wanted.lease.map(convert::to_proto),
            receive_attempt_id: wanted.attempt_id.unwrap_or_else(new_attempt_id),
            group: String::new(),
        };
        let response = self
            .call_waiting(
                Repeat::Always,
                wanted.wait,
                request,
                async |channel, request| Self::consumer_service(channel).receive(request).await,
            )
            .await?;
        let now = Instant::now();
        let deliveries = response.deliveries.into_iter();
        Ok(deliveries
            .map(|delivery| {
                let remaining = convert::from_proto(delivery.lease_remaining);
                Delivery::new(delivery, now + remaining.unwrap_or_default())
            })
            .collect())
    }

    /// Settles leases by their receipts, each on its own; one outcome per item, in their order. More than 1,000 go in
    /// several calls, one after the other; after an error some of these may be done, and all may be repeated.
    ///
    /// # Errors
    ///
    /// `QUEUE_NOT_FOUND`; `INVALID_FIELD` where a receipt is none of this queue: then nothing of its thousand is done;
    /// and what any call may end with: see [`Error`](crate::Error).
    pub async fn settle(
        &self,
        queue: impl Into<String>,
        items: impl IntoIterator<Item = (Receipt, Settlement)>,
    ) -> Result<Vec<v1::SettleOutcome>> {
        let queue = queue.into();
        let items: Vec<_> = items.into_iter().map(settle_item).collect();
        let mut outcomes = Vec::with_capacity(items.len());
        for chunk in items.chunks(SETTLE_ITEMS_MAX) {
            let request = v1::SettleRequest {
                namespace: self.namespace.clone(),
                queue: queue.clone(),
                items: chunk.to_vec(),
            };
            let response = self
                .call(Repeat::Always, request, async |channel, request| {
                    Self::consumer_service(channel).settle(request).await
                })
                .await?;
            outcomes.extend(response.results.iter().map(v1::SettleResult::outcome));
        }
        Ok(outcomes)
    }

    /// Acknowledges messages by their receipts.
    ///
    /// # Errors
    ///
    /// As [`settle`](Client::settle).
    pub async fn ack<'a>(
        &self,
        queue: impl Into<String>,
        receipts: impl IntoIterator<Item = &'a Receipt>,
    ) -> Result<Vec<v1::SettleOutcome>> {
        let items = receipts
            .into_iter()
            .map(|receipt| (receipt.clone(), Settlement::Ack));
        self.settle(queue, items).await
    }

    /// Shows a page of messages without changing anything. The namespace of the request is filled in.
    ///
    /// # Errors
    ///
    /// `QUEUE_NOT_FOUND`, `INVALID_FIELD`; and what any call may end with: see [`Error`](crate::Error).
    pub async fn peek(&self, mut request: v1::PeekRequest) -> Result<v1::PeekResponse> {
        request.namespace = self.namespace.clone();
        self.call(Repeat::Always, request, async |channel, request| {
            Self::consumer_service(channel).peek(request).await
        })
        .await
    }
}

fn settle_item((receipt, settlement): (Receipt, Settlement)) -> v1::SettleItem {
    v1::SettleItem {
        receipt: receipt.as_bytes().clone(),
        kind: settlement.kind().into(),
        delay: settlement.delay(),
        lease_duration: settlement.lease_duration(),
    }
}

/// 128 random bits: no two wishes ever share an id.
fn new_attempt_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempt_ids_are_short_and_differ() {
        let (one, two) = (new_attempt_id(), new_attempt_id());
        assert_eq!(one.len(), 32);
        assert_ne!(one, two);
    }

    #[test]
    fn durations_out_of_bounds_are_refused_here() {
        let nanosecond = Duration::from_nanos(1);
        let bounds = [
            (Settlement::Nack(Some(NACK_DELAY_MAX)), true),
            (Settlement::Nack(Some(NACK_DELAY_MAX + nanosecond)), false),
            (Settlement::Nack(Some(Duration::ZERO)), true),
            (Settlement::Extend(EXTEND_MIN), true),
            (Settlement::Extend(EXTEND_MIN - nanosecond), false),
            (Settlement::Extend(EXTEND_MAX), true),
            (Settlement::Extend(Duration::MAX), false),
        ];
        for (settlement, is_good) in bounds {
            assert_eq!(settlement.check().is_ok(), is_good, "{settlement:?}");
        }
    }

    #[test]
    fn a_settlement_carries_only_its_own_duration() {
        let second = Duration::from_secs(1);
        let nack = settle_item((Receipt::from_bytes("r"), Settlement::Nack(Some(second))));
        assert_eq!(
            (nack.delay.unwrap().seconds, nack.lease_duration),
            (1, None)
        );
        let extend = settle_item((Receipt::from_bytes("r"), Settlement::Extend(second)));
        assert_eq!(
            (extend.delay, extend.lease_duration.unwrap().seconds),
            (None, 1)
        );
        let ack = settle_item((Receipt::from_bytes("r"), Settlement::Ack));
        assert_eq!((ack.delay, ack.lease_duration), (None, None));
    }
}
