//! A node that restarts goes by the members that its disk told of, never by older ones: not after a
//! change, nor after a snapshot in which the change is.

use std::collections::BTreeMap;

use super::Violation;

/// Which members the disks keep.
#[derive(Default)]
pub struct Memberships {
    /// By node: term and index of the entry.
    kept: BTreeMap<u64, (u64, u64)>,
}

impl Memberships {
    /// A node's life ended, with the members of this entry on its disk; none: which ones are on its
    /// disk is not known.
    pub fn kept(&mut self, node: u64, entry: Option<(u64, u64)>) {
        match entry {
            Some(entry) => self.kept.insert(node, entry),
            None => self.kept.remove(&node),
        };
    }

    /// Whether it is known which members a node's disk keeps.
    #[must_use]
    pub fn are_kept(&self, node: u64) -> bool {
        self.kept.contains_key(&node)
    }

    /// A node started, has heard of nobody yet, and goes by the members of this entry.
    ///
    /// # Errors
    /// Its disk had newer ones, or other ones.
    pub fn found(&self, node: u64, entry: Option<(u64, u64)>) -> Result<(), Violation> {
        let Some(kept) = self.kept.get(&node) else {
            return Ok(());
        };
        let is_newer = entry.is_some_and(|(term, index)| term >= kept.0 && index > kept.1);
        if entry == Some(*kept) || is_newer {
            return Ok(());
        }
        Err(format!(
            "n{node} restarted with the members of {entry:?} (term, index), though those of {kept:?} were on its disk"
        ))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn members_that_are_forgotten_are_told() {
        let mut memberships = Memberships::default();
        memberships.found(1, None).unwrap();
        memberships.kept(1, Some((3, 40)));
        memberships.found(1, Some((3, 40))).unwrap();
        memberships.found(1, Some((3, 41))).unwrap();
        memberships.found(2, None).unwrap();
        assert!(memberships.found(1, Some((3, 39))).is_err());
        assert!(memberships.found(1, Some((2, 40))).is_err());
        assert!(memberships.found(1, None).is_err());
        memberships.kept(1, None);
        memberships.found(1, None).unwrap();
    }
}
