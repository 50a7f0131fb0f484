//! Three replicas in one process: real folders, real threads, a network of function calls.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use tempfile::TempDir;
use ticketrail_core::command::{Bootstrap, CreateQueue, Publish, PublishRun, Settle, SettleRange};
use ticketrail_core::command::{Receive, SettleKind};
use ticketrail_core::{BootId, Command, Fence, NodeId, Offset, Outcome, QueueId, Stamps, State};
use ticketrail_proto::stored::{encode_command, encode_entry};
use ticketrail_raft::{
    AppliedEntry, AppliedSink, Folders, PeerAddress, PeerRequest, PeerResponse, Replaced, Replica,
    ReplicaConfig, Transport, TransportError,
};
use ticketrail_storage::LogConfig;
use tokio::sync::watch;

pub(crate) const CLUSTER: u128 = 0x7161;
/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Nobody else is there.
pub(crate) struct Alone;

impl Transport for Alone {
    fn call(
        &self,
        target: NodeId,
        _: PeerRequest,
        _: Duration,
    ) -> BoxFuture<'static, Result<PeerResponse, TransportError>> {
        let reason = "there is nobody else".to_owned();
        async move { Err(TransportError::Unreachable { target, reason }) }.boxed()
    }
}

/// Who can be called, and which directions are cut.
#[derive(Default)]
pub(crate) struct Wires {
    nodes: Mutex<BTreeMap<NodeId, Replica>>,
    cut: Mutex<BTreeSet<NodeId>>,
    /// Whose answers to entries do not arrive for now.
    late: watch::Sender<BTreeSet<NodeId>>,
    /// Calls that did not get through.
    pub(crate) calls_lost: AtomicU64,
    /// Reads of a snapshot that did not get through.
    pub(crate) reads_lost: AtomicU64,
}

struct Wire {
    from: NodeId,
    wires: Arc<Wires>,
}

impl Wires {
    pub(crate) fn cut(&self, node: NodeId) {
        self.cut.lock().unwrap().insert(node);
    }

    /// From now on answers to entries of these nodes wait, and those of others that waited arrive.
    pub(crate) fn hold_answers(&self, nodes: &[NodeId]) {
        self.late.send_replace(nodes.iter().copied().collect());
    }

    pub(crate) fn heal(&self) {
        self.cut.lock().unwrap().clear();
    }

    fn find(&self, from: NodeId, to: NodeId) -> Option<Replica> {
        let cut = self.cut.lock().unwrap();
        if cut.contains(&from) || cut.contains(&to) {
            return None;
        }
        self.nodes.lock().unwrap().get(&to).cloned()
    }
}

impl Transport for Wire {
    fn call(
        &self,
        target: NodeId,
        request: PeerRequest,
        _: Duration,
    ) -> BoxFuture<'static, Result<PeerResponse, TransportError>> {
        let peer = self.wires.find(self.from, target);
        let wires = Arc::clone(&self.wires);
        Box::pin(async move {
            let Some(peer) = peer else {
                wires.calls_lost.fetch_add(1, Ordering::Relaxed);
                if matches!(request, PeerRequest::ReadSnapshot(_)) {
                    wires.reads_lost.fetch_add(1, Ordering::Relaxed);
                }
                let reason = "no such node".to_owned();
                return Err(TransportError::Unreachable { target, reason });
            };
            let has_entries = matches!(&request, PeerRequest::AppendEntries(append) if !append.entries.is_empty());
            let answer = peer.handle(request).await;
            if has_entries {
                let mut late = wires.late.subscribe();
                let arrives = late.wait_for(|late| !late.contains(&target)).await;
                drop(arrives.expect("the wires are still there"));
            }
            answer.map_err(|refusal| TransportError::Refused {
                target,
                reason: refusal.to_string(),
            })
        })
    }
}

/// Counts what it hears.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) last_index: Mutex<Option<u64>>,
    pub(crate) replayed: Mutex<u64>,
    pub(crate) commands: Mutex<u64>,
    pub(crate) replaced: Mutex<u64>,
}

impl AppliedSink for Heard {
    fn applied(&self, state: &State, applied: AppliedEntry<'_>) {
        let mut last = self.last_index.lock().unwrap();
        assert!(
            last.is_none_or(|last| applied.index == last + 1),
            "entries in order, each once"
        );
        *last = Some(applied.index);
        assert_eq!(applied.entry.commands.len(), applied.outcomes.len());
        assert!(applied.index == 0 || state.applied_index() == applied.index);
        *self.replayed.lock().unwrap() += u64::from(applied.replaying);
        *self.commands.lock().unwrap() += applied.outcomes.len() as u64;
    }

