//! A map that knows which of its keys changed since it was last asked.

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::vec::Vec;
use core::ops::RangeBounds;

/// An ordered map with the net difference since the last [`Tracked::drain_dirty`]: a key that came
/// and went in between leaves no trace.
pub(crate) struct Tracked<K, V> {
    map: BTreeMap<K, V>,
    /// Changed keys, and whether each was there at the last drain.
    dirty: BTreeMap<K, bool>,
}

impl<K, V> Default for Tracked<K, V> {
    fn default() -> Self {
        Self {
            map: BTreeMap::new(),
            dirty: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone, V> Tracked<K, V> {
    pub(crate) fn map(&self) -> &BTreeMap<K, V> {
        &self.map
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.map.get(key)
    }

    /// For changes to what is derived and not part of the row.
    pub(crate) fn get_unmarked(&mut self, key: &K) -> Option<&mut V> {
        self.map.get_mut(key)
    }

    /// Last entry of the range, for changes to what is not part of the row.
    pub(crate) fn last_unmarked(&mut self, range: impl RangeBounds<K>) -> Option<(&K, &mut V)> {
        self.map.range_mut(range).next_back()
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let value = self.map.get_mut(key)?;
        self.dirty.entry(key.clone()).or_insert(true);
        Some(value)
    }

    /// First entry of the whole map.
    pub(crate) fn first(&self) -> Option<(&K, &V)> {
        self.map.first_key_value()
    }

    /// First entry of the range.
    pub(crate) fn first_in(&self, range: impl RangeBounds<K>) -> Option<(&K, &V)> {
        self.map.range(range).next()
    }

    /// Last entry of the range.
    pub(crate) fn last_in(&self, range: impl RangeBounds<K>) -> Option<(&K, &V)> {
        self.map.range(range).next_back()
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let old = self.map.insert(key.clone(), value);
        self.dirty.entry(key).or_insert(old.is_some());
        old
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let old = self.map.remove(key)?;
        match self.dirty.entry(key.clone()) {
            Entry::Vacant(vacant) => {
                vacant.insert(true);
            }
            Entry::Occupied(occupied) if !*occupied.get() => {
                occupied.remove();
            }
            Entry::Occupied(_) => {}
        }
        Some(old)
    }

    /// Puts in what is stored already. False if the key was taken.
    pub(crate) fn load(&mut self, key: K, value: V) -> bool {
        self.map.insert(key, value).is_none()
    }

    /// Keys that were there at the last drain.
    pub(crate) fn stored_keys(&self) -> Vec<K> {
        let clean = self
            .map
            .keys()
            .filter(|key| !self.dirty.contains_key(key))
            .cloned();
        let changed = self
            .dirty
            .iter()
            .filter(|(_, stored)| **stored)
            .map(|(key, _)| key.clone());
        clean.chain(changed).collect()
    }

    /// Calls `each` with every changed key and its present value, and forgets the changes.
    pub(crate) fn drain_dirty(&mut self, mut each: impl FnMut(&K, Option<&V>)) {
        for key in core::mem::take(&mut self.dirty).keys() {
            each(key, self.map.get(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn drained(map: &mut Tracked<u64, char>) -> Vec<(u64, Option<char>)> {
        let mut all = Vec::new();
        map.drain_dirty(|key, value| all.push((*key, value.copied())));
        all
    }

    #[test]
    fn tells_the_net_difference() {
        let mut map = Tracked::default();
        map.insert(1, 'a');
        map.insert(2, 'b');
        map.remove(&2);
        assert_eq!(drained(&mut map), vec![(1, Some('a'))]);
        assert_eq!(drained(&mut map), vec![]);

        map.remove(&1);
        map.insert(1, 'c');
        map.insert(3, 'd');
        assert_eq!(map.stored_keys(), vec![1]);
        map.remove(&1);
        assert_eq!(map.stored_keys(), vec![1]);
        assert_eq!(drained(&mut map), vec![(1, None), (3, Some('d'))]);

        map.get_mut(&3);
        map.remove(&3);
        assert_eq!(drained(&mut map), vec![(3, None)]);
    }
}
