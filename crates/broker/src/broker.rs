//! The room's door: what is shared by all calls, start and stop.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use ticketrail_core::command::{Bootstrap, NodeBooted};
use ticketrail_core::{BootId, Command, DiskId, NodeId, Owner, SessionId};
use ticketrail_proto::error::Problem;
use ticketrail_raft::{AppliedSink, Leadership, Replica, Watcher};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::admission::{self, Admission, AdmissionConfig, Budget};
use crate::bodies::Bodies;
use crate::farewell::Farewell;
use crate::hub::Hub;
use crate::lane::{Intake, Lane, LaneSenders, lanes};
use crate::lost_nodes::{Peers, watch_for_lost_nodes};
use crate::proposer::{Proposal, Proposer};
use crate::route::{Forward, Link, LinkError, Outgoing, Route};

/// Reads a wall clock: UTC, milliseconds since 1970.
pub type WallClockSource = Arc<dyn Fn() -> u64 + Send + Sync>;
/// Draws 128 random bits.
pub type Entropy = Arc<dyn Fn() -> u128 + Send + Sync>;
/// Goes around every task that a broker spawns. A process needs none ([`BrokerConfig::plain`]); the
/// simulator ties the tasks of a node to its life by it.
pub type Enclose = Arc<dyn Fn(BoxFuture<'static, ()>) -> BoxFuture<'static, ()> + Send + Sync>;

/// Commands that may wait for a route task.
const ROUTE_COMMANDS_MAX: usize = 4_096;
/// Batches that may wait for the proposer task, per lane.
const PROPOSALS_MAX: usize = 64;
/// Batches that other nodes forwarded and that may wait for the proposer task, per lane.
const FORWARDED_MAX: usize = 256;
/// Bytes of commands that other nodes forwarded and that may wait for the proposer task, per lane.
const FORWARDED_BYTES_MAX: u32 = 32 << 20;
/// How long one attempt of the start-up commands may take before it is tried again.
const START_ATTEMPT: Duration = Duration::from_secs(5);

/// What a broker needs to know.
#[derive(Clone)]
pub struct BrokerConfig {
    /// This node.
    pub node: NodeId,
    /// This run of its process: random, new at each start.
    pub boot: BootId,
    /// What it keeps: its id is bound to it.
    pub disk: DiskId,
    /// The cluster, for the first entry of a new one.
    pub cluster_id: u128,
    /// Nodes that vote, as far as known at the start; 0 where not.
    pub voters: usize,
    /// The bounds of what is let in.
    pub admission: AdmissionConfig,
    /// This node's wall clock.
    pub wall_clock: WallClockSource,
    /// Randomness: session, producer and attempt ids.
    pub entropy: Entropy,
    /// Around every task.
    pub enclose: Enclose,
}

impl BrokerConfig {
    /// Tasks as they are.
    #[must_use]
    pub fn plain() -> Enclose {
        Arc::new(|task| task)
    }
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
    pub(crate) leadership: Watcher<Leadership>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) bodies: Bodies,
    pub(crate) admission: Arc<Admission>,
    pub(crate) routes: LaneSenders<Outgoing>,
    /// Bytes of commands that wait on this node for their outcome.
    pub(crate) waiting: PerLane<Budget>,
    pub(crate) config: BrokerConfig,
    /// See [`crate::farewell`].
    pub(crate) farewell: Farewell,
    forwarder: LaneSenders<Proposal>,
    forwarded: PerLane<Budget>,
    next_connection: AtomicU64,
    /// Held while the members are changed.
    pub(crate) changing_members: tokio::sync::Mutex<()>,
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
        let (routes, outgoing) = lanes(ROUTE_COMMANDS_MAX);
        let (proposer, own) = lanes(PROPOSALS_MAX);
        let (forwarder, forwarded) = lanes(FORWARDED_MAX);
        let proposals = Intake::new(own, forwarded);
        let admission = Arc::new(Admission::new(config.admission.clone()));
        let inner = Arc::new(Inner {
            bodies: Bodies::new(replica.clone()),
            hub: Arc::clone(&hub),
            replica: replica.clone(),
            leadership: leadership.clone(),
            peers: Arc::new(peers),
            farewell: Farewell::default(),
            routes,
            waiting: PerLane {
                reserved: Budget::new(config.admission.reserved_bytes_max),
                publish: Budget::new(config.admission.publish_bytes_max),
            },
            forwarded: PerLane {
                reserved: Budget::new(FORWARDED_BYTES_MAX),
                publish: Budget::new(FORWARDED_BYTES_MAX),
            },
            admission: Arc::clone(&admission),
            forwarder,
            next_connection: AtomicU64::new(1),
            changing_members: tokio::sync::Mutex::default(),
            config,
        });
        let mut tasks = JoinSet::new();
        let mut spawn = |name: &'static str, task: BoxFuture<'static, ()>| {
            let replica = replica.clone();
            let task = guarded(name, task, move |why| replica.fail(why)).boxed();
            tasks.spawn((inner.config.enclose)(task));
        };
        // A route of its own for each lane: publishes that wait hold nothing else up.
        let (reserved, publishes) = outgoing.apart();
        for (lane, commands) in [(Lane::Reserved, reserved), (Lane::Publish, publishes)] {
            let route = Route {
                hub: Arc::clone(&hub),
                leadership: leadership.clone(),
                proposer: proposer.of(lane).clone(),
                link: Arc::clone(&link),
            };
            spawn("route", route.run(commands).boxed());
        }
        drop(proposer);
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
        let watch = admission::watch(admission, replica.clone());
        spawn("watch over admission", watch.boxed());
        let sessions = crate::sessions::keep_true(Arc::clone(&inner));
        spawn("watch over sessions", sessions.boxed());
        let changes = crate::members::finish_changes(Arc::clone(&inner));
        spawn("watch over changes of the members", changes.boxed());
        Ok(Self {
            inner,
            tasks: Arc::new(tokio::sync::Mutex::new(tasks)),
        })
    }

    /// Takes commands that another node forwarded, to be proposed in `term` or never.
    ///
    /// # Errors
    /// [`LinkError::NotTaken`] when this node does not lead in that term or its queue is full.
    pub fn accept_forward(&self, forward: Forward) -> Result<(), LinkError> {
        let lead = *self.inner.leadership.borrow();
        if !lead.is_leader || lead.term != forward.term {
            return Err(LinkError::NotTaken);
        }
        // Once committed a command must decode on every node, or it stops them all.
        let lane = lane_of(&forward.commands).map_err(|error| {
            tracing::error!(%error, "a forwarded command does not decode and was not proposed");
            LinkError::NotTaken
        })?;
        let bytes = forward.commands.iter().map(bytes::Bytes::len).sum();
        let share = self.inner.forwarded.of(lane).try_take(bytes);
        let proposal = Proposal {
            forward,
            _share: Some(share.ok_or(LinkError::NotTaken)?),
        };
        self.inner
            .forwarder
            .of(lane)
            .try_send(proposal)
            .map_err(|_| LinkError::NotTaken)
    }

    /// Who is let in.
    #[must_use]
    pub fn admission(&self) -> &Arc<Admission> {
        &self.inner.admission
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
    pub fn leadership(&self) -> Watcher<Leadership> {
        self.inner.leadership.clone()
    }

    /// Ends all tasks and the replica.
    pub async fn shutdown(&self) {
        self.tasks.lock().await.shutdown().await;
        self.inner.replica.shutdown().await;
    }
}

