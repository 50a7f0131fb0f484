//! The handle that the rest of the node holds.

use std::collections::BTreeMap;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::{Instant, Raft};
use openraft_rt_tokio::TokioRuntime;
use ticketrail_core::{NodeId, Outcome, State};
use ticketrail_storage::{Disk, Identity, Log, StorageError};
use tokio::sync::{mpsc, watch};

use crate::applied::{Applied, AppliedSink, Clock, Shared};
use crate::checkpoint::{Checkpointer, LOOK_EVERY, Readers, Stored};
use crate::compaction::{CompactionCounts, DiskUse};
use crate::config::ReplicaConfig;
use crate::divergence::DigestCounts;
use crate::error::{BootstrapError, PeerRefusal, ProposeError, ReadError, StartError};
use crate::figures::Figures;
use crate::log_store::LogStore;
use crate::machine::Machine;
use crate::membership::{ChangeError, MemberChange};
use crate::network::{Letterhead, Network};
use crate::node::{Engine, Node};
use crate::restore::CheckpointOpener;
use crate::seam::Runtime;
use crate::shelf::Shelf;
use crate::start;
use crate::status::{Leadership, Status};
use crate::transfer::{Fetcher, Offering, Serving, Source, TransferCounts, Transfers};
use crate::transport::{PeerRequest, PeerResponse, Transport};
use crate::types::PeerAddress;
use crate::watched::Watcher;

/// Where a replica keeps its bytes. The caller holds the folders, and runs and joins the log's
/// writer; the replica takes the log's failure hook.
pub struct Storage {
    /// The log; its writer runs elsewhere.
    pub log: Log,
    /// The checkpoint.
    pub checkpoint: Box<dyn CheckpointOpener>,
    /// The folder of the snapshot files.
    pub snapshots: Arc<dyn Disk>,
}

/// A proposal that came through: committed, and applied here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Index of its entry.
    pub index: u64,
    /// One per command.
    pub outcomes: Arc<[Outcome]>,
}

/// One replica of the cluster's state. Cheap to clone; all clones are the same replica.
#[derive(Clone)]
pub struct Replica {
    shared: Arc<Shared>,
    engine: Arc<dyn Engine>,
    log: Log,
    compactions: Arc<CompactionCounts>,
    transfers: Arc<Transfers>,
    dead_bytes_max: u64,
}

impl Replica {
    /// Starts on tokio; to be called inside its runtime. When it returns, the state holds at least
    /// what this node knew to be committed before.
    ///
    /// # Errors
    /// When what is on the disk is broken, or not this node's; see [`StartError`].
    pub async fn start(
        config: ReplicaConfig,
        storage: Storage,
        transport: Arc<dyn Transport>,
        sink: Arc<dyn AppliedSink>,
    ) -> Result<Self, StartError> {
        Self::start_on::<TokioRuntime>(config, storage, transport, sink).await
    }

