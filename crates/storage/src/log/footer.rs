//! What a complete segment says of itself, so that a start need not read all of it: where each entry lies and of what term it is,
//! and what the truncations in it removed before it.
//!
//! It is built the same way by the writer, by a scan and by a check, which compare theirs with what was written:
//!
//! ```text
//! footer  = first_sequence truncated_from first_index entries terms (offset length)* (first_index term)*
//! trailer = magic crc epoch seal_offset
//! ```
//!
//! The trailer fills the last sector of the segment and is written *after* the sync that made everything before it durable: one that
//! passes its check proves the segment whole, one that is missing only costs the start a scan.

use bytes::Bytes;

use super::format::ALIGN_BYTES;
use crate::header::{u32_at, u64_at};

/// What a segment leaves free for its trailer.
pub(crate) const TRAILER_BYTES: u64 = ALIGN_BYTES;
const TRAILER_MAGIC: u32 = u32::from_le_bytes(*b"TRE1");
const NONE: u64 = u64::MAX;
const HEAD_BYTES: usize = 32;
const PLACE_BYTES: usize = 8;
const TERM_BYTES: usize = 16;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footer {
    /// Number of the segment's first batch.
    pub(crate) first_sequence: u64,
    /// The lowest index from which on a truncation in it removed everything before it.
    pub(crate) truncated_from: Option<u64>,
    /// 0 where it holds no entries.
    pub(crate) first_index: u64,
    /// Offset and whole length of each entry's record.
    pub(crate) places: Vec<(u32, u32)>,
    /// The first index of each run of entries of one term.
    terms: Vec<(u64, u64)>,
}

/// An entry as a footer tells it.
pub(crate) struct FooterEntry {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

impl Footer {
    pub(crate) fn new(first_sequence: u64) -> Self {
        Self {
            first_sequence,
            ..Self::default()
        }
    }

    /// The index that the next entry must have, once there is one.
    pub(crate) fn next_index(&self) -> Option<u64> {
        (!self.places.is_empty()).then(|| self.first_index + self.places.len() as u64)
    }

    /// Adds the next entry.
    pub(crate) fn entry(&mut self, entry: &FooterEntry) {
        if self.places.is_empty() {
            self.first_index = entry.index;
        }
        if self
            .terms
            .last()
            .is_none_or(|(_, term)| *term != entry.term)
        {
            self.terms.push((entry.index, entry.term));
        }
        self.places.push((entry.offset, entry.length));
    }

    pub(crate) fn truncate(&mut self, from: u64) {
        self.truncated_from = Some(self.truncated_from.map_or(from, |lowest| lowest.min(from)));
        self.places
            .truncate(from.saturating_sub(self.first_index) as usize);
        while self.terms.pop_if(|(first, _)| *first >= from).is_some() {}
        if self.places.is_empty() {
            self.first_index = 0;
        }
    }

    /// All entries in order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = FooterEntry> {
        let mut terms = self.terms.iter().copied().peekable();
        let mut term = 0;
        (self.first_index..)
            .zip(&self.places)
            .map(move |(index, (offset, length))| {
                while let Some((_, next)) = terms.next_if(|(first, _)| *first <= index) {
                    term = next;
                }
                FooterEntry {
                    index,
                    term,
                    offset: *offset,
                    length: *length,
                }
            })
    }

    /// Length of [`Footer::encode`] with so many more entries, each of a term of its own.
    pub(crate) fn encoded_bytes(&self, more_entries: usize) -> usize {
        HEAD_BYTES
            + (self.places.len() + more_entries) * PLACE_BYTES
            + (self.terms.len() + more_entries) * TERM_BYTES
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(self.encoded_bytes(0));
        bytes.extend_from_slice(&self.first_sequence.to_le_bytes());
        bytes.extend_from_slice(&self.truncated_from.unwrap_or(NONE).to_le_bytes());
        bytes.extend_from_slice(&self.first_index.to_le_bytes());
        bytes.extend_from_slice(&(self.places.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.terms.len() as u32).to_le_bytes());
        for (offset, length) in &self.places {
            bytes.extend_from_slice(&offset.to_le_bytes());
            bytes.extend_from_slice(&length.to_le_bytes());
        }
        for (first, term) in &self.terms {
            bytes.extend_from_slice(&first.to_le_bytes());
            bytes.extend_from_slice(&term.to_le_bytes());
        }
        bytes.into()
    }

