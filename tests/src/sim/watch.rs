//! A watch channel that wakes its receivers in the order in which they began to wait. Tokio's wakes
//! in random order, which a seed does not reach.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard};
use std::task::{Poll, Waker};

use openraft_rt::watch::{self, RecvError, SendError, Watch};
use openraft_rt::{OptionalSend, OptionalSync};

/// The channel's kind.
pub(crate) struct SimWatch;

struct Channel<T> {
    value: RwLock<T>,
    flow: Mutex<Flow>,
}

#[derive(Default)]
struct Flow {
    version: u64,
    senders: usize,
    receivers: usize,
    waiting: BTreeMap<u64, Waker>,
    waits: u64,
}

impl<T> Channel<T> {
    fn flow(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().expect("no panic under this lock")
    }

    fn read(&self) -> RwLockReadGuard<'_, T> {
        self.value.read().expect("no panic under this lock")
    }

    fn wake(&self) {
        let waiting = std::mem::take(&mut self.flow().waiting);
        waiting.into_values().for_each(Waker::wake);
    }
}

/// The sending end.
pub(crate) struct SimSender<T>(Arc<Channel<T>>);

/// The receiving end, and what it has seen.
pub(crate) struct SimReceiver<T> {
    channel: Arc<Channel<T>>,
    seen: u64,
}

/// A look at the value.
pub(crate) struct SimRef<'a, T>(RwLockReadGuard<'a, T>);

impl<T> Deref for SimRef<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Clone for SimSender<T> {
    fn clone(&self) -> Self {
        self.0.flow().senders += 1;
        Self(self.0.clone())
    }
}

impl<T> Drop for SimSender<T> {
    fn drop(&mut self) {
        let last = {
            let mut flow = self.0.flow();
            flow.senders -= 1;
            flow.senders == 0
        };
        if last {
            self.0.wake();
        }
    }
}

impl<T> Clone for SimReceiver<T> {
    fn clone(&self) -> Self {
        self.channel.flow().receivers += 1;
        Self {
            channel: self.channel.clone(),
            seen: self.seen,
        }
    }
}

impl<T> Drop for SimReceiver<T> {
    fn drop(&mut self) {
        self.channel.flow().receivers -= 1;
    }
}

impl Watch for SimWatch {
    type Sender<T: OptionalSend + OptionalSync> = SimSender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = SimReceiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = SimRef<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (SimSender<T>, SimReceiver<T>) {
        let flow = Flow {
            senders: 1,
            receivers: 1,
            ..Flow::default()
        };
        let channel = Arc::new(Channel {
            value: RwLock::new(init),
            flow: Mutex::new(flow),
        });
        (SimSender(channel.clone()), SimReceiver { channel, seen: 0 })
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchSender<SimWatch, T> for SimSender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.flow().receivers == 0 {
            return Err(SendError(value));
        }
        self.send_if_modified(|current| {
            *current = value;
            true
        });
        Ok(())
    }

    fn send_if_modified<F: FnOnce(&mut T) -> bool>(&self, modify: F) -> bool {
        let modified = modify(&mut self.0.value.write().expect("no panic under this lock"));
        if modified {
            self.0.flow().version += 1;
            self.0.wake();
        }
        modified
    }

    fn borrow_watched(&self) -> SimRef<'_, T> {
        SimRef(self.0.read())
    }

    fn subscribe(&self) -> SimReceiver<T> {
        let mut flow = self.0.flow();
        flow.receivers += 1;
        SimReceiver {
            channel: self.0.clone(),
            seen: flow.version,
        }
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchReceiver<SimWatch, T> for SimReceiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        let mut place = Place {
            channel: &self.channel,
            at: None,
        };
        let version = poll_fn(|context| {
            let mut flow = place.channel.flow();
            if flow.version != self.seen {
                return Poll::Ready(Ok(flow.version));
            }
            if flow.senders == 0 {
                return Poll::Ready(Err(RecvError(())));
            }
            let at = place
                .at
                .filter(|at| flow.waiting.contains_key(at))
                .unwrap_or_else(|| {
                    flow.waits += 1;
                    flow.waits
                });
            flow.waiting.insert(at, context.waker().clone());
            place.at = Some(at);
            Poll::Pending
        })
        .await?;
        drop(place);
        self.seen = version;
        Ok(())
    }

    fn borrow_watched(&self) -> SimRef<'_, T> {
        SimRef(self.channel.read())
    }

    fn borrow_and_update(&mut self) -> SimRef<'_, T> {
        self.seen = self.channel.flow().version;
        SimRef(self.channel.read())
    }
}

/// A place in the row of those who wait; left when the wait ends, however it does.
struct Place<'a, T> {
    channel: &'a Channel<T>,
    at: Option<u64>,
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        if let Some(at) = self.at {
            self.channel.flow().waiting.remove(&at);
        }
    }
}
