//! Holds: whoever reads a checkpoint's rows and bodies over a longer time keeps what it refers to.
//!
//! While a hold lives, the log is not purged beyond its checkpoint, and no body is recycled or
//! compacted away. So that one slow reader does not fill the disk, a hold is broken when entries of
//! too many bytes were applied since it was taken; its reader is told at its next step.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// All holds of a replica.
#[derive(Default)]
pub(crate) struct Holds {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    made: u64,
    held: BTreeMap<u64, Held>,
}

struct Held {
    index: Option<u64>,
    applied_bytes: u64,
    broken: Arc<AtomicBool>,
}

/// Keeps what a checkpoint refers to, until it is dropped or broken.
pub(crate) struct Hold {
    holds: Arc<Holds>,
    number: u64,
    broken: Arc<AtomicBool>,
}

impl Holds {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no panic under this lock")
    }

    /// Holds the checkpoint that ends at entry `index`, taken when entries of so many bytes had been
    /// applied.
    pub(crate) fn take(self: &Arc<Self>, index: Option<u64>, applied_bytes: u64) -> Hold {
        let broken = Arc::new(AtomicBool::new(false));
        let mut table = self.lock();
        table.made += 1;
        let number = table.made;
        let held = Held {
            index,
            applied_bytes,
            broken: broken.clone(),
        };
        table.held.insert(number, held);
        Hold {
            holds: self.clone(),
            number,
            broken,
        }
    }

    /// Whether anything is held: then no body may go.
    pub(crate) fn any(&self) -> bool {
        !self.lock().held.is_empty()
    }

    /// How far the log may be purged; the outer `None`: as far as anybody likes.
    pub(crate) fn purge_upto(&self) -> Option<Option<u64>> {
        self.lock().held.values().map(|held| held.index).min()
    }

    /// Breaks the holds since which entries of more than `bytes_max` were applied.
    pub(crate) fn break_old(&self, applied_bytes: u64, bytes_max: u64) {
        self.lock().held.retain(|_, held| {
            let keep = applied_bytes.saturating_sub(held.applied_bytes) <= bytes_max;
            if !keep {
                held.broken.store(true, Ordering::Release);
                tracing::warn!(
                    index = held.index,
                    "a reader of a snapshot took too long: what it held is let go"
                );
            }
            keep
        });
    }
}

impl Holds {
    /// Breaks all: what they held is replaced.
    pub(crate) fn break_all(&self) {
        for (_, held) in std::mem::take(&mut self.lock().held) {
            held.broken.store(true, Ordering::Release);
        }
    }
}

impl Hold {
    /// Whether it holds nothing any more.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.lock().held.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_hold_limits_the_purge_until_it_is_dropped_or_broken() {
        let holds = Arc::new(Holds::default());
        assert_eq!((holds.any(), holds.purge_upto()), (false, None));
        let old = holds.take(Some(10), 100);
        let new = holds.take(Some(20), 150);
        assert_eq!(holds.purge_upto(), Some(Some(10)));
        holds.break_old(210, 100);
        assert_eq!((old.is_broken(), new.is_broken()), (true, false));
        assert_eq!(holds.purge_upto(), Some(Some(20)));
        holds.break_all();
        assert!(new.is_broken() && !holds.any());
        drop((old, new));
        assert!(!holds.any());
    }
}
