//! A consumer's session.

use alloc::collections::BTreeSet;

use crate::id::{Offset, SessionId};
use crate::row::SessionRow;
use crate::view::SessionView;

/// The stored part, and what is derived from the queue's leases.
pub(crate) struct Session {
    pub(crate) row: SessionRow,
    /// Messages that it holds.
    pub(crate) held: u64,
    /// Where its leases begin.
    pub(crate) leases: BTreeSet<Offset>,
}

impl Session {
    pub(crate) fn new(row: SessionRow) -> Self {
        Self {
            row,
            held: 0,
            leases: BTreeSet::new(),
        }
    }

    pub(crate) fn connected(&self) -> bool {
        self.row.grace_until.is_none()
    }

    /// How many more messages it may take now.
    pub(crate) fn room(&self) -> u64 {
        if self.connected() {
            u64::from(self.row.prefetch).saturating_sub(self.held)
        } else {
            0
        }
    }

    pub(crate) fn view(&self, session: SessionId) -> SessionView {
        SessionView {
            session,
            queue: self.row.queue,
            owner: self.row.owner,
            connected: self.connected(),
            prefetch: self.row.prefetch,
            held: self.held,
        }
    }
}
