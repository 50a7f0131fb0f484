//! Where committed entries meet those who wait: the one sink of the replica's apply task.
//!
//! Called in log order. For each command with an origin on this node and boot, the waiting call
//! gets position and outcome; for each event that concerns a session served here, that session
//! gets it; long polls are woken. Nothing here blocks and nothing allocates per message.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ticketrail_core::event::SessionEnd;
use ticketrail_core::{
    Event, Grant, LeaseTime, Offset, Outcome, Owner, Position, QueueId, SessionId, State, WallTime,
};
use ticketrail_raft::{AppliedEntry, AppliedSink, Replaced};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use crate::counts::Counts;
use crate::waiters::Waiters;

/// How a command that was handed to the log ended, as far as this node can know.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It was applied.
    Applied(Applied),
    /// It was not and never will be: it was refused before it was proposed, or its term ended
    /// without it.
    Lost,
    /// A snapshot took the place of entries that it may have been in.
    Unknown,
}

/// A command that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) position: Position,
    pub(crate) outcome: Outcome,
}

/// What a session served here is told.
#[derive(Debug)]
pub(crate) enum SessionEvent {
    /// Messages were leased to it, by an entry applied at this instant.
    Granted {
        grant: Grant,
        lease_now: LeaseTime,
        at: Instant,
    },
    /// Leases of it ended.
    LeasesLost {
        queue: QueueId,
        first_offset: Offset,
        count: u32,
    },
    /// It ended.
    Ended(SessionEnd),
    /// Another connection serves it from now on.
    Moved,
    /// This node does not know what became of it: the client shall come back to it.
    CutOff,
    /// A snapshot took the place of the state: what happened to the session on the way there was not
    /// told.
    Resynced(Resynced),
}

/// A session as a snapshot has it.
#[derive(Debug)]
pub(crate) struct Resynced {
    /// The last entry that the snapshot covers.
    pub(crate) index: u64,
    pub(crate) lease_now: LeaseTime,
    pub(crate) at: Instant,
    pub(crate) now: Now,
}

/// See [`Resynced`].
#[derive(Debug)]
pub(crate) enum Now {
    /// It holds this.
    Holds(Vec<Grant>),
    /// Another connection serves it.
    Moved,
    /// There is no such session.
    Gone,
}

/// See the module.
pub(crate) struct Hub {
    owner: Owner,
    waiters: Mutex<Waiters>,
    /// Sessions served here, by session and connection. The channel is bounded by what a session
    /// may hold; one that does not keep up is cut off rather than buffered.
    sessions: Mutex<BTreeMap<(SessionId, u64), mpsc::Sender<SessionEvent>>>,
    polls: Mutex<BTreeMap<QueueId, Arc<Notify>>>,
    next_correlation: AtomicU64,
    applied_term: AtomicU64,
    lease_now: AtomicU64,
    wall_now: AtomicU64,
    next_deadline: AtomicU64,
    moved: Notify,
    counts: Counts,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these guard is changed by single calls that do not panic halfway.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const NO_DEADLINE: u64 = u64::MAX;

impl Hub {
    /// A hub of this node and boot (`connection` is ignored).
    pub(crate) fn new(owner: Owner) -> Self {
        Self {
            owner,
            waiters: Mutex::default(),
            sessions: Mutex::default(),
            polls: Mutex::default(),
            next_correlation: AtomicU64::new(1),
            applied_term: AtomicU64::new(0),
            lease_now: AtomicU64::new(0),
            wall_now: AtomicU64::new(0),
            next_deadline: AtomicU64::new(NO_DEADLINE),
            moved: Notify::new(),
            counts: Counts::default(),
        }
    }

    /// Who we are.
    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }

