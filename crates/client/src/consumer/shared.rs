//! What a consumer's handle, its deliveries and its driver share.

use std::sync::{Mutex, MutexGuard};

use futures::task::AtomicWaker;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::ledger::{Asker, Key, Ledger, Wish};
use super::tally::WorkSummary;
use crate::delivery::Receipt;
use crate::error::Error;
use crate::receive::Settlement;

#[derive(Debug, Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Wakes whoever waits for a delivery.
    pub(super) delivered: AtomicWaker,
    /// Wakes the driver.
    pub(super) wished: Notify,
    /// Wakes [`Shared::watch_leases`].
    watched: Notify,
    /// Cancelled after `State::ended` was set.
    ended: CancellationToken,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) ledger: Ledger,
    pub(super) prefetch: Option<u32>,
    /// Nothing more is taken; what was taken is still worked on.
    pub(super) stopping: bool,
    pub(super) closing: bool,
    pub(super) ended: bool,
    pub(super) error: Option<Error>,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds this lock")
    }

    /// Takes nothing more, and gives back what nobody took.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        state.ledger.release_buffer();
        drop(state);
        self.wished.notify_one();
    }

    pub(crate) fn end(&self, error: Option<Error>) {
        let mut state = self.lock();
        state.ended = true;
        state.error = error;
        for wish in state.ledger.take_all() {
            state.ledger.answer(wish, Err(Error::closed("consumer")));
        }
        state.ledger.leases().lose_all();
        drop(state);
        self.delivered.wake();
        self.ended.cancel();
    }

    /// Resolves when the consumer has ended: nothing more is delivered or settled.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// After the end the asker is dropped with the wish, and hears of it so.
    pub(super) fn wish(&self, wish: Wish) {
        let mut state = self.lock();
        if !state.ended {
            state.ledger.wish(wish);
        }
        drop(state);
        self.wished.notify_one();
    }

    /// Nobody works on this delivery any more.
    pub(super) fn forget(&self, key: Key, receipt: &Receipt) {
        self.lock().ledger.forget(key, receipt);
    }

    /// Settles what a handler worked on; `false` where its lease was lost, and there is nothing to settle.
    pub(super) fn settle_worked(
        &self,
        key: Key,
        receipt: &Receipt,
        settlement: Settlement,
        panicked: bool,
    ) -> bool {
        // Made before the lock is taken: many handlers end at a time.
        let wish = Wish::new(key, receipt.clone(), settlement, Asker::Worker);
        let mut state = self.lock();
        let is_held = state.ledger.leases().is_held(receipt);
        let summary = state.ledger.summary();
        summary.panicked += u64::from(panicked);
        summary.lost += u64::from(!is_held);
        if is_held {
            state.ledger.wish(wish);
        }
        drop(state);
        if is_held {
            self.wished.notify_one();
        }
        is_held
    }

    pub(crate) fn summary(&self) -> WorkSummary {
        *self.lock().ledger.summary()
    }

    /// A token that is cancelled when the lease is lost.
    pub(crate) fn lease_lost(&self, receipt: &Receipt) -> CancellationToken {
        let (lost, earlier) = self.lock().ledger.leases().watch(receipt);
        if earlier {
            self.watched.notify_one();
        }
        lost
    }

    /// Tells of leases that end while there is no node to say so. Never returns.
    pub(super) async fn watch_leases(&self) {
        loop {
            let next = self.lock().ledger.leases().overdue(Instant::now());
            let due = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.watched.notified() => {}
            }
        }
    }
}
