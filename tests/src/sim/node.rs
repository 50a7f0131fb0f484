//! One simulated node: its disks, which outlive its lives, and the life that runs now.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ticketrail_core::{BootId, NodeId};
use ticketrail_raft::{CheckpointOpener, PeerAddress, Replica, ReplicaConfig, Storage};
use ticketrail_storage::sim::{SimDisk, StopPoint};
use ticketrail_storage::{
    CheckpointError, CheckpointStore, Log, LogConfig, LogWriter, MemoryCheckpoint,
};
use tokio::sync::Notify;

use super::dice::Dice;
use super::history::{Ear, History};
use super::network::{Network, Port, Reachable};
use super::run::{CLUSTER, Options};
use super::runtime::{Life, SimRuntime};

/// An idle log writes its marker after so long.
const MARK_AFTER: Duration = Duration::from_millis(20);

/// A node.
pub(crate) struct SimNode {
    pub(crate) id: u64,
    disk: SimDisk,
    snapshots: SimDisk,
    checkpoint: MemoryCheckpoint,
    /// Longest time of a write and sync, in microseconds.
    sync_us_max: Arc<AtomicU64>,
    dice: Dice,
    boots: u64,
    running: Option<Reachable>,
}

impl SimNode {
    pub(crate) fn new(id: u64, mut dice: Dice) -> Self {
        let disk = SimDisk::new(dice.next());
        Self {
            id,
            checkpoint: MemoryCheckpoint::on(&disk),
            snapshots: SimDisk::new(dice.next()),
            disk,
            sync_us_max: Arc::new(AtomicU64::new(3_000)),
            dice,
            boots: 0,
            running: None,
        }
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
        let (id, boot) = (self.id, self.boots);
        history.note(format_args!("n{id} boots, {boot}"));
        let life = Life::new(Dice::new(self.dice.next(), 1));
        let sync_dice = Dice::new(self.dice.next(), 2);
        let opened = self.open(options)?;
        let sync_us_max = self.sync_us_max.clone();
        let (network_in, history_in, in_life) = (network.clone(), history.clone(), life.clone());
        let started = life.spawn(async move {
            let (config, storage, writer) = opened;
            let log = storage.log.clone();
            drop(in_life.spawn(write_log(log, writer, sync_us_max, sync_dice)));
            let port = Arc::new(Port {
                from: id,
                network: network_in,
            });
            let ear = Ear {
                node: id,
                history: history_in.clone(),
                last: Mutex::new(None),
            };
            let started =
                Replica::start_on::<SimRuntime>(config, storage, port, Arc::new(ear)).await;
            let replica = started.map_err(|error| error.to_string())?;
            drop(in_life.spawn(watch(id, replica.clone(), history_in)));
            Ok::<_, String>(replica)
        });
        let replica = started.await.map_err(|error| error.to_string())??;
        let running = Reachable { id, life, replica };
        network.join(running.clone());
        self.running = Some(running);
        Ok(())
    }

    fn open(&self, options: &Options) -> Result<(ReplicaConfig, Storage, LogWriter), String> {
        let mut log = LogConfig::new(CLUSTER, self.id);
        log.segment_bytes = 32 << 10;
        log.cache_bytes = 16 << 10;
        let (log, writer, _) = Log::open(Arc::new(self.disk.clone()), log)
            .map_err(|error| format!("the log does not open: {error}"))?;
        let mut config = ReplicaConfig::new(CLUSTER, NodeId(self.id), BootId(self.boots));
        config.members = (1..=options.nodes)
            .map(|id| (NodeId(id), PeerAddress::default()))
            .collect();
        config.entry_bytes_max = 16 << 10;
        config.checkpoint_every = Duration::from_millis(300);
        config.snapshot_bytes = 32 << 10;
        config.recycle_every = Duration::from_millis(400);
        // Peers are not sent snapshots yet: however long a node is away, its entries must be kept.
        config.log_bytes_kept = options.trouble.as_secs() * (24 << 10);
        config.planted_leader_restore = options.planted_leader_restore;
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
        running.life.kill();
        self.disk.crash(self.dice.next());
        self.snapshots.crash(self.dice.next());
        self.checkpoint.crash(self.dice.next());
    }

    /// Lets the disk stop a few operations ahead, so that a crash finds a write without its sync.
    pub(crate) fn stop_disk_soon(&mut self) {
        let at = self.disk.ops() + self.dice.below(6);
        let point = if self.dice.percent(50) {
            StopPoint::Before(at)
        } else {
            StopPoint::After(at)
        };
        self.disk.stop_at(point);
    }

    /// Whether the disk stopped.
    pub(crate) fn disk_stopped(&self) -> bool {
        self.disk.stopped()
    }

    pub(crate) fn set_sync_us_max(&self, us: u64) {
        self.sync_us_max.store(us, Ordering::Relaxed);
    }
}

/// Drives the log's writer: every write and sync takes its seeded time, and happens at the end of
/// it. What waits is lost when the life ends before.
async fn write_log(log: Log, mut writer: LogWriter, sync_us_max: Arc<AtomicU64>, mut dice: Dice) {
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
        let us = dice.between(100, sync_us_max.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_micros(us)).await;
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
