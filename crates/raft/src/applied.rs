//! The applied state of a replica and everything that waits for it or follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use openraft::EntryPayload;
use ticketrail_core::{Entry as CoreEntry, Event, NodeId, Outcome, State};
use ticketrail_proto::stored::{self, Origin};
use tokio::sync::{oneshot, watch};

use crate::answered::Answered;
use crate::commits::Commits;
use crate::divergence::{Digests, Diverged};
use crate::figures::Counts;
use crate::room::Room;
use crate::status::Leadership;
use crate::types::{Answer, Entry, LogId, StoredMembership, term_of};
use crate::watched::Watched;

/// Hears of every applied entry, in log order, on every node. Called with the state locked: it must
/// be short, must not block, and must not call back into the replica.
pub trait AppliedSink: Send + Sync + 'static {
    /// `state` is as it is right after the entry.
    fn applied(&self, state: &State, applied: AppliedEntry<'_>);

    /// A snapshot was put in the place of the state: entries in between were never applied here, and
    /// what they answered and did is only seen in the state.
    fn replaced(&self, state: &State, replaced: Replaced);

    /// Whether somebody here waits for messages to become ready: the leader then tells at once what it commits.
    fn polls(&self) -> bool;
}

/// Where a snapshot that was put in the place of the state ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// Index of the last entry in it.
    pub index: u64,
    /// Its term. Commands that were handed to a leader of a later term are not among those that were
    /// passed over.
    pub term: u64,
}

/// An entry that was applied. A leader's first entry and a change of members hold nothing for the
/// state: for them all the slices are empty.
#[derive(Debug)]
pub struct AppliedEntry<'a> {
    /// Its place in the log.
    pub index: u64,
    /// Term of the leader that made it.
    pub term: u64,
    /// Its encoded `store.v1.Entry`: message bodies are slices of it.
    pub payload: &'a Bytes,
    /// The commands.
    pub entry: &'a CoreEntry,
    /// For each command, who waits for it.
    pub origins: &'a [Option<Origin>],
    /// For each command, the answer.
    pub outcomes: &'a [Outcome],
    /// What happened besides.
    pub events: &'a [Event],
    /// It was in this node's log before this process started.
    pub replaying: bool,
}

/// Time on the node's own steady clock, since some moment before the start of the replica.
pub(crate) type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Makes it durable that the state here is wrong.
pub(crate) type OnDivergence = Box<dyn Fn() -> io::Result<()> + Send + Sync>;

/// Shared by the state machine, the checkpoint, and the handles.
pub(crate) struct Shared {
    pub(crate) node_id: NodeId,
    pub(crate) now: Clock,
    pub(crate) failure: watch::Sender<Option<String>>,
    pub(crate) leadership: Watched<Leadership>,
    pub(crate) counts: Counts,
    pub(crate) room: Room,
    pub(crate) commits: Arc<Commits>,
    pub(crate) answered: Answered,
    applied: Mutex<Applied>,
    pub(crate) digests: Digests,
    pub(crate) on_divergence: OnceLock<OnDivergence>,
    pub(crate) planted_divergence: Option<u64>,
    leader_contact: Mutex<Option<Duration>>,
    sink: Arc<dyn AppliedSink>,
    replay_upto: Option<u64>,
}

/// What is applied.
pub(crate) struct Applied {
    pub(crate) state: State,
    pub(crate) last: Option<LogId>,
    pub(crate) membership: StoredMembership,
    /// Payload bytes applied since the start.
    pub(crate) bytes: u64,
    /// The state came from a snapshot: the checkpoint must be written anew as a whole.
    pub(crate) replaced: bool,
    /// Snapshots that were put in the place of the state since the start.
    pub(crate) installs: u64,
    waiters: BTreeMap<(u64, u64), oneshot::Sender<()>>,
    waiters_made: u64,
}

