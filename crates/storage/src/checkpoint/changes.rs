//! What changed since the last write: there may be hundreds of thousands of rows, so they are packed.

/// Of one piece, unless a row alone is larger.
const PIECE_BYTES: usize = 1 << 20;
/// Lengths of key and value in front of them.
const LENGTHS_BYTES: usize = 8;
/// As the length of a value: the row is removed.
const REMOVED: u32 = u32::MAX;

/// Changes of rows, each key at most once. One takes little more memory than its bytes.
#[derive(Default)]
pub struct Changes {
    pieces: Vec<Vec<u8>>,
    bytes: u64,
}

impl Changes {
    /// Adds a row with its new value; `None` removes it.
    ///
    /// # Panics
    /// If the key is empty, or key or value have 4 GiB.
    pub fn push(&mut self, key: &[u8], value: Option<&[u8]>) {
        assert!(!key.is_empty(), "a row has a key");
        let length =
            |bytes: &[u8]| u32::try_from(bytes.len()).expect("rows are smaller than 4 GiB");
        let value_length = value.map_or(REMOVED, length);
        assert!(value.is_none() || value_length < REMOVED);
        let value = value.unwrap_or_default();
        let needed = LENGTHS_BYTES + key.len() + value.len();
        let has_room = |piece: &Vec<u8>| piece.capacity() - piece.len() >= needed;
        if !self.pieces.last().is_some_and(has_room) {
            self.pieces
                .push(Vec::with_capacity(needed.max(PIECE_BYTES)));
        }
        if let Some(piece) = self.pieces.last_mut() {
            piece.extend_from_slice(&length(key).to_le_bytes());
            piece.extend_from_slice(&value_length.to_le_bytes());
            piece.extend_from_slice(key);
            piece.extend_from_slice(value);
        }
        self.bytes += (key.len() + value.len()) as u64;
    }

    /// Bytes of all keys and new values.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The changes in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.pieces.iter().flat_map(|piece| {
            let mut rest = piece.as_slice();
            std::iter::from_fn(move || {
                let (change, after) = split_change(rest)?;
                rest = after;
                Some(change)
            })
        })
    }
}

type Change<'a> = (&'a [u8], Option<&'a [u8]>);

fn split_change(piece: &[u8]) -> Option<(Change<'_>, &[u8])> {
    let (key_length, rest) = piece.split_first_chunk()?;
    let (value_length, rest) = rest.split_first_chunk()?;
    let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key_length) as usize)?;
    match u32::from_le_bytes(*value_length) {
        REMOVED => Some(((key, None), rest)),
        length => {
            let (value, rest) = rest.split_at_checked(length as usize)?;
            Some(((key, Some(value)), rest))
        }
    }
}

impl<K: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(K, Option<V>)> for Changes {
    fn from_iter<I: IntoIterator<Item = (K, Option<V>)>>(rows: I) -> Self {
        let mut changes = Self::default();
        for (key, value) in rows {
            changes.push(key.as_ref(), value.as_ref().map(AsRef::as_ref));
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_come_back_as_they_were_added() {
        let rows: Vec<(Vec<u8>, Option<Vec<u8>>)> = vec![
            (vec![1], Some(vec![])),
            (vec![2; 300], None),
            (vec![3], Some(vec![4; PIECE_BYTES - 2])),
            (vec![5], Some(vec![6; 3 * PIECE_BYTES])),
            (vec![7], Some(vec![8])),
        ];
        let changes: Changes = rows
            .iter()
            .map(|(key, value)| (key, value.as_ref()))
            .collect();
        let found: Vec<_> = changes
            .iter()
            .map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec)))
            .collect();
        assert_eq!(found, rows);
        let bytes = rows
            .iter()
            .map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len));
        assert_eq!(changes.bytes(), bytes.sum::<usize>() as u64);
        assert_eq!(Changes::default().iter().count(), 0);
    }
}
