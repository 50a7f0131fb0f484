//! The room's door: what is shared by all calls, start and stop.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use ticketrail_core::command::{Bootstrap, NodeBooted};
use ticketrail_core::{BootId, Command, NodeId, Owner, SessionId};
use ticketrail_proto::error::Problem;
use ticketrail_raft::{AppliedSink, Leadership, Replica};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::bodies::Bodies;
use crate::hub::Hub;
use crate::lost_nodes::{Peers, watch_for_lost_nodes};
use crate::proposer::{Proposal, Proposer};
use crate::route::{Link, LinkError, Outgoing, Route};

/// Reads a wall clock: UTC, milliseconds since 1970.
pub type WallClockSource = Arc<dyn Fn() -> u64 + Send + Sync>;
/// Draws 128 random bits.
pub type Entropy = Arc<dyn Fn() -> u128 + Send + Sync>;

/// Commands that may wait for the route task.
const ROUTE_COMMANDS_MAX: usize = 4_096;
/// Batches that may wait for the proposer task.
const PROPOSALS_MAX: usize = 64;
/// How long one attempt of the start-up commands may take before it is tried again.
const START_ATTEMPT: Duration = Duration::from_secs(5);

/// What a broker needs to know.
#[derive(Clone)]
pub struct BrokerConfig {
    /// This node.
    pub node: NodeId,
    /// This run of its process: random, new at each start.
    pub boot: BootId,
    /// The cluster, for the first entry of a new one.
    pub cluster_id: u128,
    /// Nodes that vote, as far as known at the start; 0 where not.
    pub voters: usize,
    /// Bytes of commands that may wait on this node for their outcome.
    pub waiting_bytes_max: u32,
    /// This node's wall clock.
    pub wall_clock: WallClockSource,
    /// Randomness: session, producer and attempt ids.
    pub entropy: Entropy,
}

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

/// One node's broker. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Broker {
    pub(crate) inner: Arc<Inner>,
    tasks: Arc<tokio::sync::Mutex<JoinSet<()>>>,
}

/// What all calls share.
pub(crate) struct Inner {
    pub(crate) hub: Arc<Hub>,
    pub(crate) replica: Replica,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) bodies: Bodies,
    pub(crate) route: mpsc::Sender<Outgoing>,
    pub(crate) waiting_bytes: Arc<Semaphore>,
    pub(crate) waiting_bytes_max: u32,
    pub(crate) config: BrokerConfig,
    proposer: mpsc::Sender<Proposal>,
    next_connection: AtomicU64,
}

impl Broker {
    /// Starts the replica by `start_replica`, which gets the sink for applied entries, and the
    /// tasks around it. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// What `start_replica` says.
    pub async fn start<F, E>(
        config: BrokerConfig,
        link: Arc<dyn Link>,
        start_replica: impl FnOnce(Arc<dyn AppliedSink>) -> F,
    ) -> Result<Self, StartError>
    where
        F: Future<Output = Result<Replica, E>>,
        E: std::fmt::Display,
    {
        let owner = Owner {
            node: config.node,
            boot: config.boot,
            connection: 0,
        };
        let hub = Arc::new(Hub::new(owner));
        let sink: Arc<dyn AppliedSink> = Arc::clone(&hub) as _;
        let replica = start_replica(sink)
            .await
            .map_err(|error| StartError(error.to_string()))?;
        let leadership = replica.leadership();
        let peers = Peers::new(config.node, config.voters, Arc::clone(&config.wall_clock));
        let (route, outgoing) = mpsc::channel(ROUTE_COMMANDS_MAX);
        let (proposer, proposals) = mpsc::channel(PROPOSALS_MAX);
        let inner = Arc::new(Inner {
            bodies: Bodies::new(replica.clone()),
            hub: Arc::clone(&hub),
            replica: replica.clone(),
            leadership: leadership.clone(),
            peers: Arc::new(peers),
            route,
            waiting_bytes: Arc::new(Semaphore::new(config.waiting_bytes_max as usize)),
            waiting_bytes_max: config.waiting_bytes_max,
            proposer: proposer.clone(),
            next_connection: AtomicU64::new(1),
            config,
        });
        let mut tasks = JoinSet::new();
        let mut spawn = |name: &'static str, task: BoxFuture<'static, ()>| {
            let replica = replica.clone();
            tasks.spawn(guarded(name, task, move |why| replica.fail(why)));
        };
        let route = Route {
            hub: Arc::clone(&hub),
            leadership: leadership.clone(),
            proposer,
            link,
        };
        spawn("route", route.run(outgoing).boxed());
        let peers = Arc::clone(&inner.peers);
        let proposer = Proposer {
            hub,
            replica: replica.clone(),
            leadership,
            peers,
        };
        spawn("proposer", proposer.run(proposals).boxed());
        let lost = watch_for_lost_nodes(Arc::clone(&inner));
        spawn("watch for lost nodes", lost.boxed());
        spawn("announcement", announce(Arc::clone(&inner)).boxed());
        let sessions = crate::sessions::keep_true(Arc::clone(&inner));
        spawn("watch over sessions", sessions.boxed());
        Ok(Self {
            inner,
            tasks: Arc::new(tokio::sync::Mutex::new(tasks)),
        })
    }

