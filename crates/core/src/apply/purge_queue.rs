//! `PurgeQueue`.

use super::Answer;
use crate::command::PurgeQueue;
use crate::outcome::Outcome;
use crate::shared::Timer;
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
            && let Some((offset, due)) = queue.delayed.first()
        {
            let (offset, due) = (*offset, *due);
            shared.timers.remove(&(due, Timer::Delay(id, offset)));
            queue.delayed.remove(&offset);
            queue.forget(offset, 1, shared);
            messages = messages.saturating_add(1);
        }
        queue.counters.purged = queue.counters.purged.saturating_add(messages);
        Ok(Outcome::Purged { messages })
    }
}
