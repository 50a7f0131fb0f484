//! Connections of a listener, counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a listener counts.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
}

/// One that is open; counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Connection(Arc<Connections>);

impl Connections {
    /// One was accepted.
    pub(crate) fn accept(self: &Arc<Self>) -> Connection {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Connection(Arc::clone(self))
    }

    /// One was closed at once.
    pub(crate) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Open now, accepted so far, refused so far.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.open), read(&self.accepted), read(&self.refused))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
