//! `AttachConsumer`.

use super::{Answer, check};
use crate::command::AttachConsumer;
use crate::event::Event;
use crate::id::{Owner, QueueId};
use crate::limits;
use crate::outcome::{Outcome, Rejection};
use crate::row::SessionRow;
use crate::session::Session;
use crate::shared::Timer;
use crate::state::State;

impl State {
    pub(super) fn attach_consumer(&mut self, command: &AttachConsumer) -> Answer {
        check(
            (1..=limits::PREFETCH_MAX).contains(&command.prefetch),
            "prefetch",
            "be 1 to 65,536",
        )?;
        check(
            (1..=limits::LEASE_MS_MAX).contains(&command.lease_ms.unwrap_or(1)),
            "lease_ms",
            "be 1 ms to 12 h",
        )?;
        let queue = self.find_queue(&command.namespace, &command.queue)?;
        let there = self.shared.sessions.get(&command.session);
        match there.map(|session| session.row) {
            Some(row) => self.move_session(queue, &row, command),
            None => self.add_session(queue, command),
        }
    }

    fn add_session(&mut self, queue: QueueId, command: &AttachConsumer) -> Answer {
        if self.shared.sessions.len() >= limits::SESSIONS_MAX {
            return Err(Rejection::TooMany {
                what: "sessions",
                limit: limits::SESSIONS_MAX as u64,
            });
        }
        let session = Session::new(SessionRow {
            queue,
            owner: command.owner,
            prefetch: command.prefetch,
            lease_ms: command.lease_ms,
            turn: None,
            grace_until: None,
        });
        if let Some((queue, shared)) = self.change(queue) {
            shared.sessions.insert(command.session, session);
            queue.sessions.insert(command.session);
            queue.join_line(command.session, shared);
        }
        Ok(Outcome::Attached {
            queue,
            resumed: false,
            held: alloc::vec::Vec::new(),
        })
    }

    fn move_session(
        &mut self,
        queue: QueueId,
        there: &SessionRow,
        command: &AttachConsumer,
    ) -> Answer {
        check(
            there.queue == queue,
            "queue",
            "be the queue that the session consumes",
        )?;
        if is_older(command.owner, there.owner) {
            return Err(Rejection::SessionNotFound);
        }
        if let Some(until) = there.grace_until {
            let timer = Timer::Grace(command.session);
            self.shared.timers.remove(&(until, timer));
        }
        if let Some((queue, shared)) = self.change(queue)
            && let Some(session) = shared.sessions.get_mut(&command.session)
        {
            session.row.owner = command.owner;
            session.row.prefetch = command.prefetch;
            session.row.lease_ms = command.lease_ms;
            session.row.grace_until = None;
            if session.room() == 0 {
                queue.leave_line(session);
            }
            queue.join_line(command.session, shared);
        }
        if there.owner != command.owner {
            self.shared.events.push(Event::SessionMoved {
                session: command.session,
                from: there.owner,
            });
        }
        Ok(Outcome::Attached {
            queue,
            resumed: true,
            held: self.held(command.session),
        })
    }
}

