//! `SetVersion`: raises the state machine's version. One that this program does not know was
//! stopped before its entry was applied.

use super::Answer;
use crate::command::SetVersion;
use crate::outcome::{Outcome, Rejection};
use crate::state::State;

impl State {
    pub(super) fn set_version(&mut self, command: &SetVersion) -> Answer {
        if command.version < self.version {
            return Err(Rejection::VersionTooLow {
                current: self.version,
            });
        }
        self.version = command.version;
        Ok(Outcome::Done)
    }
}
