//! Who belongs to the cluster: the rules by which the leader changes it.
//!
//! One change at a time, each either made or refused with a reason that says what to do. A learner
//! comes in with its id bound to its disk, by a command in the log; it becomes a voter when it has
//! caught up; who leaves is a learner first, so that it hears of it, and then its id is retired. A
//! leader that is to leave hands over first, and the next one goes on.
//!
//! A change that makes the cluster worse off than its operator can know is refused: voters that do
//! not answer must never be what a majority waits for.

mod admission;
mod quorum;

use std::time::Duration;

use ticketrail_core::command::{AdmitNode, RetireNode};
use ticketrail_core::{Command, DiskId, NodeId};
use ticketrail_proto::error::{Problem, Reason};
use ticketrail_raft::{ChangeError, Member, MemberChange, PeerAddress, Status};
use tokio::time::{Instant, timeout_at};

pub use admission::Standing;
pub(crate) use admission::admit_self;

use crate::broker::{Broker, Inner};

/// A learner that lags by more entries than this is not made a voter, a voter not the leader.
pub const LAG_ENTRIES_MAX: u64 = 2_000;
/// A node that did not answer for so long counts as away.
const SILENCE_MAX: Duration = Duration::from_secs(1);
/// How long a leader waits for another one to lead.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);
/// Pause before a step is tried again that had to wait for the one before it.
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// What to wait before a retry.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What shall change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembersRequest {
    /// A node that answered at its address becomes a learner, or is reached elsewhere.
    Add {
        /// Who.
        node: NodeId,
        /// Where it answered.
        address: PeerAddress,
        /// The disk that it said it has.
        disk: DiskId,
    },
    /// A learner becomes a voter.
    Promote(NodeId),
    /// A voter becomes a learner.
    Demote(NodeId),
    /// A node leaves for good.
    Remove(NodeId),
    /// Another voter leads: this one, or the most complete.
    Transfer(Option<NodeId>),
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembersAnswer {
    /// It was so before.
    pub unchanged: bool,
    /// What an operator should know.
    pub warnings: Vec<String>,
    /// Who leads now.
    pub leader: Option<NodeId>,
}

impl Broker {
    /// Makes a change of the members, as the leader.
    ///
    /// # Errors
    /// `NOT_LEADER` where this node does not lead, or has just handed over because it is the one to
    /// leave: ask the leader. Else why it was refused.
    pub async fn change_members(
        &self,
        request: MembersRequest,
        deadline: Instant,
    ) -> Result<MembersAnswer, Problem> {
        let inner = &self.inner;
        if !inner.leadership.borrow().is_leader {
            return Err(Problem::not_leader(None));
        }
        // A change that was just seen to be made may still be at its last step.
        let until = deadline.min(Instant::now() + HAND_OVER_MAX);
        let Ok(_alone) = timeout_at(until, inner.changing_members.lock()).await else {
            return Err(in_progress());
        };
        // What is decided by the state must see all that was decided before.
        inner.read_barrier(deadline).await?;
        if inner.replica.status().changing_voters {
            inner.step(MemberChange::Finish, deadline).await?;
        }
        let mut answer = match request {
            MembersRequest::Add {
                node,
                address,
                disk,
            } => inner.add(node, address, disk, deadline).await,
            MembersRequest::Promote(node) => inner.promote(node, deadline).await,
            MembersRequest::Demote(node) => inner.demote(node, deadline).await,
            MembersRequest::Remove(node) => inner.remove(node, deadline).await,
            MembersRequest::Transfer(to) => inner.transfer(to, deadline).await,
        }?;
        answer.leader = inner.leadership.borrow().leader;
        Ok(answer)
    }

    /// If this node leads and another voter answers, asks the most complete of them to lead, and waits
    /// until another one does: who leads now. For a node that stops, which then costs the others no
    /// election timeout.
    ///
    /// # Errors
    /// None has taken over in time.
    pub async fn hand_over(&self, deadline: Instant) -> Result<Option<NodeId>, Problem> {
        if !self.inner.leadership.borrow().is_leader {
            return Ok(None);
        }
        match self.inner.hand_over(None, deadline).await {
            Err(problem) if problem.reason() == Reason::NoMajority => Ok(None),
            handed => handed.map(Some),
        }
    }
}