/// Is this a connection that the same process had before the other one?
fn is_older(owner: Owner, than: Owner) -> bool {
    (owner.node, owner.boot) == (than.node, than.boot) && owner.connection < than.connection
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::*;
    use crate::*;
    use std::vec;

    fn on(connection: u64, prefetch: u32) -> Command {
        Command::AttachConsumer(AttachConsumer {
            namespace: "default".into(),
            queue: "q".into(),
            session: SessionId(1),
            owner: owner(connection),
            prefetch,
            lease_ms: None,
        })
    }

    fn held(outcome: Outcome) -> (bool, vec::Vec<std::string::String>) {
        match outcome {
            Outcome::Attached { resumed, held, .. } => (resumed, in_words(&held)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn takes_what_is_ready_up_to_its_prefetch() {
        let mut script = Script::with_queues(&["q"]);
        script.run(publish("q", 5));
        assert_eq!(held(script.run(attach("q", 1, 3))), (false, vec![]));
        assert_eq!(script.events, vec!["s1 gets 0-2@1 x1"]);
        script.settle(vec![range(1, 1, 2, crate::command::SettleKind::Ack)]);
        assert_eq!(script.events, vec!["s1 gets 3@4 x1"]);
        let told = in_words(&script.state.held(SessionId(1)));
        assert_eq!(told, vec!["0@1 x1", "2-3@3 x1"]);
    }

    #[test]
    fn consumers_take_turns_of_sixteen() {
        let mut script = Script::with_queues(&["q"]);
        script.run(attach("q", 1, 40));
        script.run(attach("q", 2, 20));
        script.run(publish("q", 50));
        let told = vec![
            "s1 gets 0-15@1 x1",
            "s2 gets 16-31@17 x1",
            "s1 gets 32-47@33 x1",
            "s2 gets 48-49@49 x1",
        ];
        assert_eq!(script.events, told);
        let mut next = || {
            script.run(publish("q", 1));
            script.events[0].clone()
        };
        assert_eq!(next(), "s1 gets 50@51 x1");
        assert_eq!(next(), "s2 gets 51@52 x1");
        assert_eq!(next(), "s1 gets 52@53 x1");
        assert_eq!(next(), "s2 gets 53@54 x1");
    }

    #[test]
    fn who_is_alone_gets_all_in_one_piece() {
        let mut script = Script::with_queues(&["q"]);
        script.run(attach("q", 1, 100));
        script.run(publish_runs(&[("q", 20), ("q", 30)]));
        assert_eq!(script.events, vec!["s1 gets 0-49@1 x1"]);
    }

    #[test]
    fn a_session_moves_with_its_leases() {
        let mut script = Script::with_queues(&["q"]);
        script.run(publish("q", 3));
        script.run(on(1, 2));
        script.pass(400);
        assert_eq!(held(script.run(on(2, 3))), (true, vec!["0-1@1 x1".into()]));
        assert_eq!(
            script.events,
            vec!["s1 leaves connection 1", "s1 gets 2@3 x1"]
        );
        let session = script.state.session(SessionId(1)).unwrap();
        assert_eq!((session.owner, session.held), (owner(2), 3));
        // The same again is no move; a late word of the older connection changes nothing.
        assert!(held(script.run(on(2, 3))).0);
        assert_eq!(script.events, vec![""; 0]);
        assert_eq!(script.refused(on(1, 3)), Rejection::SessionNotFound);
        assert_eq!(script.refused(detach(1, true)), Rejection::SessionNotFound);
    }

    #[test]
    fn coming_back_within_the_grace_keeps_the_leases() {
        let mut script = Script::with_queues(&["q"]);
        script.run(publish("q", 3));
        script.run(on(1, 2));
        script.run(detach(1, false));
        script.pass(limits::SESSION_GRACE_MS - 1);
        assert_eq!(held(script.run(on(2, 2))), (true, vec!["0-1@1 x1".into()]));
        assert_eq!(script.pass(2 * limits::SESSION_GRACE_MS), vec![""; 0]);
        assert_eq!(script.counts("q"), [1, 0, 2, 0]);
    }

    #[test]
    fn bounds_are_named() {
        let mut script = Script::with_queues(&["q", "r"]);
        let mut field = |command| match script.refused(command) {
            Rejection::InvalidField { field, .. } => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(attach("q", 1, 0)), "prefetch");
        assert_eq!(field(attach("q", 1, limits::PREFETCH_MAX + 1)), "prefetch");
        for lease_ms in [0, limits::LEASE_MS_MAX + 1] {
            let Command::AttachConsumer(mut command) = attach("q", 1, 1) else {
                panic!("not an attach");
            };
            command.lease_ms = Some(lease_ms);
            assert_eq!(field(Command::AttachConsumer(command)), "lease_ms");
        }
        script.run(attach("q", 1, 1));
        let mut field = |command| match script.refused(command) {
            Rejection::InvalidField { field, .. } => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(attach("r", 1, 1)), "queue");
    }
}
