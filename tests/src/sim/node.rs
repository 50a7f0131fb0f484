//! One simulated node: its disks, which outlive its lives, and the life that runs now.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ticketrail_broker::{AdmissionConfig, Broker, BrokerConfig};
use ticketrail_core::{BootId, DiskId, NodeId};
use ticketrail_raft::{CheckpointOpener, Replica, ReplicaConfig, Storage};
use ticketrail_storage::sim::{Fault, OpKind, SimDisk, StopPoint};
use ticketrail_storage::{
    CheckpointError, CheckpointStore, Log, LogConfig, LogWriter, MemoryCheckpoint,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::dice::Dice;
use super::history::{Ear, History};
use super::network::{Network, Reachable, Wall};
use super::planted::Planted;
use super::port::Port;
use super::run::{CLUSTER, Options};
use super::runtime::{Life, SimRuntime, TRUE_PPM};

/// An idle log writes its marker after so long.
const MARK_AFTER: Duration = Duration::from_millis(20);
/// What a write and sync take at most, where all is well.
const CALM_SYNC_US: (u64, u64) = (100, 3_000);
/// A write and sync that take long look so often whether they still shall.
const SYNC_LOOK: Duration = Duration::from_millis(20);
/// Bytes of commands that may wait on a node.
const WAITING_BYTES_MAX: u32 = 1 << 20;
/// How long a replica that has started may take to say who its members are.
const MEMBERS_WAIT: Duration = Duration::from_secs(1);
/// How far clock rates may be off, in millionths.
const SKEW_PPM_MAX: u64 = 50_000;

/// A node.
pub(crate) struct SimNode {
    pub(crate) id: u64,
    pub(crate) wall: Arc<Wall>,
    disk: SimDisk,
    /// What the node's id is bound to.
    disk_id: u128,
    snapshots: SimDisk,
    checkpoint: MemoryCheckpoint,
    sync_us: Arc<SyncTime>,
    dice: Dice,
    boots: u64,
    clock_ppm: u64,
    /// Its disk was made to fail in this life: it may stop itself.
    may_stop: bool,
    /// Its disk fails or is full just now, whatever life it is in.
    disk_fails: bool,
    /// It is being removed from the cluster, and may stop itself when it hears of it.
    pub(crate) leaving: bool,
    /// It never runs again.
    pub(crate) gone: bool,
    /// Where the snapshot ends that this life installed last; 0: none.
    installed: Arc<AtomicU64>,
    /// The same, up to which the bodies were compared.
    compared: u64,
    running: Option<Reachable>,
}

/// How far a node is with a snapshot from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The peer makes it.
    Opening,
    /// Its pieces come.
    Receiving,
    /// It is put in the place of the state, until the checkpoint has it.
    Installing,
}

/// The file that a snapshot comes in, before it is checked.
const INCOMING: &str = "incoming-snapshot";

/// What a write and sync take, at least and at most.
struct SyncTime {
    first_us: AtomicU64,
    last_us: AtomicU64,
}

impl SyncTime {
    fn set(&self, (first, last): (u64, u64)) {
        self.first_us.store(first, Ordering::Relaxed);
        self.last_us.store(last, Ordering::Relaxed);
    }

    fn get(&self) -> (u64, u64) {
        (
            self.first_us.load(Ordering::Relaxed),
            self.last_us.load(Ordering::Relaxed),
        )
    }
}

impl SimNode {
    pub(crate) fn new(id: u64, mut dice: Dice, options: &Options) -> Self {
        let disk = SimDisk::new(dice.next());
        if let Some(prefix) = options.planted.and_then(Planted::lies_about) {
            disk.lie_about(prefix);
        }
        let skewed = dice.percent(50);
        let skew = dice.below(2 * SKEW_PPM_MAX);
        Self {
            id,
            wall: Arc::new(Wall::new()),
            checkpoint: MemoryCheckpoint::on(&disk),
            snapshots: SimDisk::new(dice.next()),
            disk,
            disk_id: u128::from(dice.next()) + 1,
            sync_us: Arc::new(SyncTime {
                first_us: AtomicU64::new(CALM_SYNC_US.0),
                last_us: AtomicU64::new(CALM_SYNC_US.1),
            }),
            dice,
            boots: 0,
            clock_ppm: if skewed {
                TRUE_PPM - SKEW_PPM_MAX + skew
            } else {
                TRUE_PPM
            },
            may_stop: false,
            disk_fails: false,
            leaving: false,
            gone: false,
            installed: Arc::default(),
            compared: 0,
            running: None,
        }
    }