    /// What is counted of this node's work.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Commands that wait for their outcome.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.waiters).len()
    }

    /// Long polls that wait.
    pub(crate) fn polling(&self) -> usize {
        // One of each bell's holders is the map.
        let polls = lock(&self.polls);
        polls.values().map(|bell| Arc::strong_count(bell) - 1).sum()
    }

    /// A number to wait under, and the answer.
    pub(crate) fn wait(&self) -> (u64, oneshot::Receiver<Answer>) {
        let correlation = self.next_correlation.fetch_add(1, Ordering::Relaxed);
        (correlation, lock(&self.waiters).wait(correlation))
    }

    /// Nobody waits any more. Tells whether the command surely never was and never will be
    /// proposed.
    pub(crate) fn give_up(&self, correlation: u64) -> bool {
        lock(&self.waiters).give_up(correlation)
    }

    /// The command is about to be handed to the leader of `term`; `false`: do not, nobody waits.
    /// A term that is over here already is answered at once.
    pub(crate) fn hand_over(&self, correlation: u64, term: u64) -> bool {
        lock(&self.waiters).hand_over(correlation, term)
    }

    /// The command was refused before it was proposed.
    pub(crate) fn refused(&self, correlation: u64) {
        lock(&self.waiters).answer(correlation, Answer::Lost);
    }

    /// Events of a session that this process serves under `connection`, at most `capacity` waiting.
    pub(crate) fn serve(
        &self,
        session: SessionId,
        connection: u64,
        capacity: usize,
    ) -> mpsc::Receiver<SessionEvent> {
        let (sender, receiver) = mpsc::channel(capacity);
        lock(&self.sessions).insert((session, connection), sender);
        receiver
    }

    /// That connection is over.
    pub(crate) fn unserve(&self, session: SessionId, connection: u64) {
        lock(&self.sessions).remove(&(session, connection));
    }

    /// Sessions served here now.
    pub(crate) fn served(&self) -> Vec<(SessionId, u64)> {
        lock(&self.sessions).keys().copied().collect()
    }

    /// Woken when messages become ready in a queue with nobody to take them, or the queue goes.
    pub(crate) fn poll(&self, queue: QueueId) -> Arc<Notify> {
        Arc::clone(lock(&self.polls).entry(queue).or_default())
    }

    /// A long poll is over; forgets the queue's bell when this was the last.
    pub(crate) fn unpoll(&self, queue: QueueId, bell: &Arc<Notify>) {
        let mut polls = lock(&self.polls);
        // The map's and the caller's.
        if Arc::strong_count(bell) <= 2 {
            polls.remove(&queue);
        }
    }

    /// Term of the last applied entry.
    pub(crate) fn applied_term(&self) -> u64 {
        self.applied_term.load(Ordering::Acquire)
    }

    /// Replicated lease time after it.
    pub(crate) fn lease_now(&self) -> LeaseTime {
        LeaseTime(self.lease_now.load(Ordering::Acquire))
    }

    /// Replicated wall time after it.
    pub(crate) fn wall_now(&self) -> WallTime {
        WallTime(self.wall_now.load(Ordering::Acquire))
    }

    /// The earliest thing that falls due, after it.
    pub(crate) fn next_deadline(&self) -> Option<LeaseTime> {
        match self.next_deadline.load(Ordering::Acquire) {
            NO_DEADLINE => None,
            ms => Some(LeaseTime(ms)),
        }
    }

    /// Resolves when an entry was applied that brought a new term or a new earliest deadline.
    pub(crate) async fn moved(&self) {
        self.moved.notified().await;
    }

    fn note_progress(&self, state: &State, term: u64) {
        let deadline = state.next_deadline().map_or(NO_DEADLINE, |due| due.0);
        self.lease_now.store(state.lease_now().0, Ordering::Release);
        self.wall_now.store(state.wall_now().0, Ordering::Release);
        let new_deadline = self.next_deadline.swap(deadline, Ordering::AcqRel) != deadline;
        let new_term = self.applied_term.swap(term, Ordering::AcqRel) != term;
        if new_deadline || new_term {
            self.moved.notify_one();
        }
    }

    fn answer(&self, applied: &AppliedEntry<'_>) {
        let mut waiters = lock(&self.waiters);
        for (place, origin) in applied.origins.iter().enumerate() {
            let Some(origin) = origin else { continue };
            if origin.node != self.owner.node || origin.boot != self.owner.boot {
                continue;
            }
            let position = Position {
                index: applied.index,
                place: place as u32,
            };
            let outcome = applied.outcomes[place].clone();
            let answer = Answer::Applied(Applied { position, outcome });
            waiters.answer(origin.correlation, answer);
        }
        waiters.applied(applied.term);
    }

    fn tell_sessions(&self, applied: &AppliedEntry<'_>, lease_now: LeaseTime) {
        let mut sessions = None;
        let at = Instant::now();
        for event in applied.events {
            let (session, owner, told) = match event {
                Event::Delivered {
                    session,
                    owner,
                    grant,
                } => (
                    *session,
                    owner,
                    SessionEvent::Granted {
                        grant: grant.clone(),
                        lease_now,
                        at,
                    },
                ),
                Event::LeasesLost {
                    session,
                    owner,
                    queue,
                    first_offset,
                    count,
                } => {
                    let (queue, first_offset, count) = (*queue, *first_offset, *count);
                    (
                        *session,
                        owner,
                        SessionEvent::LeasesLost {
                            queue,
                            first_offset,
                            count,
                        },
                    )
                }
                Event::SessionEnded {
                    session,
                    owner,
                    why,
                } => (*session, owner, SessionEvent::Ended(*why)),
                Event::SessionMoved { session, from } => (*session, from, SessionEvent::Moved),
                Event::Ready { queue } | Event::QueueDeleted { queue, .. } => {
                    if let Some(bell) = lock(&self.polls).get(queue) {
                        bell.notify_waiters();
                    }
                    continue;
                }
            };
            if owner.node != self.owner.node || owner.boot != self.owner.boot {
                continue;
            }
            let sessions = sessions.get_or_insert_with(|| lock(&self.sessions));
            let key = (session, owner.connection);
            let full = sessions
                .get(&key)
                .is_some_and(|sender| sender.try_send(told).is_err());
            if full {
                // Dropping the sender ends the connection; its leases come back by the grace.
                sessions.remove(&key);
            }
        }
    }
}

