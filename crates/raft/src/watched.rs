//! A value that many tasks watch, woken in the order in which they began to wait. Tokio's `watch`
//! wakes in random order, which the seed of a simulation does not reach; otherwise it is the same.

use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::Notify;

/// Who set the value is gone: it changes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the watched value changes no more")]
pub struct WatchEnded;

struct Shared<T> {
    value: RwLock<Versioned<T>>,
    changed: Notify,
}

struct Versioned<T> {
    value: T,
    version: u64,
    ended: bool,
}

impl<T> Shared<T> {
    fn read(&self) -> RwLockReadGuard<'_, Versioned<T>> {
        self.value.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The value, and the right to set it.
pub struct Watched<T>(Arc<Shared<T>>);

/// Sees the value and its changes.
pub struct Watcher<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// A look at the value; whoever sets it waits meanwhile.
pub struct Look<'a, T>(RwLockReadGuard<'a, Versioned<T>>);

impl<T> Deref for Look<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T> Watched<T> {
    /// Begins with this value.
    pub fn new(value: T) -> Self {
        let value = Versioned {
            value,
            version: 0,
            ended: false,
        };
        Self(Arc::new(Shared {
            value: RwLock::new(value),
            changed: Notify::new(),
        }))
    }

    /// The value.
    #[must_use]
    pub fn borrow(&self) -> Look<'_, T> {
        Look(self.0.read())
    }

    /// A watcher that has seen the present value.
    #[must_use]
    pub fn subscribe(&self) -> Watcher<T> {
        let seen = self.0.read().version;
        Watcher {
            shared: Arc::clone(&self.0),
            seen,
        }
    }

    /// Changes the value where `modify` says that it did.
    pub fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        let modified = {
            let mut held = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
            let modified = modify(&mut held.value);
            held.version += u64::from(modified);
            modified
        };
        if modified {
            self.0.changed.notify_waiters();
        }
        modified
    }

    /// Changes the value.
    pub fn send_modify(&self, modify: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            modify(value);
            true
        });
    }

    /// Sets the value.
    pub fn send_replace(&self, value: T) {
        self.send_modify(|held| *held = value);
    }
}

impl<T> Drop for Watched<T> {
    fn drop(&mut self) {
        let mut held = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
        held.ended = true;
        drop(held);
        self.0.changed.notify_waiters();
    }
}

impl<T> Clone for Watcher<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            seen: self.seen,
        }
    }
}

impl<T> Watcher<T> {
    /// The value.
    #[must_use]
    pub fn borrow(&self) -> Look<'_, T> {
        Look(self.shared.read())
    }

    /// The value, which is seen from now on.
    pub fn borrow_and_update(&mut self) -> Look<'_, T> {
        let look = self.shared.read();
        self.seen = look.version;
        Look(look)
    }

    /// Takes the present value for seen.
    pub fn mark_unchanged(&mut self) {
        self.seen = self.shared.read().version;
    }

    /// Resolves when the value is one that was not seen, which it then is. Cancel safe.
    ///
    /// # Errors
    /// It changes no more.
    pub async fn changed(&mut self) -> Result<(), WatchEnded> {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            // In line before the look, so that nothing is missed in between.
            changed.as_mut().enable();
            {
                let held = self.shared.read();
                if held.version != self.seen {
                    self.seen = held.version;
                    return Ok(());
                }
                if held.ended {
                    return Err(WatchEnded);
                }
            }
            changed.await;
        }
    }

    /// Resolves when the value is as wanted.
    ///
    /// # Errors
    /// It is not, and changes no more.
    pub async fn wait_for(
        &mut self,
        mut wanted: impl FnMut(&T) -> bool,
    ) -> Result<Look<'_, T>, WatchEnded> {
        loop {
            if wanted(&self.borrow_and_update()) {
                return Ok(self.borrow());
            }
            self.changed().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn watchers_are_woken_in_the_order_of_their_waits() {
        let value = Watched::new(0);
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waits = Vec::new();
        for number in 0..32 {
            let (mut watcher, order) = (value.subscribe(), order.clone());
            waits.push(tokio::spawn(async move {
                watcher.changed().await.unwrap();
                order.lock().unwrap().push(number);
            }));
        }
        tokio::task::yield_now().await;
        value.send_replace(1);
        for wait in waits {
            wait.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), (0..32).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_change_before_the_wait_is_not_missed_and_the_end_is_told() {
        let value = Watched::new(1);
        let mut watcher = value.subscribe();
        value.send_replace(2);
        watcher.changed().await.unwrap();
        assert_eq!(*watcher.borrow(), 2);
        value.send_replace(3);
        assert_eq!(*watcher.wait_for(|value| *value == 3).await.unwrap(), 3);
        drop(value);
        assert_eq!(watcher.changed().await, Err(WatchEnded));
    }
}
