//! `SessionsLost`.

use super::Answer;
use crate::command::SessionsLost;
use crate::outcome::Outcome;
use crate::state::State;

impl State {
    pub(super) fn sessions_lost(&mut self, command: &SessionsLost) -> Answer {
        self.disconnect_all(|owner| owner.node == command.node && owner.boot == command.boot);
        Ok(Outcome::Done)
    }
}
