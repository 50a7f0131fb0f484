//! Strikes at those who send, receive and install a snapshot, somewhere in the middle.

use std::time::Duration;

use ticketrail_core::NodeId;
use tokio::time::Instant;

use super::node::Phase;
use super::world::{Ongoing, Trouble, World};

/// Longest virtual time until the log has left a node behind.
const OUTGROW_MAX: Duration = Duration::from_secs(20);
/// Longest virtual time until there is somebody to strike.
const STRIKE_WAIT: Duration = Duration::from_secs(5);
/// Strikes at the transfers to one node.
const STRIKES_MAX: u64 = 6;
/// Steps of waiting for the moment of a strike.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How long a disk that is about to stop is waited for, in such steps.
const STOP_LOOKS: u32 = 30;

/// Who is struck.
#[derive(Clone, Copy, Debug)]
enum Role {
    Sender,
    Receiver,
    Installer,
}

impl World {
    /// A node is away until it needs a snapshot; then whoever takes part in it loses power, several
    /// times.
    pub(crate) async fn kill_in_snapshots(&mut self) {
        let victim = self.any_node();
        if !self.can_do_without(victim) {
            return;
        }
        let last = self.last_entry(victim);
        self.crash(victim);
        if !self.outgrow(victim, last).await {
            return;
        }
        for _ in 0..self.dice.between(1, STRIKES_MAX) {
            let roles = [Role::Sender, Role::Receiver, Role::Installer];
            let role = roles[self.dice.below(3) as usize];
            if self.history.is_violated() || !self.strike(victim, role).await {
                return;
            }
            self.pause(1, 200).await;
        }
    }

    /// Whether this is a member whose absence does not stop the others.
    fn can_do_without(&self, id: u64) -> bool {
        let leader = self.leader().filter(|leader| *leader != id);
        let Some(leader) = leader.and_then(|leader| self.network.node(leader)) else {
            return false;
        };
        let members = leader.broker.replica().status().members;
        let voters = members.values().filter(|member| member.voter).count();
        let member = members.get(&NodeId(id));
        member.is_some_and(|member| !member.voter || voters > 2)
    }

    fn last_entry(&mut self, id: u64) -> Option<u64> {
        let running = self.node(id).running()?;
        running.broker.replica().status().last_log_index
    }

    /// Keeps a node away until the leader's log begins behind `last`; whether it came so.
    async fn outgrow(&mut self, victim: u64, last: Option<u64>) -> bool {
        let until = Instant::now() + OUTGROW_MAX;
        let away = Ongoing {
            until_ms: u64::MAX,
            trouble: Trouble::Off(victim),
        };
        self.ongoing.push(away);
        let mut outgrown = false;
        while !outgrown && Instant::now() < until && !self.history.is_violated() {
            self.pause(20, 100).await;
            self.look().await;
            let leader = self.leader().and_then(|leader| self.network.node(leader));
            let purged = leader.and_then(|leader| leader.broker.replica().status().purged_index);
            outgrown = purged.is_some() && purged > last;
        }
        self.ongoing
            .retain(|ongoing| ongoing.trouble != Trouble::Off(victim));
        outgrown
    }

    /// Strikes somebody in this role in a transfer to `victim`; false where none comes about.
    async fn strike(&mut self, victim: u64, role: Role) -> bool {
        let until = Instant::now() + STRIKE_WAIT;
        let mut wait = self.dice.below(60);
        let mut looks = 0;
        let struck = loop {
            match self.who(victim, role) {
                Some(node) if wait == 0 => break node,
                Some(_) if matches!(role, Role::Installer) => wait = wait.min(6).saturating_sub(1),
                Some(_) => wait -= 1,
                None => {}
            }
            if Instant::now() > until || self.node(victim).gone {
                return false;
            }
            if looks % 50 == 0 {
                self.look().await;
            }
            looks += 1;
            tokio::time::sleep(LOOK_EVERY).await;
        };
        let phase = self.node(victim).phase();
        self.history
            .note(format_args!("strikes n{struck} as {role:?}: {phase:?}"));
        if self.dice.percent(50) {
            self.stop_in_a_write(struck).await;
        }
        self.crash(struck);
        self.history.count(|counts| {
            *match role {
                Role::Sender => &mut counts.senders_killed,
                Role::Receiver => &mut counts.receivers_killed,
                Role::Installer => &mut counts.installers_killed,
            } += 1;
        });
        if struck != victim {
            self.lasts(Trouble::Off(struck), 1, 1_500);
        }
        true
    }

    /// One of the next writes or syncs is the last.
    async fn stop_in_a_write(&mut self, id: u64) {
        self.node(id).stop_snapshot_soon();
        for _ in 0..STOP_LOOKS {
            if self.node(id).is_over() {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Who has this role in a transfer to `victim` just now.
    fn who(&mut self, victim: u64, role: Role) -> Option<u64> {
        let phase = self.node(victim).phase()?;
        match (role, phase) {
            (Role::Installer, Phase::Installing) => Some(victim),
            (Role::Receiver, Phase::Receiving) => Some(victim),
            (Role::Sender, Phase::Opening | Phase::Receiving) => {
                let sender = self.network.sender_to(victim)?;
                self.network.node(sender).map(|sender| sender.id)
            }
            _ => None,
        }
    }
}
