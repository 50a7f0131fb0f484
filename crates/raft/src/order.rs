//! The order of proposals while a leader has no lease: those that were refused for want of one go
//! again in the order of their calls, and what is proposed meanwhile waits behind them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

/// The row of proposals that wait for a lease.
#[derive(Default)]
pub(crate) struct Row {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tickets: u64,
    waiting: BTreeSet<u64>,
}

impl Row {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    /// Takes a place: at the end of the row if there is one, else none is needed yet.
    pub(crate) fn join(self: &Arc<Self>) -> Place {
        let mut state = self.lock();
        state.tickets += 1;
        let ticket = state.tickets;
        if !state.waiting.is_empty() {
            state.waiting.insert(ticket);
        }
        Place {
            row: self.clone(),
            ticket,
        }
    }
}

/// A proposal's place. Left when it is dropped.
pub(crate) struct Place {
    row: Arc<Row>,
    ticket: u64,
}

impl Place {
    /// Whether nobody who came before waits.
    pub(crate) fn is_first(&self) -> bool {
        let state = self.row.lock();
        state
            .waiting
            .first()
            .is_none_or(|first| *first >= self.ticket)
    }

    /// It was refused: it waits, at the place where it came.
    pub(crate) fn wait(&self) {
        self.row.lock().waiting.insert(self.ticket);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.row.lock().waiting.remove(&self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_came_first_goes_first_and_newcomers_wait() {
        let row = Arc::new(Row::default());
        let (first, second) = (row.join(), row.join());
        assert!(
            first.is_first() && second.is_first(),
            "without a row nobody waits"
        );
        second.wait();
        assert!(second.is_first());
        first.wait();
        let third = row.join();
        assert!(first.is_first() && !second.is_first() && !third.is_first());
        drop(first);
        assert!(second.is_first() && !third.is_first());
        drop(second);
        assert!(third.is_first());
        drop(third);
        assert!(row.join().is_first());
    }
}
