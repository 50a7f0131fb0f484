//! `PurgeQueue`.

use super::Answer;
use crate::command::{PurgeQueue, PurgeRest};
use crate::id::Offset;
use crate::limits;
use crate::outcome::Outcome;
use crate::queue::Queue;
use crate::shared::Shared;
use crate::state::State;

impl State {
    pub(super) fn purge_queue(&mut self, command: &PurgeQueue) -> Answer {
        let id = self.find_queue(&command.namespace, &command.queue)?;
        let done = Outcome::Purged {
            messages: 0,
            rest: None,
        };
        if command.rest.is_some_and(|rest| rest.queue != id) {
            return Ok(done);
        }
        let Some((queue, shared)) = self.change(id) else {
            return Ok(done);
        };
        let below = command.rest.map_or(queue.next_offset, |rest| rest.below);
        let (messages, all) = queue.purge(below, command.include_delayed, shared);
        queue.counters.purged = queue.counters.purged.saturating_add(messages);
        let rest = PurgeRest { queue: id, below };
        Ok(Outcome::Purged {
            messages,
            rest: (!all).then_some(rest),
        })
    }
}

impl Queue {
    /// Removes what one command may of the messages below an offset: how many, and whether that was
    /// all.
    fn purge(&mut self, below: Offset, delayed: bool, shared: &mut Shared) -> (u64, bool) {
        let mut messages: u64 = 0;
        for _ in 0..limits::PURGE_SPANS_MAX {
            let max = limits::PURGE_MESSAGES_MAX.saturating_sub(messages);
            let Some((first, count)) = self.purgeable(below, delayed) else {
                return (messages, true);
            };
            let count = count.min(max);
            if count == 0 {
                break;
            }
            if self.ready.begins(first).is_some() {
                self.ready.remove(first, first.plus(count));
            } else if self.end_delay(first, count, shared).is_none() {
                shared.halt("a delayed message is not where it was seen");
            }
            self.forget(first, count, shared);
            messages = messages.saturating_add(count);
        }
        (messages, self.purgeable(below, delayed).is_none())
    }

    /// The first neighbours below an offset that a purge removes.
    fn purgeable(&self, below: Offset, delayed: bool) -> Option<(Offset, u64)> {
        let cut = |first: Offset, count: u64| {
            let there = below.0.checked_sub(first.0)?;
            (there > 0).then_some((first, count.min(there)))
        };
        let ready = self.ready.first();
        let ready = ready.and_then(|(first, span)| cut(first, span.count));
        let delayed = || {
            let (first, span) = self.delayed.first().filter(|_| delayed)?;
            cut(first, span.count)
        };
        ready.or_else(delayed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::*;
    use crate::*;
    use std::vec;

    fn purge(include_delayed: bool, rest: Option<PurgeRest>) -> Command {
        Command::PurgeQueue(PurgeQueue {
            namespace: "default".into(),
            queue: "q".into(),
            include_delayed,
            rest,
        })
    }

    fn purged(messages: u64) -> Outcome {
        Outcome::Purged {
            messages,
            rest: None,
        }
    }

    #[test]
    fn what_is_held_stays() {
        let mut script = Script::with_queues(&["q"]);
        script.run(publish("q", 10));
        script.receive("q", 4, "a");
        let nack = crate::command::SettleKind::Nack { delay_ms: Some(50) };
        script.settle(vec![range(0, 2, 1, nack)]);
        assert_eq!(script.counts("q"), [6, 2, 2, 0]);
        assert_eq!(script.run(purge(false, None)), purged(6));
        assert_eq!(script.counts("q"), [0, 2, 2, 0]);
        assert_eq!(script.run(purge(true, None)), purged(2));
        assert_eq!(script.counts("q"), [0, 0, 2, 0]);
        assert_eq!(script.queue("q").counters.purged, 8);
        assert_eq!(script.queue("q").bytes, 20);
        assert_eq!(script.run(purge(true, None)), purged(0));
    }

    /// Purges as far as it goes, with one message more each time; how many each command removed.
    fn purge_on(script: &mut Script, include_delayed: bool) -> vec::Vec<u64> {
        let (mut each, mut rest) = (vec![], None);
        loop {
            let outcome = script.run(purge(include_delayed, rest));
            let Outcome::Purged {
                messages,
                rest: left,
            } = outcome
            else {
                panic!("{outcome:?}");
            };
            each.push(messages);
            script.run(publish("q", 1));
            rest = left;
            if rest.is_none() {
                return each;
            }
        }
    }

    #[test]
    fn a_command_removes_so_many_spans_and_what_came_after_the_first_stays() {
        for delay_ms in [None, Some(60_000)] {
            let mut script = Script::with_queues(&["q"]);
            for attempt in ["a", "b", "c"] {
                script.run(publish("q", 1_000));
                script.receive("q", 1_000, attempt);
            }
            let of = |k: u64| match k % 2 {
                0 => crate::command::SettleKind::Ack,
                _ => crate::command::SettleKind::Nack { delay_ms },
            };
            // The first fence is 1.
            script.settle((0..3_000).map(|k| range(k, 1, k + 1, of(k))).collect());
            assert_eq!(purge_on(&mut script, true), [1_000, 500]);
            assert_eq!(script.counts("q"), [2, 0, 0, 0]);
        }
    }

    #[test]
    fn a_command_removes_so_many_messages() {
        let mut script = Script::with_queues(&["q"]);
        let messages = limits::PURGE_MESSAGES_MAX + 1_000;
        for _ in 0..messages / 1_000 {
            script.run(publish("q", 1_000));
        }
        let each = purge_on(&mut script, false);
        assert_eq!(each, [limits::PURGE_MESSAGES_MAX, 1_000]);
        assert_eq!(script.counts("q"), [2, 0, 0, 0]);
    }

    #[test]
    fn what_is_left_over_of_a_queue_is_not_its_successors() {
        let mut script = Script::with_queues(&["q"]);
        script.run(publish("q", 5));
        let rest = PurgeRest {
            queue: QueueId(9),
            below: Offset(5),
        };
        assert_eq!(script.run(purge(true, Some(rest))), purged(0));
        assert_eq!(script.counts("q"), [5, 0, 0, 0]);
    }
}
