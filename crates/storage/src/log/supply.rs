//! Where the next segment comes from: made ahead by a thread of its own, or, in a simulator, when it is needed.

use std::collections::VecDeque;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use super::segment::{SegmentFile, SegmentMaker};
use crate::disk::is_full;

/// A full disk is tried again so often, and who waits for a segment looks so often whether to give up.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Where the next segment comes from.
pub(super) enum Supply {
    /// Made when it is needed: for the simulator.
    Inline {
        ready: VecDeque<Arc<SegmentFile>>,
        maker: SegmentMaker,
    },
    /// Made ahead by a thread.
    Background(Arc<Shelf>),
    /// Only while one becomes the other.
    Moving,
}

/// One segment ahead, and who waits for it.
pub(super) struct Shelf {
    state: Mutex<ShelfState>,
    changed: Condvar,
}

struct ShelfState {
    ready: VecDeque<Arc<SegmentFile>>,
    failure: Option<io::Error>,
    /// The disk has no room for the next one; it is tried again and again.
    full: bool,
    stopped: bool,
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, ShelfState> {
        self.state
            .lock()
            .expect("nothing panics while it holds the shelf")
    }

    fn wait<'a>(&self, state: MutexGuard<'a, ShelfState>) -> MutexGuard<'a, ShelfState> {
        self.changed
            .wait(state)
            .expect("nothing panics while it holds the shelf")
    }

    fn wait_a_while<'a>(&self, state: MutexGuard<'a, ShelfState>) -> MutexGuard<'a, ShelfState> {
        let waited = self.changed.wait_timeout(state, AGAIN_AFTER);
        waited.expect("nothing panics while it holds the shelf").0
    }

    fn keep_one_ready(&self, mut maker: SegmentMaker) {
        loop {
            let mut state = self.lock();
            while !state.ready.is_empty() && !state.stopped {
                state = self.wait(state);
            }
            if state.stopped {
                return;
            }
            drop(state);
            // A panic must not leave the writer waiting for ever.
            let made = panic::catch_unwind(AssertUnwindSafe(|| maker.make()))
                .unwrap_or_else(|_| Err(io::Error::other("the log's preparer panicked")));
            let mut state = self.lock();
            // Nothing was promised on this segment: a full disk is no failure yet, and may have room again.
            if made.as_ref().is_err_and(is_full) {
                state.full = true;
                drop(self.wait_a_while(state));
                continue;
            }
            state.full = false;
            let failed = made.is_err();
            match made {
                Ok(segment) => state.ready.push_back(segment),
                Err(error) => state.failure = Some(error),
            }
            drop(state);
            self.changed.notify_all();
            if failed {
                return;
            }
        }
    }

    fn take(&self, gives_up: &dyn Fn() -> bool) -> io::Result<Arc<SegmentFile>> {
        let mut state = self.lock();
        loop {
            if let Some(segment) = state.ready.pop_front() {
                drop(state);
                self.changed.notify_all();
                return Ok(segment);
            }
            if let Some(error) = state.failure.take() {
                return Err(error);
            }
            if state.full && gives_up() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            state = self.wait_a_while(state);
        }
    }
}

impl Supply {
    pub(super) fn start_background(&mut self) -> io::Result<thread::JoinHandle<()>> {
        let Self::Inline { ready, mut maker } = std::mem::replace(self, Self::Moving) else {
            return Err(io::Error::other("the log's writer runs already"));
        };
        maker.leave_room();
        let state = ShelfState {
            ready,
            failure: None,
            full: false,
            stopped: false,
        };
        let shelf = Arc::new(Shelf {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        *self = Self::Background(shelf.clone());
        thread::Builder::new()
            .name("log-preparer".to_owned())
            .spawn(move || shelf.keep_one_ready(maker))
    }

    /// The next segment. Waits while a full disk has no room for it, unless `gives_up`.
    pub(super) fn take(&mut self, gives_up: &dyn Fn() -> bool) -> io::Result<Arc<SegmentFile>> {
        match self {
            Self::Inline { ready, maker } => match ready.pop_front() {
                Some(segment) => Ok(segment),
                None => maker.make(),
            },
            Self::Background(shelf) => shelf.take(gives_up),
            Self::Moving => Err(io::Error::other("no supply of segments")),
        }
    }

    pub(super) fn stop(&self) {
        if let Self::Background(shelf) = self {
            shelf.lock().stopped = true;
            shelf.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::segment::Spares;
    use super::*;
    use crate::disk::Disk;
    use crate::disk::sim::SimDisk;
    use crate::identity::Identity;

    const SEGMENT_BYTES: u64 = 64 << 10;

    #[test]
    fn a_segment_is_not_begun_where_it_would_take_the_last_room() {
        let disk = SimDisk::new(1);
        let owner = Identity {
            cluster_id: 7,
            node_id: 1,
        };
        let spares = Spares::new(Vec::new(), 1);
        let shared = Arc::new(disk.clone());
        let mut maker = SegmentMaker::new(shared, owner, SEGMENT_BYTES, 1, spares);
        maker.leave_room();
        disk.set_capacity(Some(2 * SEGMENT_BYTES - 1));
        assert!(maker.make().is_err_and(|error| is_full(&error)));
        assert_eq!(disk.ops(), 0, "not a byte was tried");
        disk.set_capacity(Some(2 * SEGMENT_BYTES));
        assert!(maker.make().is_ok());
        assert_eq!(disk.free_bytes().unwrap(), Some(SEGMENT_BYTES));
    }
}