    fn polls(&self) -> bool {
        false
    }

    fn replaced(&self, state: &State, replaced: Replaced) {
        let mut last = self.last_index.lock().unwrap();
        assert!(last.is_none_or(|last| replaced.index > last));
        assert!(state.applied_index() <= replaced.index);
        *last = Some(replaced.index);
        *self.replaced.lock().unwrap() += 1;
    }
}

pub(crate) struct Node {
    pub(crate) replica: Replica,
    pub(crate) heard: Arc<Heard>,
    folders: Folders,
}

pub(crate) struct Cluster {
    root: TempDir,
    pub(crate) wires: Arc<Wires>,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    adapt: fn(&mut ReplicaConfig),
    boots: u64,
}

pub(crate) fn address(id: NodeId) -> PeerAddress {
    PeerAddress {
        peer: format!("peer-{id}"),
        client: format!("client-{id}"),
    }
}

pub(crate) fn members(count: u64) -> BTreeMap<NodeId, PeerAddress> {
    (1..=count)
        .map(|id| (NodeId(id), address(NodeId(id))))
        .collect()
}

impl Cluster {
    pub(crate) async fn start(count: u64) -> Self {
        Self::start_with(count, |_| {}).await
    }

    pub(crate) async fn start_with(count: u64, adapt: fn(&mut ReplicaConfig)) -> Self {
        let root = TempDir::new().unwrap();
        let mut cluster = Self {
            root,
            wires: Arc::default(),
            nodes: BTreeMap::new(),
            adapt,
            boots: 0,
        };
        for id in 1..=count {
            cluster.boot(NodeId(id)).await;
        }
        cluster
            .replica(NodeId(1))
            .bootstrap(members(count))
            .await
            .unwrap();
        let bootstrap = Command::Bootstrap(Bootstrap {
            cluster_id: CLUSTER,
            hash_seed: 7,
        });
        cluster.insist(&[bootstrap]).await;
        let outcome = cluster.insist(&[create_queue("q")]).await;
        assert!(
            matches!(outcome[..], [Outcome::Queue { .. }]),
            "{outcome:?}"
        );
        cluster
    }

    pub(crate) fn folder(&self, id: NodeId) -> PathBuf {
        self.root.path().join(format!("node-{id}"))
    }

    /// Starts a node, on whatever its folder holds.
    pub(crate) async fn boot(&mut self, id: NodeId) {
        self.boots += 1;
        let mut log = LogConfig::new(CLUSTER, id.0);
        log.segment_bytes = 64 << 10;
        log.cache_bytes = 16 << 10;
        let (folders, storage, _) = Folders::open_with(&self.folder(id), log).unwrap();
        let mut config = ReplicaConfig::new(CLUSTER, id, BootId(self.boots));
        config.entry_bytes_max = 32 << 10;
        // A machine that is busy for a moment shall not make another leader.
        (config.election_min_ms, config.election_max_ms) = (1_000, 2_000);
        (self.adapt)(&mut config);
        let heard = Arc::new(Heard::default());
        let wire = Arc::new(Wire {
            from: id,
            wires: self.wires.clone(),
        });
        let replica = Replica::start(config, storage, wire, heard.clone())
            .await
            .unwrap();
        self.wires.nodes.lock().unwrap().insert(id, replica.clone());
        self.nodes.insert(
            id,
            Node {
                replica,
                heard,
                folders,
            },
        );
    }

    pub(crate) async fn stop(&mut self, id: NodeId) {
        self.wires.nodes.lock().unwrap().remove(&id);
        let node = self.nodes.remove(&id).unwrap();
        node.replica.shutdown().await;
        drop(node.replica);
        tokio::task::spawn_blocking(|| node.folders.close())
            .await
            .unwrap()
            .unwrap();
    }

    pub(crate) fn replica(&self, id: NodeId) -> &Replica {
        &self.nodes[&id].replica
    }

    /// Waits until a node leads and has applied its first entry.
    pub(crate) async fn leader(&self) -> NodeId {
        eventually("a leader", async || {
            for (id, node) in &self.nodes {
                let lead = *node.replica.leadership().borrow();
                if lead.is_leader && node.replica.read_index().await.is_ok() {
                    return Some(*id);
                }
            }
            None
        })
        .await
    }

    /// Proposes through a leader, which must take it.
    pub(crate) async fn propose(&self, leader: NodeId, commands: &[Command]) -> Vec<Outcome> {
        let replica = self.replica(leader);
        let term = replica.leadership().borrow().term;
        replica
            .propose(term, entry(commands))
            .await
            .unwrap()
            .outcomes
            .to_vec()
    }

