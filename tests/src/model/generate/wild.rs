//! Commands with any values in any field: no sense, but no panic either.

use ticketrail_core::command::{
    AdmitNode, AttachConsumer, Bootstrap, Command, CreateNamespace, CreateQueue, DeleteNamespace,
    DeleteQueue, DetachConsumer, Entry, NodeBooted, OpenProducer, ProducerSequence, Publish,
    PublishRun, PurgeQueue, PurgeRest, Receive, RetireNode, SessionsLost, SetPrefetch, SetVersion,
    Settle, SettleKind, SettleRange, Stamps, UpdateQueue,
};
use ticketrail_core::{
    BootId, DeadLetter, DiskId, Fence, LeaseTime, NodeId, Offset, Owner, ProducerId, QueueChanges,
    QueueId, QueueSettings, RetryBackoff, SessionId, WallTime,
};

use super::super::dice::Dice;

/// An entry in which every field is drawn for itself.
pub fn entry(dice: &mut Dice) -> Entry {
    let stamps = Stamps {
        lease_now: LeaseTime(number(dice)),
        // Rarely far: wall time never comes back.
        wall_now: WallTime(if dice.one_in(500) { number(dice) } else { 0 }),
    };
    let commands = (0..dice.below(4)).map(|_| command(dice));
    let commands = commands.collect();
    Entry { stamps, commands }
}

/// Mostly tiny, so that things meet; otherwise on an edge, or anything.
fn number(dice: &mut Dice) -> u64 {
    match dice.below(20) {
        0 => u64::MAX - dice.below(3),
        1 => i64::MAX as u64 + dice.below(3),
        2 => u64::from(u32::MAX) + dice.below(3),
        3 => 1 << dice.below(64),
        4 => dice.bits(),
        _ => dice.below(4),
    }
}

fn small(dice: &mut Dice) -> u32 {
    u32::try_from(number(dice)).unwrap_or(u32::MAX)
}

fn coin(dice: &mut Dice) -> bool {
    dice.one_in(2)
}

fn name(dice: &mut Dice) -> String {
    match dice.below(12) {
        0 => String::new(),
        1 => "\u{0}".to_owned(),
        2 => "tr.".to_owned(),
        3 => "n".repeat(usize::try_from(dice.below(600)).expect("small")),
        4 => "é".repeat(usize::try_from(dice.below(300)).expect("small")),
        5 => char::from_u32(small(dice)).map_or_else(String::new, String::from),
        6 | 7 => "a".to_owned(),
        8 | 9 => "b".to_owned(),
        _ => "default".to_owned(),
    }
}

fn owner(dice: &mut Dice) -> Owner {
    Owner {
        node: NodeId(number(dice)),
        boot: BootId(number(dice)),
        connection: number(dice),
    }
}

fn backoff(dice: &mut Dice) -> RetryBackoff {
    RetryBackoff {
        base_ms: number(dice),
        factor_percent: if coin(dice) { 100 } else { small(dice) },
        max_ms: number(dice),
        jitter_percent: small(dice),
    }
}

fn dead_letter(dice: &mut Dice) -> DeadLetter {
    let routing_key = name(dice);
    DeadLetter { routing_key }
}

fn settings(dice: &mut Dice) -> QueueSettings {
    QueueSettings {
        lease_ms: number(dice),
        max_deliveries: small(dice),
        retry_backoff: dice.maybe(3, backoff),
        dead_letter: dice.maybe(2, dead_letter),
        paused: dice.one_in(8),
    }
}

fn changes(dice: &mut Dice) -> QueueChanges {
    QueueChanges {
        lease_ms: dice.maybe(4, number),
        max_deliveries: dice.maybe(4, small),
        retry_backoff: dice.maybe(4, |dice| dice.maybe(2, backoff)),
        dead_letter: dice.maybe(4, |dice| dice.maybe(2, dead_letter)),
        paused: dice.maybe(4, coin),
    }
}

