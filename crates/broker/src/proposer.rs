//! The leader's batching: what waits goes into one log entry, stamped with the leader's clocks.
//!
//! No linger: while entries are on their way, new commands gather by themselves. One entry holds
//! at most [`ENTRY_COMMANDS_MAX`] commands or [`ENTRY_BYTES_MAX`] bytes, or what a segment of the log
//! has room for, or one larger command.
//! When something falls due and no traffic moves replicated time, an entry without commands (a
//! tick) does; when nothing is pending an idle cluster writes nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{FuturesUnordered, StreamExt};
use ticketrail_core::Stamps;
use ticketrail_proto::stored;
use ticketrail_raft::{Leadership, ProposeError, Replica, Watcher};
use tokio::time::Instant;

use crate::admission::Share;
use crate::clock::{LeaseClock, WallClock};
use crate::hub::Hub;
use crate::lane::Intake;
use crate::lost_nodes::Peers;

/// Most commands of one entry.
const ENTRY_COMMANDS_MAX: usize = 512;
/// Most bytes of one entry, but for one command that is larger.
const ENTRY_BYTES_MAX: usize = 512 * 1024;
/// Entries on their way at once.
const IN_FLIGHT_MAX: usize = 2;
/// Ticks come no closer than this while something is due.
const TICK_MIN: Duration = Duration::from_millis(50);
/// While anything is pending replicated time moves at least this often.
const TICK_MAX: Duration = Duration::from_secs(1);

/// Commands to be proposed in `term` or never.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) term: u64,
    pub(crate) commands: Vec<Bytes>,
    /// The share of the bytes that may wait here, where another node forwarded it.
    pub(crate) _share: Option<Share>,
}

/// The proposer task. Idle unless this node leads.
pub(crate) struct Proposer {
    pub(crate) hub: Arc<Hub>,
    pub(crate) replica: Replica,
    pub(crate) leadership: Watcher<Leadership>,
    pub(crate) peers: Arc<Peers>,
}

/// One term of this node as the leader.
struct Reign {
    term: u64,
    lease: LeaseClock,
    wall: WallClock,
}

impl Proposer {
    /// Runs until all senders are gone.
    pub(crate) async fn run(mut self, mut proposals: Intake<Proposal>) {
        let mut held: Option<Proposal> = None;
        loop {
            let lead = *self.leadership.borrow_and_update();
            // What is of a term that is over is dropped: who waits for it learns that from the log.
            held = held.filter(|proposal| proposal.term >= lead.term);
            if lead.is_leader && self.hub.applied_term() == lead.term {
                // Entries of earlier terms are applied, so the clocks' committed values are known.
                let goes_on = self.reign(lead.term, &mut proposals, &mut held).await;
                // Another node sees the clocks from now on.
                self.hub.counts().set_clock_alarm(false);
                if !goes_on {
                    return;
                }
                continue;
            }
            tokio::select! {
                biased;
                changed = self.leadership.changed() => if changed.is_err() { return },
                () = self.hub.moved() => {}
                next = proposals.recv(), if held.is_none() => match next {
                    Some(next) => held = Some(next),
                    None => return,
                },
            }
        }
    }

    /// Proposes until the term is over; `false` when all senders are gone.
    async fn reign(
        &mut self,
        term: u64,
        proposals: &mut Intake<Proposal>,
        held: &mut Option<Proposal>,
    ) -> bool {
        let now = Instant::now();
        let mut reign = Reign {
            term,
            lease: LeaseClock::resume(self.hub.lease_now(), now),
            wall: WallClock::resume(self.hub.wall_now(), now),
        };
        let mut in_flight = FuturesUnordered::new();
        loop {
            if held.as_ref().is_some_and(|proposal| proposal.term > term) {
                return true;
            }
            if held.is_none() {
                let tick_at = self.tick_at(&reign);
                tokio::select! {
                    biased;
                    changed = self.leadership.changed() => {
                        if changed.is_err() {
                            return false;
                        }
                        let lead = *self.leadership.borrow_and_update();
                        if !lead.is_leader || lead.term != term {
                            return true;
                        }
                        continue;
                    }
                    Some(result) = in_flight.next(), if !in_flight.is_empty() => {
                        note(result);
                        continue;
                    }
                    next = proposals.recv(), if in_flight.len() < IN_FLIGHT_MAX => match next {
                        Some(next) => {
                            *held = Some(next);
                            continue;
                        }
                        None => return false,
                    },
                    () = self.hub.moved() => continue,
                    () = at(tick_at), if in_flight.len() < IN_FLIGHT_MAX => {}
                }
            } else if in_flight.len() >= IN_FLIGHT_MAX {
                if let Some(result) = in_flight.next().await {
                    note(result);
                }
                continue;
            }
            let payload = self.entry(&mut reign, proposals, held);
            in_flight.push(self.replica.propose(term, payload));
        }
    }

    /// When replicated time must move if nothing else moves it: when the earliest deadline is due,
    /// and while one is pending at least every second.
    fn tick_at(&self, reign: &Reign) -> Option<Instant> {
        let due = self.hub.next_deadline()?;
        let now = Instant::now();
        let left = Duration::from_millis(due.0.saturating_sub(reign.lease.read(now).0));
        let last = reign.lease.last_at();
        Some((now + left.min(TICK_MAX)).clamp(last + TICK_MIN, last + TICK_MAX))
    }

    fn entry(
        &self,
        reign: &mut Reign,
        proposals: &mut Intake<Proposal>,
        held: &mut Option<Proposal>,
    ) -> Bytes {
        let now = Instant::now();
        let (mut clocks, voters) = self.peers.wall_clocks(now);
        let stamps = Stamps {
            lease_now: reign.lease.stamp(now),
            wall_now: reign.wall.stamp(now, &mut clocks, voters),
        };
        // A quarter is more than the framing takes.
        let bytes_max = ENTRY_BYTES_MAX.min(self.replica.entry_bytes_max() / 4 * 3);
        let mut commands: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        while let Some(mut next) = held.take().or_else(|| proposals.try_recv()) {
            if next.term < reign.term {
                continue;
            }
            if next.term > reign.term {
                *held = Some(next);
                break;
            }
            let mut taken = 0;
            for command in &next.commands {
                let count = commands.len() + taken;
                let fits = count < ENTRY_COMMANDS_MAX && bytes + command.len() <= bytes_max;
                if !fits && count > 0 {
                    break;
                }
                bytes += command.len();
                taken += 1;
            }
            let rest = next.commands.split_off(taken);
            commands.append(&mut next.commands);
            if !rest.is_empty() {
                next.commands = rest;
                *held = Some(next);
                break;
            }
        }
        let counts = self.hub.counts();
        counts.set_clock_alarm(reign.wall.disagrees());
        counts.note_entry(commands.len(), bytes);
        let mut payload = BytesMut::with_capacity(bytes + commands.len() * 8 + 32);
        stored::encode_entry(stamps, &commands, &mut payload);
        payload.freeze()
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// A proposal fails only with its term, which ends the reign by itself.
fn note(result: Result<ticketrail_raft::Committed, ProposeError>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a proposal did not come through");
    }
}