impl Inner {
    async fn add(
        &self,
        node: NodeId,
        address: PeerAddress,
        disk: DiskId,
        deadline: Instant,
    ) -> Result<MembersAnswer, Problem> {
        let members = self.replica.status().members;
        let taken = members.iter().find(|(other, member)| {
            **other != node
                && (member.address.peer == address.peer || member.address.client == address.client)
        });
        if let Some((other, _)) = taken {
            let must = format!("other addresses than those of node {other}");
            return Err(Problem::invalid_field("peer_address", must));
        }
        // For a member, too: that it is still on the disk that it had.
        self.submit(&Command::AdmitNode(AdmitNode { node, disk }), &[], deadline)
            .await?;
        match members.get(&node) {
            Some(member) if member.address == address => return Ok(unchanged()),
            Some(_) => {
                let moved = MemberChange::SetAddress { node, address };
                self.step(moved, deadline).await?;
                tracing::info!(%node, "a member has a new address");
            }
            None => {
                let learner = MemberChange::AddLearner { node, address };
                self.step(learner, deadline).await?;
                tracing::info!(%node, "a learner was added");
            }
        }
        Ok(MembersAnswer::default())
    }

    async fn promote(&self, node: NodeId, deadline: Instant) -> Result<MembersAnswer, Problem> {
        let status = self.replica.status();
        if known(&status, node)?.voter {
            return Ok(unchanged());
        }
        let mut voters = quorum::voters(&status);
        voters.insert(node);
        self.soon(deadline, |status| {
            caught_up(status, node)?;
            quorum::check(status, &voters)
        })
        .await?;
        self.step(MemberChange::Promote(node), deadline).await?;
        tracing::info!(%node, "a learner became a voter");
        Ok(changed(quorum::warnings(voters.len())))
    }

    async fn demote(&self, node: NodeId, deadline: Instant) -> Result<MembersAnswer, Problem> {
        let status = self.replica.status();
        if !known(&status, node)?.voter {
            return Ok(unchanged());
        }
        let mut voters = quorum::voters(&status);
        voters.remove(&node);
        self.soon(deadline, |status| quorum::check(status, &voters))
            .await?;
        if node == status.node_id {
            self.hand_over(None, deadline).await?;
            return Err(Problem::not_leader(None));
        }
        self.step(MemberChange::Demote(node), deadline).await?;
        tracing::info!(%node, "a voter became a learner");
        Ok(changed(quorum::warnings(voters.len())))
    }

    async fn remove(&self, node: NodeId, deadline: Instant) -> Result<MembersAnswer, Problem> {
        let status = self.replica.status();
        let retire = Command::RetireNode(RetireNode { node });
        let mut answer = MembersAnswer::default();
        match status.members.get(&node) {
            Some(member) => {
                if member.voter {
                    answer = self.demote(node, deadline).await?;
                }
                // Once it is no member, nothing would say that this id was ever used.
                if self.replica.with_state(|state| state.node(node)).is_none() {
                    self.submit(&retire, &[], deadline).await?;
                }
                let removed = MemberChange::RemoveLearner(node);
                self.step(removed, deadline).await?;
            }
            None => match self.replica.with_state(|state| state.node(node)) {
                Some(known) if known.retired => return Ok(unchanged()),
                // An earlier removal did not get to its end.
                Some(_) => {}
                None => return Err(no_such_node(node)),
            },
        }
        self.submit(&retire, &[], deadline).await?;
        tracing::info!(%node, "a node was removed");
        Ok(answer)
    }

    async fn transfer(
        &self,
        to: Option<NodeId>,
        deadline: Instant,
    ) -> Result<MembersAnswer, Problem> {
        let status = self.replica.status();
        if to == Some(status.node_id) {
            return Ok(unchanged());
        }
        self.hand_over(to, deadline).await?;
        Ok(MembersAnswer::default())
    }

