//! `Settle`.

use alloc::vec::Vec;

use super::{Answer, check};
use crate::command::{Settle, SettleKind, SettleRange};
use crate::id::{Offset, QueueId};
use crate::limits;
use crate::message::DeathReason;
use crate::outcome::{Outcome, SettleException, SettleStatus};
use crate::queue::low32;
use crate::settled::diagonal;
use crate::state::State;

impl State {
    pub(super) fn settle(&mut self, command: &Settle) -> Answer {
        check(
            (1..=limits::SETTLE_RANGES_MAX).contains(&command.ranges.len()),
            "ranges",
            "be 1 to 10,000",
        )?;
        let mut exceptions = Vec::new();
        for (place, range) in command.ranges.iter().enumerate() {
            self.settle_range(low32(place as u64), range, &mut exceptions);
        }
        Ok(Outcome::Settled { exceptions })
    }

    fn settle_range(
        &mut self,
        place: u32,
        range: &SettleRange,
        exceptions: &mut Vec<SettleException>,
    ) {
        let mut except = |first_offset: Offset, count: u64, status: SettleStatus| {
            add_exception(
                exceptions,
                SettleException {
                    range: place,
                    first_offset,
                    count: low32(count),
                    status,
                },
            );
        };
        let count = u64::from(range.count);
        if !is_in_bounds(range) {
            return except(range.first_offset, count, SettleStatus::Invalid);
        }
        let end = range.first_offset.plus(count);
        let claimed = diagonal(range.first_offset, range.first_fence);
        let mut at = range.first_offset;
        while at < end {
            let Some(queue) = self.queues.get(&range.queue) else {
                return except(at, end.0.saturating_sub(at.0), SettleStatus::NotFound);
            };
            let holding = queue.leases.last_in(..=at).filter(|(first, lease)| {
                first.plus(u64::from(lease.count)) > at
                    && diagonal(**first, lease.first_fence) == claimed
            });
            let stop = match holding {
                Some((first, lease)) => {
                    let stop = end.min(first.plus(u64::from(lease.count)));
                    let count = low32(stop.0.saturating_sub(at.0));
                    let first = *first;
                    self.settle_leases(range.queue, first, at, count, range.kind);
                    stop
                }
                None => {
                    let now = self.shared.lease_now;
                    let (status, stop) = queue.status_of_stale(at, end, claimed, now);
                    except(at, stop.0.saturating_sub(at.0), status);
                    stop
                }
            };
            if stop <= at {
                return self.shared.halt("a settle does not come forward");
            }
            at = stop;
        }
    }

    /// Settles `count` current leases from `from` on, all in the range that begins at `start`.
    fn settle_leases(
        &mut self,
        id: QueueId,
        start: Offset,
        from: Offset,
        count: u32,
        kind: SettleKind,
    ) {
        let Some((queue, shared)) = self.change(id) else {
            return;
        };
        if let SettleKind::Extend { lease_ms } = kind {
            let deadline = shared.lease_now.plus_ms(lease_ms);
            return queue.extend_leases(start, from, count, deadline, shared);
        }
        let Some(lease) = queue.end_leases(start, from, count, shared) else {
            return;
        };
        let messages = u64::from(count);
        let given_up = match kind {
            SettleKind::Ack => {
                queue.forget(from, messages, shared);
                let acknowledged = &mut queue.counters.acknowledged;
                *acknowledged = acknowledged.saturating_add(messages);
                true
            }
            SettleKind::Nack { delay_ms } => self.fail(id, from, &lease, delay_ms),
            SettleKind::Reject => {
                for k in 0..messages {
                    let delivered = lease.delivery_count;
                    self.give_up(id, from.plus(k), delivered, DeathReason::Rejected);
                }
                true
            }
            SettleKind::Release => {
                let before = lease.delivery_count.saturating_sub(1);
                queue.put_back(from, messages, before, 0, shared);
                false
            }
            SettleKind::Extend { .. } => false,
        };
        if given_up && let Some((queue, shared)) = self.change(id) {
            queue.remember_settled(from, messages, lease.first_fence, shared);
        }
    }
}

