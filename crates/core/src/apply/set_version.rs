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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::*;
    use crate::*;
    use std::vec;

    fn command(version: u32) -> Command {
        Command::SetVersion(SetVersion { version })
    }

    #[test]
    fn never_goes_back() {
        let mut script = Script::new();
        assert_eq!(script.run(command(1)), Outcome::Done);
        let too_low = Rejection::VersionTooLow { current: 1 };
        assert_eq!(script.refused(command(0)), too_low);
    }

    #[test]
    fn an_unknown_version_stops_before_the_entry() {
        let mut script = Script::new();
        let before = script.state.rows();
        let entry = Entry {
            stamps: Stamps {
                lease_now: LeaseTime(500),
                wall_now: WallTime(500),
            },
            commands: vec![publish("q", 1), command(STATE_VERSION + 1)],
        };
        let halt = script.state.apply(9, &entry).unwrap_err();
        assert!(halt.reason.contains("upgrade"), "{halt}");
        assert_eq!(script.state.rows(), before);
    }
}
