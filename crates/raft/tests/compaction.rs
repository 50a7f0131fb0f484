//! Compaction of bodies: a few messages that stay do not keep the files of the many that went, and
//! their bytes stay what they were, through compaction, restarts and moves between queues.
#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use harness::{Cluster, create_queue, eventually};
use ticketrail_core::command::{
    CreateQueue, DeleteQueue, Publish, PublishRun, Receive, Settle, SettleKind, SettleRange,
};
use ticketrail_core::{
    BodyRef, Command, DeadLetter, Grant, NodeId, Offset, Outcome, Position, QueueSettings, Stamps,
};
use ticketrail_proto::stored::{decode_bodies, encode_command, encode_entry, encode_message};
use ticketrail_raft::{Replica, ReplicaConfig};

const NODE: NodeId = NodeId(1);
const BUDGET: u64 = 256 << 10;
const SEGMENT: u64 = 64 << 10;
const BATCH: u32 = 40;

fn small(config: &mut ReplicaConfig) {
    config.checkpoint_every = Duration::from_millis(20);
    config.snapshot_bytes = 128 << 10;
    config.log_bytes_kept = 0;
    config.recycle_every = Duration::from_millis(20);
    config.dead_bytes_max = BUDGET;
}

/// xorshift64*, so that a seed brings everything back.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % end
    }
}

/// One node, and the bytes of everything that was ever published.
struct Scene {
    cluster: Cluster,
    published: BTreeMap<BodyRef, Bytes>,
    dice: Dice,
    attempts: u64,
}

impl Scene {
    async fn start(seed: u64) -> Self {
        println!("seed {seed}");
        let cluster = Cluster::start_with(1, small).await;
        cluster.propose(NODE, &[create_queue("dead")]).await;
        let settings = QueueSettings {
            dead_letter: Some(DeadLetter {
                routing_key: "dead".to_owned(),
            }),
            lease_ms: 3_600_000,
            ..QueueSettings::default()
        };
        let work = Command::CreateQueue(CreateQueue {
            namespace: "default".to_owned(),
            queue: "work".to_owned(),
            settings,
        });
        cluster.propose(NODE, &[work]).await;
        Self {
            cluster,
            published: BTreeMap::new(),
            dice: Dice(seed),
            attempts: 0,
        }
    }

    fn replica(&self) -> &Replica {
        self.cluster.replica(NODE)
    }

    async fn publish(&mut self) {
        let messages: Vec<Bytes> = (0..BATCH)
            .map(|_| {
                let length = 100 + self.dice.below(300) as usize;
                let body: Vec<u8> = (0..length).map(|_| self.dice.below(256) as u8).collect();
                encode_message(&ticketrail_proto::v1::Message {
                    body: body.into(),
                    ..Default::default()
                })
            })
            .collect();
        let run = PublishRun {
            routing_key: "work".to_owned(),
            count: BATCH,
            bytes: messages.iter().map(|message| message.len() as u64).sum(),
            mandatory: true,
        };
        let publish = Command::Publish(Publish {
            namespace: "default".to_owned(),
            producer: None,
            atomic: true,
            runs: vec![run],
        });
        let mut payload = BytesMut::new();
        let encoded = encode_command(&publish, None, &messages);
        encode_entry(Stamps::default(), &[encoded], &mut payload);
        let term = self.replica().leadership().borrow().term;
        let committed = self
            .replica()
            .propose(term, payload.freeze())
            .await
            .unwrap();
        for (item, message) in (0..).zip(messages) {
            let position = Position {
                index: committed.index,
                place: 0,
            };
            self.published.insert(BodyRef { position, item }, message);
        }
    }

    async fn receive(&mut self, queue: &str) -> Vec<Grant> {
        self.attempts += 1;
        let receive = Command::Receive(Receive {
            namespace: "default".to_owned(),
            queue: queue.to_owned(),
            max_messages: BATCH,
            lease_ms: None,
            attempt: self.attempts.to_string().into_bytes(),
        });
        match &self.cluster.propose(NODE, &[receive]).await[..] {
            [Outcome::Received { grants }] => grants.clone(),
            other => panic!("{other:?}"),
        }
    }

