//! What a consumer holds, and which settlements are on their way: pure bookkeeping across streams.
//!
//! The user holds a delivery by a *key*, which never changes. On each stream the same lease has another
//! `delivery_id`; its receipt ties the two. A settlement of a delivery that the current stream knows travels
//! on it; any other goes by its receipt in a call of its own.

use std::collections::{HashMap, HashSet, VecDeque};

use ticketrail_proto::v1::{self, SettleOutcome};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::finished::Finished;
use super::leases::Leases;
use super::ranges::{self, RANGES_MAX};
use super::tally::WorkSummary;
use crate::convert;
use crate::delivery::{Delivery, Receipt};
use crate::error::Result;
use crate::receive::Settlement;

pub(super) type Key = u64;

/// One settlement that is not answered yet.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) key: Key,
    pub(super) receipt: Receipt,
    pub(super) settlement: Settlement,
    pub(super) asker: Asker,
    pub(super) asked: Instant,
}

/// A call that settles by receipt what the current stream does not know.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) number: u64,
    pub(super) items: Vec<(Receipt, Settlement)>,
}

/// Who wants to know what became of a settlement.
#[derive(Debug)]
pub(super) enum Asker {
    /// Whoever waits, and may have stopped waiting.
    Caller(oneshot::Sender<Result<SettleOutcome>>),
    /// A worker, which counts.
    Worker,
    /// Nobody.
    None,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    next_key: Key,
    /// `delivery_id` on the current stream, by key.
    on_stream: HashMap<Key, u64>,
    keys: HashMap<u64, Key>,
    leases: Leases,
    /// Delivered, and not yet taken by the user.
    buffer: VecDeque<(Key, Delivery)>,
    wishes: VecDeque<Wish>,
    sent: VecDeque<Vec<(u64, Wish)>>,
    /// The number of the first frame in `sent`.
    first_frame: u64,
    exceptions: Vec<v1::SettleException>,
    next_call: u64,
    /// What is on its way by receipt, by the number of the call.
    calls: HashMap<u64, Vec<Wish>>,
    finished: Finished,
    summary: WorkSummary,
}

impl Wish {
    pub(super) fn new(key: Key, receipt: Receipt, settlement: Settlement, asker: Asker) -> Self {
        let asked = Instant::now();
        Self {
            key,
            receipt,
            settlement,
            asker,
            asked,
        }
    }
}

impl Ledger {
    /// Takes a batch of deliveries; those that are already held only get their new place. When the first lease of
    /// them ends.
    pub(super) fn deliver(
        &mut self,
        deliveries: Vec<v1::Delivery>,
        now: Instant,
    ) -> Option<Instant> {
        let mut first_end = None;
        for delivery in deliveries {
            let delivery_id = delivery.delivery_id;
            let end = now + convert::from_proto(delivery.lease_remaining).unwrap_or_default();
            first_end = Some(first_end.map_or(end, |first: Instant| first.min(end)));
            let key = match self.leases.renew(&delivery.receipt, end) {
                Some(key) => key,
                None => self.new_lease(delivery, end),
            };
            self.on_stream.insert(key, delivery_id);
            self.keys.insert(delivery_id, key);
        }
        first_end
    }

    /// Buffers a delivery, unless its settlement was confirmed before: a session that moved to a node which is
    /// a little behind sends such leases again. Then the settlement is only repeated.
    fn new_lease(&mut self, delivery: v1::Delivery, end: Instant) -> Key {
        self.next_key += 1;
        let key = self.next_key;
        self.leases.add(delivery.receipt.clone(), key, end);
        match self.finished.of(&delivery.receipt) {
            Some(settlement) => {
                let receipt = Receipt::from_bytes(delivery.receipt);
                self.wish(Wish::new(key, receipt, settlement, Asker::None));
            }
            None => self.buffer.push_back((key, Delivery::new(delivery, end))),
        }
        key
    }

    pub(super) fn take(&mut self) -> Option<(Key, Delivery)> {
        let taken = self.buffer.pop_front()?;
        self.summary.begun += 1;
        Some(taken)
    }

    /// What a worker did with what it took.
    pub(super) fn summary(&mut self) -> &mut WorkSummary {
        &mut self.summary
    }

    pub(super) fn leases(&mut self) -> &mut Leases {
        &mut self.leases
    }

