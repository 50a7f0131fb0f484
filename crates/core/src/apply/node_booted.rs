//! `NodeBooted`.

use alloc::vec::Vec;

use super::Answer;
use crate::command::NodeBooted;
use crate::id::{Owner, SessionId};
use crate::outcome::Outcome;
use crate::state::State;

impl State {
    pub(super) fn node_booted(&mut self, command: &NodeBooted) -> Answer {
        let lost = |owner: Owner| owner.node == command.node && owner.boot != command.boot;
        self.disconnect_all(lost);
        Ok(Outcome::Done)
    }

    /// Disconnects the connected sessions of these owners, in the order of their ids.
    pub(super) fn disconnect_all(&mut self, lost: impl Fn(Owner) -> bool) {
        let sessions = self.shared.sessions.map().iter();
        let sessions: Vec<SessionId> = sessions
            .filter(|(_, session)| session.connected() && lost(session.row.owner))
            .map(|(id, _)| *id)
            .collect();
        for session in sessions {
            self.disconnect(session);
        }
    }
}
