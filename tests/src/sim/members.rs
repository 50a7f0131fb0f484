//! Who runs the cluster: members come, vote, step down, go, and lose their disks, while everything
//! else goes wrong. Each step is repeated until it is known what became of it.

use std::sync::Arc;
use std::time::Duration;

use ticketrail_broker::{MembersAnswer, MembersRequest};
use ticketrail_core::NodeId;
use ticketrail_proto::error::{Problem, Reason};
use ticketrail_raft::{PeerAddress, Status};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::dice::Dice;
use super::history::History;
use super::network::{Network, Reachable};
use super::node::SimNode;
use super::world::{Trouble, World};

/// Nodes at a time, those that are about to leave included.
const NODES_MAX: usize = 6;
/// What the leader may take for one step.
const STEP_WAIT: Duration = Duration::from_secs(4);
/// What the operator waits beyond that for the answer.
const ANSWER_WAIT: Duration = Duration::from_millis(200);
/// Pause before a step is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Longest virtual time for a change to come to its end once nothing is wrong any more.
const END_WAIT: Duration = Duration::from_secs(30);

/// A change of the members that is under way.
pub(crate) struct Operation {
    steps: Vec<MembersRequest>,
    /// Who is a member no more when all steps are made.
    leaver: Option<u64>,
    /// Whether all steps were made.
    task: JoinHandle<bool>,
}

/// Where a simulated node would be reached.
pub(crate) fn address(node: u64) -> PeerAddress {
    PeerAddress {
        peer: format!("n{node}:peer"),
        client: format!("n{node}:client"),
    }
}

fn voters(status: &Status) -> Vec<u64> {
    let voters = status.members.iter().filter(|(_, member)| member.voter);
    voters.map(|(node, _)| node.0).collect()
}

fn any(nodes: &[u64], dice: &mut Dice) -> Option<u64> {
    (!nodes.is_empty()).then(|| nodes[dice.below(nodes.len() as u64) as usize])
}

impl World {
    /// Somebody comes, votes from now on, does not any more, goes, or leads.
    pub(crate) async fn change_members(&mut self) {
        let Some(status) = self.known_members() else {
            return;
        };
        let voters = voters(&status);
        let learners: Vec<u64> = (status.members.keys().map(|node| node.0))
            .filter(|node| !voters.contains(node))
            .collect();
        let mut leaver = None;
        let steps = match self.dice.below(10) {
            0..=2 if self.ids().len() < NODES_MAX => {
                let node = self.new_node().await;
                let votes = self.dice.percent(70);
                let promote = votes.then_some(MembersRequest::Promote(NodeId(node)));
                [self.add(node)].into_iter().chain(promote).collect()
            }
            3 | 4 if !learners.is_empty() => {
                let learner = any(&learners, &mut self.dice);
                learner
                    .map(|node| MembersRequest::Promote(NodeId(node)))
                    .into_iter()
                    .collect()
            }
            5 => {
                let voter = any(&voters, &mut self.dice);
                voter
                    .map(|node| MembersRequest::Demote(NodeId(node)))
                    .into_iter()
                    .collect()
            }
            6 | 7 if voters.len() > 3 || !learners.is_empty() => {
                let candidates = if voters.len() > 3 { &voters } else { &learners };
                leaver = any(candidates, &mut self.dice);
                leaver
                    .map(|node| MembersRequest::Remove(NodeId(node)))
                    .into_iter()
                    .collect()
            }
            _ => {
                let to = any(&voters, &mut self.dice).map(NodeId);
                vec![MembersRequest::Transfer(
                    to.filter(|_| self.dice.percent(50)),
                )]
            }
        };
        self.operate(steps, leaver, false);
    }

    /// A disk is lost with all that is on it: another node takes the place, under an id of its own.
    pub(crate) async fn lose_disk(&mut self) {
        let Some(status) = self.known_members() else {
            return;
        };
        let voters = voters(&status);
        let victims: Vec<u64> = status.members.keys().map(|node| node.0).collect();
        let Some(victim) = any(&victims, &mut self.dice) else {
            return;
        };
        // Two that are left of three are a majority; one of two is not.
        if voters.len() < 3 || self.ids().len() >= NODES_MAX {
            return;
        }
        self.take_away(victim);
        self.history.count(|counts| counts.disks_lost += 1);
        let node = self.new_node().await;
        let mut steps = vec![self.add(node)];
        if voters.contains(&victim) {
            steps.push(MembersRequest::Promote(NodeId(node)));
        }
        steps.push(MembersRequest::Remove(NodeId(victim)));
        self.operate(steps, None, true);
    }

    /// What the leader says, if there is one and nobody changes the members just now.
    fn known_members(&self) -> Option<Status> {
        if self.operation.is_some() {
            return None;
        }
        let status = leading(&self.network)?.broker.replica().status();
        (!status.changing_voters).then_some(status)
    }

    async fn new_node(&mut self) -> u64 {
        let id = self.nodes.keys().last().map_or(1, |last| last + 1);
        let dice = Dice::new(self.options.seed, 100 + id);
        let node = SimNode::new(id, dice, &self.options);
        self.nodes.insert(id, node);
        self.restart_the_dead().await;
        id
    }

    fn add(&mut self, node: u64) -> MembersRequest {
        MembersRequest::Add {
            node: NodeId(node),
            address: address(node),
            disk: self.node(node).disk_id(),
        }
    }