/// One for each lane.
pub(crate) struct PerLane<T> {
    reserved: T,
    publish: T,
}

impl<T> PerLane<T> {
    pub(crate) fn of(&self, lane: Lane) -> &T {
        match lane {
            Lane::Reserved => &self.reserved,
            Lane::Publish => &self.publish,
        }
    }
}

/// The lane of a forwarded batch; a route forwards only commands of one.
fn lane_of(commands: &[bytes::Bytes]) -> Result<Lane, ticketrail_proto::stored::DecodeError> {
    let mut lane = Lane::Reserved;
    for command in commands {
        let stored = ticketrail_proto::stored::decode_command(command.clone())?;
        if Lane::of(&stored.command) == Lane::Publish {
            lane = Lane::Publish;
        }
    }
    Ok(lane)
}

impl Inner {
    /// Bytes of commands that wait on this node for their outcome.
    pub(crate) fn waiting_bytes(&self) -> usize {
        let used = self.waiting.reserved.used() + self.waiting.publish.used();
        usize::try_from(used).unwrap_or(usize::MAX)
    }

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

    /// Whether the first entry of the cluster is applied here.
    fn is_founded(&self) -> bool {
        let replica = &self.replica;
        replica.with_state(|state| state.cluster_id().is_some())
    }

    /// A linearizable read: what was confirmed before it was called is applied here.
    pub(crate) async fn read_barrier(&self, deadline: Instant) -> Result<(), Problem> {
        loop {
            match tokio::time::timeout_at(deadline, self.replica.read_index()).await {
                Ok(Ok(())) if self.is_founded() => return Ok(()),
                // The first moments of a new cluster, in which not even the default namespace is there.
                Ok(Ok(())) => self.before_again(deadline).await?,
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
async fn guarded(
    name: &'static str,
    task: BoxFuture<'static, ()>,
    failed: impl FnOnce(&str) + Send,
) {
    if AssertUnwindSafe(task).catch_unwind().await.is_err() {
        failed(&format!("the broker's {name} ended by a panic"));
    }
}

/// The first entry of a new cluster, from whoever leads; then the word that this boot is here.
async fn announce(inner: Arc<Inner>) {
    let mut leadership = inner.leadership.clone();
    loop {
        if inner.is_founded() {
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
    while let Err(error) = crate::members::admit_self(&inner, Instant::now() + START_ATTEMPT).await
    {
        tracing::debug!(%error, "this node's id is not taken yet");
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
