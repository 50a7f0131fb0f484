//! Bodies that tell which run they are of, and when they were published.

use bytes::Bytes;

const RUN_BYTES: usize = 8;
/// What a body holds at least.
const STAMP_BYTES: usize = RUN_BYTES + 8;

/// Makes the bodies of one run, and reads them.
#[derive(Debug, Clone)]
pub(super) struct Stamps {
    run: [u8; RUN_BYTES],
    /// What follows the stamp, random once: nothing on the way can make it smaller for all that is known.
    rest: Bytes,
}

impl Stamps {
    pub(super) fn new(size: usize) -> Self {
        let random = |length: usize| (0..length).map(|_| rand::random::<u8>());
        Self {
            run: rand::random(),
            rest: random(size.saturating_sub(STAMP_BYTES)).collect(),
        }
    }

    /// A body, published at this time.
    pub(super) fn body(&self, at: u64) -> Bytes {
        let mut body = Vec::with_capacity(STAMP_BYTES + self.rest.len());
        body.extend_from_slice(&self.run);
        body.extend_from_slice(&at.to_le_bytes());
        body.extend_from_slice(&self.rest);
        body.into()
    }

    /// When it was published; none where it is not of this run.
    pub(super) fn at(&self, body: &[u8]) -> Option<u64> {
        let rest = body.strip_prefix(&self.run)?;
        Some(u64::from_le_bytes(*rest.first_chunk()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_read_by_their_own_run() {
        let (one, other) = (Stamps::new(100), Stamps::new(16));
        let body = one.body(7);
        assert_eq!(body.len(), 100);
        assert_eq!((one.at(&body), other.at(&body)), (Some(7), None));
        assert_eq!(other.body(9).len(), 16);
        assert_eq!(other.at(&other.body(9)), Some(9));
        assert_eq!(one.at(&body[..12]), None);
        assert_eq!(one.at(b""), None);
    }
}