    pub(super) fn wish(&mut self, wish: Wish) {
        self.wishes.push_back(wish);
    }

    /// The user let go of a delivery without settling it: it is not extended any more.
    pub(super) fn forget(&mut self, key: Key, receipt: &Receipt) {
        self.leases.forget(receipt);
        self.leave_stream(key);
    }

    fn leave_stream(&mut self, key: Key) {
        if let Some(delivery_id) = self.on_stream.remove(&key) {
            self.keys.remove(&delivery_id);
        }
    }

    /// Leases ended on the server: what the user has not taken is never shown to him.
    pub(super) fn lost(&mut self, delivery_ids: &[u64]) {
        let lost: HashSet<Key> = delivery_ids
            .iter()
            .filter_map(|id| self.keys.remove(id))
            .collect();
        for key in &lost {
            self.on_stream.remove(key);
        }
        self.leases.lose_keys(&lost);
        self.buffer.retain(|(key, _)| !lost.contains(key));
    }

    /// Everything that the user has not taken goes back, not counted.
    pub(super) fn release_buffer(&mut self) {
        while let Some((key, delivery)) = self.buffer.pop_front() {
            let receipt = delivery.receipt().clone();
            self.wish(Wish::new(key, receipt, Settlement::Release, Asker::Worker));
        }
    }

    /// Extends everything that is held on this stream and not being settled.
    pub(super) fn extend_all(&mut self, lease: std::time::Duration) {
        let settling: HashSet<Key> = self.wishes.iter().map(|wish| wish.key).collect();
        let on_stream = &self.on_stream;
        let held = self
            .leases
            .iter()
            .filter(|(_, key)| on_stream.contains_key(key) && !settling.contains(key));
        let wishes: Vec<_> = held
            .map(|(receipt, key)| {
                let receipt = Receipt::from_bytes(receipt.clone());
                Wish::new(key, receipt, Settlement::Extend(lease), Asker::None)
            })
            .collect();
        self.wishes.extend(wishes);
    }

    /// The ranges of the next frame; empty where there is nothing to send on this stream.
    pub(super) fn next_frame(&mut self) -> Vec<v1::SettleRange> {
        let mut frame = Vec::new();
        let mut kept = VecDeque::new();
        while let Some(wish) = self.wishes.pop_front() {
            match self.on_stream.get(&wish.key) {
                Some(delivery_id) if frame.len() < RANGES_MAX => frame.push((*delivery_id, wish)),
                _ => kept.push_back(wish),
            }
        }
        self.wishes = kept;
        if frame.is_empty() {
            return Vec::new();
        }
        for (delivery_id, wish) in &frame {
            if !matches!(wish.settlement, Settlement::Extend(_)) {
                self.on_stream.remove(&wish.key);
                self.keys.remove(delivery_id);
            }
        }
        let ranges = ranges::merge(
            frame
                .iter()
                .map(|(id, wish)| (*id, wish.settlement))
                .collect(),
        );
        self.sent.push_back(frame);
        ranges
    }

    /// Wishes for deliveries that the current stream does not know: they go by receipt.
    pub(super) fn next_call(&mut self) -> Option<Call> {
        let (stay, go): (VecDeque<_>, VecDeque<_>) = self
            .wishes
            .drain(..)
            .partition(|wish| self.on_stream.contains_key(&wish.key));
        self.wishes = stay;
        if go.is_empty() {
            return None;
        }
        self.next_call += 1;
        let number = self.next_call;
        let items = go
            .iter()
            .map(|wish| (wish.receipt.clone(), wish.settlement))
            .collect();
        self.calls.insert(number, go.into());
        Some(Call { number, items })
    }

    /// What became of a call; its outcomes are in the order of its items.
    pub(super) fn called(&mut self, number: u64, result: Result<Vec<SettleOutcome>>) {
        let wishes = self.calls.remove(&number).unwrap_or_default();
        for (place, wish) in wishes.into_iter().enumerate() {
            let outcome = match &result {
                Ok(outcomes) => Ok(outcomes.get(place).copied().unwrap_or_default()),
                Err(error) => Err(error.clone()),
            };
            self.answer(wish, outcome);
        }
    }

