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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::*;
    use crate::*;
    use std::vec;

    fn prefetch(prefetch: u32) -> Command {
        Command::SetPrefetch(SetPrefetch {
            session: SessionId(1),
            owner: owner(1),
            prefetch,
        })
    }

    #[test]
    fn lets_more_in_or_nothing_more() {
        let mut script = Script::with_queues(&["q"]);
        script.run(attach("q", 1, 1));
        script.run(publish("q", 4));
        assert_eq!(script.run(prefetch(3)), Outcome::Done);
        assert_eq!(script.events, vec!["s1 gets 1-2@2 x1"]);
        script.run(prefetch(0));
        script.settle(vec![range(0, 3, 1, crate::command::SettleKind::Ack)]);
        assert_eq!(script.counts("q"), [1, 0, 0, 0]);
        script.run(prefetch(1));
        assert_eq!(script.events, vec!["s1 gets 3@4 x1"]);
    }

    #[test]
    fn needs_the_connection_that_serves_the_session() {
        let mut script = Script::with_queues(&["q"]);
        assert_eq!(script.refused(prefetch(1)), Rejection::SessionNotFound);
        script.run(attach("q", 1, 1));
        let rejection = script.refused(prefetch(limits::PREFETCH_MAX + 1));
        assert!(matches!(
            rejection,
            Rejection::InvalidField {
                field: "prefetch",
                ..
            }
        ));
        script.run(detach(1, false));
        assert_eq!(script.refused(prefetch(1)), Rejection::SessionNotFound);
    }
}
