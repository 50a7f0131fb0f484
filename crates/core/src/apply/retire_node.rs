//! `RetireNode`.

use super::{Answer, check};
use crate::command::RetireNode;
use crate::outcome::Outcome;
use crate::row::NodeRow;
use crate::state::State;

impl State {
    pub(super) fn retire_node(&mut self, command: &RetireNode) -> Answer {
        let node = command.node;
        check(node.0 > 0, "node", "be 1 or more")?;
        let disk = self.nodes.get(&node).map(|known| known.disk);
        let disk = disk.unwrap_or_default();
        let retired = true;
        self.nodes.insert(node, NodeRow { disk, retired });
        self.disconnect_all(|owner| owner.node == node);
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use crate::command::RetireNode;
    use crate::script::*;
    use crate::*;
    use std::vec;

    #[test]
    fn sessions_of_a_removed_node_have_their_grace() {
        let mut script = Script::with_queues(&["q"]);
        for (id, node) in [(1, 1), (2, 2)] {
            let Command::AttachConsumer(mut command) = attach("q", 1, 1) else {
                panic!("not an attach");
            };
            command.session = SessionId(id);
            command.owner.node = NodeId(node);
            script.run(Command::AttachConsumer(command));
        }
        script.run(Command::RetireNode(RetireNode { node: NodeId(2) }));
        let connected: vec::Vec<bool> = script.state.sessions().map(|s| s.connected).collect();
        assert_eq!(connected, vec![true, false]);
    }
}