fn is_in_bounds(range: &SettleRange) -> bool {
    let count = u64::from(range.count);
    let kind = match range.kind {
        SettleKind::Nack { delay_ms } => delay_ms.unwrap_or(0) <= limits::DELAY_MS_MAX,
        SettleKind::Extend { lease_ms } => (1..=limits::LEASE_MS_MAX).contains(&lease_ms),
        SettleKind::Ack | SettleKind::Reject | SettleKind::Release => true,
    };
    kind && count > 0
        && range.first_offset.0.checked_add(count).is_some()
        && range.first_fence.0.checked_add(count).is_some()
}

/// Adds an exception, together with its neighbour of the same range and status.
fn add_exception(exceptions: &mut Vec<SettleException>, next: SettleException) {
    if let Some(last) = exceptions.last_mut()
        && (last.range, last.status) == (next.range, next.status)
        && last.first_offset.plus(u64::from(last.count)) == next.first_offset
    {
        last.count = last.count.saturating_add(next.count);
        return;
    }
    exceptions.push(next);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::*;
    use crate::*;
    use std::vec;

    const ACK: SettleKind = SettleKind::Ack;
    const NACK: SettleKind = SettleKind::Nack { delay_ms: None };

    fn leased(count: u32) -> Script {
        let mut script = Script::with_queues(&["q"]);
        script.run(publish("q", count));
        script.receive("q", count, "a");
        script
    }

    #[test]
    fn an_ack_is_final_and_remembered_for_its_time() {
        let mut script = leased(10);
        assert_eq!(script.settle(vec![range(2, 3, 3, ACK)]), vec![""; 0]);
        assert_eq!(script.counts("q"), [0, 0, 7, 0]);
        let all = || vec![range(0, 10, 1, ACK)];
        assert_eq!(script.settle(all()), vec!["2-4 AlreadySettled"]);
        assert_eq!(script.counts("q"), [0, 0, 0, 0]);
        assert_eq!(
            script.settle(vec![range(2, 3, 4, ACK)]),
            vec!["2-4 LeaseLost"]
        );
        assert_eq!(script.queue("q").counters.acknowledged, 10);
        script.pass(limits::SETTLED_MEMORY_MS);
        assert_eq!(script.settle(all()), vec!["0-9 AlreadySettled"]);
        script.pass(limits::SETTLED_BUCKET_MS);
        assert_eq!(script.settle(all()), vec!["0-9 NotFound"]);
        let kept = |key: &RowKey| matches!(key, RowKey::Settled(..));
        assert!(!script.state.rows().iter().any(|(key, _)| kept(key)));
    }

    #[test]
    fn memory_asks_for_no_ticks() {
        let mut script = leased(1);
        script.settle(vec![range(0, 1, 1, ACK)]);
        assert_eq!(script.state.next_deadline(), None);
    }

    #[test]
    fn stale_receipts_change_nothing_and_are_told() {
        let mut script = leased(3);
        script.settle(vec![range(0, 1, 1, NACK)]);
        assert_eq!(in_words(&script.receive("q", 1, "b")), vec!["0@4 x2"]);
        let mut say = |range| script.settle(vec![range]);
        assert_eq!(say(range(0, 1, 1, ACK)), vec!["0 LeaseLost"]);
        assert_eq!(say(range(0, 1, 0, ACK)), vec!["0 LeaseLost"]);
        assert_eq!(say(range(3, 5, 1, ACK)), vec!["3-7 NotFound"]);
        assert_eq!(script.counts("q"), [0, 0, 3, 0]);
    }

    #[test]
    fn a_range_may_meet_every_fate() {
        let mut script = leased(6);
        let delayed = SettleKind::Nack {
            delay_ms: Some(100),
        };
        script.settle(vec![
            range(1, 1, 2, ACK),
            range(2, 1, 3, NACK),
            range(3, 1, 4, delayed),
        ]);
        let told = script.settle(vec![range(0, 9, 1, ACK)]);
        assert_eq!(
            told,
            vec!["1 AlreadySettled", "2-3 LeaseLost", "6-8 NotFound"]
        );
        assert_eq!(script.counts("q"), [1, 1, 0, 0]);
    }

    #[test]
    fn a_nack_puts_back_at_the_old_place() {
        let mut script = leased(2);
        script.run(publish("q", 2));
        script.settle(vec![range(0, 2, 1, NACK)]);
        let told = in_words(&script.receive("q", 9, "b"));
        assert_eq!(told, vec!["0-1@3 x2", "2-3@5 x1"]);
        assert_eq!(script.queue("q").counters.redelivered, 2);
    }

    #[test]
    fn a_delayed_nack_waits_and_takes_its_old_place() {
        let mut script = leased(1);
        script.run(publish("q", 1));
        let delayed = SettleKind::Nack {
            delay_ms: Some(1_500),
        };
        script.settle(vec![range(0, 1, 1, delayed)]);
        assert_eq!(script.state.next_deadline(), Some(LeaseTime(1_500)));
        assert_eq!(script.pass(1_499), vec![""; 0]);
        assert_eq!(script.pass(1), vec!["q1 ready"]);
        assert_eq!(
            in_words(&script.receive("q", 9, "b")),
            vec!["0@2 x2", "1@3 x1"]
        );
    }

    #[test]
    fn backoff_grows_with_deliveries() {
        let mut script = Script::new();
        let backoff = RetryBackoff {
            base_ms: 100,
            factor_percent: 200,
            max_ms: 1_000,
            jitter_percent: 0,
        };
        script.run(create(
            "q",
            QueueSettings {
                retry_backoff: Some(backoff),
                ..QueueSettings::default()
            },
        ));
        script.run(publish("q", 1));
        for (delivery, wait) in [(1, 100), (2, 200), (3, 400)] {
            let grant = script
                .receive("q", 1, &std::format!("{delivery}"))
                .pop()
                .unwrap();
            assert_eq!(grant.delivery_count, delivery);
            script.settle(vec![range(0, 1, grant.first_fence.0, NACK)]);
            assert_eq!(script.pass(wait - 1), vec![""; 0]);
            assert_eq!(script.pass(1), vec!["q1 ready"]);
        }
    }

    #[test]
    fn a_release_does_not_count() {
        let mut script = leased(2);
        script.settle(vec![range(1, 1, 2, SettleKind::Release)]);
        assert_eq!(in_words(&script.receive("q", 9, "b")), vec!["1@3 x1"]);
    }

    #[test]
    fn extending_moves_the_end_of_some() {
        let mut script = leased(3);
        let extend = SettleKind::Extend { lease_ms: 40_000 };
        assert_eq!(script.settle(vec![range(1, 1, 2, extend)]), vec![""; 0]);
        assert_eq!(script.pass(30_000), vec!["q1 ready"]);
        assert_eq!(script.counts("q"), [2, 0, 1, 0]);
        assert_eq!(
            script.settle(vec![range(0, 3, 1, extend)]),
            vec!["0 LeaseLost", "2 LeaseLost"]
        );
        assert_eq!(script.pass(39_999), vec![""; 0]);
        assert_eq!(script.pass(1), vec!["q1 ready"]);
    }

    #[test]
    fn a_rejected_message_moves_with_its_history() {
        let mut script = Script::new();
        script.run(create("q", dead_to("dead", 2)));
        script.run(create("dead", dead_to("q", 0)));
        script.run(publish("q", 2));
        script.receive("q", 2, "a");
        let reject = SettleKind::Reject;
        script.settle(vec![range(0, 1, 1, reject)]);
        assert_eq!(
            script.settle(vec![range(0, 1, 1, reject)]),
            vec!["0 AlreadySettled"]
        );
        assert_eq!(script.counts("dead"), [1, 0, 0, 0]);
        let back = script.receive("dead", 1, "b");
        assert_eq!(in_words(&back), vec!["0@1 x1 q:Rejected*1"]);
        assert_eq!(back[0].first_message_id, MessageId(1));

        let nack_dead = SettleRange {
            queue: QueueId(2),
            ..range(0, 1, 1, reject)
        };
        script.settle(vec![nack_dead]);
        let again = script.receive("q", 1, "c");
        assert_eq!(
            in_words(&again),
            vec!["2@3 x1 q:Rejected*1 dead:Rejected*1"]
        );
        script.settle(vec![range(2, 1, 3, reject)]);
        let last = script.receive("dead", 1, "d");
        assert_eq!(in_words(&last), vec!["1@2 x1 q:Rejected*2 dead:Rejected*1"]);
        let counters = script.queue("q").counters;
        assert_eq!(
            (counters.dead_lettered_in, counters.dead_lettered_out),
            (1, 2)
        );
    }

    #[test]
    fn the_last_delivery_that_fails_gives_up() {
        let mut script = Script::new();
        script.run(create("q", dead_to("dead", 2)));
        script.run(create("dead", QueueSettings::default()));
        script.run(publish("q", 1));
        script.receive("q", 1, "a");
        script.settle(vec![range(0, 1, 1, NACK)]);
        script.receive("q", 1, "b");
        let later = SettleKind::Nack { delay_ms: Some(9) };
        script.settle(vec![range(0, 1, 2, later)]);
        assert_eq!(
            script.settle(vec![range(0, 1, 2, later)]),
            vec!["0 AlreadySettled"]
        );
        let dead = script.receive("dead", 1, "c");
        assert_eq!(in_words(&dead), vec!["0@1 x1 q:MaxDeliveries*1"]);
    }

    #[test]
    fn without_a_target_what_is_given_up_is_dropped_and_counted() {
        let mut script = leased(3);
        script.settle(vec![range(0, 2, 1, SettleKind::Reject)]);
        assert_eq!(script.counts("q"), [0, 0, 1, 0]);
        assert_eq!(script.queue("q").counters.dropped, 2);
        assert_eq!(
            script.settle(vec![range(0, 1, 1, ACK)]),
            vec!["0 AlreadySettled"]
        );
    }

    #[test]
    fn with_itself_as_target_a_message_goes_to_the_end() {
        let mut script = Script::new();
        script.run(create("q", dead_to("q", 1)));
        script.run(publish("q", 2));
        script.receive("q", 1, "a");
        script.settle(vec![range(0, 1, 1, NACK)]);
        let told = in_words(&script.receive("q", 9, "b"));
        assert_eq!(told, vec!["1@2 x1", "2@3 x1 q:MaxDeliveries*1"]);
    }

    #[test]
    fn a_parked_message_was_settled() {
        let mut script = Script::new();
        script.run(create("q", dead_to("missing", 1)));
        script.run(publish("q", 1));
        script.receive("q", 1, "a");
        script.settle(vec![range(0, 1, 1, SettleKind::Reject)]);
        assert_eq!(script.counts("q"), [0, 0, 0, 1]);
        assert_eq!(
            script.settle(vec![range(0, 1, 1, ACK)]),
            vec!["0 AlreadySettled"]
        );
        assert_eq!(
            script.settle(vec![range(0, 1, 9, ACK)]),
            vec!["0 LeaseLost"]
        );
        let peeked = script
            .state
            .peek(QueueId(1), Some(MessageState::Parked), Offset(0), 9);
        assert_eq!((peeked.len(), peeked[0].delivery_count), (1, 1));
    }

    #[test]
    fn bounds_are_told_per_range() {
        let mut script = leased(2);
        let late = SettleKind::Nack {
            delay_ms: Some(limits::DELAY_MS_MAX + 1),
        };
        let bad = vec![
            range(0, 1, 1, late),
            range(0, 1, 1, SettleKind::Extend { lease_ms: 0 }),
            range(u64::MAX, 2, 1, ACK),
            range(1, 1, u64::MAX, ACK),
            range(1, 1, 2, ACK),
        ];
        let told = match script.run(Command::Settle(Settle { ranges: bad })) {
            Outcome::Settled { exceptions } => exceptions,
            other => panic!("{other:?}"),
        };
        let ranges: Vec<(u32, SettleStatus)> = told.iter().map(|e| (e.range, e.status)).collect();
        let invalid = SettleStatus::Invalid;
        assert_eq!(
            ranges,
            vec![(0, invalid), (1, invalid), (2, invalid), (3, invalid)]
        );
        assert_eq!(script.counts("q"), [0, 0, 1, 0]);
        let empty = script.refused(Command::Settle(Settle { ranges: vec![] }));
        assert!(matches!(
            empty,
            Rejection::InvalidField {
                field: "ranges",
                ..
            }
        ));
        let whole = range(0, u32::MAX, 1, SettleKind::Release);
        assert_eq!(
            script.settle(vec![whole]),
            vec!["1 AlreadySettled", "2-4294967294 NotFound"]
        );
    }
}
