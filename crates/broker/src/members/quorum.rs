//! Whether a cluster can go on with the voters that it would have.

use std::collections::BTreeSet;

use ticketrail_core::NodeId;
use ticketrail_proto::error::{Problem, Reason};
use ticketrail_raft::Status;

use super::answers;

/// The voters.
pub(super) fn voters(status: &Status) -> BTreeSet<NodeId> {
    let voters = status.members.iter().filter(|(_, member)| member.voter);
    voters.map(|(node, _)| *node).collect()
}

/// Refuses voters of which no majority answers this leader.
pub(super) fn check(status: &Status, voters: &BTreeSet<NodeId>) -> Result<(), Problem> {
    let is_there =
        |node: &NodeId| *node == status.node_id || status.members.get(node).is_some_and(answers);
    let missing: Vec<String> = voters
        .iter()
        .filter(|node| !is_there(node))
        .map(ToString::to_string)
        .collect();
    let there = voters.len() - missing.len();
    if there * 2 > voters.len() {
        return Ok(());
    }
    let message = if voters.is_empty() {
        "it is the only voter, so nothing could be stored any more; promote another node first"
            .to_owned()
    } else {
        format!(
            "only {there} of {} voters that are left would answer, no majority; bring back node {} first, or \
             promote others",
            voters.len(),
            missing.join(", ")
        )
    };
    Err(Problem::new(Reason::NoMajority, message).with("missing", missing.join(",")))
}

/// What to know of so many voters.
pub(super) fn warnings(voters: usize) -> Vec<String> {
    if !voters.is_multiple_of(2) {
        return Vec::new();
    }
    let bears = voters.div_ceil(2) - 1;
    let bears = match bears {
        0 => "the loss of none".to_owned(),
        1 => "the loss of one".to_owned(),
        more => format!("the loss of {more}"),
    };
    vec![format!(
        "{voters} voters bear {bears}, no more than {} would; an odd number is better",
        voters - 1
    )]
}

#[cfg(test)]
mod tests {
    use ticketrail_raft::Member;

    use super::*;

    /// Node 1 leads; the others answered so many milliseconds ago, or never.
    fn status(answered: &[Option<u64>]) -> Status {
        let member = |answered_ms_ago| Member {
            voter: true,
            answered_ms_ago,
            ..Member::default()
        };
        let others = answered.iter().map(|ms| member(*ms));
        let members = std::iter::once(member(None)).chain(others);
        Status {
            node_id: NodeId(1),
            members: (1..).map(NodeId).zip(members).collect(),
            ..Status::default()
        }
    }

    #[test]
    fn voters_that_do_not_answer_are_named() {
        let status = status(&[Some(10), None]);
        let all = voters(&status);
        check(&status, &all).unwrap();
        let left = BTreeSet::from([NodeId(1), NodeId(3)]);
        let refused = check(&status, &left).unwrap_err();
        assert_eq!(refused.reason(), Reason::NoMajority);
        assert!(refused.message().contains("node 3"), "{refused}");
        check(&status, &BTreeSet::from([NodeId(1), NodeId(2)])).unwrap();
    }

    #[test]
    fn the_last_voter_stays() {
        let refused = check(&status(&[]), &BTreeSet::new()).unwrap_err();
        assert!(refused.message().contains("only voter"), "{refused}");
    }

    #[test]
    fn an_even_number_is_told_of() {
        assert!(warnings(3).is_empty());
        assert!(warnings(2)[0].contains("the loss of none"));
        assert!(warnings(4)[0].contains("the loss of one"));
    }
}
