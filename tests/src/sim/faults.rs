//! What goes wrong. Each seed draws which kinds of faults it has at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::dice::Dice;
use super::history::History;
use super::network::{FAIR, Network, Weather};
use super::node::SimNode;
use super::run::Options;

const CALM_SYNC_US: u64 = 3_000;
const SLOW_SYNC_US: u64 = 80_000;

/// The nodes, and what happens to them.
pub(crate) struct World {
    pub(crate) nodes: BTreeMap<u64, SimNode>,
    pub(crate) network: Arc<Network>,
    pub(crate) history: Arc<History>,
    pub(crate) options: Options,
    pub(crate) dice: Dice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The leader's machine restarts at once, before anybody calls an election.
    LeaderBlinks,
    /// A machine loses power and is away for a while.
    NodeCrashes,
    /// A disk stops between a write and its sync, then the machine restarts.
    DiskStops,
    /// All machines lose power.
    AllCrash,
    /// A node is cut off, in both directions or in one.
    Partition,
    /// Messages are slow, lost, and overtake each other.
    BadWeather,
    /// Syncs of a node take long.
    SlowDisk,
}

const FAULTS: [Fault; 7] = [
    Fault::LeaderBlinks,
    Fault::NodeCrashes,
    Fault::DiskStops,
    Fault::AllCrash,
    Fault::Partition,
    Fault::BadWeather,
    Fault::SlowDisk,
];

impl World {
    /// Lets things go wrong for so long.
    pub(crate) async fn suffer(&mut self, span: Duration) {
        let until = self.history.now_ms() + span.as_millis() as u64;
        let dice = &mut self.dice;
        let mut drawn: Vec<Fault> = FAULTS.into_iter().filter(|_| dice.percent(60)).collect();
        if drawn.is_empty() {
            drawn.push(Fault::LeaderBlinks);
        }
        self.history.note(format_args!("faults: {drawn:?}"));
        while self.history.now_ms() < until && !self.history.is_violated() {
            self.pause(50, 900).await;
            let fault = drawn[self.dice.below(drawn.len() as u64) as usize];
            self.history.note(format_args!("{fault:?}"));
            self.inflict(fault).await;
            self.restart_the_dead().await;
        }
    }

    async fn inflict(&mut self, fault: Fault) {
        match fault {
            Fault::LeaderBlinks => {
                if let Some(leader) = self.leader() {
                    self.node(leader).set_sync_us_max(SLOW_SYNC_US);
                    self.pause(5, 300).await;
                    self.crash(leader);
                    self.pause(1, 60).await;
                    self.node(leader).set_sync_us_max(CALM_SYNC_US);
                }
            }
            Fault::NodeCrashes => {
                let node = self.any_node();
                self.crash(node);
                self.pause(10, 1_500).await;
            }
            Fault::DiskStops => {
                let node = self.any_node();
                self.node(node).stop_disk_soon();
                self.pause(50, 400).await;
                self.crash(node);
                self.pause(1, 200).await;
            }
            Fault::AllCrash => {
                for node in 1..=self.options.nodes {
                    self.crash(node);
                    if self.dice.percent(50) {
                        self.pause(1, 100).await;
                    }
                }
                self.pause(1, 300).await;
            }
            Fault::Partition => {
                let node = self.any_node();
                let both = self.dice.percent(70);
                self.history.count(|counts| counts.partitions += 1);
                for other in (1..=self.options.nodes).filter(|other| *other != node) {
                    self.network.cut(node, other);
                    if both {
                        self.network.cut(other, node);
                    }
                }
                self.pause(50, 1_500).await;
                self.network.heal();
            }
            Fault::BadWeather => {
                let weather = Weather {
                    delay_us_max: self.dice.between(2_000, 60_000),
                    lost_percent: self.dice.below(15),
                    overtaking_percent: self.dice.below(50),
                };
                self.network.set_weather(weather);
                self.pause(100, 1_500).await;
                self.network.set_weather(FAIR);
            }
            Fault::SlowDisk => {
                let node = self.any_node();
                self.node(node).set_sync_us_max(SLOW_SYNC_US);
                self.pause(100, 1_000).await;
                self.node(node).set_sync_us_max(CALM_SYNC_US);
            }
        }
    }

    /// Ends all faults and starts all nodes.
    pub(crate) async fn heal(&mut self) {
        self.history.note(format_args!("heal"));
        self.network.heal();
        for node in self.nodes.values_mut() {
            node.set_sync_us_max(CALM_SYNC_US);
            if node.disk_stopped() {
                node.crash(&self.network, &self.history);
            }
        }
        self.restart_the_dead().await;
    }

    /// Starts what does not run, and what must stop: only a node whose disk failed may.
    pub(crate) async fn restart_the_dead(&mut self) {
        for node in self.nodes.values_mut() {
            let failure = node
                .running()
                .and_then(|running| running.replica.failure().borrow().clone());
            if let Some(reason) = failure {
                if !node.disk_stopped() {
                    self.history
                        .violation(format!("n{} failed: {reason}", node.id));
                }
                node.crash(&self.network, &self.history);
            }
            if node.running().is_none() {
                let booted = node.boot(&self.network, &self.history, &self.options).await;
                if let Err(reason) = booted {
                    self.history
                        .violation(format!("n{} does not start: {reason}", node.id));
                }
            }
        }
    }

    fn crash(&mut self, id: u64) {
        let (network, history) = (self.network.clone(), self.history.clone());
        self.node(id).crash(&network, &history);
    }

    fn node(&mut self, id: u64) -> &mut SimNode {
        self.nodes.get_mut(&id).expect("nodes are numbered from 1")
    }

    fn any_node(&mut self) -> u64 {
        self.dice.between(1, self.options.nodes)
    }

    fn leader(&self) -> Option<u64> {
        let running = self.network.running();
        let leads = |id: &u64| {
            running
                .iter()
                .any(|n| n.id == *id && n.replica.leadership().borrow().is_leader)
        };
        (1..=self.options.nodes).find(leads)
    }

    async fn pause(&mut self, first_ms: u64, last_ms: u64) {
        let ms = self.dice.between(first_ms, last_ms);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}
