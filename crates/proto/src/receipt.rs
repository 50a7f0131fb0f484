//! The receipt of a delivery: what a client holds and gives back to settle it, on any node.
//!
//! Clients see opaque bytes. Inside: the queue's incarnation, the message's offset, the lease's fencing
//! number, a tag of the queue's name, and a check that ties it to this cluster. The check finds garbage
//! and mix-ups; it is no signature: what a receipt may do is decided by the fencing number.

use bytes::{BufMut, Bytes, BytesMut};
use ticketrail_core::{Fence, Offset, QueueId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The length of every receipt, in bytes.
pub const RECEIPT_BYTES: usize = 1 + 3 * 8 + 4 + 4;
const VERSION: u8 = 1;
const CHECK_BYTES: usize = 4;

/// What a receipt says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// The queue's incarnation.
    pub queue: QueueId,
    /// The message.
    pub offset: Offset,
    /// The lease.
    pub fence: Fence,
    /// [`queue_tag`] of the queue: tells another queue's receipt from one of an earlier incarnation.
    pub queue_tag: u32,
}

/// Not a receipt of this cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a receipt of this cluster")]
pub struct BadReceipt;

/// A tag of a queue's name, equal for all incarnations of the name.
#[must_use]
pub fn queue_tag(namespace: &str, queue: &str) -> u32 {
    let mut text = Vec::with_capacity(namespace.len() + 1 + queue.len());
    text.extend_from_slice(namespace.as_bytes());
    text.push(0); // in no name
    text.extend_from_slice(queue.as_bytes());
    xxh3_64_with_seed(&text, 0) as u32
}

impl Receipt {
    /// Appends the receipt's [`RECEIPT_BYTES`] bytes.
    pub fn encode_into(&self, cluster_id: u128, out: &mut BytesMut) {
        let start = out.len();
        out.reserve(RECEIPT_BYTES);
        out.put_u8(VERSION);
        out.put_u64(self.queue.0);
        out.put_u64(self.offset.0);
        out.put_u64(self.fence.0);
        out.put_u32(self.queue_tag);
        let check = check(cluster_id, &out[start..]);
        out.put_u32(check);
    }

    /// The receipt's bytes.
    #[must_use]
    pub fn encode(&self, cluster_id: u128) -> Bytes {
        let mut out = BytesMut::with_capacity(RECEIPT_BYTES);
        self.encode_into(cluster_id, &mut out);
        out.freeze()
    }

    /// Reads a receipt.
    ///
    /// # Errors
    /// When the bytes are not a receipt that this cluster made.
    pub fn decode(cluster_id: u128, receipt: &[u8]) -> Result<Self, BadReceipt> {
        let receipt: &[u8; RECEIPT_BYTES] = receipt.try_into().map_err(|_| BadReceipt)?;
        let (body, found) = receipt.split_at(RECEIPT_BYTES - CHECK_BYTES);
        if body[0] != VERSION || check(cluster_id, body).to_be_bytes() != found {
            return Err(BadReceipt);
        }
        let number = |at: usize| {
            u64::from_be_bytes(
                body[at..at + 8]
                    .try_into()
                    .expect("eight bytes are eight bytes"),
            )
        };
        let tag = body[25..29].try_into().expect("four bytes are four bytes");
        Ok(Self {
            queue: QueueId(number(1)),
            offset: Offset(number(9)),
            fence: Fence(number(17)),
            queue_tag: u32::from_be_bytes(tag),
        })
    }
}

fn check(cluster_id: u128, body: &[u8]) -> u32 {
    let seed = (cluster_id >> 64) as u64 ^ cluster_id as u64;
    xxh3_64_with_seed(body, seed) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: u128 = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;

    fn receipt() -> Receipt {
        Receipt {
            queue: QueueId(7),
            offset: Offset(1 << 40),
            fence: Fence(u64::MAX),
            queue_tag: queue_tag("default", "orders"),
        }
    }

    #[test]
    fn a_receipt_reads_back() {
        let bytes = receipt().encode(CLUSTER);
        assert_eq!(bytes.len(), RECEIPT_BYTES);
        assert_eq!(Receipt::decode(CLUSTER, &bytes), Ok(receipt()));
    }

    #[test]
    fn every_flipped_bit_and_every_other_length_is_refused() {
        let bytes = receipt().encode(CLUSTER);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Receipt::decode(CLUSTER, &bad), Err(BadReceipt), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert_eq!(Receipt::decode(CLUSTER, &bytes[..length]), Err(BadReceipt));
        }
    }

    #[test]
    fn a_receipt_of_another_cluster_is_refused() {
        let bytes = receipt().encode(CLUSTER);
        assert_eq!(Receipt::decode(CLUSTER + 1, &bytes), Err(BadReceipt));
    }

    #[test]
    fn names_of_other_queues_have_other_tags() {
        assert_ne!(queue_tag("a", "bc"), queue_tag("ab", "c"));
        assert_eq!(queue_tag("default", "orders"), receipt().queue_tag);
    }
}
