//! The leader's batching: what waits goes into one log entry, stamped with the leader's clocks.
//!
//! No linger on an idle cluster: the first command goes at once. While an entry is on its way, what comes
//! gathers for the next, as in Nagle's algorithm: an entry costs three syncs and their messages whatever
//! is in it. But no longer than [`GATHER_MAX`], and what did not fit the last entry goes at once, so that a
//! network or disk that is slow is kept busy. Where several wait, what is about to come is taken along
//! ([`GATHER_TURNS`]). Because of what an entry costs, commands that hold no delivery
//! up ([`Haste::WithOthers`]) make none of their own for [`ACKS_HELD_MAX`].
//!
//! One entry holds at most [`ENTRY_COMMANDS_MAX`] commands or [`ENTRY_BYTES_MAX`] bytes, or what a segment of
//! the log has room for, or one larger command.
//! When something falls due and no traffic moves replicated time, an entry without commands (a
//! tick) does; when nothing is pending an idle cluster writes nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{FuturesUnordered, StreamExt};
use ticketrail_core::Stamps;
use ticketrail_proto::stored;
use ticketrail_raft::{Leadership, ProposeError, Replica, Watcher};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use crate::admission::Share;
use crate::clock::{LeaseClock, WallClock};
use crate::hub::Hub;
use crate::lane::Intake;
use crate::lost_nodes::Peers;
use crate::route::{Forward, Haste};

/// Most commands of one entry.
const ENTRY_COMMANDS_MAX: usize = 512;
/// Most bytes of one entry, but for one command that is larger.
const ENTRY_BYTES_MAX: usize = 512 * 1024;
/// Entries on their way at once.
const IN_FLIGHT_MAX: usize = 4;
/// How long commands gather for the next entry while one is on its way. The runtime's timers add up to 1 ms.
const GATHER_MAX: Duration = Duration::from_millis(1);
/// How long the leader keeps acknowledgements that hold no delivery up for an entry that is made anyway, from when
/// it could have gone. The runtime's timers add up to 1 ms.
pub const ACKS_HELD_MAX: Duration = Duration::from_millis(2);
/// So often all tasks that are ready run before an entry of several commands is made: where some commands are
/// here, more are mostly about to be, as those that the last entry answered go on. No time is waited for.
const GATHER_TURNS: usize = 4;
/// So many commands wait no longer.
const HELD_COMMANDS_MAX: usize = 64;
/// Ticks come no closer than this while something is due.
const TICK_MIN: Duration = Duration::from_millis(50);
/// While anything is pending replicated time moves at least this often.
const TICK_MAX: Duration = Duration::from_secs(1);

/// Commands to be proposed.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) forward: Forward,
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

/// What was taken and is not proposed yet, in its order.
#[derive(Default)]
struct Held {
    proposals: VecDeque<Proposal>,
    /// How many commands that is.
    commands: usize,
    /// Since when the first of them waits; not known of what was put back, which is urgent.
    since: Option<Instant>,
}

impl Held {
    fn push(&mut self, proposal: Proposal) {
        self.since.get_or_insert_with(Instant::now);
        self.commands += proposal.forward.commands.len();
        self.proposals.push_back(proposal);
    }

    /// What is left of the first, for which there was no room in an entry: it has waited.
    fn put_back(&mut self, mut proposal: Proposal) {
        proposal.forward.haste = Haste::Now;
        self.commands += proposal.forward.commands.len();
        self.proposals.push_front(proposal);
    }

    fn pop(&mut self) -> Option<Proposal> {
        let first = self.proposals.pop_front()?;
        self.commands -= first.forward.commands.len();
        if self.proposals.is_empty() {
            self.since = None;
        }
        Some(first)
    }

    /// What is of a term that is over goes: who waits for it learns that from the log.
    fn forget_before(&mut self, term: u64) {
        let proposals = std::mem::take(self).proposals;
        let rest = proposals.into_iter();
        rest.filter(|proposal| proposal.forward.term >= term)
            .for_each(|proposal| self.push(proposal));
    }

    fn is_of_later_than(&self, term: u64) -> bool {
        let mut terms = self.proposals.iter().map(|one| one.forward.term);
        terms.any(|other| other > term)
    }

    /// An entry is made for it.
    fn is_urgent(&self) -> bool {
        let mut all = self.proposals.iter();
        self.commands >= HELD_COMMANDS_MAX || all.any(|one| one.forward.haste == Haste::Now)
    }

