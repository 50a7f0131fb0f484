//! Commands that wait for their outcome, by the number that they carry.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use crate::hub::Answer;

/// See the module. Every way out answers, or finds that nobody waits any more.
#[derive(Default)]
pub(crate) struct Waiters {
    by_correlation: BTreeMap<u64, Waiter>,
    /// Term of the last applied entry.
    applied_term: u64,
}

struct Waiter {
    stage: Stage,
    answer: oneshot::Sender<Answer>,
}

/// Where a waiting command is.
enum Stage {
    /// In the route's queue: surely not proposed.
    Queued,
    /// Handed to the leader of this term.
    Handed { term: u64 },
}

impl Waiters {
    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.by_correlation.len()
    }

    /// One more, in the route's queue.
    pub(crate) fn wait(&mut self, correlation: u64) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        let stage = Stage::Queued;
        let waiter = Waiter { stage, answer };
        self.by_correlation.insert(correlation, waiter);
        receiver
    }

    /// Nobody waits any more. Tells whether the command was still in the route's queue.
    pub(crate) fn give_up(&mut self, correlation: u64) -> bool {
        let waiter = self.by_correlation.remove(&correlation);
        waiter.is_some_and(|waiter| matches!(waiter.stage, Stage::Queued))
    }

    /// The command is about to be handed to the leader of `term`; `false`: nobody waits, or that term
    /// is over here and it was answered so.
    pub(crate) fn hand_over(&mut self, correlation: u64, term: u64) -> bool {
        if self.applied_term > term {
            self.answer(correlation, Answer::Lost);
            return false;
        }
        let waiter = self.by_correlation.get_mut(&correlation);
        waiter
            .map(|waiter| waiter.stage = Stage::Handed { term })
            .is_some()
    }

    /// Answers one, if it still waits.
    pub(crate) fn answer(&mut self, correlation: u64, answer: Answer) {
        if let Some(waiter) = self.by_correlation.remove(&correlation) {
            // An error means that the call ended meanwhile: nobody to tell.
            let _ = waiter.answer.send(answer);
        }
    }

    /// An entry of this term was applied. What was handed to a leader of an older one and did not come
    /// before never will: terms only grow along the log.
    pub(crate) fn applied(&mut self, term: u64) {
        if term > self.applied_term {
            self.applied_term = term;
            self.end(|handed| handed < term, || Answer::Lost);
        }
    }

    /// A snapshot that ends in this term took the place of entries. What was handed to a leader of it or
    /// of an older one may be among them. What was handed to a later one is not, and what waits in the
    /// route goes on.
    pub(crate) fn replaced(&mut self, term: u64) {
        self.applied_term = self.applied_term.max(term);
        self.end(|handed| handed <= term, || Answer::Unknown);
    }

    /// Answers those that were handed to a leader of such a term.
    fn end(&mut self, is_over: impl Fn(u64) -> bool, answer: impl Fn() -> Answer) {
        let over =
            |waiter: &Waiter| matches!(waiter.stage, Stage::Handed { term } if is_over(term));
        let waiters = self.by_correlation.iter();
        let ended: Vec<u64> = waiters
            .filter(|(_, waiter)| over(waiter))
            .map(|(correlation, _)| *correlation)
            .collect();
        for correlation in ended {
            self.answer(correlation, answer());
        }
    }
}
