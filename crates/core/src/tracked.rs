//! A map that knows which of its keys changed since it was last asked.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::borrow::Borrow;
use core::ops::RangeBounds;

use crate::few::Few;

/// An ordered map with the net difference since the last [`Tracked::drain_dirty`]: a key that came
/// and went in between leaves no trace. An empty one is a pointer: a queue has many, and there may
/// be many queues.
pub(crate) struct Tracked<K, V>(Option<Box<Inner<K, V>>>);

struct Inner<K, V> {
    map: Few<K, V>,
    /// Changed keys, and whether each was there at the last drain.
    dirty: Few<K, bool>,
}

impl<K, V> Default for Tracked<K, V> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K: Ord + Clone, V> Tracked<K, V> {
    fn inner(&mut self) -> &mut Inner<K, V> {
        self.0.get_or_insert_with(|| {
            Box::new(Inner {
                map: Few::default(),
                dirty: Few::default(),
            })
        })
    }

    fn map(&self) -> Option<&Few<K, V>> {
        self.0.as_ref().map(|inner| &inner.map)
    }

    fn map_mut(&mut self) -> Option<&mut Few<K, V>> {
        self.0.as_mut().map(|inner| &mut inner.map)
    }

    pub(crate) fn len(&self) -> usize {
        self.map().map_or(0, Few::len)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.map().into_iter().flat_map(Few::iter)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.map()?.get(key)
    }

    /// For changes to what is derived and not part of the row.
    pub(crate) fn get_unmarked<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.map_mut()?.get_mut(key)
    }

    /// Last entry of the range, for changes to what is not part of the row.
    pub(crate) fn last_unmarked(&mut self, range: impl RangeBounds<K>) -> Option<(&K, &mut V)> {
        self.map_mut()?.range_mut(range).next_back()
    }

    /// Notes that a value that is there was changed.
    pub(crate) fn mark(&mut self, key: &K) {
        self.inner().dirty.insert_new(key.clone(), true);
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let inner = self.0.as_mut()?;
        let value = inner.map.get_mut(key)?;
        inner.dirty.insert_new(key.clone(), true);
        Some(value)
    }

    /// First entry of the whole map.
    pub(crate) fn first(&self) -> Option<(&K, &V)> {
        self.map()?.first()
    }

    /// First entry of the range.
    pub(crate) fn first_in(&self, range: impl RangeBounds<K>) -> Option<(&K, &V)> {
        self.map()?.range(range).next()
    }

    /// Last entry of the range.
    pub(crate) fn last_in(&self, range: impl RangeBounds<K>) -> Option<(&K, &V)> {
        self.map()?.range(range).next_back()
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let inner = self.inner();
        let old = inner.map.insert(key.clone(), value);
        inner.dirty.insert_new(key, old.is_some());
        old
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let inner = self.0.as_mut()?;
        let old = inner.map.remove(key)?;
        match inner.dirty.get(key) {
            None => inner.dirty.insert_new(key.clone(), true),
            Some(false) => drop(inner.dirty.remove(key)),
            Some(true) => {}
        }
        Some(old)
    }

    /// Puts in what is stored already. False if the key was taken.
    pub(crate) fn load(&mut self, key: K, value: V) -> bool {
        self.inner().map.insert(key, value).is_none()
    }

    /// Keys that were there at the last drain.
    pub(crate) fn stored_keys(&self) -> Vec<K> {
        let Some(inner) = &self.0 else {
            return Vec::new();
        };
        let clean = inner
            .map
            .iter()
            .filter(|(key, _)| inner.dirty.get(*key).is_none())
            .map(|(key, _)| key.clone());
        let changed = inner
            .dirty
            .iter()
            .filter(|(_, stored)| **stored)
            .map(|(key, _)| key.clone());
        clean.chain(changed).collect()
    }

    /// Calls `each` with every changed key and its present value, and forgets the changes.
    pub(crate) fn drain_dirty(&mut self, mut each: impl FnMut(&K, Option<&V>)) {
        let Some(inner) = &mut self.0 else {
            return;
        };
        for (key, _) in core::mem::take(&mut inner.dirty).iter() {
            each(key, inner.map.get(key));
        }
        if inner.map.len() == 0 {
            self.0 = None;
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
