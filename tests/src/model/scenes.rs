//! Scripted scenes: what random commands reach too seldom, because it takes thousands of one kind.
//!
//! Each scene is compared step by step like everything else; its coverage counts.

use ticketrail_core::command::{
    AttachConsumer, Command, CreateNamespace, CreateQueue, DetachConsumer, Entry, OpenProducer,
    ProducerSequence, Publish, PublishRun, PurgeQueue, Receive, Settle, SettleKind, SettleRange,
    Stamps, UpdateQueue,
};
use ticketrail_core::outcome::{Outcome, Rejection};
use ticketrail_core::{
    BootId, DeadLetter, LeaseTime, NodeId, Owner, ProducerId, QueueChanges, QueueId, QueueSettings,
    SessionId, WallTime, limits,
};

use super::compare::{Difference, Pair};
use super::coverage::Coverage;

/// What a scene comes to.
pub type Played = Result<Coverage, Difference>;

/// Plays a scene from the first entry to the last.
pub type Scene = fn() -> Played;

/// All scenes, by name.
pub const SCENES: [(&str, Scene); 9] = [
    ("all namespaces", all_namespaces),
    ("a producer that goes far", long_producer),
    ("more leases end at once than one entry may fire", flood),
    (
        "a session that held more than one entry may expire",
        long_grace,
    ),
    ("more is parked than one entry may move", parked_flood),
    ("a message that dies in many queues", many_deaths),
    ("more receive attempts than are remembered", many_attempts),
    ("memory that ends to the millisecond", exact_ends),
    ("more than one purge may remove", large_purge),
];

struct Stage {
    pair: Pair,
    index: u64,
    now: u64,
}

impl Stage {
    fn new() -> Result<Self, Difference> {
        let pair = Pair::new();
        let mut stage = Self {
            pair,
            index: 0,
            now: 0,
        };
        let bootstrap = ticketrail_core::command::Bootstrap {
            cluster_id: 1,
            hash_seed: 2,
        };
        stage.play(vec![Command::Bootstrap(bootstrap)])?;
        Ok(stage)
    }

    fn play(&mut self, commands: Vec<Command>) -> Result<Vec<Outcome>, Difference> {
        self.index += 1;
        let stamps = Stamps {
            lease_now: LeaseTime(self.now),
            wall_now: WallTime(self.now + 1_000_000),
        };
        let entry = Entry { stamps, commands };
        Ok(self.pair.step(self.index, &entry)?.0)
    }

    fn one(&mut self, command: Command) -> Result<Outcome, Difference> {
        let mut outcomes = self.play(vec![command])?;
        Ok(outcomes.remove(0))
    }

    /// Time passes, in steps as large as one entry may take.
    fn sleep(&mut self, ms: u64) -> Result<(), Difference> {
        let end = self.now + ms;
        while self.now < end {
            self.now = end.min(self.now + limits::LEASE_STEP_MS_MAX);
            self.play(Vec::new())?;
        }
        Ok(())
    }

    fn queue(&mut self, name: &str, settings: QueueSettings) -> Result<QueueId, Difference> {
        let namespace = limits::DEFAULT_NAMESPACE.to_owned();
        let queue = name.to_owned();
        let created = self.one(Command::CreateQueue(CreateQueue {
            namespace,
            queue,
            settings,
        }))?;
        match created {
            Outcome::Queue { id, .. } => Ok(id),
            other => Err(format!("queue `{name}` not made: {other:?}")),
        }
    }

    fn publish(&mut self, queue: &str, count: u32) -> Result<Outcome, Difference> {
        self.one(publish(queue, count, None))
    }

    fn receive(&mut self, queue: &str, count: u32, attempt: u64) -> Result<Outcome, Difference> {
        self.one(receive(queue, count, attempt))
    }

