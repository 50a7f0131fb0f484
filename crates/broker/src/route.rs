//! One task per node and lane that takes commands in the order in which calls made them and hands them to
//! whoever leads: the proposer here, or the leader's over the link.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use ticketrail_core::NodeId;
use ticketrail_raft::{Leadership, Watcher};
use tokio::sync::mpsc;

use crate::admission::Share;
use crate::hub::Hub;
use crate::proposer::Proposal;

/// Most commands handed over together.
const BATCH_COMMANDS_MAX: usize = 512;
/// Most bytes handed over together, but for one command that is larger.
const BATCH_BYTES_MAX: usize = 512 * 1024;
/// Batches on their way to the leader.
const IN_FLIGHT_MAX: usize = 8;

/// Brings commands to the leader. Implemented by `server` over the peer connection, by the
/// simulator over its network.
pub trait Link: Send + Sync + 'static {
    /// Hands commands to `leader`. `Ok`: they are in the leader's queue. Calls for one leader arrive in the order in which they were
    /// made, unless one of them fails.
    fn forward(
        &self,
        leader: NodeId,
        forward: Forward,
    ) -> BoxFuture<'static, Result<(), LinkError>>;
}

/// Commands for a leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// They are proposed in this term or never.
    pub term: u64,
    /// Encoded `store.v1.Command`s, in their order.
    pub commands: Vec<Bytes>,
    /// See [`Haste::WithOthers`].
    pub haste: Haste,
}

/// How soon a command goes to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Haste {
    /// It may wait a moment ([`crate::ACKS_HELD_MAX`]) for an entry that is made anyway: it holds no delivery up.
    WithOthers,
    /// At once.
    Now,
}

/// Why commands did not reach the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// They were not proposed and never will be.
    #[error("the commands were not taken")]
    NotTaken,
    /// The connection broke; they may have been taken.
    #[error("the connection to the leader broke")]
    Broken,
}

/// A command on its way to the leader.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) correlation: u64,
    pub(crate) command: Bytes,
    pub(crate) haste: Haste,
    /// Its share of the bytes that may wait on this node.
    pub(crate) _room: Option<Arc<Share>>,
}

/// The route task.
pub(crate) struct Route {
    pub(crate) hub: Arc<Hub>,
    pub(crate) leadership: Watcher<Leadership>,
    pub(crate) proposer: mpsc::Sender<Proposal>,
    pub(crate) link: Arc<dyn Link>,
}

impl Route {
    /// Runs until all senders are gone.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Outgoing>) {
        let mut links = FuturesUnordered::new();
        let mut held: Option<Outgoing> = None;
        loop {
            let Leadership { term, leader, .. } = *self.leadership.borrow_and_update();
            let may_go = held.is_some() && links.len() < IN_FLIGHT_MAX;
            tokio::select! {
                biased;
                Some(()) = links.next(), if !links.is_empty() => continue,
                next = commands.recv(), if held.is_none() && links.len() < IN_FLIGHT_MAX => {
                    match next {
                        Some(next) => held = Some(next),
                        None => return,
                    }
                    continue;
                }
                // Calls keep their own deadlines; what they gave up is skipped below.
                changed = self.leadership.changed(), if leader.is_none() => {
                    if changed.is_err() {
                        return;
                    }
                    continue;
                }
                () = std::future::ready(()), if may_go && leader.is_some() => {}
            }
            let Some(leader) = leader else { continue };
            let (correlations, batch) = self.fill(&mut held, &mut commands, term);
            if batch.commands.is_empty() {
                continue;
            }
            if leader == self.hub.owner().node {
                // Waits while the proposer is busy: that is what bounds the queue.
                let proposal = Proposal {
                    forward: batch,
                    _share: None,
                };
                let handed = self.proposer.send(proposal);
                tokio::pin!(handed);
                let handed = loop {
                    tokio::select! {
                        biased;
                        handed = &mut handed => break handed,
                        Some(()) = links.next(), if !links.is_empty() => {}
                    }
                };
                if handed.is_err() {
                    return;
                }
            } else {
                let sent = self.link.forward(leader, batch);
                let hub = Arc::clone(&self.hub);
                links.push(async move {
                    if sent.await == Err(LinkError::NotTaken) {
                        correlations
                            .into_iter()
                            .for_each(|correlation| hub.refused(correlation));
                    }
                    // Taken, or perhaps: the log will tell, by the command or by a later term.
                });
            }
        }
    }

    fn fill(
        &self,
        held: &mut Option<Outgoing>,
        commands: &mut mpsc::Receiver<Outgoing>,
        term: u64,
    ) -> (Vec<u64>, Forward) {
        let (mut correlations, mut bytes) = (Vec::new(), 0);
        let mut batch = Forward {
            term,
            commands: Vec::new(),
            haste: Haste::WithOthers,
        };
        while let Some(next) = held.take().or_else(|| commands.try_recv().ok()) {
            if !batch.commands.is_empty() && bytes + next.command.len() > BATCH_BYTES_MAX {
                *held = Some(next);
                break;
            }
            if self.hub.hand_over(next.correlation, term) {
                bytes += next.command.len();
                correlations.push(next.correlation);
                batch.commands.push(next.command);
                batch.haste = batch.haste.max(next.haste);
            }
            if batch.commands.len() == BATCH_COMMANDS_MAX {
                break;
            }
        }
        (correlations, batch)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use ticketrail_core::{BootId, Owner};
    use ticketrail_raft::Watched;

    use super::*;

    /// Takes everything and never answers.
    #[derive(Default)]
    struct Silent(AtomicUsize);

    impl Link for Silent {
        fn forward(&self, _: NodeId, _: Forward) -> BoxFuture<'static, Result<(), LinkError>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn large_commands_wait_for_those_before_them() {
        let hub = Arc::new(Hub::new(Owner {
            node: NodeId(1),
            boot: BootId(1),
            connection: 0,
        }));
        let leads = Watched::new(Leadership {
            term: 1,
            leader: Some(NodeId(2)),
            ..Leadership::default()
        });
        let (proposer, _proposals) = mpsc::channel(1);
        let link = Arc::new(Silent::default());
        let route = Route {
            hub: Arc::clone(&hub),
            leadership: leads.subscribe(),
            proposer,
            link: Arc::clone(&link) as _,
        };
        let (commands, outgoing) = mpsc::channel(64);
        let mut answers = Vec::new();
        for _ in 0..3 * IN_FLIGHT_MAX {
            let (correlation, answer) = hub.wait();
            answers.push(answer);
            let command = Bytes::from(vec![0; BATCH_BYTES_MAX / 2 + 1]);
            let outgoing = Outgoing {
                correlation,
                command,
                haste: Haste::Now,
                _room: None,
            };
            commands.send(outgoing).await.unwrap();
        }
        let running = tokio::spawn(route.run(outgoing));
        // Time moves only when everything that can run has run.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(link.0.load(Ordering::Relaxed), IN_FLIGHT_MAX);
        running.abort();
        drop(leads);
    }
}
