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
    pub(crate) fn disconnect_all(&mut self, lost: impl Fn(Owner) -> bool) {
        let sessions = self.shared.sessions.iter();
        let sessions: Vec<SessionId> = sessions
            .filter(|(_, session)| session.connected() && lost(session.row.owner))
            .map(|(id, _)| *id)
            .collect();
        for session in sessions {
            self.disconnect(session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::*;
    use crate::*;
    use std::vec;

    fn on(id: u128, node: u64, boot: u64) -> Command {
        let Command::AttachConsumer(mut command) = attach("q", 1, 1) else {
            panic!("not an attach");
        };
        command.session = SessionId(id);
        command.owner = Owner {
            node: NodeId(node),
            boot: BootId(boot),
            connection: 1,
        };
        Command::AttachConsumer(command)
    }

    #[test]
    fn sessions_of_the_nodes_other_boots_lose_their_connection() {
        let mut script = Script::with_queues(&["q"]);
        for (id, node, boot) in [(1, 1, 1), (2, 1, 2), (3, 2, 1)] {
            script.run(on(id, node, boot));
        }
        script.run(Command::NodeBooted(NodeBooted {
            node: NodeId(1),
            boot: BootId(2),
        }));
        let connected: Vec<bool> = script.state.sessions().map(|s| s.connected).collect();
        assert_eq!(connected, vec![false, true, true]);
        assert_eq!(
            script.pass(limits::SESSION_GRACE_MS),
            vec!["s1 ends GraceOver"]
        );
    }
}
