//! What rows are made of.

use ticketrail_core::row::Counters;
use ticketrail_core::{BodyRef, Death, DeathReason, Position, WallTime};

use super::DecodeError;
use crate::store;

pub(crate) fn body(body: BodyRef) -> store::BodyRef {
    store::BodyRef {
        index: body.position.index,
        place: body.position.place,
        item: body.item,
    }
}

pub(crate) fn body_from(body: store::BodyRef) -> BodyRef {
    BodyRef {
        position: Position {
            index: body.index,
            place: body.place,
        },
        item: body.item,
    }
}

pub(crate) fn reason(reason: DeathReason) -> store::DeathReason {
    match reason {
        DeathReason::Rejected => store::DeathReason::Rejected,
        DeathReason::MaxDeliveries => store::DeathReason::MaxDeliveries,
    }
}

pub(crate) fn reason_from(reason: i32) -> Result<DeathReason, DecodeError> {
    match store::DeathReason::try_from(reason) {
        Ok(store::DeathReason::Rejected) => Ok(DeathReason::Rejected),
        Ok(store::DeathReason::MaxDeliveries) => Ok(DeathReason::MaxDeliveries),
        Ok(store::DeathReason::Unspecified) | Err(_) => Err(DecodeError::OutOfRange {
            field: "DeathReason",
        }),
    }
}

pub(crate) fn death(death: &Death) -> store::Death {
    store::Death {
        queue: death.queue.clone(),
        reason: reason(death.reason) as i32,
        count: death.count,
        first_time_ms: death.first_time.0,
        last_time_ms: death.last_time.0,
        routing_key: death.routing_key.clone(),
    }
}

pub(crate) fn death_from(death: store::Death) -> Result<Death, DecodeError> {
    Ok(Death {
        queue: death.queue,
        reason: reason_from(death.reason)?,
        count: death.count,
        first_time: WallTime(death.first_time_ms),
        last_time: WallTime(death.last_time_ms),
        routing_key: death.routing_key,
    })
}

pub(crate) fn counters(counters: &Counters) -> store::Counters {
    store::Counters {
        published: counters.published,
        published_bytes: counters.published_bytes,
        dead_lettered_in: counters.dead_lettered_in,
        granted: counters.granted,
        redelivered: counters.redelivered,
        leases_expired: counters.leases_expired,
        acknowledged: counters.acknowledged,
        dead_lettered_out: counters.dead_lettered_out,
        expired: counters.expired,
        dropped: counters.dropped,
        purged: counters.purged,
    }
}

pub(crate) fn counters_from(counters: &store::Counters) -> Counters {
    Counters {
        published: counters.published,
        published_bytes: counters.published_bytes,
        dead_lettered_in: counters.dead_lettered_in,
        granted: counters.granted,
        redelivered: counters.redelivered,
        leases_expired: counters.leases_expired,
        acknowledged: counters.acknowledged,
        dead_lettered_out: counters.dead_lettered_out,
        expired: counters.expired,
        dropped: counters.dropped,
        purged: counters.purged,
    }
}