    /// Another voter leads: `to`; or the most complete that answers is asked to, and whoever then leads
    /// is told.
    async fn hand_over(&self, to: Option<NodeId>, deadline: Instant) -> Result<NodeId, Problem> {
        let status = self.replica.status();
        let asked = match to {
            Some(to) => {
                if !known(&status, to)?.voter {
                    let message = format!("node {to} does not vote, so it cannot lead; promote it");
                    return Err(Problem::new(Reason::NotAVoter, message).with("node_id", to));
                }
                self.soon(deadline, |status| caught_up(status, to)).await?;
                to
            }
            None => {
                let others = status.members.iter();
                let able = others
                    .filter(|(node, member)| **node != status.node_id && member.voter)
                    .filter(|(_, member)| answers(member));
                let most_complete = able.max_by_key(|(_, member)| member.matched_index);
                let message = "no other voter answers that could lead; bring one back first";
                *most_complete
                    .ok_or_else(|| Problem::new(Reason::NoMajority, message))?
                    .0
            }
        };
        let mut leadership = self.leadership.clone();
        let until = deadline.min(Instant::now() + HAND_OVER_MAX);
        let other = async {
            self.replica.transfer_leadership(asked).await;
            leadership
                .wait_for(|now| now.leader.is_some() && !now.is_leader)
                .await
        };
        match timeout_at(until, other).await {
            Ok(Ok(now)) => {
                let leader = now.leader.unwrap_or_default();
                if to.is_none_or(|to| to == leader) {
                    return Ok(leader);
                }
                let message =
                    format!("node {leader} was quicker than node {asked} and leads; ask again");
                Err(Problem::new(Reason::TransferFailed, message).with("leader_node_id", leader))
            }
            Ok(Err(_)) => Err(crate::submit::stopped()),
            Err(_) => {
                let message = format!(
                    "node {asked} did not take the leadership over in time; look at its log, then ask again"
                );
                Err(Problem::new(Reason::TransferFailed, message))
            }
        }
    }

    /// Whether something holds, or does in a moment: a leader that is new has not heard from all the
    /// others yet.
    async fn soon(
        &self,
        deadline: Instant,
        check: impl Fn(&Status) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let until = deadline.min(Instant::now() + SILENCE_MAX);
        loop {
            match check(&self.replica.status()) {
                Err(_) if Instant::now() < until => tokio::time::sleep(AGAIN_AFTER).await,
                checked => return checked,
            }
        }
    }

    /// One step in the log. One that has to wait for the entry before it is tried again.
    async fn step(&self, change: MemberChange, deadline: Instant) -> Result<(), Problem> {
        loop {
            let made = timeout_at(deadline, self.replica.change_members(change.clone()));
            match made.await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(ChangeError::InProgress)) => {
                    if Instant::now() + AGAIN_AFTER >= deadline {
                        return Err(in_progress());
                    }
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                Ok(Err(ChangeError::NotLeader { .. })) => return Err(Problem::not_leader(None)),
                Ok(Err(ChangeError::Refused(why))) => {
                    let message = format!("the members cannot be changed so: {why}");
                    return Err(Problem::new(Reason::Internal, message));
                }
                Ok(Err(ChangeError::Unknown | ChangeError::Stopped)) | Err(_) => {
                    return Err(outcome_unknown());
                }
            }
        }
    }
}

/// Ends what an earlier leader did not: while two sets of voters are in force, a majority of both is
/// needed.
pub(crate) async fn finish_changes(inner: std::sync::Arc<Inner>) {
    let mut look = tokio::time::interval(RETRY_AFTER);
    loop {
        look.tick().await;
        if !inner.leadership.borrow().is_leader || !inner.replica.status().changing_voters {
            continue;
        }
        // Whoever makes a change here will end it.
        let Ok(_alone) = inner.changing_members.try_lock() else {
            continue;
        };
        let deadline = Instant::now() + HAND_OVER_MAX;
        match inner.step(MemberChange::Finish, deadline).await {
            Ok(()) => tracing::info!("a change of the voters was finished"),
            Err(problem) => tracing::debug!(%problem, "a change of the voters is not finished yet"),
        }
    }
}

