//! What goes wrong. Each seed draws which kinds of faults it has at all.

use super::dice::Dice;
use super::network::{Way, Weather};
use super::world::{Ongoing, Trouble, World};

const SLOW_SYNC_US: u64 = 80_000;
const HOUR_MS: i64 = 3_600_000;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The leader's machine restarts at once, before anybody calls an election.
    LeaderBlinks,
    /// A machine loses power and is away for a while.
    NodeCrashes,
    /// A disk stops between a write and its sync, then the machine restarts.
    DiskStops,
    /// All machines lose power.
    AllCrash,
    /// A node is cut off.
    Isolated,
    /// A node hears nobody, or is heard by nobody.
    OneWay,
    /// Two groups do not hear each other.
    Halves,
    /// Two nodes do not hear each other; all others hear both.
    Bridge,
    /// A node is cut off again and again.
    Flapping,
    /// Messages are slow, lost, doubled, and overtake each other.
    BadWeather,
    /// Some messages come seconds late.
    LateMessages,
    /// Syncs of a node take long.
    SlowDisk,
    /// Syncs of a node hang for seconds.
    HungDisk,
    /// A disk fails an operation.
    DiskError,
    /// A disk is full.
    DiskFull,
    /// A process stands still.
    Paused,
    /// A wall clock steps by an hour.
    WallClock,
    /// The leader is asked to hand over.
    Transfer,
    /// All but the leader are slow to sync, then all lose power, and the leader comes back last.
    FollowersForget,
    /// A member comes, goes, votes or does not.
    Members,
    /// A disk is lost for good; another node takes the place.
    DiskLost,
    /// Senders, receivers and installers of a snapshot lose power in the middle.
    SnapshotKills,
}

const FAULTS: [Fault; 22] = [
    Fault::LeaderBlinks,
    Fault::NodeCrashes,
    Fault::DiskStops,
    Fault::AllCrash,
    Fault::Isolated,
    Fault::OneWay,
    Fault::Halves,
    Fault::Bridge,
    Fault::Flapping,
    Fault::BadWeather,
    Fault::LateMessages,
    Fault::SlowDisk,
    Fault::HungDisk,
    Fault::DiskError,
    Fault::DiskFull,
    Fault::Paused,
    Fault::WallClock,
    Fault::Transfer,
    Fault::FollowersForget,
    Fault::Members,
    Fault::DiskLost,
    Fault::SnapshotKills,
];

impl Fault {
    /// The faults of a seed, of these or of all.
    pub(crate) fn draw(only: &[Self], dice: &mut Dice) -> Vec<Self> {
        if !only.is_empty() {
            return only.to_vec();
        }
        let mut drawn: Vec<Self> = FAULTS.into_iter().filter(|_| dice.percent(40)).collect();
        if drawn.is_empty() {
            drawn.push(Self::LeaderBlinks);
        }
        drawn
    }
}