    /// When one is made for it at the latest.
    fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + ACKS_HELD_MAX)
    }
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
        let mut held = Held::default();
        loop {
            let lead = *self.leadership.borrow_and_update();
            held.forget_before(lead.term);
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
                next = proposals.recv(), if held.proposals.is_empty() => match next {
                    Some(next) => held.push(next),
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
        held: &mut Held,
    ) -> bool {
        let now = Instant::now();
        let mut reign = Reign {
            term,
            lease: LeaseClock::resume(self.hub.lease_now(), now),
            wall: WallClock::resume(self.hub.wall_now(), now),
        };
        let mut in_flight = FuturesUnordered::new();
        // When an entry may go although one is on its way.
        let mut gathered_at = now;
        loop {
            if held.is_of_later_than(term) {
                return true;
            }
            let is_full = in_flight.len() >= IN_FLIGHT_MAX;
            let may_go = in_flight.is_empty() || (!is_full && Instant::now() >= gathered_at);
            if is_full || !held.is_urgent() {
                let due = match may_go {
                    true => earlier(self.tick_at(&reign), held.due()),
                    false => None,
                };
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
                    next = proposals.recv(), if may_go => match next {
                        Some(next) if next.forward.term < term => continue,
                        Some(next) => {
                            held.push(next);
                            continue;
                        }
                        None => return false,
                    },
                    () = self.hub.moved() => continue,
                    () = sleep_until(gathered_at), if !may_go && !is_full => continue,
                    () = at(due) => {}
                }
            }
            if held.commands > 1 || !proposals.is_empty() {
                for _ in 0..GATHER_TURNS {
                    yield_now().await;
                }
            }
            let payload = self.entry(&mut reign, proposals, held);
            gathered_at = Instant::now() + GATHER_MAX;
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

    fn entry(&self, reign: &mut Reign, proposals: &mut Intake<Proposal>, held: &mut Held) -> Bytes {
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
        while let Some(mut next) = held.pop().or_else(|| proposals.try_recv()) {
            if next.forward.term < reign.term {
                continue;
            }
            if next.forward.term > reign.term {
                held.put_back(next);
                break;
            }
            let mut taken = 0;
            for command in &next.forward.commands {
                let count = commands.len() + taken;
                let fits = count < ENTRY_COMMANDS_MAX && bytes + command.len() <= bytes_max;
                if !fits && count > 0 {
                    break;
                }
                bytes += command.len();
                taken += 1;
            }
            let rest = next.forward.commands.split_off(taken);
            commands.append(&mut next.forward.commands);
            if !rest.is_empty() {
                next.forward.commands = rest;
                held.put_back(next);
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

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// A proposal fails only with its term, which ends the reign by itself.
fn note(result: Result<ticketrail_raft::Committed, ProposeError>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a proposal did not come through");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposal(term: u64, haste: Haste, commands: usize) -> Proposal {
        let commands = vec![Bytes::from_static(b"command"); commands];
        let forward = Forward {
            term,
            commands,
            haste,
        };
        let _share = None;
        Proposal { forward, _share }
    }

    #[tokio::test(start_paused = true)]
    async fn acknowledgements_wait_for_their_time_or_for_enough_of_them() {
        let mut held = Held::default();
        assert_eq!((held.is_urgent(), held.due()), (false, None));
        let began = Instant::now();
        held.push(proposal(1, Haste::WithOthers, 2));
        tokio::time::advance(ACKS_HELD_MAX / 2).await;
        held.push(proposal(1, Haste::WithOthers, HELD_COMMANDS_MAX - 3));
        assert!(!held.is_urgent());
        assert_eq!(held.due(), Some(began + ACKS_HELD_MAX), "the first counts");
        held.push(proposal(1, Haste::WithOthers, 1));
        assert!(held.is_urgent());
        while held.pop().is_some() {}
        assert_eq!((held.commands, held.due()), (0, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_term_takes_what_was_held_for_it_and_nothing_older() {
        let mut held = Held::default();
        held.push(proposal(1, Haste::WithOthers, HELD_COMMANDS_MAX));
        held.push(proposal(1, Haste::Now, 1));
        held.push(proposal(2, Haste::WithOthers, 3));
        assert!(held.is_urgent() && held.is_of_later_than(1));
        tokio::time::advance(ACKS_HELD_MAX).await;
        held.forget_before(2);
        assert!(!held.is_urgent() && !held.is_of_later_than(2));
        assert_eq!(held.commands, 3);
        assert_eq!(held.due(), Some(Instant::now() + ACKS_HELD_MAX));
        held.forget_before(3);
        assert_eq!((held.commands, held.due()), (0, None));
    }

    #[test]
    fn what_did_not_fit_comes_first_and_waits_no_longer() {
        let mut held = Held::default();
        held.push(proposal(1, Haste::WithOthers, 5));
        held.push(proposal(1, Haste::WithOthers, 1));
        let mut first = held.pop().unwrap();
        first.forward.commands.truncate(2);
        held.put_back(first);
        assert!(held.is_urgent());
        assert_eq!(held.commands, 3);
        assert_eq!(held.pop().unwrap().forward.commands.len(), 2);
    }
}
