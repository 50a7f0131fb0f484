//! `SetPrefetch`.

use super::{Answer, check};
use crate::command::SetPrefetch;
use crate::limits;
use crate::outcome::{Outcome, Rejection};
use crate::state::State;

impl State {
    pub(super) fn set_prefetch(&mut self, command: &SetPrefetch) -> Answer {
        check(
            command.prefetch <= limits::PREFETCH_MAX,
            "prefetch",
            "be 0 to 65,536",
        )?;
        let there = self.shared.sessions.get(&command.session);
        let there = there.filter(|session| session.connected());
        let Some(queue) = there
            .filter(|session| session.row.owner == command.owner)
            .map(|session| session.row.queue)
        else {
            return Err(Rejection::SessionNotFound);
        };
        if let Some((queue, shared)) = self.change(queue)
            && let Some(session) = shared.sessions.get_mut(&command.session)
        {
            session.row.prefetch = command.prefetch;
            if session.room() == 0 {
                queue.leave_line(session);
            }
            queue.join_line(command.session, shared);
        }
        Ok(Outcome::Done)
    }
}
