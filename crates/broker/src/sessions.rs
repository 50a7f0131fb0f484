//! Keeps the state's view of this process's sessions and the streams that serve them in step.
//!
//! A session without its stream would be granted messages that nobody delivers, one lease after the
//! other until they are given up; a stream without its session would wait for ever.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ticketrail_core::command::DetachConsumer;
use ticketrail_core::{Command, Owner, SessionId, State};
use ticketrail_proto::error::Reason;
use tokio::time::Instant;

use crate::broker::Inner;

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A session and the connection that the state says it is served by.
type Served = (SessionId, u64);

/// Looks again and again for differences.
pub(crate) async fn keep_true(inner: Arc<Inner>) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut before = BTreeSet::new();
    loop {
        look.tick().await;
        let (lost, left) = inner.replica.with_state(|state| {
            let served = inner.hub.served();
            let owner = inner.hub.owner();
            (
                taken_for_lost(state, owner, &served),
                without_stream(state, owner, &served),
            )
        });
        for (session, connection) in lost {
            tracing::info!(%session, "a session was taken for lost; its stream ends so that the client comes back");
            inner.hub.unserve(session, connection);
        }
        // At the second look: the stream's own word of its end is usually on its way.
        for served in left.intersection(&before) {
            if !detach(&inner, *served).await {
                break;
            }
        }
        before = left;
    }
}

/// When the leader took this process for lost while it lives (a pause, a partition), its sessions
/// are disconnected in the state but connected in truth: their streams are ended, and clients come
/// back to their sessions, here or elsewhere.
fn taken_for_lost(state: &State, owner: Owner, served: &[Served]) -> Vec<Served> {
    let lost = |&(session, connection): &Served| {
        let served_by = Owner {
            connection,
            ..owner
        };
        let view = state.session(session);
        view.is_some_and(|view| view.owner == served_by && !view.connected)
    };
    served.iter().copied().filter(lost).collect()
}

/// Sessions that the state takes for connected here, though their stream is over: the word of its
/// end did not get through.
fn without_stream(state: &State, owner: Owner, served: &[Served]) -> BTreeSet<Served> {
    let served: BTreeSet<Served> = served.iter().copied().collect();
    state
        .sessions()
        .filter(|view| view.connected)
        .filter(|view| (view.owner.node, view.owner.boot) == (owner.node, owner.boot))
        .map(|view| (view.session, view.owner.connection))
        .filter(|here| !served.contains(here))
        .collect()
}

/// Whether it got through, one way or the other.
async fn detach(inner: &Inner, (session, connection): Served) -> bool {
    let owner = Owner {
        connection,
        ..inner.hub.owner()
    };
    let command = Command::DetachConsumer(DetachConsumer {
        session,
        owner,
        release: false,
    });
    let deadline = Instant::now() + LOOK_EVERY;
    match inner.submit(&command, &[], deadline).await {
        Ok(_) => {
            tracing::info!(%session, "a session had lost its stream; it has its grace");
            true
        }
        Err(problem) => {
            tracing::debug!(%session, %problem, "a session without a stream was not detached");
            !matches!(problem.reason(), Reason::NoLeader | Reason::OutcomeUnknown)
        }
    }
}
