//! Keys of rows: bytes that sort as [`RowKey`] does. The kinds' numbers are the field numbers of
//! `store.v1.Row`.

use ticketrail_core::row::RowKey;
use ticketrail_core::{NodeId, Offset, ProducerId, QueueId, SessionId};

use super::DecodeError;

const META: u8 = 1;
const NAMESPACE: u8 = 2;
const PRODUCER: u8 = 3;
const PRODUCER_CHUNK: u8 = 4;
const QUEUE: u8 = 5;
const SESSION: u8 = 6;
const RUN: u8 = 7;
const READY: u8 = 8;
const LEASE: u8 = 9;
const RETURNED: u8 = 10;
const DELAYED: u8 = 11;
const PARKED: u8 = 12;
const DEATHS: u8 = 13;
const SETTLED: u8 = 14;
const ATTEMPT: u8 = 15;
const RUNS: u8 = 16;
const NODE: u8 = 17;
const READY_SPANS: u8 = 18;
const RETURNED_SPANS: u8 = 19;
const DELAYED_SPANS: u8 = 20;
const SETTLED_SPANS: u8 = 21;

/// The key's bytes. They sort as the keys do.
#[must_use]
pub fn encode_row_key(key: &RowKey) -> Vec<u8> {
    match key {
        RowKey::Meta => vec![META],
        RowKey::Namespace(name) => joined(NAMESPACE, &[name.as_bytes()]),
        RowKey::Producer(id) => joined(PRODUCER, &[&id.0.to_be_bytes()]),
        RowKey::ProducerChunk(id, chunk) => {
            joined(PRODUCER_CHUNK, &[&id.0.to_be_bytes(), &chunk.to_be_bytes()])
        }
        RowKey::Queue(queue) => numbers(QUEUE, &[queue.0]),
        RowKey::Session(id) => joined(SESSION, &[&id.0.to_be_bytes()]),
        RowKey::Run(queue, offset) => numbers(RUN, &[queue.0, offset.0]),
        RowKey::Ready(queue, offset) => numbers(READY, &[queue.0, offset.0]),
        RowKey::Lease(queue, offset) => numbers(LEASE, &[queue.0, offset.0]),
        RowKey::Returned(queue, offset) => numbers(RETURNED, &[queue.0, offset.0]),
        RowKey::Delayed(queue, offset) => numbers(DELAYED, &[queue.0, offset.0]),
        RowKey::Parked(queue, offset) => numbers(PARKED, &[queue.0, offset.0]),
        RowKey::Deaths(queue, offset) => numbers(DEATHS, &[queue.0, offset.0]),
        RowKey::Settled(queue, bucket, offset) => numbers(SETTLED, &[queue.0, *bucket, offset.0]),
        RowKey::Attempt(queue, number) => numbers(ATTEMPT, &[queue.0, *number]),
        RowKey::Runs(queue, offset) => numbers(RUNS, &[queue.0, offset.0]),
        RowKey::Node(node) => numbers(NODE, &[node.0]),
        RowKey::ReadySpans(queue, offset) => numbers(READY_SPANS, &[queue.0, offset.0]),
        RowKey::ReturnedSpans(queue, offset) => numbers(RETURNED_SPANS, &[queue.0, offset.0]),
        RowKey::DelayedSpans(queue, offset) => numbers(DELAYED_SPANS, &[queue.0, offset.0]),
        RowKey::SettledSpans(queue, bucket, offset) => {
            numbers(SETTLED_SPANS, &[queue.0, *bucket, offset.0])
        }
    }
}

/// The key of bytes.
///
/// # Errors
/// When they are not a key that [`encode_row_key`] makes.
pub fn decode_row_key(bytes: &[u8]) -> Result<RowKey, DecodeError> {
    const BAD: DecodeError = DecodeError::OutOfRange { field: "row key" };
    let (kind, mut rest) = bytes.split_first().ok_or(BAD)?;
    let rest = &mut rest;
    let key = match *kind {
        META => RowKey::Meta,
        NAMESPACE => {
            let name = std::str::from_utf8(std::mem::take(rest)).map_err(|_| BAD)?;
            RowKey::Namespace(name.to_owned())
        }
        PRODUCER => RowKey::Producer(ProducerId(id(rest)?)),
        PRODUCER_CHUNK => RowKey::ProducerChunk(ProducerId(id(rest)?), number(rest)?),
        QUEUE => RowKey::Queue(QueueId(number(rest)?)),
        SESSION => RowKey::Session(SessionId(id(rest)?)),
        SETTLED | SETTLED_SPANS => {
            let (queue, bucket) = (QueueId(number(rest)?), number(rest)?);
            let settled = match *kind {
                SETTLED => RowKey::Settled,
                _ => RowKey::SettledSpans,
            };
            settled(queue, bucket, Offset(number(rest)?))
        }
        ATTEMPT => RowKey::Attempt(QueueId(number(rest)?), number(rest)?),
        NODE => RowKey::Node(NodeId(number(rest)?)),
        kind => {
            let of_offset = by_offset(kind).ok_or(BAD)?;
            of_offset(QueueId(number(rest)?), Offset(number(rest)?))
        }
    };
    if rest.is_empty() { Ok(key) } else { Err(BAD) }
}

fn by_offset(kind: u8) -> Option<fn(QueueId, Offset) -> RowKey> {
    Some(match kind {
        RUN => RowKey::Run,
        READY => RowKey::Ready,
        LEASE => RowKey::Lease,
        RETURNED => RowKey::Returned,
        DELAYED => RowKey::Delayed,
        PARKED => RowKey::Parked,
        DEATHS => RowKey::Deaths,
        RUNS => RowKey::Runs,
        READY_SPANS => RowKey::ReadySpans,
        RETURNED_SPANS => RowKey::ReturnedSpans,
        DELAYED_SPANS => RowKey::DelayedSpans,
        _ => return None,
    })
}

fn joined(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(kind);
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

fn numbers(kind: u8, numbers: &[u64]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + numbers.len() * 8);
    key.push(kind);
    numbers
        .iter()
        .for_each(|number| key.extend_from_slice(&number.to_be_bytes()));
    key
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], DecodeError> {
    let (head, tail) = rest
        .split_first_chunk()
        .ok_or(DecodeError::OutOfRange { field: "row key" })?;
    *rest = tail;
    Ok(*head)
}

fn number(rest: &mut &[u8]) -> Result<u64, DecodeError> {
    take(rest).map(u64::from_be_bytes)
}

fn id(rest: &mut &[u8]) -> Result<u128, DecodeError> {
    take(rest).map(u128::from_be_bytes)
}
