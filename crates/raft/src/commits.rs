//! How soon a peer hears what is committed.
//!
//! A commit travels with the next entries. Where none follow it goes alone, which costs both sides as much as entries do, and
//! the confirm of the client waits meanwhile where they share a core. So a commit alone is held for a moment, unless somebody
//! on that peer waits for what was committed: for an answer, a delivery, a read, or in a long poll. It never goes later than
//! [`HELD_MAX`], and not at all where entries that carry it go first.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use openraft::Instant;
use openraft::raft::AppendEntriesRequest;
use ticketrail_core::{Event, NodeId};
use ticketrail_proto::stored::Origin;
use tokio::sync::Notify;

use crate::seam::Runtime;
use crate::types::Types;

/// Longest time that a commit is held: what nobody waits for, a follower applies so much later.
const HELD_MAX: Duration = Duration::from_millis(5);

/// What is waited for on the peers.
#[derive(Default)]
pub(crate) struct Commits {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    peers: BTreeMap<NodeId, Waited>,
    /// The newest entry that concerns whoever is in a long poll.
    ready: u64,
}

#[derive(Default)]
struct Waited {
    /// Somebody waits for an entry up to here, if for any.
    upto: u64,
    /// Somebody is in a long poll, as the peer last said.
    polls: bool,
}

impl Waited {
    fn up_to(&mut self, index: u64) {
        self.upto = self.upto.max(index);
    }
}

impl Commits {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    /// An entry was applied here: who waits for it is told soon.
    pub(crate) fn applied(&self, index: u64, origins: &[Option<Origin>], events: &[Event]) {
        let mut state = self.lock();
        let mut last = None;
        let waiting = origins.iter().flatten().map(|origin| origin.node);
        for node in waiting.chain(events.iter().filter_map(owner)) {
            if last != Some(node) {
                state.peers.entry(node).or_default().up_to(index);
                last = Some(node);
            }
        }
        if events.iter().any(|event| owner(event).is_none()) {
            state.ready = index;
            let polling = state.peers.values_mut().filter(|waited| waited.polls);
            polling.for_each(|waited| waited.up_to(index));
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Somebody on a peer reads what is committed up to there.
    pub(crate) fn read(&self, node: NodeId, index: u64) {
        self.lock().peers.entry(node).or_default().up_to(index);
        self.changed.notify_waiters();
    }

    /// A peer said whether somebody there is in a long poll.
    pub(crate) fn polls(&self, node: NodeId, polls: bool) {
        let mut state = self.lock();
        let ready = state.ready;
        let waited = state.peers.entry(node).or_default();
        let begins = polls && !waited.polls;
        waited.polls = polls;
        if begins {
            // It may have begun before that entry, and be heard of after it.
            waited.up_to(ready);
            drop(state);
            self.changed.notify_waiters();
        }
    }

    fn is_waited_for(&self, node: NodeId, told: u64) -> bool {
        let waited = |state: &State| Some(state.peers.get(&node)?.upto);
        waited(&self.lock()).is_some_and(|upto| upto > told)
    }

    /// Resolves when somebody on a peer that was told of commits up to `told` waits for more.
    async fn waited_for(&self, node: NodeId, told: u64) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // In line before the look, so that nothing is missed in between.
            changed.as_mut().enable();
            if self.is_waited_for(node, told) {
                return;
            }
            changed.await;
        }
    }
}

/// The node that an event concerns; none where it may be any.
fn owner(event: &Event) -> Option<NodeId> {
    match event {
        Event::Delivered { owner, .. }
        | Event::LeasesLost { owner, .. }
        | Event::SessionEnded { owner, .. } => Some(owner.node),
        Event::SessionMoved { from, .. } => Some(from.node),
        Event::Ready { .. } | Event::QueueDeleted { .. } => None,
    }
}

type Append<R> = AppendEntriesRequest<Types<R>>;

/// One peer's requests, of which those that only carry a commit are held.
struct Holding<R: Runtime, S> {
    requests: S,
    commits: Arc<Commits>,
    peer: NodeId,
    /// The newest commit that went out in this stream.
    told: u64,
    /// Nothing went out yet: openraft probes with what goes first.
    begins: bool,
    held: Option<(Append<R>, R::Instant)>,
    ended: bool,
}

/// The requests of one stream to a peer, in their order and each whole, without those that the next one makes superfluous.
///
/// Leaving one out is safe: it carries no entries, and what follows in the stream begins where it begins and carries a commit
/// as new. An answer to the later one says all that an answer to it would have.
pub(crate) fn hold_commits<R, S>(
    requests: S,
    commits: Arc<Commits>,
    peer: NodeId,
) -> BoxStream<'static, Append<R>>
where
    R: Runtime,
    S: Stream<Item = Append<R>> + Send + Unpin + 'static,
{
    let holding = Holding {
        requests,
        commits,
        peer,
        told: 0,
        begins: true,
        held: None,
        ended: false,
    };
    let told = stream::unfold(holding, |mut holding| async move {
        let request = holding.next().await?;
        Some((request, holding))
    });
    told.boxed()
}