    /// `None` for bytes that [`Footer::encode`] does not write.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
        let (entries, terms) = (u32_at(head, 24) as usize, u32_at(head, 28) as usize);
        let (places, terms) = rest
            .split_at_checked(entries.checked_mul(PLACE_BYTES)?)
            .filter(|(_, rest)| Some(rest.len()) == terms.checked_mul(TERM_BYTES))?;
        let pair = |place: &[u8]| (u32_at(place, 0), u32_at(place, 4));
        let run = |run: &[u8]| (u64_at(run, 0), u64_at(run, 8));
        let footer = Self {
            first_sequence: u64_at(head, 0),
            truncated_from: Some(u64_at(head, 8)).filter(|from| *from != NONE),
            first_index: u64_at(head, 16),
            places: places.chunks_exact(PLACE_BYTES).map(pair).collect(),
            terms: terms.chunks_exact(TERM_BYTES).map(run).collect(),
        };
        let begins = footer.terms.first().map(|(first, _)| *first);
        let fits = match begins {
            None => footer.places.is_empty(),
            Some(first) => first == footer.first_index && !footer.places.is_empty(),
        };
        fits.then_some(footer)
    }
}

/// The last sector of a complete segment.
pub(crate) fn encode_trailer(
    crc_seed: u32,
    epoch: u64,
    seal_at: u64,
) -> [u8; TRAILER_BYTES as usize] {
    let mut bytes = [0; TRAILER_BYTES as usize];
    bytes[..4].copy_from_slice(&TRAILER_MAGIC.to_le_bytes());
    bytes[8..16].copy_from_slice(&epoch.to_le_bytes());
    bytes[16..24].copy_from_slice(&seal_at.to_le_bytes());
    let crc = crc32c::crc32c_append(crc_seed, &bytes[8..24]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Where the seal of a complete segment lies; `None` for anything but this segment's trailer.
pub(crate) fn decode_trailer(crc_seed: u32, epoch: u64, bytes: &[u8]) -> Option<u64> {
    let head = bytes.get(..24)?;
    let seal_at = u64_at(head, 16);
    let expected = encode_trailer(crc_seed, epoch, seal_at);
    (head == &expected[..24]).then_some(seal_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> FooterEntry {
        FooterEntry {
            index,
            term,
            offset: index as u32 * 100,
            length: 90,
        }
    }

    fn told(footer: &Footer) -> Vec<(u64, u64)> {
        let entries = footer.entries();
        entries.map(|entry| (entry.index, entry.term)).collect()
    }

    #[test]
    fn it_comes_back_as_it_was_written() {
        let mut footer = Footer::new(7);
        assert_eq!(Footer::decode(&footer.encode()), Some(footer.clone()));
        for (index, term) in [(10, 1), (11, 1), (12, 3)] {
            footer.entry(&entry(index, term));
        }
        assert_eq!(footer.encode().len(), footer.encoded_bytes(0));
        assert_eq!(Footer::decode(&footer.encode()), Some(footer.clone()));
        footer.truncate(11);
        footer.entry(&entry(11, 4));
        assert_eq!(told(&footer), [(10, 1), (11, 4)]);
        footer.truncate(3);
        assert_eq!(
            (footer.next_index(), footer.truncated_from),
            (None, Some(3))
        );
        footer.entry(&entry(3, 5));
        let back = Footer::decode(&footer.encode());
        assert_eq!(back, Some(footer.clone()));
        assert_eq!(told(&footer), [(3, 5)]);
    }

    #[test]
    fn other_bytes_are_none() {
        let mut footer = Footer::new(7);
        footer.entry(&entry(10, 1));
        let bytes = footer.encode();
        for length in 0..bytes.len() {
            assert_eq!(Footer::decode(&bytes[..length]), None);
        }
        let trailer = encode_trailer(1, 5, 4_096);
        assert_eq!(decode_trailer(1, 5, &trailer), Some(4_096));
        assert_eq!(decode_trailer(2, 5, &trailer), None);
        assert_eq!(decode_trailer(1, 6, &trailer), None);
        for at in 0..24 {
            let mut flipped = trailer;
            flipped[at] ^= 1;
            assert_eq!(decode_trailer(1, 5, &flipped), None, "byte {at}");
        }
    }
}