    /// As [`Replica::start`] on another runtime: for the simulator.
    ///
    /// # Errors
    /// As [`Replica::start`].
    pub async fn start_on<R: Runtime>(
        config: ReplicaConfig,
        mut storage: Storage,
        transport: Arc<dyn Transport>,
        sink: Arc<dyn AppliedSink>,
    ) -> Result<Self, StartError> {
        let owner = Identity {
            cluster_id: config.cluster_id,
            node_id: config.node_id.0,
        };
        let raft_config = config
            .openraft()
            .map_err(|error| StartError::Config(error.to_string()))?;
        let shelf =
            Shelf::open(storage.snapshots.clone(), owner).map_err(|source| StartError::Io {
                doing: "reading the snapshot files",
                source,
            })?;
        let shelf = Arc::new(shelf);
        let (readers, counts) = (Readers::default(), Arc::<TransferCounts>::default());
        let fetcher = Fetcher {
            letterhead: Letterhead::new(&config),
            transport: transport.clone(),
            log: storage.log.clone(),
            shelf: shelf.clone(),
            holds: readers.holds.clone(),
            counts: counts.clone(),
            progress: Arc::default(),
            stop: Arc::default(),
            rate: config.fetch_bytes_per_second,
        };
        let restored = start::restored::<R>(&config, &mut storage, &fetcher).await?;
        let restored_index = restored.meta.last_log_id.map(|id| id.index);
        let mut applied = Applied::new(
            restored.state,
            restored.meta.last_log_id,
            restored.meta.last_membership,
        );
        applied.replaced = restored.rewrite;
        let replay_upto = storage.log.state().last.map(|last| last.index);
        let mut shared = Shared::new(config.node_id, clock::<R>(), sink, applied, replay_upto);
        shared.planted_divergence = config.planted_divergence;
        let shared = Arc::new(shared);
        let mark = shelf.clone();
        // Set once, here.
        let _ = shared
            .on_divergence
            .set(Box::new(move || mark.mark_wrong()));
        stop_with_the_log(&shared, &storage.log);

        let serving = Serving::new(
            storage.log.clone(),
            shared.now.clone(),
            readers.exports.clone(),
            counts,
            &config,
        );
        let transfers = Arc::new(Transfers::new(readers.clone(), serving, fetcher));
        let offering = Offering {
            letterhead: Letterhead::new(&config),
            transport: transport.clone(),
            transfers: transfers.clone(),
            shared: shared.clone(),
        };
        let network = Network {
            letterhead: Letterhead::new(&config),
            transport: transport.clone(),
            append_timeout: Duration::from_millis(config.append_timeout_ms),
            offering: Arc::new(offering),
            runtime: PhantomData::<fn() -> R>,
        };
        let raft = Raft::new(
            config.node_id.0,
            Arc::new(raft_config),
            network,
            LogStore::<R>::new(storage.log.clone()),
            Machine::<R>::new(
                shared.clone(),
                shelf.clone(),
                storage.log.clone(),
                readers.holds.clone(),
            ),
        );
        let raft = raft.await.map_err(|error| {
            // What apply or the log said is nearer to the cause.
            let nearer = shared.failure.borrow().clone();
            StartError::Raft(nearer.unwrap_or_else(|| error.to_string()))
        })?;

        let compactions = readers.compactions.clone();
        let dead_bytes_max = config.dead_bytes_max;
        let (written, snapshots) = mpsc::channel(4);
        let mut checkpointer = Checkpointer::new(
            shared.clone(),
            storage.log.clone(),
            Stored {
                store: restored.checkpoint,
                opener: storage.checkpoint,
                last_index: restored_index.filter(|_| !restored.rewrite),
            },
            shelf,
            readers.clone(),
            written,
            config.clone(),
        );
        let idle = transfers.clone();
        let worker = R::worker(
            "checkpoint",
            LOOK_EVERY,
            Box::new(move |last| {
                idle.serving.look();
                checkpointer.step(last);
            }),
        );
        drop(R::spawn(Node::<R>::watch_leadership(
            raft.server_metrics(),
            raft.metrics(),
            shared.clone(),
        )));
        drop(R::spawn(Node::<R>::watch_snapshots(
            raft.clone(),
            snapshots,
        )));
        let node = Node::new(
            raft,
            shared.clone(),
            config,
            transport,
            transfers.clone(),
            storage.log.clone(),
        );
        node.attach(worker);
        Ok(Self {
            shared,
            engine: Arc::new(node),
            log: storage.log,
            compactions,
            transfers,
            dead_bytes_max,
        })
    }

    /// Forms a cluster of these members, all empty. Any one of them may be told, or all, with the
    /// same members.
    ///
    /// # Errors
    /// See [`BootstrapError`]; `AlreadyInitialized` is no harm.
    pub async fn bootstrap(
        &self,
        members: BTreeMap<NodeId, PeerAddress>,
    ) -> Result<(), BootstrapError> {
        self.engine.bootstrap(members).await
    }

    /// Whether this node belongs to a cluster.
    #[must_use]
    pub fn is_initialized(&self) -> bool {
        self.engine.is_initialized()
    }

