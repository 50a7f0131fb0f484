//! The nodes, and the troubles that are going on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::dice::Dice;
use super::faults::Fault;
use super::history::History;
use super::members::Operation;
use super::network::{FAIR, Network, Reachable, Way};
use super::node::SimNode;
use super::run::{Options, check_bodies};

/// Troubles at a time.
const ONGOING_MAX: usize = 3;

/// The nodes, and what happens to them.
pub(crate) struct World {
    pub(crate) nodes: BTreeMap<u64, SimNode>,
    pub(crate) network: Arc<Network>,
    pub(crate) history: Arc<History>,
    pub(crate) options: Options,
    pub(crate) dice: Dice,
    pub(crate) ongoing: Vec<Ongoing>,
    /// A change of the members that is under way.
    pub(crate) operation: Option<Operation>,
}

/// A trouble that lasts a while.
pub(crate) struct Ongoing {
    pub(crate) until_ms: u64,
    pub(crate) trouble: Trouble,
}

/// What lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Messages on these ways are lost.
    Cut(Vec<Way>),
    /// Now so, now again not.
    Flapping(Vec<Way>),
    /// Messages are late, lost, doubled, out of order.
    Weather,
    /// A disk that is slow, stuck, full or fails.
    Disk(u64),
    /// A process that stands still.
    Paused(u64),
    /// A machine that is off.
    Off(u64),
    /// A wall clock that is wrong.
    WallClock(u64),
    /// A node that was removed and runs on.
    Leaves(u64),
}

impl World {
    /// Lets things go wrong for so long.
    pub(crate) async fn suffer(&mut self, span: Duration) {
        let until = self.history.now_ms() + span.as_millis() as u64;
        let drawn = Fault::draw(self.options.only, &mut self.dice);
        self.history.note(format_args!("faults: {drawn:?}"));
        while self.history.now_ms() < until && !self.history.is_violated() {
            self.pause(20, 500).await;
            self.look().await;
            if self.ongoing.len() < ONGOING_MAX {
                let fault = drawn[self.dice.below(drawn.len() as u64) as usize];
                self.history.note(format_args!("{fault:?}"));
                self.begin(fault).await;
            }
            self.restart_the_dead().await;
        }
    }

    /// Ends what is to end by now, and starts what is down.
    pub(crate) async fn look(&mut self) {
        self.end_due().await;
        self.flap();
        self.look_at_operation().await;
        self.look_at_installs();
        self.restart_the_dead().await;
    }

    /// Who has installed a snapshot has all its bodies.
    fn look_at_installs(&mut self) {
        for node in self.network.running() {
            if self.node(node.id).has_installed() {
                check_bodies(&self.history, &node);
            }
        }
    }

    /// Ends all trouble.
    pub(crate) async fn heal(&mut self) {
        self.history.note(format_args!("heal"));
        for Ongoing { trouble, .. } in std::mem::take(&mut self.ongoing) {
            self.end(&trouble);
        }
        self.network.heal();
        for id in self.ids() {
            let stopped = self.node(id).is_over();
            self.node(id).calm_disk();
            if stopped {
                self.stop_counted(id);
            }
        }
        self.restart_the_dead().await;
        self.settle_members().await;
    }

    async fn end_due(&mut self) {
        let now = self.history.now_ms();
        let (due, later) = std::mem::take(&mut self.ongoing)
            .into_iter()
            .partition(|ongoing| ongoing.until_ms <= now);
        self.ongoing = later;
        let due: Vec<Ongoing> = due;
        for Ongoing { trouble, .. } in due {
            self.history.note(format_args!("no more {trouble:?}"));
            self.end(&trouble);
        }
    }

    pub(crate) fn end(&mut self, trouble: &Trouble) {
        match trouble {
            Trouble::Cut(ways) | Trouble::Flapping(ways) => {
                ways.iter().for_each(|way| self.network.mend(*way));
            }
            Trouble::Weather => self.network.set_weather(FAIR),
            Trouble::Disk(id) => self.node(*id).calm_disk(),
            Trouble::Paused(id) => {
                if let Some(running) = self.node(*id).running() {
                    running.life.resume();
                }
            }
            Trouble::Off(_) => {}
            Trouble::WallClock(id) => self.node(*id).wall.step_to(0),
            Trouble::Leaves(id) => self.take_away(*id),
        }
    }

    fn flap(&mut self) {
        let flapping: Vec<Way> = (self.ongoing.iter())
            .filter_map(|ongoing| match &ongoing.trouble {
                Trouble::Flapping(ways) => Some(ways.clone()),
                _ => None,
            })
            .flatten()
            .collect();
        let cut = self.dice.percent(50);
        for way in flapping {
            if cut {
                self.network.cut(way);
            } else {
                self.network.mend(way);
            }
        }
    }

    /// Starts what is down, unless it shall be.
    pub(crate) async fn restart_the_dead(&mut self) {
        for id in self.ids() {
            let off = |ongoing: &Ongoing| ongoing.trouble == Trouble::Off(id);
            if self.ongoing.iter().any(off) {
                continue;
            }
            if self.node(id).is_over() {
                self.stop_counted(id);
            }
            if self.node(id).running().is_some() {
                continue;
            }
            let (network, history, options) = (
                self.network.clone(),
                self.history.clone(),
                self.options.clone(),
            );
            let booted = self.node(id).boot(&network, &history, &options).await;
            if let Err(reason) = booted {
                self.not_started(id, &reason);
            }
        }
    }

    /// A node does not start. That is a bug, unless its disk fails again just now.
    fn not_started(&mut self, id: u64, reason: &str) {
        let failing = |ongoing: &Ongoing| ongoing.trouble == Trouble::Disk(id);
        if self.ongoing.iter().any(failing) {
            self.history
                .note(format_args!("n{id} does not start: {reason}"));
        } else {
            self.history
                .violation(format!("n{id} does not start: {reason}"));
        }
    }

    fn stop_counted(&mut self, id: u64) {
        self.history.count(|counts| counts.stopped += 1);
        self.crash(id);
    }

    pub(crate) fn crash(&mut self, id: u64) {
        let (network, history) = (self.network.clone(), self.history.clone());
        self.node(id).crash(&network, &history);
    }

    pub(crate) fn node(&mut self, id: u64) -> &mut SimNode {
        self.nodes.get_mut(&id).expect("a node is never forgotten")
    }

    /// The nodes that run, or will again.
    pub(crate) fn ids(&self) -> Vec<u64> {
        let here = self.nodes.iter().filter(|(_, node)| !node.gone);
        here.map(|(id, _)| *id).collect()
    }

    pub(crate) fn any_node(&mut self) -> u64 {
        let ids = self.ids();
        ids[self.dice.below(ids.len() as u64) as usize]
    }

    pub(crate) fn leader(&self) -> Option<u64> {
        let leads = |node: &&Reachable| node.broker.replica().leadership().borrow().is_leader;
        self.network
            .running()
            .iter()
            .find(leads)
            .map(|node| node.id)
    }

    pub(crate) async fn pause(&mut self, first_ms: u64, last_ms: u64) {
        let ms = self.dice.between(first_ms, last_ms);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}