    pub(crate) fn disk_id(&self) -> DiskId {
        DiskId(self.disk_id)
    }

    /// Whether a snapshot was installed since this was asked last.
    pub(crate) fn has_installed(&mut self) -> bool {
        let installed = self.installed.load(Ordering::Relaxed);
        std::mem::replace(&mut self.compared, installed) != installed
    }

    /// What it is doing with a snapshot from a peer.
    pub(crate) fn phase(&self) -> Option<Phase> {
        let replica = self.running.as_ref()?.broker.replica();
        if let Some(progress) = replica.status().fetching {
            let incoming = self.snapshots.bytes_of(INCOMING).is_some();
            return Some(match (progress.bytes_done, incoming) {
                (0, _) => Phase::Opening,
                (_, true) => Phase::Receiving,
                (_, false) => Phase::Installing,
            });
        }
        let installed = self.installed.load(Ordering::Relaxed);
        let is_kept = replica.figures().checkpoint_index >= installed;
        (!is_kept).then_some(Phase::Installing)
    }

    pub(crate) fn running(&self) -> Option<&Reachable> {
        self.running.as_ref()
    }

    /// Starts a new life on what the disks hold.
    pub(crate) async fn boot(
        &mut self,
        network: &Arc<Network>,
        history: &Arc<History>,
        options: &Options,
    ) -> Result<(), String> {
        self.boots += 1;
        let (id, boots) = (self.id, self.boots);
        history.note(format_args!("n{id} boots, {boots}"));
        let life = Life::new(Dice::new(self.dice.next(), 1), self.clock_ppm);
        let sync_dice = Dice::new(self.dice.next(), 2);
        let boot = BootId(self.dice.next());
        let (config, storage, writer) = self.open(boot, options)?;
        let port = Arc::new(Port {
            from: id,
            network: network.clone(),
            life: life.clone(),
            wall: self.wall.clone(),
        });
        let broker_config = self.broker_config(boot, &life, options);
        let sync_us = self.sync_us.clone();
        self.installed = Arc::default();
        self.compared = 0;
        let installed = self.installed.clone();
        let (in_life, in_history) = (life.clone(), history.clone());
        let started = life.spawn(async move {
            let log = storage.log.clone();
            drop(in_life.spawn(write_log(log, writer, sync_us, sync_dice)));
            let transport = port.clone();
            let history = in_history.clone();
            let start = move |broker| {
                let ear = Ear {
                    node: id,
                    history,
                    broker,
                    last: Mutex::new(None),
                    installed,
                };
                Replica::start_on::<SimRuntime>(config, storage, transport, Arc::new(ear))
            };
            let started = Broker::start(broker_config, port, start).await;
            let broker = started.map_err(|error| error.to_string())?;
            drop(in_life.spawn(watch(id, broker.replica().clone(), in_history)));
            Ok::<_, String>(broker)
        });
        let broker = match started.await {
            Ok(Ok(broker)) => broker,
            Ok(Err(error)) => {
                life.kill();
                return Err(error);
            }
            Err(error) => {
                life.kill();
                return Err(error.to_string());
            }
        };
        let running = Reachable {
            id,
            life,
            broker,
            wall: self.wall.clone(),
        };
        // Before anybody hears of it or speaks to it.
        self.check_membership(&running, history).await;
        network.join(running.clone());
        self.running = Some(running);
        Ok(())
    }

