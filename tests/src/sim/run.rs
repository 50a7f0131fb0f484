//! One simulation: form a cluster, let clients work while things go wrong, heal, and see that all is
//! there and everything works again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ticketrail_core::command::{Bootstrap, CreateQueue};
use ticketrail_core::{Command, MessageId, NodeId, Offset, Outcome, Peeked, QueueSettings};
use ticketrail_raft::PeerAddress;

use super::clients::{Client, QUEUE};
use super::dice::Dice;
use super::faults::World;
use super::history::{Counts, History};
use super::network::{Network, Reachable};
use super::node::SimNode;

/// The cluster's id.
pub(crate) const CLUSTER: u128 = 0x51;

/// Longest virtual time for what must work once nothing is wrong any more.
const RECOVERY: Duration = Duration::from_secs(5);
/// Longest virtual time to empty the queue, leases of clients that are gone included.
const DRAIN: Duration = Duration::from_secs(60);

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides everything else.
    pub seed: u64,
    /// How many replicas.
    pub nodes: u64,
    /// How many clients.
    pub clients: u64,
    /// How long things go wrong, in virtual time.
    pub trouble: Duration,
    /// A planted bug: a restarted leader goes on without an election.
    pub planted_leader_restore: bool,
}

impl Options {
    /// Three nodes and three clients, trouble for four virtual seconds.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            nodes: 3,
            clients: 3,
            trouble: Duration::from_secs(4),
            planted_leader_restore: false,
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
    let history = History::new();
    let network = Network::new(Dice::new(options.seed, 1));
    let node = |id| (id, SimNode::new(id, Dice::new(options.seed, 100 + id)));
    let mut world = World {
        nodes: (1..=options.nodes).map(node).collect(),
        network: network.clone(),
        history: history.clone(),
        dice: Dice::new(options.seed, 2),
        options: options.clone(),
    };
    world.restart_the_dead().await;
    let mut operator = world.client(0);
    if world.form(&mut operator).await.is_none() {
        history.violation("no cluster was formed".to_owned());
        return history;
    }

    let stop = Arc::new(AtomicBool::new(false));
    let client = |id| tokio::spawn(world.client(id).run(stop.clone()));
    let clients: Vec<_> = (1..=options.clients).map(client).collect();
    world.suffer(options.trouble).await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        if let Err(error) = client.await {
            history.violation(format!("a client panicked: {error}"));
        }
    }
    if !history.is_violated() {
        world.heal().await;
        world.check_recovery(&mut operator).await;
    }
    history
}

impl World {
    fn client(&self, id: u64) -> Client {
        let dice = Dice::new(self.options.seed, 200 + id);
        Client::new(id, self.network.clone(), self.history.clone(), dice)
    }

    async fn form(&mut self, operator: &mut Client) -> Option<()> {
        let members: BTreeMap<NodeId, PeerAddress> = self
            .nodes
            .keys()
            .map(|id| (NodeId(*id), PeerAddress::default()))
            .collect();
        let first = self.network.running().into_iter().next()?;
        first.replica.bootstrap(members).await.ok()?;
        let bootstrap = Command::Bootstrap(Bootstrap {
            cluster_id: CLUSTER,
            hash_seed: 1,
        });
        insist(operator, bootstrap).await?;
        let settings = QueueSettings {
            lease_ms: 3_000,
            max_deliveries: 0,
            ..QueueSettings::default()
        };
        let queue = CreateQueue {
            namespace: "default".to_owned(),
            queue: QUEUE.to_owned(),
            settings,
        };
        insist(operator, Command::CreateQueue(queue))
            .await
            .map(drop)
    }

    /// Liveness and agreement, once nothing is wrong any more.
    async fn check_recovery(&mut self, operator: &mut Client) {
        for write in 0..10 {
            let name = format!("after-{write}");
            let settings = QueueSettings::default();
            let queue = CreateQueue {
                namespace: "default".to_owned(),
                queue: name,
                settings,
            };
            if insist(operator, Command::CreateQueue(queue))
                .await
                .is_none()
            {
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
            for message in peeked(node) {
                self.history
                    .check_body(node, message.message_id, message.body);
            }
        }
        self.drain(operator).await;
        for node in self.network.running() {
            let status = node.replica.status();
            if node.life.panicked() {
                self.history.violation(format!("n{} panicked", node.id));
            }
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
            loop {
                operator.receive(100).await;
                operator.settle().await;
                tokio::time::sleep(Duration::from_millis(100)).await;
                let running = self.network.running();
                if running.iter().all(|node| present(node).is_empty()) {
                    return;
                }
            }
        };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            self.history
                .violation("the queue does not empty".to_owned());
        }
    }

    /// The nodes, once all have applied the same.
    async fn agreed(&self) -> Option<Vec<Reachable>> {
        let agreed = async {
            loop {
                let running = self.network.running();
                let applied = |node: &Reachable| node.replica.with_state(|s| s.applied_index());
                let last = running.iter().map(applied).max();
                let same = running.iter().all(|node| Some(applied(node)) == last);
                if same && running.len() == self.nodes.len() {
                    return running;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(RECOVERY, agreed).await.ok()
    }
}

/// Proposes until it came through.
async fn insist(client: &mut Client, command: Command) -> Option<Outcome> {
    let proposed = async {
        loop {
            if let Some(outcome) = client.propose(command.clone(), &[]).await {
                return outcome;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(RECOVERY, proposed).await.ok()
}

/// The messages in the queue, in any state.
fn peeked(node: &Reachable) -> Vec<Peeked> {
    node.replica.with_state(|state| {
        let queue = state.queue("default", QUEUE).map(|queue| queue.id);
        let peeked = queue.map(|id| state.peek(id, None, Offset(0), usize::MAX));
        peeked.unwrap_or_default()
    })
}

fn present(node: &Reachable) -> BTreeSet<MessageId> {
    peeked(node)
        .iter()
        .map(|message| message.message_id)
        .collect()
}