    /// A call reached no node that could do it: its leases are still held, and settled by the next call or, where the
    /// session comes along, on the next stream.
    pub(super) fn call_again(&mut self, number: u64) {
        let wishes = self.calls.remove(&number).unwrap_or_default();
        let later = std::mem::take(&mut self.wishes);
        self.wishes = wishes.into_iter().chain(later).collect();
    }

    /// Everything that is not answered, at the end.
    pub(super) fn take_all(&mut self) -> Vec<Wish> {
        self.stream_broke();
        self.buffer.clear();
        let called = self.calls.drain().flat_map(|(_, wishes)| wishes);
        self.wishes.drain(..).chain(called).collect()
    }

    /// Settlements are on their way on this stream.
    pub(super) fn is_waiting(&self) -> bool {
        !self.sent.is_empty()
    }

    pub(super) fn settled(&mut self, settled: v1::ConsumeSettled) {
        self.exceptions.extend(settled.exceptions);
        while self.first_frame <= settled.through_settlement {
            let Some(frame) = self.sent.pop_front() else {
                break;
            };
            for (delivery_id, wish) in frame {
                let outcome = self.outcome_of(self.first_frame, delivery_id);
                self.answer(wish, Ok(outcome));
            }
            self.first_frame += 1;
        }
        self.exceptions
            .retain(|exception| exception.settlement >= self.first_frame);
    }

    pub(super) fn answer(&mut self, wish: Wish, outcome: Result<SettleOutcome>) {
        let is_over = matches!(
            outcome,
            Ok(SettleOutcome::LeaseLost | SettleOutcome::NotFound)
        );
        match wish.settlement {
            Settlement::Extend(_) if is_over => {
                self.leases.lose(&wish.receipt);
                self.leave_stream(wish.key);
            }
            Settlement::Extend(lease) if outcome.is_ok() => {
                let end = wish.asked + lease;
                self.leases.renew(wish.receipt.as_bytes(), end);
            }
            Settlement::Extend(_) => {}
            settlement => {
                self.forget(wish.key, &wish.receipt);
                if outcome.is_ok() && !is_over {
                    self.finished.add(&wish.receipt, settlement);
                }
            }
        }
        match wish.asker {
            Asker::Caller(reply) => {
                // Whoever asked may not want to know.
                let _ = reply.send(outcome);
            }
            Asker::Worker => self.summary.settled(wish.settlement, &outcome),
            Asker::None => {}
        }
    }

    /// The stream broke: what was sent on it and not answered has to be wished again, first.
    pub(super) fn stream_broke(&mut self) {
        let sent = std::mem::take(&mut self.sent);
        let unanswered = sent.into_iter().flatten().map(|(_, wish)| wish);
        let later = std::mem::take(&mut self.wishes);
        self.wishes = unanswered.chain(later).collect();
        self.exceptions.clear();
        self.on_stream.clear();
        self.keys.clear();
    }

    /// A new stream begins: its settlement frames are counted from 1. If the session did not come along, its
    /// leases are over, and all of them will be delivered again to someone.
    pub(super) fn stream_opened(&mut self, resumed: bool) {
        self.first_frame = 1;
        if !resumed {
            self.buffer.clear();
            self.leases.lose_all();
        }
    }

    fn outcome_of(&self, frame: u64, delivery_id: u64) -> SettleOutcome {
        let named = |exception: &&v1::SettleException| {
            let last = exception.last_delivery_id.max(exception.first_delivery_id);
            exception.settlement == frame
                && (exception.first_delivery_id..=last).contains(&delivery_id)
        };
        self.exceptions
            .iter()
            .find(named)
            .map_or(SettleOutcome::Ok, |one| one.outcome())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn delivery(delivery_id: u64, receipt: &str) -> v1::Delivery {
        v1::Delivery {
            delivery_id,
            receipt: Bytes::copy_from_slice(receipt.as_bytes()),
            ..Default::default()
        }
    }

    fn opened(deliveries: &[(u64, &str)]) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.stream_opened(false);
        give(&mut ledger, deliveries);
        ledger
    }

    fn give(ledger: &mut Ledger, deliveries: &[(u64, &str)]) {
        let deliveries = deliveries
            .iter()
            .map(|(id, receipt)| delivery(*id, receipt))
            .collect();
        ledger.deliver(deliveries, Instant::now());
    }