    /// It goes by the members that its disk told it of.
    async fn check_membership(&self, running: &Reachable, history: &History) {
        let entry = || running.broker.replica().status().members_entry;
        let told = async {
            while entry().is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if history.has_membership(self.id) {
            // An error is for the invariant to tell of.
            let _ = tokio::time::timeout(MEMBERS_WAIT, told).await;
            history.membership_found(self.id, entry());
        }
    }

    fn broker_config(&self, boot: BootId, life: &Arc<Life>, options: &Options) -> BrokerConfig {
        let (wall, of_entropy, of_tasks) = (self.wall.clone(), life.clone(), life.clone());
        BrokerConfig {
            node: NodeId(self.id),
            boot,
            disk: DiskId(self.disk_id),
            cluster_id: CLUSTER,
            voters: options.nodes as usize,
            admission: AdmissionConfig {
                publish_bytes_max: WAITING_BYTES_MAX,
                connection_bytes_max: WAITING_BYTES_MAX,
                reserved_bytes_max: WAITING_BYTES_MAX,
                ..AdmissionConfig::default()
            },
            wall_clock: Arc::new(move || wall.now_ms()),
            entropy: Arc::new(move || {
                of_entropy.throw(|dice| u128::from(dice.next()) << 64 | u128::from(dice.next()))
            }),
            enclose: Arc::new(move |task| of_tasks.enclose(task)),
        }
    }

    fn open(
        &self,
        boot: BootId,
        options: &Options,
    ) -> Result<(ReplicaConfig, Storage, LogWriter), String> {
        let mut log = LogConfig::new(CLUSTER, self.id);
        log.segment_bytes = 64 << 10;
        log.cache_bytes = 16 << 10;
        let (log, writer, _) = Log::open(Arc::new(self.disk.clone()), log)
            .map_err(|error| format!("the log does not open: {error}"))?;
        let mut config = ReplicaConfig::new(CLUSTER, NodeId(self.id), boot);
        config.checkpoint_every = Duration::from_millis(300);
        config.snapshot_bytes = 32 << 10;
        config.recycle_every = Duration::from_millis(400);
        // So little that nodes which were away take snapshots.
        config.log_bytes_kept = 48 << 10;
        // So little that bodies are compacted all the time.
        config.dead_bytes_max = 16 << 10;
        // So little that a transfer has many moments to be disturbed at, and a reader that is too slow
        // is let go.
        config.snapshot_piece_bytes = 4 << 10;
        config.hold_bytes_max = 512 << 10;
        config.planted_leader_restore = options.planted == Some(Planted::LeaderRestore);
        let storage = Storage {
            log,
            checkpoint: Box::new(Reopen(self.checkpoint.clone())),
            snapshots: Arc::new(self.snapshots.clone()),
        };
        Ok((config, storage, writer))
    }

    /// The machine loses power: of what was not synced a seeded part survives.
    pub(crate) fn crash(&mut self, network: &Network, history: &History) {
        let Some(running) = self.running.take() else {
            return;
        };
        history.note(format_args!(
            "n{} crashes with {} operations unsynced",
            self.id,
            self.disk.unsynced_ops()
        ));
        history.count(|counts| counts.crashes += 1);
        network.leave(self.id);
        if running.life.panicked() {
            history.violation(format!("n{} panicked", self.id));
        }
        if let Some(reason) = self.failure(&running) {
            history.violation(format!("n{} stopped itself: {reason}", self.id));
        }
        count_compactions(&running, history);
        let status = running.broker.replica().status();
        let durable = running.broker.replica().figures().log_durable_index;
        let kept = |entry: &(u64, u64)| Some(entry.1) <= durable;
        history.membership_kept(self.id, status.members_entry.filter(kept));
        running.life.kill();
        self.disk.crash(self.dice.next());
        self.snapshots.crash(self.dice.next());
        self.checkpoint.crash(self.dice.next());
        self.may_stop = self.disk_fails;
    }

    /// Why it stopped itself, where it had no reason to.
    fn failure(&self, running: &Reachable) -> Option<String> {
        let reason = running.broker.replica().failure().borrow().clone();
        reason.filter(|_| !self.may_stop && !self.leaving)
    }

    /// Whether it must be started again: its disk stopped, or it stopped itself.
    pub(crate) fn is_over(&self) -> bool {
        let failed = |running: &Reachable| running.broker.replica().failure().borrow().is_some();
        let stopped = self.disk.stopped() || self.snapshots.stopped();
        stopped || self.running.as_ref().is_some_and(failed)
    }

    /// Lets the disk stop a few operations ahead, so that a crash finds a write without its sync.
    pub(crate) fn stop_disk_soon(&mut self) {
        if self.running.is_none() {
            return;
        }
        self.may_stop = true;
        stop_soon(&self.disk, &mut self.dice);
    }

    /// The same, where a snapshot is written: its file, or its bodies.
    pub(crate) fn stop_snapshot_soon(&mut self) {
        self.may_stop = true;
        let disk = match self.dice.percent(50) {
            true => &self.snapshots,
            false => &self.disk,
        };
        stop_soon(disk, &mut self.dice);
    }

    /// One of the next operations fails, on the log's disk or on that of the snapshots.
    pub(crate) fn fail_disk_soon(&mut self) {
        (self.may_stop, self.disk_fails) = (true, true);
        let kinds = [OpKind::Read, OpKind::Write, OpKind::Sync, OpKind::Name];
        let fault = Fault {
            kind: kinds[self.dice.below(kinds.len() as u64) as usize],
            name_prefix: String::new(),
            skip: self.dice.below(20),
            count: self.dice.between(1, 3),
            os_error: libc::EIO,
        };
        if self.dice.percent(70) {
            self.disk.add_fault(fault);
        } else {
            self.snapshots.add_fault(fault);
        }
    }

    /// Leaves the disk hardly any room.
    pub(crate) fn fill_disk(&mut self) {
        (self.may_stop, self.disk_fails) = (true, true);
        let room = self.dice.below(64 << 10);
        self.disk.set_capacity(Some(self.disk.used_bytes() + room));
    }

    /// The disk has all its room and its speed again.
    pub(crate) fn calm_disk(&mut self) {
        self.disk.set_capacity(None);
        self.disk.clear_faults();
        self.snapshots.clear_faults();
        self.disk_fails = false;
        self.sync_us.set(CALM_SYNC_US);
    }

    /// What writes and syncs take from now on.
    pub(crate) fn slow_disk(&self, first_us: u64, last_us: u64) {
        self.sync_us.set((first_us, last_us));
    }
}

fn stop_soon(disk: &SimDisk, dice: &mut Dice) {
    let at = disk.ops() + dice.below(6);
    let point = if dice.percent(50) {
        StopPoint::Before(at)
    } else {
        StopPoint::After(at)
    };
    disk.stop_at(point);
}

/// Counts what one life compacted.
pub(crate) fn count_compactions(node: &Reachable, history: &History) {
    let counts = node.broker.replica().compactions();
    let jobs = counts.jobs.load(Ordering::Relaxed);
    history.count(|counts| counts.compactions += jobs);
}

/// Drives the log's writer: every write and sync takes its seeded time, and happens at the end of
/// it. What waits is lost when the life ends before.
async fn write_log(log: Log, mut writer: LogWriter, sync_us: Arc<SyncTime>, mut dice: Dice) {
    let work = Arc::new(Notify::new());
    let wake = work.clone();
    log.on_work(Box::new(move || wake.notify_one()));
    // Only to close the log is a handle needed; this life's end does that.
    loop {
        if !log.has_work()
            && tokio::time::timeout(MARK_AFTER, work.notified())
                .await
                .is_err()
        {
            writer.mark_idle();
            work.notified().await;
        }
        let (first, last) = sync_us.get();
        let span = Duration::from_micros(dice.between(first, last));
        let until = Instant::now() + span;
        // A disk that hung and is well again is done at once.
        while Instant::now() < until && (span < SYNC_LOOK || sync_us.get() == (first, last)) {
            tokio::time::sleep_until(until.min(Instant::now() + SYNC_LOOK)).await;
        }
        writer.step();
    }
}

/// Notes who leads, as this life sees itself.
async fn watch(id: u64, replica: Replica, history: Arc<History>) {
    let mut leadership = replica.leadership();
    let mut led = 0;
    loop {
        let lead = *leadership.borrow_and_update();
        if lead.is_leader && lead.term != led {
            led = lead.term;
            history.leads(id, led);
        }
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

/// A checkpoint in memory never fails to open.
struct Reopen(MemoryCheckpoint);

impl CheckpointOpener for Reopen {
    fn open(&mut self) -> Result<Box<dyn CheckpointStore>, CheckpointError> {
        Ok(Box::new(self.0.clone()))
    }

    fn set_aside(&mut self) -> std::io::Result<String> {
        self.0.clear().map_err(std::io::Error::other)?;
        Ok("nowhere".to_owned())
    }
}
