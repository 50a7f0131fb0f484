//! What is left of an entry when only some of its messages are still wanted.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;

use super::bodies::{Bodies, decode_bodies};
use super::error::DecodeError;
use crate::store::{KeptBodies, KeptRun};

/// First byte of a payload that holds only what was kept.
pub(super) const KEPT: u8 = 2;
/// The version of `store.v1.KeptBodies` that this program writes, and the highest that it reads.
const KEPT_VERSION: u32 = 1;

/// Neighbouring messages of an entry's publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Items {
    /// Place of the publish in its entry.
    pub place: u32,
    /// The first message.
    pub first_item: u32,
    /// How many, at least 1.
    pub count: u32,
}

/// The payload with no other messages than `wanted`, which come in ascending order. They keep place and
/// item, and [`decode_bodies`] finds no others. `payload` may itself be what was kept before.
///
/// # Errors
/// When `payload` is no entry of a known version, or one of the wanted messages is not in it: then it
/// must not take the place of the old bytes.
pub fn keep_bodies(payload: Bytes, wanted: &[Items]) -> Result<Bytes, DecodeError> {
    let bodies = decode_bodies(payload)?;
    let mut kept = KeptBodies {
        version: KEPT_VERSION,
        runs: Vec::new(),
    };
    for items in wanted {
        for k in 0..items.count {
            keep_one(
                &bodies,
                items.place,
                items.first_item.saturating_add(k),
                &mut kept,
            )?;
        }
    }
    let mut bytes = BytesMut::with_capacity(1 + kept.encoded_len());
    bytes.put_u8(KEPT);
    kept.encode(&mut bytes).expect("a BytesMut grows");
    Ok(bytes.freeze())
}

fn keep_one(
    bodies: &Bodies,
    place: u32,
    item: u32,
    kept: &mut KeptBodies,
) -> Result<(), DecodeError> {
    let found = bodies.get(place, item);
    let body = found.ok_or(DecodeError::MissingBody { place, item })?;
    let goes_on = kept.runs.last_mut().filter(|run| {
        let next = u64::from(run.first_item) + run.messages.len() as u64;
        run.place == place && next == u64::from(item) && run.routing_key == body.routing_key
    });
    match goes_on {
        Some(run) => run.messages.push(body.message.clone()),
        None => kept.runs.push(KeptRun {
            place,
            first_item: item,
            routing_key: body.routing_key.to_owned(),
            messages: vec![body.message.clone()],
        }),
    }
    Ok(())
}

/// What [`keep_bodies`] wrote behind the first byte.
pub(super) fn decode_kept(bytes: Bytes) -> Result<Bodies, DecodeError> {
    let kept = KeptBodies::decode(bytes).map_err(DecodeError::malformed("KeptBodies"))?;
    match kept.version {
        1..=KEPT_VERSION => {}
        0 => {
            return Err(DecodeError::Missing {
                field: "KeptBodies.version",
            });
        }
        found => {
            return Err(DecodeError::UnknownVersion {
                what: "KeptBodies",
                found,
                known: KEPT_VERSION,
            });
        }
    }
    let mut bodies = Bodies::default();
    for run in kept.runs {
        if !bodies.add_kept(run) {
            return Err(DecodeError::OutOfRange {
                field: "KeptBodies.runs",
            });
        }
    }
    Ok(bodies)
}
