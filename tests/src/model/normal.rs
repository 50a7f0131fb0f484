//! One form for answers and events that say the same in different groupings.
//!
//! The core may speak of neighbours together or apart, as it likes: here every grant, lost lease,
//! accepted item and settle exception stands alone. What a range may not do (be empty, carry a
//! death history for many) is checked on the way. The wording of `must` is for people and is left
//! out.

use ticketrail_core::event::Event;
use ticketrail_core::outcome::{AcceptedRange, Outcome, RefusedItem, Rejection, SettleException};
use ticketrail_core::{BodyRef, Fence, Grant, MessageId};

/// `InvalidField` without words.
pub(super) fn invalid(field: &'static str) -> Rejection {
    Rejection::InvalidField { field, must: "" }
}

/// The grant as single messages.
pub fn grants(grant: &Grant) -> Vec<Grant> {
    assert!(grant.count > 0, "an empty grant: {grant:?}");
    let alone = grant.deaths.is_empty() || grant.count == 1;
    assert!(alone, "dead letters granted together: {grant:?}");
    let one = |k: u32| Grant {
        first_offset: grant.first_offset.plus(u64::from(k)),
        count: 1,
        first_fence: match grant.first_fence {
            Fence(0) => Fence(0),
            Fence(first) => Fence(first + u64::from(k)),
        },
        first_message_id: MessageId(grant.first_message_id.0 + u64::from(k)),
        body: BodyRef {
            item: grant.body.item + k,
            ..grant.body
        },
        ..grant.clone()
    };
    (0..grant.count).map(one).collect()
}

/// The answer in its one form.
pub fn outcome(outcome: &Outcome) -> Outcome {
    match outcome {
        Outcome::Rejected(r) => Outcome::Rejected(rejection(r)),
        Outcome::Published { accepted, refused } => Outcome::Published {
            accepted: accepted.iter().flat_map(accepted_items).collect(),
            refused: refused.iter().map(refused_item).collect(),
        },
        Outcome::Received { grants: many } => Outcome::Received {
            grants: many.iter().flat_map(grants).collect(),
        },
        Outcome::Attached {
            queue,
            resumed,
            held,
        } => Outcome::Attached {
            queue: *queue,
            resumed: *resumed,
            held: held.iter().flat_map(grants).collect(),
        },
        Outcome::Settled { exceptions } => Outcome::Settled {
            exceptions: merge(exceptions),
        },
        other => other.clone(),
    }
}

fn rejection(rejection: &Rejection) -> Rejection {
    match rejection {
        Rejection::InvalidField { field, .. } => Rejection::InvalidField { field, must: "" },
        Rejection::InvalidName { field, .. } => Rejection::InvalidName { field, must: "" },
        other => other.clone(),
    }
}

fn accepted_items(range: &AcceptedRange) -> Vec<AcceptedRange> {
    assert!(range.count > 0, "an empty range: {range:?}");
    let one = |k: u32| AcceptedRange {
        first_item: range.first_item + k,
        count: 1,
        first_message_id: match range.first_message_id {
            MessageId(0) => MessageId(0),
            MessageId(first) => MessageId(first + u64::from(k)),
        },
        ..range.clone()
    };
    (0..range.count).map(one).collect()
}

fn refused_item(item: &RefusedItem) -> RefusedItem {
    RefusedItem {
        item: item.item,
        rejection: rejection(&item.rejection),
    }
}

/// Neighbours with one status together: alone they could be four billion.
fn merge(exceptions: &[SettleException]) -> Vec<SettleException> {
    let mut merged: Vec<SettleException> = Vec::new();
    for next in exceptions {
        if let Some(last) = merged.last_mut()
            && last.range == next.range
            && last.status == next.status
            && last.first_offset.plus(u64::from(last.count)) == next.first_offset
        {
            last.count += next.count;
        } else {
            merged.push(next.clone());
        }
    }
    merged
}

/// Events as single messages, in order; `Ready`, which has no place in the order, at the end.
pub fn events(events: &[Event]) -> Vec<Event> {
    let (mut ordered, mut ready) = (Vec::new(), Vec::new());
    for event in events {
        match event {
            Event::Delivered {
                session,
                owner,
                grant,
            } => ordered.extend(grants(grant).into_iter().map(|grant| Event::Delivered {
                session: *session,
                owner: *owner,
                grant,
            })),
            Event::LeasesLost {
                session,
                owner,
                queue,
                first_offset,
                count,
            } => {
                assert!(*count > 0, "an empty loss: {event:?}");
                ordered.extend((0..*count).map(|k| Event::LeasesLost {
                    session: *session,
                    owner: *owner,
                    queue: *queue,
                    first_offset: first_offset.plus(u64::from(k)),
                    count: 1,
                }));
            }
            Event::Ready { queue } => ready.push(*queue),
            other => ordered.push(other.clone()),
        }
    }
    ready.sort_unstable();
    ordered.extend(ready.into_iter().map(|queue| Event::Ready { queue }));
    ordered
}