impl Applied {
    pub(crate) fn new(state: State, last: Option<LogId>, membership: StoredMembership) -> Self {
        Self {
            state,
            last,
            membership,
            bytes: 0,
            replaced: false,
            installs: 0,
            waiters: BTreeMap::new(),
            waiters_made: 0,
        }
    }

    fn index(&self) -> Option<u64> {
        self.last.map(|id| id.index)
    }

    fn wake(&mut self, upto: u64) {
        while let Some(waiter) = self.waiters.first_entry() {
            if waiter.key().0 > upto {
                return;
            }
            // An error means that nobody waits any more.
            let _ = waiter.remove().send(());
        }
    }
}

impl Shared {
    pub(crate) fn new(
        node_id: NodeId,
        now: Clock,
        sink: Arc<dyn AppliedSink>,
        applied: Applied,
        replay_upto: Option<u64>,
    ) -> Self {
        Self {
            node_id,
            now,
            failure: watch::Sender::new(None),
            leadership: Watched::new(Leadership::default()),
            counts: Counts::default(),
            room: Room::default(),
            commits: Arc::default(),
            answered: Answered::default(),
            applied: Mutex::new(applied),
            digests: Digests::default(),
            on_divergence: OnceLock::new(),
            planted_divergence: None,
            leader_contact: Mutex::new(None),
            sink,
            replay_upto,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Applied> {
        self.applied
            .lock()
            .expect("apply is total: it does not panic")
    }

    /// Applies a committed entry. An error is for good: the node must stop.
    pub(crate) fn apply(&self, entry: Entry) -> io::Result<Answer> {
        let applied = match entry.payload {
            EntryPayload::Normal(payload) => self.apply_commands(entry.log_id, &payload.0),
            EntryPayload::Blank => {
                self.apply_nothing(entry.log_id, None);
                Ok(Answer::default())
            }
            EntryPayload::Membership(membership) => {
                let stored = StoredMembership::new(Some(entry.log_id), membership);
                self.apply_nothing(entry.log_id, Some(stored));
                Ok(Answer::default())
            }
        };
        applied.map_err(|reason| {
            let reason = format!("entry {} cannot be applied: {reason}", entry.log_id.index);
            self.fail(&reason);
            io::Error::other(reason)
        })
    }

    fn apply_commands(&self, id: LogId, payload: &Bytes) -> Result<Answer, String> {
        let mut decoded =
            stored::decode_entry(payload.clone()).map_err(|error| error.to_string())?;
        let mut applied = self.lock();
        if self.planted_divergence == Some(id.index) {
            let stamp = &mut decoded.entry.stamps.wall_now;
            // A stamp that is behind the state's clock changes nothing.
            stamp.0 = applied.state.wall_now().max(*stamp).0 + 1;
        }
        let result = applied.state.apply(id.index, &decoded.entry);
        let result = result.map_err(|halt| halt.to_string())?;
        let outcomes: Arc<[Outcome]> = result.outcomes.into();
        applied.bytes += payload.len() as u64;
        self.advance(&mut applied, id);
        self.sink.applied(
            &applied.state,
            AppliedEntry {
                index: id.index,
                term: term_of(&id),
                payload,
                entry: &decoded.entry,
                origins: &decoded.origins,
                outcomes: &outcomes,
                events: &result.events,
                replaying: self.is_replay(id.index),
            },
        );
        // After those who wait here: what it brings about is for others.
        if self.leadership.borrow().is_leader {
            let (origins, events) = (&decoded.origins, &result.events);
            self.commits.applied(id.index, origins, events);
        }
        Ok(Answer { outcomes })
    }

    fn apply_nothing(&self, id: LogId, membership: Option<StoredMembership>) {
        let mut applied = self.lock();
        if id.index > applied.state.applied_index() {
            applied.state.skip(id.index);
        }
        if let Some(membership) = membership {
            applied.membership = membership;
        }
        self.advance(&mut applied, id);
        let nothing = CoreEntry {
            stamps: ticketrail_core::Stamps::default(),
            commands: Vec::new(),
        };
        self.sink.applied(
            &applied.state,
            AppliedEntry {
                index: id.index,
                term: term_of(&id),
                payload: &Bytes::new(),
                entry: &nothing,
                origins: &[],
                outcomes: &[],
                events: &[],
                replaying: self.is_replay(id.index),
            },
        );
    }

    fn advance(&self, applied: &mut Applied, id: LogId) {
        applied.last = Some(id);
        let compared = self.digests.applied(id.index, || applied.state.digest());
        self.compared(compared);
        applied.wake(id.index);
    }

    /// Stops this node if it differs from a majority.
    pub(crate) fn compared(&self, compared: Result<(), Diverged>) {
        let Err(diverged) = compared else { return };
        if self.failure.borrow().is_some() {
            return;
        }
        let Diverged { index, own, agreed } = diverged;
        // First of all: the next start must not go on from this state.
        let marked = self.on_divergence.get().map_or(Ok(()), |mark| mark());
        if let Err(error) = marked {
            tracing::error!(%error, "that this node's state is wrong could not be written down");
        }
        self.fail(&format!(
            "DIVERGED: after entry {index} this node's state has digest {own:016x}, a majority's {agreed:016x}. The others go \
             on; at its next start this node takes its state from one of them"
        ));
    }

    /// Voters of the last applied membership.
    pub(crate) fn voters(&self) -> BTreeSet<NodeId> {
        let applied = self.lock();
        let voters = applied.membership.membership().voter_ids();
        voters.map(NodeId).collect()
    }

    fn is_replay(&self, index: u64) -> bool {
        self.replay_upto.is_some_and(|upto| index <= upto)
    }

    /// Puts a snapshot's state in the place of this one; `go_on` makes the log go on from there, with
    /// the snapshot's bodies, in the same moment.
    pub(crate) fn replace(
        &self,
        state: State,
        last: Option<LogId>,
        membership: StoredMembership,
        go_on: impl FnOnce(),
    ) {
        let mut applied = self.lock();
        go_on();
        let old = std::mem::replace(&mut applied.state, state);
        applied.last = last;
        applied.membership = membership;
        applied.replaced = true;
        applied.installs += 1;
        self.digests.replaced();
        if let Some(last) = last {
            let replaced = Replaced {
                index: last.index,
                term: term_of(&last),
            };
            self.sink.replaced(&applied.state, replaced);
            applied.wake(last.index);
        }
        drop(applied);
        // A large state takes its time to go.
        drop(old);
    }

    /// Resolves once the entry is applied; an error when the replica is gone.
    pub(crate) fn wait_applied(&self, index: u64) -> oneshot::Receiver<()> {
        let (waker, waiter) = oneshot::channel();
        let mut applied = self.lock();
        if applied.index().is_some_and(|last| last >= index) {
            let _ = waker.send(());
        } else {
            applied.waiters_made += 1;
            let key = (index, applied.waiters_made);
            applied.waiters.insert(key, waker);
        }
        waiter
    }

    /// Says, once, why this node must stop.
    pub(crate) fn fail(&self, reason: &str) {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            if first {
                tracing::error!(reason, "the replica failed: this node must stop");
                *failure = Some(reason.to_owned());
            }
            first
        });
    }

    /// Whether somebody here waits for messages to become ready.
    pub(crate) fn polls(&self) -> bool {
        self.sink.polls()
    }

    /// A leader showed that it lives.
    pub(crate) fn note_leader_contact(&self) {
        *self.contact() = Some((self.now)());
    }

    /// How long ago a leader showed that it lives.
    pub(crate) fn since_leader_contact(&self) -> Option<Duration> {
        let at = *self.contact();
        at.map(|at| (self.now)().saturating_sub(at))
    }

    fn contact(&self) -> MutexGuard<'_, Option<Duration>> {
        self.leader_contact
            .lock()
            .expect("no panic under this lock")
    }
}