    /// Purges a queue to the end, while messages come.
    fn purge(&mut self, queue: &str) -> Result<(), Difference> {
        let mut rest = None;
        loop {
            let command = Command::PurgeQueue(PurgeQueue {
                namespace: limits::DEFAULT_NAMESPACE.to_owned(),
                queue: queue.to_owned(),
                include_delayed: true,
                rest,
            });
            match self.one(command)? {
                Outcome::Purged { rest: None, .. } => return Ok(()),
                Outcome::Purged { rest: left, .. } => rest = left,
                other => return Err(format!("not purged: {other:?}")),
            }
            self.publish(queue, 2)?;
        }
    }

    /// Settles all that the queue has leased out.
    fn settle_all(&mut self, queue: QueueId, kind: SettleKind) -> Result<Outcome, Difference> {
        self.settle_each(queue, |_| kind)
    }

    /// The same, the `k`-th as `kind` says.
    fn settle_each(
        &mut self,
        queue: QueueId,
        kind: impl Fn(usize) -> SettleKind,
    ) -> Result<Outcome, Difference> {
        let messages = self.pair.model.queues[&queue].messages.iter();
        let grants = messages.filter_map(|message| message.grant(queue));
        let ranges = grants.enumerate().map(|(k, grant)| SettleRange {
            queue,
            first_offset: grant.first_offset,
            count: 1,
            first_fence: grant.first_fence,
            kind: kind(k),
        });
        let ranges = ranges.collect();
        self.one(Command::Settle(Settle { ranges }))
    }
}

fn publish(queue: &str, count: u32, producer: Option<ProducerSequence>) -> Command {
    Command::Publish(Publish {
        namespace: limits::DEFAULT_NAMESPACE.to_owned(),
        producer,
        atomic: true,
        runs: vec![PublishRun {
            routing_key: queue.to_owned(),
            count,
            bytes: u64::from(count) * 10,
            mandatory: true,
        }],
    })
}

fn receive(queue: &str, max_messages: u32, attempt: u64) -> Command {
    Command::Receive(Receive {
        namespace: limits::DEFAULT_NAMESPACE.to_owned(),
        queue: queue.to_owned(),
        max_messages,
        lease_ms: None,
        attempt: attempt.to_be_bytes().to_vec(),
    })
}

fn dead_letters_to(name: &str, max_deliveries: u32) -> QueueSettings {
    QueueSettings {
        lease_ms: 700,
        max_deliveries,
        dead_letter: Some(DeadLetter {
            routing_key: name.to_owned(),
        }),
        ..QueueSettings::default()
    }
}

fn all_namespaces() -> Played {
    let mut stage = Stage::new()?;
    let names = (1..=limits::NAMESPACES_MAX).map(|n| format!("space {n}"));
    let commands: Vec<Command> = names
        .map(|namespace| Command::CreateNamespace(CreateNamespace { namespace }))
        .collect();
    let mut last = None;
    for some in commands.chunks(1_000) {
        last = stage.play(some.to_vec())?.pop();
    }
    let limit = limits::NAMESPACES_MAX as u64;
    let what = "namespaces";
    let refused = Outcome::Rejected(Rejection::TooMany { what, limit });
    assert_eq!(last, Some(refused), "the default namespace counts");
    Ok(stage.pair.coverage)
}

fn long_producer() -> Played {
    let mut stage = Stage::new()?;
    stage.queue("orders", QueueSettings::default())?;
    let id = ProducerId(5);
    stage.one(Command::OpenProducer(OpenProducer {
        namespace: limits::DEFAULT_NAMESPACE.to_owned(),
        name: Some("importer".to_owned()),
        fresh_id: id,
    }))?;
    let claim = |first_sequence: u64, count: u64| ProducerSequence {
        id,
        epoch: 1,
        first_sequence,
        digests: (first_sequence..first_sequence + count).collect(),
    };
    for first in (1..=3_001).step_by(1_000) {
        stage.one(publish("orders", 1_000, Some(claim(first, 1_000))))?;
    }
    let oldest_known = 4_000 - limits::PRODUCER_WINDOW_MAX as u64 + 1;
    for first in [
        1,
        999,
        oldest_known - 2,
        oldest_known - 1,
        oldest_known,
        3_995,
    ] {
        stage.one(publish("orders", 10, Some(claim(first, 10))))?;
    }
    Ok(stage.pair.coverage)
}

