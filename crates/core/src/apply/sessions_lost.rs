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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::*;
    use crate::*;
    use std::vec;

    #[test]
    fn sessions_of_that_boot_lose_their_connection() {
        let mut script = Script::with_queues(&["q"]);
        script.run(publish("q", 1));
        script.run(attach("q", 1, 1));
        let lost = |boot| {
            Command::SessionsLost(SessionsLost {
                node: NodeId(1),
                boot: BootId(boot),
            })
        };
        script.run(lost(2));
        assert!(script.state.session(SessionId(1)).unwrap().connected);
        script.run(lost(1));
        assert!(!script.state.session(SessionId(1)).unwrap().connected);
        let told = vec!["s1 loses 0", "s1 ends GraceOver", "q1 ready"];
        assert_eq!(script.pass(limits::SESSION_GRACE_MS), told);
    }
}