    fn ack(
        ledger: &mut Ledger,
        taken: &(Key, Delivery),
    ) -> oneshot::Receiver<Result<SettleOutcome>> {
        let (reply, answer) = oneshot::channel();
        let receipt = taken.1.receipt().clone();
        let asker = Asker::Caller(reply);
        ledger.wish(Wish::new(taken.0, receipt, Settlement::Ack, asker));
        answer
    }

    fn frame(ledger: &mut Ledger) -> Vec<(u64, u64)> {
        let ranges = ledger.next_frame();
        ranges
            .iter()
            .map(|range| (range.first_delivery_id, range.last_delivery_id))
            .collect()
    }

    fn settled(through_settlement: u64, exceptions: &[(u64, u64, u64)]) -> v1::ConsumeSettled {
        let exceptions = exceptions
            .iter()
            .map(|&(settlement, first, last)| v1::SettleException {
                settlement,
                first_delivery_id: first,
                last_delivery_id: last,
                outcome: SettleOutcome::LeaseLost.into(),
            });
        v1::ConsumeSettled {
            through_settlement,
            exceptions: exceptions.collect(),
            position: None,
        }
    }

    #[test]
    fn answers_are_cumulative_and_exceptions_find_their_delivery() {
        let mut ledger = opened(&[(1, "a"), (2, "b"), (3, "c")]);
        let taken: Vec<_> = std::iter::from_fn(|| ledger.take()).collect();
        let mut a = ack(&mut ledger, &taken[0]);
        let mut b = ack(&mut ledger, &taken[1]);
        assert_eq!(frame(&mut ledger), [(1, 2)]);
        let mut c = ack(&mut ledger, &taken[2]);
        assert_eq!(frame(&mut ledger), [(3, 3)]);
        ledger.settled(settled(2, &[(1, 2, 2)]));
        assert_eq!(a.try_recv().unwrap().unwrap(), SettleOutcome::Ok);
        assert_eq!(b.try_recv().unwrap().unwrap(), SettleOutcome::LeaseLost);
        assert_eq!(c.try_recv().unwrap().unwrap(), SettleOutcome::Ok);
        assert!(!ledger.is_waiting() && ledger.leases.iter().next().is_none());
    }

    #[test]
    fn after_a_broken_stream_the_unanswered_goes_by_receipt() {
        let mut ledger = opened(&[(1, "a"), (2, "b")]);
        let a = ledger.take().unwrap();
        let _answer = ack(&mut ledger, &a);
        frame(&mut ledger);
        ledger.stream_broke();
        let call = ledger.next_call().unwrap();
        assert_eq!(call.items, [(a.1.receipt().clone(), Settlement::Ack)]);
    }

    #[test]
    fn a_resumed_session_gives_known_leases_new_places_and_shows_them_once() {
        let mut ledger = opened(&[(1, "a"), (2, "b"), (3, "c")]);
        let a = ledger.take().unwrap();
        ledger.stream_broke();
        ledger.stream_opened(true);
        give(&mut ledger, &[(1, "b"), (2, "a"), (3, "new")]);
        let rest: Vec<_> = std::iter::from_fn(|| ledger.take()).collect();
        let receipts: Vec<_> = rest
            .iter()
            .map(|(_, one)| one.receipt().as_bytes().clone())
            .collect();
        assert_eq!(receipts, ["b", "c", "new"]);
        let _answer = ack(&mut ledger, &a);
        assert_eq!(frame(&mut ledger), [(2, 2)]);
    }

    #[test]
    fn without_its_session_the_buffer_is_dropped_and_the_taken_goes_by_receipt() {
        let mut ledger = opened(&[(1, "a"), (2, "b")]);
        let a = ledger.take().unwrap();
        ledger.stream_broke();
        ledger.stream_opened(false);
        assert!(ledger.take().is_none());
        let _answer = ack(&mut ledger, &a);
        assert!(frame(&mut ledger).is_empty());
        assert_eq!(ledger.next_call().unwrap().items.len(), 1);
        give(&mut ledger, &[(1, "b")]);
        assert!(
            ledger.take().is_some(),
            "a new grant of the same message is shown"
        );
    }

