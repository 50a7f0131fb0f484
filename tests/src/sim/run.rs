//! One simulation: form a cluster, let clients work while things go wrong, heal, and see that all is
//! there and everything works again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ticketrail_core::{DeadLetter, MessageId, NodeId, Offset, Peeked, QueueSettings};
use ticketrail_raft::PeerAddress;

use super::clients::{Client, DEAD, Told, WORK};
use super::counts::Counts;
use super::dice::Dice;
use super::faults::Fault;
use super::history::History;
use super::members::address;
use super::network::{Network, Reachable};
use super::node::{SimNode, count_compactions};
use super::planted::Planted;
use super::world::World;

/// The cluster's id.
pub(crate) const CLUSTER: u128 = 0x51;

/// Longest virtual time for what must work once nothing is wrong any more.
const RECOVERY: Duration = Duration::from_secs(5);
/// Longest virtual time for all to be equally far: who lost the answer that a snapshot is open waits
/// long for it.
const AGREEMENT: Duration = Duration::from_secs(40);
/// Longest virtual time to empty the queues, leases of clients that are gone included.
const DRAIN: Duration = Duration::from_secs(60);

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides everything else.
    pub seed: u64,
    /// How many replicas at first.
    pub nodes: u64,
    /// How many clients.
    pub clients: u64,
    /// How long things go wrong, in virtual time.
    pub trouble: Duration,
    /// Whether the trace is kept: it grows by megabytes a minute.
    pub traced: bool,
    /// The only kinds of faults; empty: the seed draws some of all.
    pub only: &'static [Fault],
    /// A bug that must be caught.
    pub planted: Option<Planted>,
}

impl Options {
    /// Three nodes and six clients, trouble for four virtual seconds.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            nodes: 3,
            clients: 6,
            trouble: Duration::from_secs(4),
            traced: true,
            only: &[],
            planted: None,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Every event, in order.
    pub trace: String,
    /// What must never be, and was.
    pub violations: Vec<String>,
    /// How often things happened.
    pub counts: Counts,
}

/// Runs a simulation.
#[must_use]
pub fn run(options: Options) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime on this thread needs nothing of the system");
    let (trace, violations, counts) = runtime.block_on(simulate(options)).finish();
    Report {
        trace,
        violations,
        counts,
    }
}

async fn simulate(options: Options) -> Arc<History> {
    let history = History::new(options.traced);
    let network = Network::new(Dice::new(options.seed, 1), options.planted, history.clone());
    let node = |id| {
        let dice = Dice::new(options.seed, 100 + id);
        (id, SimNode::new(id, dice, &options))
    };
    let mut world = World {
        nodes: (1..=options.nodes).map(node).collect(),
        network: network.clone(),
        history: history.clone(),
        dice: Dice::new(options.seed, 2),
        options: options.clone(),
        ongoing: Vec::new(),
        operation: None,
    };
    world.restart_the_dead().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut operator = world.client(u64::MAX, &stop);
    if world.form(&mut operator).await.is_none() {
        history.violation("no cluster was formed".to_owned());
        return history;
    }

    let client = |id| tokio::spawn(world.client(id, &stop).run());
    let clients: Vec<_> = (0..options.clients).map(client).collect();
    world.suffer(options.trouble).await;
    stop.store(true, Ordering::Relaxed);
    if !history.is_violated() {
        world.heal().await;
        for client in clients {
            if let Err(error) = client.await {
                history.violation(format!("a client panicked: {error}"));
            }
        }
        world.check_recovery(&mut operator).await;
    }
    let (carried, virtual_ms) = (network.carried(), history.now_ms());
    history.count(|counts| {
        counts.carried = carried;
        counts.virtual_ms = virtual_ms;
    });
    history
}

impl World {
    fn client(&self, id: u64, stop: &Arc<AtomicBool>) -> Client {
        let dice = Dice::new(self.options.seed, 200_u64.wrapping_add(id));
        let (network, history) = (self.network.clone(), self.history.clone());
        let stale = self.options.planted == Some(Planted::StaleReads);
        Client::new(id, network, history, dice, stop.clone(), stale)
    }