    /// Proposes through whoever leads, again until it came through. For commands that may be done
    /// more than once.
    pub(crate) async fn insist(&self, commands: &[Command]) -> Vec<Outcome> {
        let payload = entry(commands);
        eventually("a proposal", async || {
            let leader = self.leader().await;
            let replica = self.replica(leader);
            let term = replica.leadership().borrow().term;
            Some(
                replica
                    .propose(term, payload.clone())
                    .await
                    .ok()?
                    .outcomes
                    .to_vec(),
            )
        })
        .await
    }

    /// Waits until all running nodes have applied the same, and compares them.
    pub(crate) async fn agreed(&self) -> (u64, u64) {
        let leader = self.leader().await;
        eventually("equal replicas", async || {
            let status = self.replica(leader).status();
            let wanted = (status.applied_index?, status.digest);
            let mut all = self.nodes.values().map(|node| node.replica.status());
            all.all(|status| {
                let same = status.applied_index == Some(wanted.0);
                assert!(
                    !same || status.digest == wanted.1,
                    "replicas differ at {}",
                    wanted.0
                );
                same
            })
            .then_some(wanted)
        })
        .await
    }
}

/// The bytes of every message that a node has can be read there.
pub(crate) fn check_bodies(replica: &Replica) -> u64 {
    let peeked = replica.with_state(|state| {
        let queue = state.queue("default", "q").unwrap().id;
        state.peek(queue, None, Offset(0), usize::MAX)
    });
    for peeked in &peeked {
        let payload = replica.body(peeked.body.position.index).unwrap();
        let bodies = ticketrail_proto::stored::decode_bodies(payload).unwrap();
        let stored = bodies.get(peeked.body.position.place, peeked.body.item);
        assert_eq!(*stored.unwrap().message, message(peeked.body.item));
    }
    peeked.len() as u64
}

/// Asks again until there is an answer; for a condition that must come.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    ask: impl Fn() -> F,
) -> T {
    let asked = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let answer = tokio::time::timeout(PATIENCE, asked).await;
    answer.unwrap_or_else(|_| panic!("{what} did not come"))
}

pub(crate) fn entry(commands: &[Command]) -> Bytes {
    let encoded: Vec<Bytes> = commands
        .iter()
        .map(|command| {
            let messages = match command {
                Command::Publish(publish) => publish.runs.iter().map(|run| run.count).sum(),
                _ => 0,
            };
            let messages: Vec<Bytes> = (0..messages).map(message).collect();
            encode_command(command, None, &messages)
        })
        .collect();
    let mut payload = BytesMut::new();
    encode_entry(Stamps::default(), &encoded, &mut payload);
    payload.freeze()
}

fn message(number: u32) -> Bytes {
    let body = vec![number as u8; 200];
    let message = ticketrail_proto::v1::Message {
        body: body.into(),
        ..Default::default()
    };
    ticketrail_proto::stored::encode_message(&message)
}

pub(crate) fn create_queue(name: &str) -> Command {
    Command::CreateQueue(CreateQueue {
        namespace: "default".to_owned(),
        queue: name.to_owned(),
        settings: ticketrail_core::QueueSettings::default(),
    })
}

pub(crate) fn publish(count: u32) -> Command {
    let bytes = (0..count).map(|number| message(number).len() as u64).sum();
    let run = PublishRun {
        routing_key: "q".to_owned(),
        count,
        bytes,
        mandatory: true,
    };
    Command::Publish(Publish {
        namespace: "default".to_owned(),
        producer: None,
        atomic: true,
        runs: vec![run],
    })
}

pub(crate) fn receive(max_messages: u32, attempt: &str) -> Command {
    Command::Receive(Receive {
        namespace: "default".to_owned(),
        queue: "q".to_owned(),
        max_messages,
        lease_ms: None,
        attempt: attempt.as_bytes().to_vec(),
    })
}

/// Acknowledges all that a receive brought.
pub(crate) fn ack(outcome: &Outcome) -> Command {
    let Outcome::Received { grants } = outcome else {
        panic!("not a receive: {outcome:?}")
    };
    let range =
        |queue: QueueId, first_offset: Offset, count: u32, first_fence: Fence| SettleRange {
            queue,
            first_offset,
            count,
            first_fence,
            kind: SettleKind::Ack,
        };
    let ranges = grants.iter();
    let ranges = ranges
        .map(|grant| {
            range(
                grant.queue,
                grant.first_offset,
                grant.count,
                grant.first_fence,
            )
        })
        .collect();
    Command::Settle(Settle { ranges })
}