fn flood() -> Played {
    let mut stage = Stage::new()?;
    let id = stage.queue("orders", dead_letters_to("dead", 2))?;
    stage.queue("dead", QueueSettings::default())?;
    for attempt in 0..3 {
        stage.publish("orders", 1_000)?;
        stage.receive("orders", 1_000, attempt)?;
    }
    stage.one(Command::AttachConsumer(AttachConsumer {
        namespace: limits::DEFAULT_NAMESPACE.to_owned(),
        queue: "orders".to_owned(),
        session: SessionId(1),
        owner: Owner {
            node: NodeId(1),
            boot: BootId(1),
            connection: 1,
        },
        prefetch: 400,
        lease_ms: None,
    }))?;
    stage.sleep(5_000)?;
    stage.settle_all(id, SettleKind::Ack)?;
    Ok(stage.pair.coverage)
}

/// Many messages, then many that have no neighbours, ready or delayed; what comes after the first command
/// stays.
fn large_purge() -> Played {
    let mut stage = Stage::new()?;
    let id = stage.queue("orders", QueueSettings::default())?;
    let thousand = |_| publish("orders", 1_000, None);
    stage.play((0..21).map(thousand).collect())?;
    stage.purge("orders")?;
    for delay_ms in [None, Some(60_000)] {
        for attempt in 0..3 {
            stage.publish("orders", 1_000)?;
            stage.receive("orders", 1_000, attempt)?;
        }
        stage.settle_each(id, |k| match k % 2 {
            0 => SettleKind::Ack,
            _ => SettleKind::Nack { delay_ms },
        })?;
        stage.purge("orders")?;
    }
    Ok(stage.pair.coverage)
}

/// A consumer with many leases is gone: they come back a thousand an entry, also to one who waits; the
/// consumer comes back in the middle of it and keeps the rest.
fn long_grace() -> Played {
    let mut stage = Stage::new()?;
    stage.queue("orders", QueueSettings::default())?;
    for _ in 0..4 {
        stage.publish("orders", 900)?;
    }
    let attach = |session: u128, connection, prefetch| {
        Command::AttachConsumer(AttachConsumer {
            namespace: limits::DEFAULT_NAMESPACE.to_owned(),
            queue: "orders".to_owned(),
            session: SessionId(session),
            owner: owner(connection),
            prefetch,
            lease_ms: Some(limits::LEASE_MS_MAX),
        })
    };
    let detach = |session: u128, connection| {
        Command::DetachConsumer(DetachConsumer {
            session: SessionId(session),
            owner: owner(connection),
            release: false,
        })
    };
    for (session, prefetch) in [(1, 3_500), (2, 300), (3, 40)] {
        stage.one(attach(session, 1, prefetch))?;
    }
    stage.one(detach(1, 1))?;
    stage.sleep(limits::SESSION_GRACE_MS)?;
    stage.play(Vec::new())?;
    stage.one(attach(1, 2, 3_500))?;
    stage.one(detach(1, 2))?;
    stage.sleep(limits::SESSION_GRACE_MS + 10_000)?;
    assert!(
        !stage.pair.model.sessions.contains_key(&SessionId(1)),
        "it ends at last"
    );
    Ok(stage.pair.coverage)
}

fn owner(connection: u64) -> Owner {
    Owner {
        connection,
        ..Owner::default()
    }
}

