//! `DetachConsumer`.

use super::Answer;
use crate::command::DetachConsumer;
use crate::event::SessionEnd;
use crate::outcome::{Outcome, Rejection};
use crate::state::State;

impl State {
    pub(super) fn detach_consumer(&mut self, command: &DetachConsumer) -> Answer {
        let there = self.shared.sessions.get(&command.session);
        let Some(session) = there.filter(|session| session.row.owner == command.owner) else {
            return Err(Rejection::SessionNotFound);
        };
        let connected = session.connected();
        if command.release {
            self.end_session(command.session, SessionEnd::Closed, true);
        } else if connected {
            self.disconnect(command.session);
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

    #[test]
    fn released_messages_go_back_at_once_and_unpunished() {
        let mut script = Script::with_queues(&["q"]);
        script.run(publish("q", 3));
        script.run(attach("q", 1, 2));
        script.run(attach("q", 2, 1));
        script.run(detach(1, true));
        let told = vec!["s1 loses 0-1", "s1 ends Closed", "q1 ready"];
        assert_eq!(script.events, told);
        assert_eq!(in_words(&script.receive("q", 9, "a")), vec!["0-1@4 x1"]);
        assert_eq!(script.refused(detach(1, true)), Rejection::SessionNotFound);
    }

    #[test]
    fn a_lost_connection_has_its_grace_and_then_its_deliveries_failed() {
        let mut script = Script::with_queues(&["q"]);
        script.run(publish("q", 3));
        script.run(attach("q", 1, 2));
        script.run(detach(1, false));
        script.run(attach("q", 2, 9));
        assert_eq!(script.events, vec!["s2 gets 2@3 x1"]);
        // Word of the same end again does not prolong the grace.
        script.pass(limits::SESSION_GRACE_MS - 1);
        script.run(detach(1, false));
        let told = vec!["s1 loses 0-1", "s1 ends GraceOver", "s2 gets 0-1@4 x2"];
        assert_eq!(script.pass(1), told);
        assert_eq!(script.queue("q").counters.leases_expired, 2);
    }

    #[test]
    fn a_lease_that_ends_within_the_grace_ends_alone() {
        let mut script = Script::with_queues(&["q"]);
        script.run(publish("q", 1));
        let Command::AttachConsumer(mut command) = attach("q", 1, 1) else {
            panic!("not an attach");
        };
        command.lease_ms = Some(2_000);
        script.run(Command::AttachConsumer(command));
        script.run(detach(1, false));
        assert_eq!(script.pass(2_000), vec!["s1 loses 0", "q1 ready"]);
        assert_eq!(script.pass(3_000), vec!["s1 ends GraceOver"]);
    }
}
