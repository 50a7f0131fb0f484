//! `PurgeQueue`.

use super::Answer;
use crate::command::PurgeQueue;
use crate::outcome::Outcome;
use crate::state::State;

impl State {
    pub(super) fn purge_queue(&mut self, command: &PurgeQueue) -> Answer {
        let id = self.find_queue(&command.namespace, &command.queue)?;
        let Some((queue, shared)) = self.change(id) else {
            return Ok(Outcome::Done);
        };
        let mut messages: u64 = 0;
        while let Some((first, count)) = queue.ready.first() {
            queue.ready.take_front(count);
            queue.forget(first, count, shared);
            messages = messages.saturating_add(count);
        }
        while command.include_delayed
            && let Some((first, span)) = queue.delayed.first()
        {
            let Some(count) = queue.end_delay(first, span.count, shared) else {
                break;
            };
            queue.forget(first, count, shared);
            messages = messages.saturating_add(count);
        }
        queue.counters.purged = queue.counters.purged.saturating_add(messages);
        Ok(Outcome::Purged { messages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::*;
    use crate::*;
    use std::vec;

    fn purge(include_delayed: bool) -> Command {
        Command::PurgeQueue(PurgeQueue {
            namespace: "default".into(),
            queue: "q".into(),
            include_delayed,
        })
    }

    #[test]
    fn what_is_held_stays() {
        let mut script = Script::with_queues(&["q"]);
        script.run(publish("q", 10));
        script.receive("q", 4, "a");
        let nack = crate::command::SettleKind::Nack { delay_ms: Some(50) };
        script.settle(vec![range(0, 2, 1, nack)]);
        assert_eq!(script.counts("q"), [6, 2, 2, 0]);
        assert_eq!(script.run(purge(false)), Outcome::Purged { messages: 6 });
        assert_eq!(script.counts("q"), [0, 2, 2, 0]);
        assert_eq!(script.run(purge(true)), Outcome::Purged { messages: 2 });
        assert_eq!(script.counts("q"), [0, 0, 2, 0]);
        assert_eq!(script.queue("q").counters.purged, 8);
        assert_eq!(script.queue("q").bytes, 20);
        assert_eq!(script.run(purge(true)), Outcome::Purged { messages: 0 });
    }
}
