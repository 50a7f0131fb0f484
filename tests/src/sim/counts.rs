//! How often things happened: a run in which too little did proves nothing.

use std::collections::BTreeMap;

use super::network::Carried;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries with commands that were committed.
    pub entries: u64,
    /// Calls confirmed to a client.
    pub confirmed: u64,
    /// Calls whose outcome no client learnt.
    pub unknown: u64,
    /// Messages confirmed as published.
    pub published: u64,
    /// Messages called surely not stored.
    pub refused: u64,
    /// Messages that came to a client.
    pub delivered: u64,
    /// Of these, grants from before an acknowledgement that came after it.
    pub late: u64,
    /// Messages confirmed as acknowledged.
    pub acked: u64,
    /// Old tokens that were tried again.
    pub stale_settles: u64,
    /// Bodies read back and compared.
    pub bodies: u64,
    /// Linearizable reads confirmed.
    pub reads: u64,
    /// Consumers attached.
    pub consumers: u64,
    /// Terms with a leader.
    pub leaders: u64,
    /// Crashes of a node, with what was not synced partly lost.
    pub crashes: u64,
    /// Nodes that stopped themselves for their disk.
    pub stopped: u64,
    /// Entries applied on the nodes, again after restarts.
    pub applied: u64,
    /// Nodes that had purged their logs at the end.
    pub purged: u64,
    /// Snapshots installed from a peer.
    pub installs: u64,
    /// Bodies in snapshots that were sent, compared.
    pub bodies_sent: u64,
    /// Changes of the members that were made.
    pub members_changed: u64,
    /// Changes of the members that were refused.
    pub members_refused: u64,
    /// Disks that were lost with all that was on them.
    pub disks_lost: u64,
    /// Nodes killed while they sent a snapshot.
    pub senders_killed: u64,
    /// Nodes killed while they received a snapshot.
    pub receivers_killed: u64,
    /// Nodes killed while they installed a snapshot.
    pub installers_killed: u64,
    /// Compactions of bodies that freed files.
    pub compactions: u64,
    /// Leases that ended by their time.
    pub expired: u64,
    /// Messages granted again.
    pub redelivered: u64,
    /// Messages given up and moved.
    pub dead_lettered: u64,
    /// Publishes recognized as stored before.
    pub duplicates: u64,
    /// Receives recognized as answered before.
    pub attempts_repeated: u64,
    /// Sessions that came back.
    pub sessions_resumed: u64,
    /// What happened to messages between the nodes.
    pub carried: Carried,
    /// Faults, by name.
    pub faults: BTreeMap<String, u64>,
    /// Virtual time of it all, in milliseconds.
    pub virtual_ms: u64,
}

impl Counts {
    /// All of these together.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.numbers().into_iter().zip(other.clone().numbers()) {
            *sum += *more;
        }
        for (fault, times) in &other.faults {
            *self.faults.entry(fault.clone()).or_default() += times;
        }
    }

    fn numbers(&mut self) -> [&mut u64; 37] {
        [
            &mut self.entries,
            &mut self.confirmed,
            &mut self.unknown,
            &mut self.published,
            &mut self.refused,
            &mut self.delivered,
            &mut self.late,
            &mut self.acked,
            &mut self.stale_settles,
            &mut self.bodies,
            &mut self.reads,
            &mut self.consumers,
            &mut self.leaders,
            &mut self.crashes,
            &mut self.stopped,
            &mut self.applied,
            &mut self.purged,
            &mut self.installs,
            &mut self.bodies_sent,
            &mut self.members_changed,
            &mut self.members_refused,
            &mut self.disks_lost,
            &mut self.senders_killed,
            &mut self.receivers_killed,
            &mut self.installers_killed,
            &mut self.compactions,
            &mut self.expired,
            &mut self.redelivered,
            &mut self.dead_lettered,
            &mut self.duplicates,
            &mut self.attempts_repeated,
            &mut self.sessions_resumed,
            &mut self.carried.sent,
            &mut self.carried.lost,
            &mut self.carried.duplicated,
            &mut self.carried.late,
            &mut self.virtual_ms,
        ]
    }
}