impl World {
    pub(crate) async fn begin(&mut self, fault: Fault) {
        self.history
            .count(|counts| *counts.faults.entry(format!("{fault:?}")).or_default() += 1);
        let node = self.any_node();
        match fault {
            Fault::LeaderBlinks => self.leader_blinks().await,
            Fault::NodeCrashes => {
                self.crash(node);
                let away = if self.dice.percent(20) { 10_000 } else { 1_500 };
                self.lasts(Trouble::Off(node), 10, away);
            }
            Fault::DiskStops => {
                self.node(node).stop_disk_soon();
                self.pause(50, 400).await;
                self.crash(node);
                self.lasts(Trouble::Off(node), 1, 200);
            }
            Fault::AllCrash => {
                for node in self.ids() {
                    self.crash(node);
                    self.lasts(Trouble::Off(node), 1, 1_000);
                }
            }
            Fault::Isolated => {
                let ways = self.around(node, true, true);
                self.cut(ways, 50, 3_000);
            }
            Fault::OneWay => {
                let inwards = self.dice.percent(50);
                let ways = self.around(node, inwards, !inwards);
                self.cut(ways, 50, 3_000);
            }
            Fault::Halves => {
                let ways = self.halves();
                self.cut(ways, 50, 3_000);
            }
            Fault::Bridge => {
                let other = self.any_node();
                self.cut(vec![(node, other), (other, node)], 50, 4_000);
            }
            Fault::Flapping => {
                let ways = self.around(node, true, true);
                self.lasts(Trouble::Flapping(ways), 500, 5_000);
            }
            Fault::BadWeather => {
                let weather = Weather {
                    delay_us_max: self.dice.between(2_000, 60_000),
                    lost_percent: self.dice.below(15),
                    overtaking_percent: self.dice.below(50),
                    duplicated_percent: self.dice.below(10),
                    late_percent: 0,
                };
                self.weather(weather);
            }
            Fault::LateMessages => {
                let weather = Weather {
                    delay_us_max: self.dice.between(1_000, 5_000),
                    lost_percent: 0,
                    overtaking_percent: 10,
                    duplicated_percent: 10,
                    late_percent: self.dice.between(1, 10),
                };
                self.weather(weather);
            }
            Fault::SlowDisk => {
                self.node(node).slow_disk(100, SLOW_SYNC_US);
                self.lasts(Trouble::Disk(node), 100, 1_500);
            }
            Fault::HungDisk => {
                self.node(node).slow_disk(2_000_000, 10_000_000);
                self.lasts(Trouble::Disk(node), 500, 10_000);
            }
            Fault::DiskError => {
                self.node(node).fail_disk_soon();
                self.lasts(Trouble::Disk(node), 100, 1_000);
            }
            Fault::DiskFull => {
                self.node(node).fill_disk();
                self.lasts(Trouble::Disk(node), 500, 4_000);
            }
            Fault::Paused => {
                if let Some(running) = self.node(node).running() {
                    running.life.pause();
                    self.lasts(Trouble::Paused(node), 50, 6_000);
                }
            }
            Fault::WallClock => {
                let hour = if self.dice.percent(50) {
                    HOUR_MS
                } else {
                    -HOUR_MS
                };
                self.node(node).wall.step_to(hour);
                self.lasts(Trouble::WallClock(node), 500, 8_000);
            }
            Fault::Transfer => self.transfer(node),
            Fault::FollowersForget => self.followers_forget().await,
            Fault::Members => self.change_members().await,
            Fault::DiskLost => self.lose_disk().await,
            Fault::SnapshotKills => self.kill_in_snapshots().await,
        }
    }

    pub(crate) fn lasts(&mut self, trouble: Trouble, first_ms: u64, last_ms: u64) {
        let until_ms = self.history.now_ms() + self.dice.between(first_ms, last_ms);
        self.ongoing.push(Ongoing { until_ms, trouble });
    }

    async fn leader_blinks(&mut self) {
        let Some(leader) = self.leader() else { return };
        self.node(leader).slow_disk(100, SLOW_SYNC_US);
        self.pause(5, 300).await;
        self.crash(leader);
        self.node(leader).calm_disk();
        self.pause(1, 60).await;
    }

    /// What a follower said to have and did not sync is lost, and the leader is not there to tell.
    async fn followers_forget(&mut self) {
        let Some(leader) = self.leader() else { return };
        let ids = self.ids();
        for id in ids.iter().filter(|id| **id != leader) {
            self.node(*id).slow_disk(SLOW_SYNC_US / 4, SLOW_SYNC_US);
        }
        self.pause(20, 300).await;
        for id in ids {
            self.crash(id);
            self.node(id).calm_disk();
        }
        self.lasts(Trouble::Off(leader), 500, 3_000);
    }

    fn cut(&mut self, ways: Vec<Way>, first_ms: u64, last_ms: u64) {
        ways.iter().for_each(|way| self.network.cut(*way));
        self.lasts(Trouble::Cut(ways), first_ms, last_ms);
    }

    fn weather(&mut self, weather: Weather) {
        self.network.set_weather(weather);
        self.lasts(Trouble::Weather, 100, 3_000);
    }

    /// The ways to a node, from it, or both.
    fn around(&self, node: u64, inwards: bool, outwards: bool) -> Vec<Way> {
        let others = self.ids().into_iter().filter(|other| *other != node);
        others
            .flat_map(|other| [((other, node), inwards), ((node, other), outwards)])
            .filter_map(|(way, cut)| cut.then_some(way))
            .collect()
    }

    fn halves(&mut self) -> Vec<Way> {
        let ids = self.ids();
        let sides: Vec<(u64, bool)> = ids
            .into_iter()
            .map(|id| (id, self.dice.percent(50)))
            .collect();
        let pairs = sides
            .iter()
            .flat_map(|from| sides.iter().map(move |to| (from, to)));
        pairs
            .filter(|(from, to)| from.1 != to.1)
            .map(|(from, to)| (from.0, to.0))
            .collect()
    }

    fn transfer(&mut self, to: u64) {
        let Some(leader) = self.leader().and_then(|id| self.network.node(id)) else {
            return;
        };
        let replica = leader.broker.replica().clone();
        drop(leader.life.spawn(async move {
            replica
                .transfer_leadership(ticketrail_core::NodeId(to))
                .await;
        }));
    }
}