impl<R: Runtime, S: Stream<Item = Append<R>> + Unpin> Holding<R, S> {
    async fn next(&mut self) -> Option<Append<R>> {
        loop {
            let Some((held, until)) = self.held.take() else {
                if self.ended {
                    return None;
                }
                let request = self.requests.next().await?;
                if !self.may_wait(&request) {
                    return Some(self.tell(request));
                }
                self.held = Some((request, R::Instant::now() + HELD_MAX));
                continue;
            };
            let next = tokio::select! {
                biased;
                next = self.requests.next() => next,
                () = self.commits.waited_for(self.peer, self.told) => return Some(self.tell(held)),
                () = R::sleep_until(until) => return Some(self.tell(held)),
            };
            match next {
                Some(request) if self.may_wait(&request) => self.held = Some((request, until)),
                Some(request) => return Some(self.tell(request)),
                None => {
                    self.ended = true;
                    return Some(self.tell(held));
                }
            }
        }
    }

    fn may_wait(&self, request: &Append<R>) -> bool {
        request.entries.is_empty()
            && !self.begins
            && !self.commits.is_waited_for(self.peer, self.told)
    }

    fn tell(&mut self, request: Append<R>) -> Append<R> {
        self.begins = false;
        let commit = request.leader_commit.map_or(0, |id| id.index);
        self.told = self.told.max(commit);
        request
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::channel::mpsc::{UnboundedSender, unbounded};
    use openraft_rt_tokio::TokioRuntime;
    use ticketrail_core::{BootId, QueueId};

    use super::*;
    use crate::types::{Entry, Vote, log_id};

    const PEER: NodeId = NodeId(2);
    const OTHER: NodeId = NodeId(3);

    /// What goes out to a peer, after a first request at entry 1 that tells of no commit.
    struct Line {
        requests: UnboundedSender<Append<TokioRuntime>>,
        told: BoxStream<'static, Append<TokioRuntime>>,
        commits: Arc<Commits>,
    }

    fn append(entry: Option<u64>, commit: u64) -> Append<TokioRuntime> {
        let entry = entry.map(|index| Entry {
            log_id: log_id(1, index),
            payload: openraft::EntryPayload::Blank,
        });
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: None,
            entries: entry.into_iter().collect(),
            leader_commit: Some(log_id(1, commit)),
        }
    }

    impl Line {
        async fn new() -> Self {
            let (requests, source) = unbounded();
            let commits = Arc::<Commits>::default();
            let mut told = hold_commits(source, commits.clone(), PEER);
            requests.unbounded_send(append(None, 0)).unwrap();
            assert!(told.next().await.is_some(), "a probe goes at once");
            Self {
                requests,
                told,
                commits,
            }
        }

        fn send(&self, entry: Option<u64>, commit: u64) {
            self.requests.unbounded_send(append(entry, commit)).unwrap();
        }

        /// Entries and commit of what goes out now, if anything does.
        fn now(&mut self) -> Option<(usize, u64)> {
            let told = self.told.next().now_or_never()??;
            Some((told.entries.len(), told.leader_commit?.index))
        }
    }

    fn origin(node: NodeId) -> Option<Origin> {
        Some(Origin {
            node,
            boot: BootId(1),
            correlation: 1,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_that_nobody_waits_for_goes_with_the_next_entries() {
        let mut line = Line::new().await;
        line.send(None, 1);
        line.send(None, 2);
        assert_eq!(line.now(), None);
        line.send(Some(3), 2);
        assert_eq!(line.now(), Some((1, 2)));
        line.send(None, 3);
        line.commits.applied(3, &[None, origin(OTHER)], &[]);
        assert_eq!(line.now(), None, "the other peer is told, not this one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_alone_goes_in_a_moment() {
        let mut line = Line::new().await;
        let begun = tokio::time::Instant::now();
        line.send(None, 1);
        assert_eq!(line.now(), None);
        line.send(None, 2);
        let told = line.told.next().await.unwrap();
        assert_eq!(told.leader_commit, Some(log_id(1, 2)));
        assert_eq!(begun.elapsed(), HELD_MAX, "the first of them counts");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_told_at_once() {
        let mut line = Line::new().await;
        line.send(None, 1);
        assert_eq!(line.now(), None);
        line.commits.applied(1, &[origin(PEER)], &[]);
        assert_eq!(line.now(), Some((0, 1)), "an answer");
        line.commits.read(PEER, 2);
        line.send(None, 2);
        assert_eq!(line.now(), Some((0, 2)), "a read");
        let ready = [Event::Ready { queue: QueueId(1) }];
        line.send(None, 3);
        line.commits.applied(3, &[None], &ready);
        assert_eq!(line.now(), None, "nobody polls there");
        line.commits.polls(PEER, true);
        line.commits.applied(3, &[None], &ready);
        assert_eq!(line.now(), Some((0, 3)), "a long poll");
        line.commits.polls(PEER, false);
        line.send(None, 4);
        line.commits.applied(4, &[None], &ready);
        assert_eq!(line.now(), None);
        line.commits.polls(PEER, true);
        assert_eq!(line.now(), Some((0, 4)), "one that is heard of late");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_at_the_end_goes_then() {
        let mut line = Line::new().await;
        line.send(None, 1);
        assert_eq!(line.now(), None);
        drop(line.requests);
        assert!(line.told.next().await.is_some());
        assert!(line.told.next().await.is_none());
    }
}
