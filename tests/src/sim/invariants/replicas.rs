//! Replicas agree: one entry and one digest per index, one leader per term, and no node applies an
//! entry twice or leaves one out.

use std::collections::BTreeMap;

use super::Violation;

/// What the nodes applied, and who led.
#[derive(Default)]
pub struct Replicas {
    /// Term and digest by index.
    entries: BTreeMap<u64, (u64, u64)>,
    highest: Option<u64>,
    leaders: BTreeMap<u64, u64>,
}

/// Entries that are remembered for comparison; hardly a node is further behind.
const REMEMBERED_MAX: usize = 200_000;

impl Replicas {
    /// A node applied an entry. Whether it is the first to do so.
    ///
    /// # Errors
    /// Another node applied another one.
    pub fn applied(
        &mut self,
        node: u64,
        index: u64,
        term: u64,
        digest: u64,
    ) -> Result<bool, Violation> {
        let is_first = self.highest.is_none_or(|highest| index > highest);
        let known = if is_first {
            self.highest = Some(index);
            Some(*self.entries.entry(index).or_insert((term, digest)))
        } else {
            self.entries.get(&index).copied()
        };
        let Some(first) = known else {
            return Ok(false);
        };
        if self.entries.len() > REMEMBERED_MAX {
            self.entries.pop_first();
        }
        if first != (term, digest) {
            let (first_term, first_digest) = first;
            return Err(format!(
                "entry {index} on n{node} is of term {term} with digest {digest:016x}, elsewhere of term {first_term} with \
                 digest {first_digest:016x}"
            ));
        }
        Ok(is_first)
    }

    /// A node leads a term.
    ///
    /// # Errors
    /// Another one did.
    pub fn leads(&mut self, node: u64, term: u64) -> Result<(), Violation> {
        match *self.leaders.entry(term).or_insert(node) {
            first if first == node => Ok(()),
            first => Err(format!("n{first} and n{node} both lead term {term}")),
        }
    }

    /// Terms that had a leader.
    #[must_use]
    pub fn terms(&self) -> u64 {
        self.leaders.len() as u64
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn two_digests_of_one_entry_are_told() {
        let mut replicas = Replicas::default();
        assert_eq!(replicas.applied(1, 5, 2, 77), Ok(true));
        assert_eq!(replicas.applied(2, 5, 2, 77), Ok(false));
        assert!(replicas.applied(3, 5, 2, 78).is_err());
        assert!(replicas.applied(3, 5, 3, 77).is_err());
    }

    #[test]
    fn two_leaders_of_one_term_are_told() {
        let mut replicas = Replicas::default();
        replicas.leads(1, 4).unwrap();
        replicas.leads(1, 4).unwrap();
        replicas.leads(2, 5).unwrap();
        assert!(replicas.leads(2, 4).is_err());
    }
}