    async fn settle(&self, grant: &Grant, offset: u64, count: u32, kind: SettleKind) {
        let range = SettleRange {
            queue: grant.queue,
            first_offset: grant.first_offset.plus(offset),
            count,
            first_fence: ticketrail_core::Fence(grant.first_fence.0 + offset),
            kind,
        };
        let settle = Command::Settle(Settle {
            ranges: vec![range],
        });
        self.cluster.propose(NODE, &[settle]).await;
    }

    /// Publishes a batch and consumes it, but for one message now and then: that one is rejected, and
    /// waits in the dead-letter queue, or stays with a consumer that never settles.
    async fn round(&mut self, one_in: u64) {
        self.publish().await;
        for grant in self.receive("work").await {
            let count = u64::from(grant.count);
            let spared = self.dice.below(count);
            if self.dice.below(one_in) > 0 {
                self.settle(&grant, 0, grant.count, SettleKind::Ack).await;
                continue;
            }
            self.settle(&grant, 0, spared as u32, SettleKind::Ack).await;
            let rest = (count - spared - 1) as u32;
            self.settle(&grant, spared + 1, rest, SettleKind::Ack).await;
            if self.dice.below(2) == 0 {
                self.settle(&grant, spared, 1, SettleKind::Reject).await;
            }
        }
    }

    /// Every message in any queue has the bytes that it was published with.
    fn check_bodies(&self) -> usize {
        let replica = self.replica();
        let live: Vec<BodyRef> = replica.with_state(|state| {
            let ids = ["work", "dead"].map(|name| state.queue("default", name).unwrap().id);
            let peek = |id| state.peek(id, None, Offset(0), usize::MAX);
            ids.into_iter()
                .flat_map(peek)
                .map(|message| message.body)
                .collect()
        });
        for body in &live {
            let payload = replica.body(body.position.index).unwrap();
            let bodies = decode_bodies(payload).unwrap();
            let found = bodies.get(body.position.place, body.item).unwrap();
            assert_eq!(found.message, &self.published[body], "{body:?}");
            assert_eq!(found.routing_key, "work");
        }
        live.len()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_stay_do_not_keep_the_files_of_those_that_went() {
    let rounds = std::env::var("TICKETRAIL_COMPACTION_ROUNDS");
    let rounds: u64 = rounds.map_or(120, |rounds| rounds.parse().unwrap());
    let mut scene = Scene::start(7).await;
    let mut moved = 0;
    for lap in 0..4 {
        // A few hundred KiB of stragglers among many times as much.
        for _ in 0..rounds {
            scene.round(3).await;
        }
        let used = eventually("compacted files", async || {
            scene.cluster.propose(NODE, &[create_queue("dead")]).await;
            let used = scene.replica().disk_use();
            let jobs = scene.replica().compactions().jobs.load(Ordering::Relaxed);
            let stored = used.purged_log_bytes + used.body_bytes;
            let bound = 2 * used.live_bytes + BUDGET + 4 * SEGMENT;
            (jobs > 0 && stored <= bound).then_some(used)
        })
        .await;
        assert!(used.body_bytes > 0, "lap {lap}: {used:?}");
        assert!(scene.check_bodies() > 20 * (lap + 1));
        let counts = scene.replica().compactions();
        assert_eq!(counts.failures.load(Ordering::Relaxed), 0);
        moved += counts.bytes_moved.load(Ordering::Relaxed);
        println!("lap {lap}: {used:?}, {counts:?}");
        scene.cluster.stop(NODE).await;
        scene.cluster.boot(NODE).await;
        scene.cluster.leader().await;
        scene.check_bodies();
    }
    let all: u64 = scene.published.values().map(|body| body.len() as u64).sum();
    assert!(moved > 0 && moved < all / 2, "moved {moved} of {all} bytes");
    // When the stragglers go as well, so do their files.
    for queue in ["work", "dead"] {
        let delete = Command::DeleteQueue(DeleteQueue {
            namespace: "default".to_owned(),
            queue: queue.to_owned(),
            if_empty: false,
        });
        scene.cluster.propose(NODE, &[delete]).await;
    }
    eventually("the end of all body segments", async || {
        scene.cluster.propose(NODE, &[create_queue("q")]).await;
        (scene.replica().disk_use().body_bytes == 0).then_some(())
    })
    .await;
}