    /// Proposes an encoded `store.v1.Entry`, in `term` or never. Resolves when it is committed and
    /// applied here. Proposals enter the log in the order of the calls (not of the polls); many may
    /// be on their way. While a majority does not answer this leader, the proposal waits inside for
    /// as long as the term goes on.
    ///
    /// # Errors
    /// See [`ProposeError`]: only `NotLeader` and `Invalid` are sure to have no effect.
    pub fn propose(
        &self,
        term: u64,
        payload: Bytes,
    ) -> impl Future<Output = Result<Committed, ProposeError>> + Send + 'static {
        self.engine.propose(term, payload)
    }

    /// Resolves when the local state holds everything that was committed when this was called.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_index(&self) -> Result<(), ReadError> {
        self.engine.clone().read_index().await
    }

    /// Looks at the state. Apply waits meanwhile: keep it short, and call nothing of the replica.
    pub fn with_state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.shared.lock().state)
    }

    /// Who leads, and every change of it.
    #[must_use]
    pub fn leadership(&self) -> Watcher<Leadership> {
        self.shared.leadership.subscribe()
    }

    /// The replica as it is now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.engine.status()
    }

    /// The replica in numbers, for those who watch it. Cheap, and never waits for apply.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures::of(&self.shared.counts, &self.log, self.now())
    }

    /// Most bytes of an entry that the log takes.
    #[must_use]
    pub fn entry_bytes_max(&self) -> usize {
        self.log.payload_bytes_max()
    }

    /// The payload of an applied entry, from memory or disk, while the state refers to it.
    ///
    /// # Errors
    /// `NoSuchEntry` when it is gone; `DataLoss` when its bytes are damaged.
    pub fn body(&self, index: u64) -> Result<Bytes, StorageError> {
        self.log.read_body(index)
    }

    /// The same, and where it takes a read of the disk, with the entries that one read of up to `bytes_max` brings along.
    ///
    /// # Errors
    /// As [`Replica::body`], of any of them.
    pub fn bodies_from(
        &self,
        index: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Bytes)>, StorageError> {
        self.log.read_body_and_next(index, bytes_max)
    }

    /// What log and bodies take on this node's disk. Apply waits only for moments.
    #[must_use]
    pub fn disk_use(&self) -> DiskUse {
        DiskUse::of(&self.log, &self.shared, self.dead_bytes_max)
    }

    /// What compaction of bodies did since the start.
    #[must_use]
    pub fn compactions(&self) -> &CompactionCounts {
        &self.compactions
    }

    /// Answers a peer's request. Requests of one peer are to be polled in the order in which they
    /// came; they need not be waited for in between.
    ///
    /// # Errors
    /// See [`PeerRefusal`].
    pub fn handle(
        &self,
        request: PeerRequest,
    ) -> impl Future<Output = Result<PeerResponse, PeerRefusal>> + Send + 'static {
        self.engine.clone().handle(request)
    }

    /// A consistent copy of this node's state and bodies, made now, to be read in pieces.
    ///
    /// # Errors
    /// In words: there is nothing yet, or too many read already, or the replica stopped.
    pub async fn export(&self) -> Result<Source, String> {
        let asked = self.transfers.readers.exports.ask();
        let mut asked = asked.map_err(|error| error.to_string())?;
        let export = asked.exported().await.map_err(|error| error.to_string())?;
        Source::open(export, self.log.clone()).map_err(|error| error.to_string())
    }

    /// What was sent to peers, and fetched from them.
    #[must_use]
    pub fn transfer_counts(&self) -> Arc<TransferCounts> {
        self.transfers.counts.clone()
    }

    /// What the comparison of digests found.
    #[must_use]
    pub fn digest_counts(&self) -> &DigestCounts {
        self.shared.digests.counts()
    }

    /// Asks another voter to lead. Choose the one whose log is the most complete, and watch
    /// [`Replica::leadership`] for the change: this leader sends no heartbeats from now on. Does
    /// nothing where `to` has no vote: a sole voter would wait for ever, and lead nobody meanwhile.
    pub async fn transfer_leadership(&self, to: NodeId) {
        self.engine.transfer_leadership(to).await;
    }

    /// Changes the members by one step, while this node leads. Resolves when the step is committed
    /// and applied here.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn change_members(&self, change: MemberChange) -> Result<(), ChangeError> {
        self.engine.change_members(change).await
    }

    /// Stands for election in place of the leader of `term`, whose process is known to be gone: to be
    /// called on each follower that knows it, and never for a leader that is only slow or silent.
    pub async fn succeed(&self, dead: NodeId, term: u64) {
        self.engine.clone().succeed(dead, term).await;
    }

    /// Time on the clock of [`Leadership::since`].
    #[must_use]
    pub fn now(&self) -> Duration {
        (self.shared.now)()
    }

    /// Bytes of log files that wait to be written to again: room that a full disk does not take away.
    #[must_use]
    pub fn spare_log_bytes(&self) -> u64 {
        self.log.spare_bytes()
    }

    /// The disk was measured. One that `is_short` has its log purged sooner, and checkpoints wait
    /// where they might not fit.
    pub fn disk_measured(&self, free_bytes: u64, is_short: bool) {
        self.shared.room.measured(free_bytes, is_short);
    }

    /// Whether a checkpoint or a snapshot file waits for room on the disk.
    #[must_use]
    pub fn waits_for_room(&self) -> bool {
        self.shared.room.waits()
    }

    /// Why this node must stop, once it must: the log failed, an entry cannot be applied, or Raft
    /// itself ended.
    #[must_use]
    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        self.shared.failure.subscribe()
    }

    /// Says that this node must stop because of something around the replica; the first reason is
    /// kept.
    pub fn fail(&self, reason: &str) {
        self.shared.fail(reason);
    }

    /// Resolves with the reason when this node must stop.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure();
        let failed = failure.wait_for(Option::is_some).await;
        failed
            .ok()
            .and_then(|reason| reason.clone())
            .unwrap_or_default()
    }

    /// Stops Raft and the checkpoint, after a last checkpoint if the log is durable so far. At most
    /// a few seconds. The log and its writer are the caller's to close afterwards.
    pub async fn shutdown(&self) {
        self.engine.shutdown().await;
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Replica({})", self.shared.node_id)
    }
}

fn clock<R: Runtime>() -> Clock {
    let start = R::Instant::now();
    Arc::new(move || start.elapsed())
}

/// The log's failure is the replica's. Weak: the log outlives the replica.
fn stop_with_the_log(shared: &Arc<Shared>, log: &Log) {
    let shared = Arc::downgrade(shared);
    log.on_failure(Box::new(move |error| {
        if let Some(shared) = shared.upgrade() {
            shared.fail(&format!("the log stopped: {error}"));
        }
    }));
}
