use bytes::{Bytes, BytesMut};
use prost::Message as _;
use ticketrail_broker::Delivery;
use ticketrail_core::{Death, DeathReason, Position, WallTime};
use ticketrail_proto::error::{Problem, Reason};
use ticketrail_proto::receipt::{RECEIPT_BYTES, Receipt, queue_tag};
use ticketrail_proto::v1;

use super::{Checked, duration_to_proto, namespace_or_default};

/// Makes the receipts of one queue's deliveries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receipts {
    cluster_id: u128,
    queue_tag: u32,
}

impl Receipts {
    /// For deliveries of a queue; an empty namespace is the default one.
    pub(crate) fn new(cluster_id: u128, namespace: &str, queue: &str) -> Self {
        Self {
            cluster_id,
            queue_tag: queue_tag(namespace_or_default(namespace), queue),
        }
    }

    /// Reads a receipt that a client gave for this queue.
    pub(crate) fn read(&self, receipt: &[u8], field: impl Fn() -> String) -> Checked<Receipt> {
        let wrong = |must: &str| Problem::invalid_field(field(), must);
        let receipt = Receipt::decode(self.cluster_id, receipt)
            .map_err(|_| wrong("the receipt of a delivery, unchanged"))?;
        if receipt.queue_tag != self.queue_tag {
            return Err(wrong(
                "the receipt of a delivery of the named queue, it is of another",
            ));
        }
        Ok(receipt)
    }

    /// Deliveries as a client gets them; `delivery_id` is that of the first, 0 for none.
    pub(crate) fn deliveries(
        &self,
        deliveries: Vec<Delivery>,
        delivery_id: u64,
    ) -> Checked<Vec<v1::Delivery>> {
        // One buffer for the receipts of all.
        let mut receipts = BytesMut::with_capacity(deliveries.len() * RECEIPT_BYTES);
        let ids = (0..).map(|place| {
            if delivery_id == 0 {
                0
            } else {
                delivery_id + place
            }
        });
        deliveries
            .into_iter()
            .zip(ids)
            .map(|(delivery, id)| self.one(delivery, id, &mut receipts))
            .collect()
    }

    fn one(&self, delivery: Delivery, id: u64, receipts: &mut BytesMut) -> Checked<v1::Delivery> {
        let receipt = Receipt {
            queue: delivery.queue,
            offset: delivery.offset,
            fence: delivery.fence,
            queue_tag: self.queue_tag,
        };
        receipt.encode_into(self.cluster_id, receipts);
        Ok(v1::Delivery {
            delivery_id: id,
            receipt: receipts.split().freeze(),
            message_id: delivery.message_id.0,
            offset: delivery.offset.0,
            delivery_count: delivery.delivery_count,
            lease_remaining: Some(duration_to_proto(delivery.lease_left)),
            published_at: Some(timestamp(delivery.published_at)),
            position: Some(commit_position(delivery.position)),
            exchange: String::new(),
            routing_key: delivery.routing_key,
            message: Some(message(delivery.message)?),
            deaths: deaths(&delivery.deaths),
            redelivered_to_session: delivery.resent,
        })
    }
}

/// A stored message: its bytes are those of the public one.
pub(crate) fn message(stored: Bytes) -> Checked<v1::Message> {
    v1::Message::decode(stored).map_err(|error| {
        tracing::error!(%error, "a stored message does not decode");
        Problem::new(
            Reason::Corrupt,
            "a stored message does not decode; replace this node's disk",
        )
    })
}

/// A place in the log.
pub(crate) fn commit_position(position: Position) -> v1::CommitPosition {
    v1::CommitPosition {
        index: position.index,
        place: position.place,
    }
}

/// A replicated time.
pub(crate) fn timestamp(time: WallTime) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(time.0 / 1_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(time.0 % 1_000 * 1_000_000).unwrap_or(0),
    }
}

/// A death history.
pub(crate) fn deaths(deaths: &[Death]) -> Vec<v1::DeathRecord> {
    let record = |death: &Death| v1::DeathRecord {
        queue: death.queue.clone(),
        reason: match death.reason {
            DeathReason::Rejected => v1::DeathReason::Rejected,
            DeathReason::MaxDeliveries => v1::DeathReason::MaxDeliveries,
        } as i32,
        count: death.count,
        first_time: Some(timestamp(death.first_time)),
        last_time: Some(timestamp(death.last_time)),
        original_exchange: String::new(),
        original_routing_key: death.routing_key.clone(),
    };
    deaths.iter().map(record).collect()
}