    fn operate(&mut self, steps: Vec<MembersRequest>, leaver: Option<u64>, insists: bool) {
        self.history.note(format_args!("members: {steps:?}"));
        if let Some(leaver) = leaver {
            self.node(leaver).leaving = true;
        }
        let operator = Operator {
            network: self.network.clone(),
            history: self.history.clone(),
            insists,
        };
        let task = tokio::spawn(operator.carry_out(steps.clone()));
        self.operation = Some(Operation {
            steps,
            leaver,
            task,
        });
    }

    /// Sees what became of a change, if it came to its end.
    pub(crate) async fn look_at_operation(&mut self) {
        let Some(operation) = self.operation.take_if(|known| known.task.is_finished()) else {
            return;
        };
        let done = match operation.task.await {
            Ok(done) => done,
            Err(error) => {
                return self
                    .history
                    .violation(format!("the operator panicked: {error}"));
            }
        };
        self.history
            .note(format_args!("members: {:?}, done: {done}", operation.steps));
        match operation.leaver {
            // For a while it runs on, and may not know.
            Some(leaver) if done => self.lasts(Trouble::Leaves(leaver), 100, 3_000),
            Some(leaver) => self.node(leaver).leaving = false,
            None => {}
        }
    }

    /// Once nothing is wrong any more: the change that is under way comes to its end, and who is no
    /// member goes.
    pub(crate) async fn settle_members(&mut self) {
        let until = Instant::now() + END_WAIT;
        while self.operation.is_some() {
            if Instant::now() > until {
                let steps = self.operation.take().map(|operation| operation.steps);
                let what = format!("a change of the members does not come to its end: {steps:?}");
                return self.history.violation(what);
            }
            tokio::time::sleep(AGAIN_AFTER).await;
            self.look_at_operation().await;
            self.restart_the_dead().await;
        }
        for ongoing in std::mem::take(&mut self.ongoing) {
            self.end(&ongoing.trouble);
        }
        let members = loop {
            match leading(&self.network) {
                Some(leader) => break leader.broker.replica().status().members,
                None if Instant::now() > until => {
                    return self
                        .history
                        .violation("nobody leads after the heal".to_owned());
                }
                None => tokio::time::sleep(AGAIN_AFTER).await,
            }
        };
        for id in self.ids() {
            if !members.contains_key(&NodeId(id)) {
                self.take_away(id);
            }
        }
    }

    /// A node never comes back.
    pub(crate) fn take_away(&mut self, id: u64) {
        self.history.note(format_args!("n{id} is gone"));
        self.crash(id);
        self.node(id).gone = true;
    }
}

/// Who leads, of several that believe so the newest.
fn leading(network: &Network) -> Option<Reachable> {
    let leads = network.running().into_iter().filter_map(|node| {
        let now = *node.broker.replica().leadership().borrow();
        now.is_leader.then_some((now.term, node))
    });
    leads.max_by_key(|(term, _)| *term).map(|(_, node)| node)
}

/// Asks the leader, again and again.
struct Operator {
    network: Arc<Network>,
    history: Arc<History>,
    /// It takes no refusal: sooner or later it must be possible.
    insists: bool,
}

/// What became of a step.
enum Made {
    Yes,
    No,
    /// Not known, or not yet.
    Again,
}

impl Operator {
    async fn carry_out(self, steps: Vec<MembersRequest>) -> bool {
        for step in steps {
            loop {
                match self.attempt(&step).await {
                    Made::Yes => break,
                    Made::No => return false,
                    Made::Again => tokio::time::sleep(AGAIN_AFTER).await,
                }
            }
        }
        true
    }

    async fn attempt(&self, step: &MembersRequest) -> Made {
        let Some(leader) = leading(&self.network) else {
            return Made::Again;
        };
        let deadline = Instant::now() + STEP_WAIT;
        let (broker, request) = (leader.broker.clone(), step.clone());
        let asked =
            (leader.life).spawn(async move { broker.change_members(request, deadline).await });
        match tokio::time::timeout_at(deadline + ANSWER_WAIT, asked).await {
            Ok(Ok(answer)) => self.told(step, answer),
            _ => Made::Again,
        }
    }

    fn told(&self, step: &MembersRequest, answer: Result<MembersAnswer, Problem>) -> Made {
        let problem = match answer {
            Ok(answer) => {
                let changed = u64::from(!answer.unchanged);
                self.history
                    .count(|counts| counts.members_changed += changed);
                return Made::Yes;
            }
            Err(problem) => problem,
        };
        self.history
            .note(format_args!("members: {step:?}: {problem}"));
        match problem.reason() {
            Reason::NotLeader
            | Reason::NoLeader
            | Reason::OutcomeUnknown
            | Reason::NotProposed
            | Reason::DeadlinePassed
            | Reason::ChangeInProgress => Made::Again,
            Reason::NoMajority
            | Reason::NodeUnreachable
            | Reason::NodeLags
            | Reason::NotAVoter
            | Reason::TransferFailed => {
                self.history.count(|counts| counts.members_refused += 1);
                if self.insists { Made::Again } else { Made::No }
            }
            _ => {
                let what = format!("{step:?} was refused: {problem}");
                self.history.violation(what);
                Made::No
            }
        }
    }
}