    /// Takes commands that another node forwarded, to be proposed in `term` or never.
    ///
    /// # Errors
    /// [`LinkError::NotTaken`] when this node does not lead in that term or its queue is full.
    pub fn accept_forward(&self, term: u64, commands: Vec<bytes::Bytes>) -> Result<(), LinkError> {
        let lead = *self.inner.leadership.borrow();
        if !lead.is_leader || lead.term != term {
            return Err(LinkError::NotTaken);
        }
        // Once committed a command must decode on every node, or it stops them all.
        if let Some(error) = commands
            .iter()
            .find_map(|command| ticketrail_proto::stored::decode_command(command.clone()).err())
        {
            tracing::error!(%error, "a forwarded command does not decode and was not proposed");
            return Err(LinkError::NotTaken);
        }
        let proposal = Proposal { term, commands };
        self.inner
            .proposer
            .try_send(proposal)
            .map_err(|_| LinkError::NotTaken)
    }

    /// Notes that a peer's process was heard of, and its wall clock (0: not told).
    pub fn observe_peer(&self, node: NodeId, boot: BootId, wall_ms: u64) {
        self.inner.peers.heard(node, boot, wall_ms);
    }

    /// The replica below.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.inner.replica
    }

    /// Who leads, as this node knows.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// Ends all tasks and the replica.
    pub async fn shutdown(&self) {
        self.tasks.lock().await.shutdown().await;
        self.inner.replica.shutdown().await;
    }
}

impl Inner {
    /// A fresh connection of this process.
    pub(crate) fn connect(&self) -> Owner {
        let connection = self.next_connection.fetch_add(1, Ordering::Relaxed);
        Owner {
            connection,
            ..self.hub.owner()
        }
    }

    /// A fresh session.
    pub(crate) fn fresh_session(&self) -> SessionId {
        SessionId((self.config.entropy)())
    }

    /// A linearizable read: what was confirmed before it was called is applied here.
    pub(crate) async fn read_barrier(&self, deadline: Instant) -> Result<(), Problem> {
        loop {
            match tokio::time::timeout_at(deadline, self.replica.read_index()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "read index not had yet");
                    self.before_again(deadline).await?;
                }
                Err(_) => return Err(crate::submit::not_proposed()),
            }
        }
    }
}

/// Runs a task of the broker. One that panics takes the node with it: a leader without its proposer
/// would keep the others from electing one that works.
async fn guarded(name: &str, task: BoxFuture<'static, ()>, failed: impl FnOnce(&str)) {
    if AssertUnwindSafe(task).catch_unwind().await.is_err() {
        failed(&format!("the broker's {name} ended by a panic"));
    }
}

/// The first entry of a new cluster, from whoever leads; then the word that this boot is here.
async fn announce(inner: Arc<Inner>) {
    let mut leadership = inner.leadership.clone();
    loop {
        if inner
            .replica
            .with_state(|state| state.cluster_id().is_some())
        {
            break;
        }
        let lead = *leadership.borrow_and_update();
        if !lead.is_leader {
            // A new leader is told of; that the leader's first entry is applied here is looked for,
            // and only in the first moments of a new cluster or an empty node.
            let again = tokio::time::sleep(Duration::from_millis(50));
            tokio::select! {
                biased;
                changed = leadership.changed() => if changed.is_err() { return },
                () = again => {}
            }
            continue;
        }
        let bootstrap = Bootstrap {
            cluster_id: inner.config.cluster_id,
            hash_seed: (inner.config.entropy)() as u64,
        };
        let deadline = Instant::now() + START_ATTEMPT;
        if let Err(error) = inner
            .submit(&Command::Bootstrap(bootstrap), &[], deadline)
            .await
        {
            tracing::debug!(%error, "bootstrap did not get through yet");
        }
    }
    let Owner { node, boot, .. } = inner.hub.owner();
    let booted = Command::NodeBooted(NodeBooted { node, boot });
    while let Err(error) = inner
        .submit(&booted, &[], Instant::now() + START_ATTEMPT)
        .await
    {
        tracing::debug!(%error, "boot not announced yet");
    }
    tracing::info!(%node, "serving");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_told_of() {
        let mut why = None;
        let task = async { panic!("planted") };
        guarded("route", task.boxed(), |reason| {
            why = Some(reason.to_owned())
        })
        .await;
        assert_eq!(why.as_deref(), Some("the broker's route ended by a panic"));
        guarded("route", async {}.boxed(), |_| panic!("it ended well")).await;
    }
}
