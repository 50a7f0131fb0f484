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