fn publish(dice: &mut Dice) -> Publish {
    let runs: Vec<PublishRun> = (0..dice.below(4))
        .map(|_| PublishRun {
            routing_key: name(dice),
            count: small(dice),
            bytes: number(dice),
            mandatory: coin(dice),
        })
        .collect();
    let fits = runs.iter().map(|run| u64::from(run.count)).sum::<u64>();
    let digests = if dice.one_in(8) { number(dice) } else { fits };
    let digests = 0..digests.min(2_000);
    Publish {
        namespace: name(dice),
        producer: dice.maybe(2, |dice| ProducerSequence {
            id: ProducerId(u128::from(number(dice))),
            epoch: small(dice),
            first_sequence: number(dice),
            digests: digests.map(|_| dice.below(2)).collect(),
        }),
        atomic: coin(dice),
        runs,
    }
}

fn settle(dice: &mut Dice) -> Settle {
    let ranges = (0..dice.below(4)).map(|_| SettleRange {
        queue: QueueId(number(dice)),
        first_offset: Offset(number(dice)),
        count: small(dice),
        first_fence: Fence(number(dice)),
        kind: match dice.below(5) {
            0 => SettleKind::Ack,
            1 => SettleKind::Nack {
                delay_ms: dice.maybe(2, number),
            },
            2 => SettleKind::Reject,
            3 => SettleKind::Release,
            _ => SettleKind::Extend {
                lease_ms: number(dice),
            },
        },
    });
    let ranges = ranges.collect();
    Settle { ranges }
}

fn command(dice: &mut Dice) -> Command {
    match dice.below(21) {
        0 => Command::Bootstrap(Bootstrap {
            cluster_id: u128::from(dice.below(2)),
            hash_seed: dice.below(2),
        }),
        // A version that the program does not know stops the node, by contract.
        1 => Command::SetVersion(SetVersion {
            version: u32::from(coin(dice)),
        }),
        2 => Command::CreateNamespace(CreateNamespace {
            namespace: name(dice),
        }),
        3 => Command::DeleteNamespace(DeleteNamespace {
            namespace: name(dice),
        }),
        4 | 5 => Command::CreateQueue(CreateQueue {
            namespace: name(dice),
            queue: name(dice),
            settings: settings(dice),
        }),
        6 => Command::UpdateQueue(UpdateQueue {
            namespace: name(dice),
            queue: name(dice),
            changes: changes(dice),
            revision: dice.maybe(2, number),
        }),
        7 => Command::DeleteQueue(DeleteQueue {
            namespace: name(dice),
            queue: name(dice),
            if_empty: !dice.one_in(5),
        }),
        8 => Command::PurgeQueue(PurgeQueue {
            namespace: name(dice),
            queue: name(dice),
            include_delayed: coin(dice),
            rest: dice.maybe(2, |dice| PurgeRest {
                queue: QueueId(number(dice)),
                below: Offset(number(dice)),
            }),
        }),
        9 => Command::OpenProducer(OpenProducer {
            namespace: name(dice),
            name: dice.maybe(2, name),
            fresh_id: ProducerId(u128::from(number(dice))),
        }),
        10 | 11 => Command::Publish(publish(dice)),
        12 => Command::Receive(Receive {
            namespace: name(dice),
            queue: name(dice),
            max_messages: small(dice),
            lease_ms: dice.maybe(2, number),
            attempt: vec![0; usize::try_from(dice.below(200)).expect("small")],
        }),
        13 => Command::AttachConsumer(AttachConsumer {
            namespace: name(dice),
            queue: name(dice),
            session: SessionId(u128::from(number(dice))),
            owner: owner(dice),
            prefetch: small(dice),
            lease_ms: dice.maybe(2, number),
        }),
        14 => Command::SetPrefetch(SetPrefetch {
            session: SessionId(u128::from(number(dice))),
            owner: owner(dice),
            prefetch: small(dice),
        }),
        15 => Command::DetachConsumer(DetachConsumer {
            session: SessionId(u128::from(number(dice))),
            owner: owner(dice),
            release: coin(dice),
        }),
        16 => Command::NodeBooted(NodeBooted {
            node: NodeId(number(dice)),
            boot: BootId(number(dice)),
        }),
        17 => Command::SessionsLost(SessionsLost {
            node: NodeId(number(dice)),
            boot: BootId(number(dice)),
        }),
        18 => Command::AdmitNode(AdmitNode {
            node: NodeId(number(dice)),
            disk: DiskId(number(dice).into()),
        }),
        19 => Command::RetireNode(RetireNode {
            node: NodeId(number(dice)),
        }),
        _ => Command::Settle(settle(dice)),
    }
}