fn unchanged() -> MembersAnswer {
    MembersAnswer {
        unchanged: true,
        ..MembersAnswer::default()
    }
}

fn changed(warnings: Vec<String>) -> MembersAnswer {
    MembersAnswer {
        warnings,
        ..MembersAnswer::default()
    }
}

fn known(status: &Status, node: NodeId) -> Result<&Member, Problem> {
    status.members.get(&node).ok_or_else(|| no_such_node(node))
}

fn answers(member: &Member) -> bool {
    let bound = SILENCE_MAX.as_millis();
    member
        .answered_ms_ago
        .is_some_and(|ms| u128::from(ms) < bound)
}

/// Entries that a node is not known to hold, as its leader sees it.
fn lag(status: &Status, member: &Member) -> u64 {
    let last = status.last_log_index.map_or(0, |last| last + 1);
    last.saturating_sub(member.matched_index.map_or(0, |index| index + 1))
}

/// Whether a node is there and nearly as far as this leader.
fn caught_up(status: &Status, node: NodeId) -> Result<(), Problem> {
    let member = known(status, node)?;
    let lag = lag(status, member);
    if !answers(member) {
        let message = format!("node {node} does not answer this leader; bring it back first");
        return Err(Problem::new(Reason::NodeUnreachable, message).with("node_id", node));
    }
    // However few the entries are: those that it needs are not in the log any more.
    let needs_snapshot = status.purged_index > member.matched_index;
    if lag > LAG_ENTRIES_MAX || needs_snapshot {
        let why = match needs_snapshot {
            true => "and waits for a snapshot".to_owned(),
            false => format!("more than {LAG_ENTRIES_MAX}"),
        };
        let message =
            format!("node {node} is {lag} entries behind, {why}; wait until it has caught up");
        let problem = Problem::new(Reason::NodeLags, message);
        return Err(problem.with("node_id", node).with("lag_entries", lag));
    }
    Ok(())
}

fn no_such_node(node: NodeId) -> Problem {
    let message =
        format!("node {node} is no member of this cluster; see `ticketrail cluster status`");
    Problem::new(Reason::NodeNotFound, message).with("node_id", node)
}

fn in_progress() -> Problem {
    let message = "another change of the members is under way; try again when it is done";
    Problem::new(Reason::ChangeInProgress, message)
}

fn outcome_unknown() -> Problem {
    let message = "whether the members were changed is not known; look at them, or ask again: \
                   what is done already is answered OK";
    Problem::new(Reason::OutcomeUnknown, message).retry_after(RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_far_behind_is_told_how_far() {
        let member = |matched_index, answered_ms_ago| Member {
            matched_index,
            answered_ms_ago,
            ..Member::default()
        };
        let status = Status {
            last_log_index: Some(9_999),
            members: [
                (NodeId(2), member(Some(9_000), Some(5))),
                (NodeId(3), member(Some(4_999), Some(5))),
                (NodeId(4), member(None, Some(5))),
                (NodeId(5), member(Some(9_999), Some(5_000))),
            ]
            .into(),
            ..Status::default()
        };
        caught_up(&status, NodeId(2)).unwrap();
        let refused = |node| caught_up(&status, NodeId(node)).unwrap_err();
        assert_eq!(refused(3).reason(), Reason::NodeLags);
        assert!(
            refused(3).message().contains("5000 entries"),
            "{}",
            refused(3)
        );
        assert!(refused(4).message().contains("10000 entries"));
        assert_eq!(refused(5).reason(), Reason::NodeUnreachable);
        assert_eq!(refused(6).reason(), Reason::NodeNotFound);
        // A short log, of which the node has none, and the log's begin is gone.
        let member = member(None, Some(5));
        let status = Status {
            last_log_index: Some(30),
            purged_index: Some(20),
            members: [(NodeId(2), member)].into(),
            ..Status::default()
        };
        let refused = caught_up(&status, NodeId(2)).unwrap_err();
        assert_eq!(refused.reason(), Reason::NodeLags);
        assert!(refused.message().contains("a snapshot"), "{refused}");
    }
}