fn parked_flood() -> Played {
    let mut stage = Stage::new()?;
    let id = stage.queue("orders", dead_letters_to("dead", 1))?;
    let paused = QueueChanges {
        paused: Some(true),
        ..QueueChanges::default()
    };
    for attempt in 0..3 {
        stage.publish("orders", 900)?;
        stage.receive("orders", 900, attempt)?;
    }
    stage.settle_all(id, SettleKind::Reject)?;
    stage.one(Command::UpdateQueue(UpdateQueue {
        namespace: limits::DEFAULT_NAMESPACE.to_owned(),
        queue: "orders".to_owned(),
        changes: paused,
        revision: Some(1),
    }))?;
    stage.queue("dead", dead_letters_to("dead", 1))?;
    for _ in 0..4 {
        stage.play(Vec::new())?;
    }
    assert!(
        stage.pair.model.queues[&id].messages.is_empty(),
        "all moved"
    );
    Ok(stage.pair.coverage)
}

fn many_deaths() -> Played {
    const QUEUES: u64 = 20;
    let mut stage = Stage::new()?;
    let name = |n: u64| format!("queue {}", n % QUEUES);
    let mut ids = Vec::new();
    for n in 0..QUEUES {
        ids.push(stage.queue(&name(n), dead_letters_to(&name(n + 1), 1))?);
    }
    stage.publish(&name(0), 1)?;
    for round in 0..3 {
        for (n, id) in (0..).zip(&ids) {
            stage.receive(&name(n), 1, round)?;
            let kind = match round {
                1 => SettleKind::Nack { delay_ms: None },
                _ => SettleKind::Reject,
            };
            stage.settle_all(*id, kind)?;
            stage.sleep(7)?;
        }
    }
    let deaths = stage.pair.model.queues[&ids[0]].messages[0].deaths.len();
    assert_eq!(deaths, limits::DEATHS_MAX, "history is full");
    Ok(stage.pair.coverage)
}

fn many_attempts() -> Played {
    let mut stage = Stage::new()?;
    let id = stage.queue("orders", QueueSettings::default())?;
    let mut attempt = 0;
    for _ in 0..101 {
        stage.publish("orders", 100)?;
        let commands = (attempt..attempt + 100).map(|n| receive("orders", 1, n));
        stage.play(commands.collect())?;
        attempt += 100;
        if attempt % 5_000 != 0 {
            stage.settle_all(id, SettleKind::Ack)?;
        }
    }
    stage.publish("orders", 3)?;
    // The first is forgotten and gets a new message; the last is not.
    for attempt in [0, attempt - 1, attempt - limits::ATTEMPTS_MAX as u64 + 2] {
        stage.receive("orders", 1, attempt)?;
    }
    Ok(stage.pair.coverage)
}

fn exact_ends() -> Played {
    let mut stage = Stage::new()?;
    let id = stage.queue("orders", QueueSettings::default())?;
    stage.sleep(3_007)?;
    stage.publish("orders", 9)?;
    stage.receive("orders", 1, 1)?;
    let fence = stage.pair.model.queues[&id].last_fence;
    stage.settle_all(id, SettleKind::Ack)?;
    let ack = Command::Settle(Settle {
        ranges: vec![SettleRange {
            queue: id,
            first_offset: ticketrail_core::Offset(0),
            count: 1,
            first_fence: ticketrail_core::Fence(fence),
            kind: SettleKind::Ack,
        }],
    });
    let attempt_ends = stage.now + limits::ATTEMPT_MEMORY_MS;
    let settled_ends = limits::SETTLED_BUCKET_MS + limits::SETTLED_MEMORY_MS;
    let mut ends = [attempt_ends, settled_ends];
    ends.sort_unstable();
    for end in ends {
        stage.sleep(end - 2 - stage.now)?;
        for _ in 0..3 {
            // In the very entry that moves the clock: what it forgets, it forgets at its end.
            stage.now += 1;
            stage.play(vec![receive("orders", 1, 1), ack.clone()])?;
        }
    }
    Ok(stage.pair.coverage)
}
