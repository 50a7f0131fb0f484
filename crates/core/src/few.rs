//! An ordered map that mostly has one entry, which then takes no node of a tree: a queue has several such
//! maps, and there may be many queues.

use alloc::collections::{BTreeMap, btree_map};
use core::borrow::Borrow;
use core::ops::RangeBounds;
use core::{iter, option};

/// See the top of the file. One that had two entries stays a tree.
#[derive(Default)]
pub(crate) enum Few<K, V> {
    #[default]
    None,
    One(K, V),
    Many(BTreeMap<K, V>),
}

/// One entry or those of a tree.
type Entries<One, Tree> = iter::Chain<option::IntoIter<One>, iter::Flatten<option::IntoIter<Tree>>>;

fn entries<One, Tree: IntoIterator<Item = One>>(
    one: Option<One>,
    tree: Option<Tree>,
) -> Entries<One, Tree> {
    one.into_iter().chain(tree.into_iter().flatten())
}

impl<K: Ord, V> Few<K, V> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(..) => 1,
            Self::Many(tree) => tree.len(),
        }
    }

    pub(crate) fn iter(&self) -> Entries<(&K, &V), &BTreeMap<K, V>> {
        match self {
            Self::None => entries(None, None),
            Self::One(key, value) => entries(Some((key, value)), None),
            Self::Many(tree) => entries(None, Some(tree)),
        }
    }

    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        match self {
            Self::None => None,
            Self::One(own, value) => (Borrow::<Q>::borrow(own) == key).then_some(value),
            Self::Many(tree) => tree.get(key),
        }
    }

    pub(crate) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        match self {
            Self::None => None,
            Self::One(own, value) => (Borrow::<Q>::borrow(own) == key).then_some(value),
            Self::Many(tree) => tree.get_mut(key),
        }
    }

    pub(crate) fn first(&self) -> Option<(&K, &V)> {
        match self {
            Self::None => None,
            Self::One(key, value) => Some((key, value)),
            Self::Many(tree) => tree.first_key_value(),
        }
    }

    pub(crate) fn range<R: RangeBounds<K>>(
        &self,
        range: R,
    ) -> Entries<(&K, &V), btree_map::Range<'_, K, V>> {
        match self {
            Self::None => entries(None, None),
            Self::One(key, value) => entries(range.contains(key).then_some((key, value)), None),
            Self::Many(tree) => entries(None, Some(tree.range(range))),
        }
    }

    pub(crate) fn range_mut<R: RangeBounds<K>>(
        &mut self,
        range: R,
    ) -> Entries<(&K, &mut V), btree_map::RangeMut<'_, K, V>> {
        match self {
            Self::None => entries(None, None),
            Self::One(key, value) => {
                let key = &*key;
                entries(range.contains(key).then_some((key, value)), None)
            }
            Self::Many(tree) => entries(None, Some(tree.range_mut(range))),
        }
    }

    /// Tells what was there under this key.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self {
            Self::None => {
                *self = Self::One(key, value);
                None
            }
            Self::One(own, old) if *own == key => Some(core::mem::replace(old, value)),
            Self::One(..) => {
                let mut tree = BTreeMap::new();
                if let Self::One(own, old) = core::mem::take(self) {
                    tree.insert(own, old);
                }
                tree.insert(key, value);
                *self = Self::Many(tree);
                None
            }
            Self::Many(tree) => tree.insert(key, value),
        }
    }

    /// Gives the key this value if it has none.
    pub(crate) fn insert_new(&mut self, key: K, value: V) {
        match self {
            Self::One(own, _) if *own == key => {}
            Self::Many(tree) => {
                tree.entry(key).or_insert(value);
            }
            _ => drop(self.insert(key, value)),
        }
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        match self {
            Self::None => None,
            Self::One(own, _) if own != key => None,
            Self::One(..) => match core::mem::take(self) {
                Self::One(_, value) => Some(value),
                _ => None,
            },
            Self::Many(tree) => tree.remove(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// Against a tree, whatever comes and goes.
    #[test]
    fn it_is_an_ordered_map() {
        let (mut few, mut tree) = (Few::default(), BTreeMap::new());
        let mut dice = 7_u64;
        let mut roll = |below: u64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (dice >> 33) % below
        };
        let mut were_one = 0;
        for step in 0..20_000_u64 {
            let key = roll(3);
            match roll(7) {
                0 | 1 => assert_eq!(few.insert(key, step), tree.insert(key, step)),
                2 => {
                    few.insert_new(key, step);
                    tree.entry(key).or_insert(step);
                }
                _ => assert_eq!(few.remove(&key), tree.remove(&key)),
            }
            if tree.is_empty() {
                few = Few::default();
            }
            were_one += u32::from(matches!(few, Few::One(..)));
            assert_eq!(few.len(), tree.len());
            assert!(few.iter().eq(&tree));
            assert_eq!(few.first(), tree.first_key_value());
            assert_eq!(few.get(&key), tree.get(&key));
            assert_eq!(few.get_mut(&key), tree.get_mut(&key));
            assert!(few.range(key..).rev().eq(tree.range(key..).rev()));
            let (own, its) = (few.range_mut(..=key), tree.range_mut(..=key));
            assert_eq!(own.collect::<Vec<_>>(), its.collect::<Vec<_>>());
        }
        assert!(were_one > 1_000);
    }
}
