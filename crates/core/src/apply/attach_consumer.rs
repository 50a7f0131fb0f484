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