    #[test]
    fn a_settled_lease_that_is_sent_again_is_settled_again_and_not_shown() {
        let mut ledger = opened(&[(1, "a")]);
        let a = ledger.take().unwrap();
        let _answer = ack(&mut ledger, &a);
        frame(&mut ledger);
        ledger.settled(settled(1, &[]));
        ledger.stream_broke();
        ledger.stream_opened(true);
        give(&mut ledger, &[(1, "a"), (2, "b")]);
        assert_eq!(ledger.take().unwrap().1.receipt().as_bytes(), "b");
        assert!(ledger.take().is_none());
        assert_eq!(frame(&mut ledger), [(1, 1)]);
    }

    #[test]
    fn a_call_that_reached_nobody_keeps_its_lease_and_settles_on_the_next_stream() {
        let mut ledger = opened(&[(1, "a")]);
        let a = ledger.take().unwrap();
        ledger.stream_broke();
        let mut answer = ack(&mut ledger, &a);
        let call = ledger.next_call().unwrap();
        ledger.call_again(call.number);
        assert!(answer.try_recv().is_err(), "nothing is known yet");
        ledger.stream_opened(true);
        give(&mut ledger, &[(1, "a"), (2, "b")]);
        assert_eq!(ledger.take().unwrap().1.receipt().as_bytes(), "b");
        assert!(ledger.take().is_none(), "done work is not handed out");
        assert!(ledger.next_call().is_none());
        assert_eq!(frame(&mut ledger), [(1, 1)]);
        ledger.settled(settled(1, &[]));
        assert_eq!(answer.try_recv().unwrap().unwrap(), SettleOutcome::Ok);
    }

    #[test]
    fn the_outcomes_of_a_call_find_their_wishes() {
        let mut ledger = opened(&[(1, "a"), (2, "b")]);
        let taken: Vec<_> = std::iter::from_fn(|| ledger.take()).collect();
        ledger.stream_broke();
        let mut a = ack(&mut ledger, &taken[0]);
        let mut b = ack(&mut ledger, &taken[1]);
        let call = ledger.next_call().unwrap();
        let outcomes = vec![SettleOutcome::Ok, SettleOutcome::LeaseLost];
        ledger.called(call.number, Ok(outcomes));
        assert_eq!(a.try_recv().unwrap().unwrap(), SettleOutcome::Ok);
        assert_eq!(b.try_recv().unwrap().unwrap(), SettleOutcome::LeaseLost);
    }

    #[test]
    fn a_call_that_is_under_way_at_the_end_is_not_forgotten() {
        let mut ledger = opened(&[(1, "a")]);
        let a = ledger.take().unwrap();
        ledger.stream_broke();
        let _answer = ack(&mut ledger, &a);
        let call = ledger.next_call().unwrap();
        let left = ledger.take_all();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].receipt, *a.1.receipt());
        // Its answer comes too late, and harms nothing.
        ledger.called(call.number, Ok(vec![SettleOutcome::Ok]));
        assert!(ledger.take_all().is_empty());
    }

    #[test]
    fn lost_leases_are_not_shown_and_settle_by_receipt() {
        let mut ledger = opened(&[(1, "a"), (2, "b")]);
        let a = ledger.take().unwrap();
        ledger.lost(&[1, 2]);
        assert!(ledger.take().is_none());
        let _answer = ack(&mut ledger, &a);
        assert!(frame(&mut ledger).is_empty());
        assert_eq!(ledger.next_call().unwrap().items.len(), 1);
    }

    #[test]
    fn an_extended_delivery_can_still_be_settled() {
        let mut ledger = opened(&[(1, "a")]);
        let a = ledger.take().unwrap();
        ledger.extend_all(std::time::Duration::from_secs(1));
        assert_eq!(frame(&mut ledger), [(1, 1)]);
        let _answer = ack(&mut ledger, &a);
        assert_eq!(frame(&mut ledger), [(1, 1)]);
        ledger.settled(settled(2, &[]));
        assert!(ledger.leases.iter().next().is_none());
    }

    #[test]
    fn the_buffer_goes_back_on_request() {
        let mut ledger = opened(&[(1, "a"), (2, "b"), (3, "c")]);
        let _taken = ledger.take();
        ledger.release_buffer();
        let ranges = ledger.next_frame();
        assert_eq!(
            (ranges[0].first_delivery_id, ranges[0].last_delivery_id),
            (2, 3)
        );
        assert_eq!(ranges[0].kind(), v1::SettleKind::Release);
    }
}