    async fn form(&mut self, operator: &mut Client) -> Option<()> {
        let members: BTreeMap<NodeId, PeerAddress> = self
            .ids()
            .into_iter()
            .map(|id| (NodeId(id), address(id)))
            .collect();
        let first = self.network.running().into_iter().next()?;
        first.broker.replica().bootstrap(members).await.ok()?;
        let dead = QueueSettings {
            lease_ms: 3_000,
            max_deliveries: 0,
            ..QueueSettings::default()
        };
        insist(operator, DEAD, &dead).await?;
        let work = QueueSettings {
            max_deliveries: 3,
            dead_letter: Some(DeadLetter {
                routing_key: DEAD.to_owned(),
            }),
            ..dead
        };
        insist(operator, WORK, &work).await
    }

    /// Liveness and agreement, once nothing is wrong any more.
    async fn check_recovery(&mut self, operator: &mut Client) {
        for write in 0..10 {
            let name = format!("after-{write}");
            let written = insist(operator, &name, &QueueSettings::default()).await;
            if written.is_none() {
                self.history
                    .violation(format!("write {write} after the heal did not come through"));
                return;
            }
        }
        let Some(nodes) = self.agreed().await else {
            self.history
                .violation("the replicas did not reach the same entry".to_owned());
            return;
        };
        self.history.check_present(&present(&nodes[0]));
        for node in &nodes {
            check_bodies(&self.history, node);
        }
        self.drain(operator).await;
        for node in self.network.running() {
            let status = node.broker.replica().status();
            if node.life.panicked() {
                self.history.violation(format!("n{} panicked", node.id));
            }
            count_compactions(&node, &self.history);
            let purged = status.purged_index.is_some();
            self.history
                .count(|counts| counts.purged += u64::from(purged));
            self.history.note(format_args!(
                "n{} ends at entry {:?} with digest {:016x}",
                node.id, status.applied_index, status.digest
            ));
        }
    }

    async fn drain(&mut self, operator: &mut Client) {
        let drained = async {
            while !operator.set_paused(false).await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            loop {
                operator.empty(WORK).await;
                operator.empty(DEAD).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
                let running = self.network.running();
                if running.iter().all(|node| present(node).is_empty()) {
                    return;
                }
            }
        };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            self.history.violation("the queues do not empty".to_owned());
        }
    }

    /// The nodes, once all have applied the same.
    async fn agreed(&self) -> Option<Vec<Reachable>> {
        let agreed = async {
            loop {
                let running = self.network.running();
                let applied = |node: &Reachable| {
                    node.broker
                        .replica()
                        .with_state(|state| state.applied_index())
                };
                let last = running.iter().map(applied).max();
                let same = running.iter().all(|node| Some(applied(node)) == last);
                if same && running.len() == self.ids().len() {
                    return running;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(AGREEMENT, agreed).await.ok()
    }
}

/// Declares a queue until it came through.
async fn insist(client: &mut Client, queue: &str, settings: &QueueSettings) -> Option<()> {
    let declared = async {
        loop {
            let (name, settings) = (queue.to_owned(), settings.clone());
            let told = client
                .call(|broker, deadline| async move {
                    broker.create_queue("", &name, settings, deadline).await
                })
                .await;
            if let Told::Done(_) = told {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(RECOVERY, declared).await.ok()
}

/// A node has the bytes of all that its queues hold.
pub(crate) fn check_bodies(history: &History, node: &Reachable) {
    for message in peeked(node) {
        history.check_body(node, message.message_id, message.body);
    }
}

/// The messages in the queues, in any state.
fn peeked(node: &Reachable) -> Vec<Peeked> {
    node.broker.replica().with_state(|state| {
        let of = |name| {
            let queue = state.queue("default", name).map(|queue| queue.id);
            queue.map(|id| state.peek(id, None, Offset(0), usize::MAX))
        };
        [WORK, DEAD].into_iter().filter_map(of).flatten().collect()
    })
}

fn present(node: &Reachable) -> BTreeSet<MessageId> {
    peeked(node)
        .iter()
        .map(|message| message.message_id)
        .collect()
}
