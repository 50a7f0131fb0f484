//! `AdmitNode`.

use super::{Answer, check};
use crate::command::AdmitNode;
use crate::limits;
use crate::outcome::{Outcome, Rejection};
use crate::row::NodeRow;
use crate::state::State;

impl State {
    pub(super) fn admit_node(&mut self, command: &AdmitNode) -> Answer {
        let AdmitNode { node, disk } = *command;
        check(node.0 > 0, "node", "be 1 or more")?;
        match self.nodes.get(&node) {
            Some(known) if known.disk == disk && !known.retired => Ok(Outcome::Done),
            Some(known) => Err(Rejection::NodeIdUsed {
                node,
                retired: known.retired,
            }),
            None if self.nodes.len() >= limits::NODES_MAX => Err(Rejection::TooMany {
                what: "nodes",
                limit: limits::NODES_MAX as u64,
            }),
            None => {
                let retired = false;
                self.nodes.insert(node, NodeRow { disk, retired });
                Ok(Outcome::Done)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::command::{AdmitNode, RetireNode};
    use crate::script::*;
    use crate::*;

    fn admit(node: u64, disk: u128) -> Command {
        Command::AdmitNode(AdmitNode {
            node: NodeId(node),
            disk: DiskId(disk),
        })
    }

    #[test]
    fn an_id_belongs_to_its_first_disk_for_ever() {
        let mut script = Script::new();
        assert_eq!(script.run(admit(4, 40)), Outcome::Done);
        assert_eq!(script.run(admit(4, 40)), Outcome::Done);
        let used = |retired| Rejection::NodeIdUsed {
            node: NodeId(4),
            retired,
        };
        assert_eq!(script.refused(admit(4, 41)), used(false));
        let retire = Command::RetireNode(RetireNode { node: NodeId(4) });
        assert_eq!(script.run(retire.clone()), Outcome::Done);
        assert_eq!(script.run(retire), Outcome::Done);
        assert_eq!(script.refused(admit(4, 40)), used(true));
        assert_eq!(script.run(admit(5, 40)), Outcome::Done);
        let known: std::vec::Vec<_> = script.state.nodes().collect();
        assert_eq!(known.len(), 2);
        assert_eq!(known[0].0, NodeId(4));
        assert!(known[0].1.retired && !known[1].1.retired);
    }

    #[test]
    fn an_id_that_was_never_admitted_can_be_retired() {
        let mut script = Script::new();
        let retire = Command::RetireNode(RetireNode { node: NodeId(3) });
        assert_eq!(script.run(retire), Outcome::Done);
        assert!(matches!(
            script.refused(admit(3, 1)),
            Rejection::NodeIdUsed { retired: true, .. }
        ));
        assert!(matches!(
            script.refused(admit(0, 1)),
            Rejection::InvalidField { field: "node", .. }
        ));
    }
}