impl AppliedSink for Hub {
    fn applied(&self, state: &State, applied: AppliedEntry<'_>) {
        // Also of what is replayed: sessions of earlier boots are not this process's, and a new
        // leader may put entries of the present boot where this node's log had others.
        self.tell_sessions(&applied, state.lease_now());
        self.note_progress(state, applied.term);
        self.answer(&applied);
    }

    fn replaced(&self, state: &State, replaced: Replaced) {
        self.resync_sessions(state, replaced.index);
        for bell in lock(&self.polls).values() {
            bell.notify_waiters();
        }
        self.note_progress(state, replaced.term);
        lock(&self.waiters).replaced(replaced.term);
    }

    fn polls(&self) -> bool {
        self.polling() > 0
    }
}

impl Hub {
    fn resync_sessions(&self, state: &State, index: u64) {
        let (lease_now, at) = (state.lease_now(), Instant::now());
        lock(&self.sessions).retain(|&(session, connection), sender| {
            let here = Owner {
                connection,
                ..self.owner
            };
            let now = match state.session(session) {
                None => Now::Gone,
                Some(view) if view.owner != here => Now::Moved,
                Some(_) => Now::Holds(state.held(session)),
            };
            let resynced = Resynced {
                index,
                lease_now,
                at,
                now,
            };
            sender.try_send(SessionEvent::Resynced(resynced)).is_ok()
        });
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ticketrail_core::{BootId, Entry, NodeId, Stamps};
    use ticketrail_proto::stored::Origin;

    use super::*;

    const OWNER: Owner = Owner {
        node: NodeId(1),
        boot: BootId(7),
        connection: 0,
    };

    fn apply(hub: &Hub, index: u64, term: u64, origins: &[Option<Origin>]) {
        let outcomes = vec![Outcome::Done; origins.len()];
        hub.applied(
            &State::new(),
            AppliedEntry {
                index,
                term,
                payload: &Bytes::new(),
                entry: &Entry {
                    stamps: Stamps::default(),
                    commands: Vec::new(),
                },
                origins,
                outcomes: &outcomes,
                events: &[],
                replaying: false,
            },
        );
    }

    fn origin(boot: u64, correlation: u64) -> Option<Origin> {
        Some(Origin {
            node: NodeId(1),
            boot: BootId(boot),
            correlation,
        })
    }

    #[tokio::test]
    async fn a_command_is_answered_by_its_own_applied_entry() {
        let hub = Hub::new(OWNER);
        let (correlation, answer) = hub.wait();
        assert!(hub.hand_over(correlation, 3));
        apply(
            &hub,
            10,
            3,
            &[None, origin(6, correlation), origin(7, correlation)],
        );
        match answer.await.unwrap() {
            Answer::Applied(applied) => {
                assert_eq!(
                    applied.position,
                    Position {
                        index: 10,
                        place: 2
                    }
                );
            }
            Answer::Lost | Answer::Unknown => panic!("it was applied"),
        }
    }

    #[tokio::test]
    async fn a_command_is_lost_only_when_a_later_term_comes_without_it() {
        let hub = Hub::new(OWNER);
        let (old, mut old_answer) = hub.wait();
        let (new, mut new_answer) = hub.wait();
        let (queued, mut queued_answer) = hub.wait();
        assert!(hub.hand_over(old, 3));
        assert!(hub.hand_over(new, 4));
        apply(&hub, 10, 3, &[]);
        assert!(
            old_answer.try_recv().is_err(),
            "the term may still bring it"
        );
        apply(&hub, 11, 4, &[]);
        assert!(matches!(old_answer.try_recv(), Ok(Answer::Lost)));
        assert!(
            new_answer.try_recv().is_err(),
            "its own term has just begun"
        );
        assert!(
            queued_answer.try_recv().is_err(),
            "it is not on its way yet"
        );
        assert!(!hub.hand_over(queued, 3), "that term is over");
        assert!(matches!(queued_answer.try_recv(), Ok(Answer::Lost)));
    }

    #[tokio::test]
    async fn giving_up_tells_whether_it_may_have_been_proposed() {
        let hub = Hub::new(OWNER);
        let (queued, _answer) = hub.wait();
        assert!(hub.give_up(queued), "surely not proposed");
        assert!(!hub.hand_over(queued, 1), "nobody waits any more");
        let (handed, _answer) = hub.wait();
        assert!(hub.hand_over(handed, 1));
        assert!(!hub.give_up(handed), "may be proposed");
    }

    /// A restarted node's log may end in entries that nobody else has; a new leader puts others in
    /// their place, of consumers that have come back meanwhile.
    #[tokio::test]
    async fn a_session_of_this_boot_hears_of_entries_that_look_replayed() {
        let hub = Hub::new(OWNER);
        let owner = Owner {
            connection: 3,
            ..OWNER
        };
        let mut events = hub.serve(SessionId(1), owner.connection, 4);
        let ended = Event::SessionEnded {
            session: SessionId(1),
            owner,
            why: SessionEnd::GraceOver,
        };
        hub.applied(
            &State::new(),
            AppliedEntry {
                index: 10,
                term: 4,
                payload: &Bytes::new(),
                entry: &Entry {
                    stamps: Stamps::default(),
                    commands: Vec::new(),
                },
                origins: &[],
                outcomes: &[],
                events: &[ended],
                replaying: true,
            },
        );
        let told = events.try_recv();
        assert!(matches!(told, Ok(SessionEvent::Ended(_))), "{told:?}");
    }

    #[tokio::test]
    async fn a_snapshot_leaves_those_in_doubt_whose_entry_it_may_have_passed_over() {
        let hub = Hub::new(OWNER);
        let (handed, mut handed_answer) = hub.wait();
        let (later, mut later_answer) = hub.wait();
        let (_queued, mut queued_answer) = hub.wait();
        assert!(hub.hand_over(handed, 3));
        assert!(hub.hand_over(later, 4));
        let replaced = Replaced { index: 50, term: 3 };
        hub.replaced(&State::new(), replaced);
        assert!(matches!(handed_answer.try_recv(), Ok(Answer::Unknown)));
        assert!(later_answer.try_recv().is_err(), "its term comes after");
        assert!(
            queued_answer.try_recv().is_err(),
            "it was never handed over"
        );
        assert_eq!(hub.applied_term(), 3);
    }

    #[tokio::test]
    async fn a_session_that_a_snapshot_does_not_know_is_told_so() {
        let hub = Hub::new(OWNER);
        let mut events = hub.serve(SessionId(5), 1, 4);
        hub.replaced(&State::new(), Replaced { index: 50, term: 3 });
        let gone = matches!(
            events.recv().await,
            Some(SessionEvent::Resynced(Resynced {
                index: 50,
                now: Now::Gone,
                ..
            }))
        );
        assert!(gone);
    }
}
