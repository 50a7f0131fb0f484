//! Any value that the core's types can hold, sensible or not: conversions must not care.

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use ticketrail_core::command::*;
use ticketrail_core::row::*;
use ticketrail_core::*;
use ticketrail_proto::stored::Origin;

fn name() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-z/.# ü]{1,12}", any::<String>()]
}

fn owner() -> impl Strategy<Value = Owner> {
    any::<(u64, u64, u64)>().prop_map(|(node, boot, connection)| Owner {
        node: NodeId(node),
        boot: BootId(boot),
        connection,
    })
}

pub(crate) fn origin() -> impl Strategy<Value = Option<Origin>> {
    of(owner().prop_map(|owner| Origin {
        node: owner.node,
        boot: owner.boot,
        correlation: owner.connection,
    }))
}

fn backoff() -> impl Strategy<Value = RetryBackoff> {
    any::<(u64, u32, u64, u32)>().prop_map(|(base_ms, factor_percent, max_ms, jitter_percent)| {
        RetryBackoff {
            base_ms,
            factor_percent,
            max_ms,
            jitter_percent,
        }
    })
}

fn dead_letter() -> impl Strategy<Value = DeadLetter> {
    name().prop_map(|routing_key| DeadLetter { routing_key })
}

fn settings() -> impl Strategy<Value = QueueSettings> {
    (
        any::<u64>(),
        any::<u32>(),
        of(backoff()),
        of(dead_letter()),
        any::<bool>(),
    )
        .prop_map(
            |(lease_ms, max_deliveries, retry_backoff, dead_letter, paused)| QueueSettings {
                lease_ms,
                max_deliveries,
                retry_backoff,
                dead_letter,
                paused,
            },
        )
}

fn changes() -> impl Strategy<Value = QueueChanges> {
    (
        any::<(Option<u64>, Option<u32>, Option<bool>)>(),
        of(of(backoff())),
        of(of(dead_letter())),
    )
        .prop_map(
            |((lease_ms, max_deliveries, paused), retry_backoff, dead_letter)| QueueChanges {
                lease_ms,
                max_deliveries,
                retry_backoff,
                dead_letter,
                paused,
            },
        )
}

/// A publish and the messages that it holds.
pub(crate) fn publish() -> impl Strategy<Value = (Publish, Vec<Vec<u8>>)> {
    let run = (name(), 0_u32..4, any::<u64>(), any::<bool>()).prop_map(
        |(routing_key, count, bytes, mandatory)| PublishRun {
            routing_key,
            count,
            bytes,
            mandatory,
        },
    );
    let producer = (any::<(u128, u32, u64)>(), vec(any::<u64>(), 0..5)).prop_map(
        |((id, epoch, first_sequence), digests)| ProducerSequence {
            id: ProducerId(id),
            epoch,
            first_sequence,
            digests,
        },
    );
    (name(), of(producer), any::<bool>(), vec(run, 0..4)).prop_flat_map(
        |(namespace, producer, atomic, runs)| {
            let count: u32 = runs.iter().map(|run| run.count).sum();
            let publish = Publish {
                namespace,
                producer,
                atomic,
                runs,
            };
            (Just(publish), vec(vec(any::<u8>(), 0..40), count as usize))
        },
    )
}

fn settle() -> impl Strategy<Value = Settle> {
    let kind = prop_oneof![
        Just(SettleKind::Ack),
        any::<Option<u64>>().prop_map(|delay_ms| SettleKind::Nack { delay_ms }),
        Just(SettleKind::Reject),
        Just(SettleKind::Release),
        any::<u64>().prop_map(|lease_ms| SettleKind::Extend { lease_ms }),
    ];
    let range =
        (any::<(u64, u64, u32, u64)>(), kind).prop_map(|((queue, offset, count, fence), kind)| {
            SettleRange {
                queue: QueueId(queue),
                first_offset: Offset(offset),
                count,
                first_fence: Fence(fence),
                kind,
            }
        });
    vec(range, 0..5).prop_map(|ranges| Settle { ranges })
}

/// Any command but a publish.
pub(crate) fn command() -> BoxedStrategy<Command> {
    prop_oneof![topology(), consuming(), cluster()].boxed()
}

fn topology() -> impl Strategy<Value = Command> {
    let names = || (name(), name());
    prop_oneof![
        name().prop_map(|namespace| Command::CreateNamespace(CreateNamespace { namespace })),
        name().prop_map(|namespace| Command::DeleteNamespace(DeleteNamespace { namespace })),
        (names(), settings()).prop_map(|((namespace, queue), settings)| {
            Command::CreateQueue(CreateQueue {
                namespace,
                queue,
                settings,
            })
        }),
        (names(), changes(), any::<Option<u64>>()).prop_map(
            |((namespace, queue), changes, revision)| {
                Command::UpdateQueue(UpdateQueue {
                    namespace,
                    queue,
                    changes,
                    revision,
                })
            }
        ),
        (names(), any::<bool>()).prop_map(|((namespace, queue), if_empty)| {
            Command::DeleteQueue(DeleteQueue {
                namespace,
                queue,
                if_empty,
            })
        }),
        (names(), any::<bool>(), of(any::<(u64, u64)>())).prop_map(
            |((namespace, queue), include_delayed, rest)| {
                let rest = rest.map(|(queue, below)| PurgeRest {
                    queue: QueueId(queue),
                    below: Offset(below),
                });
                Command::PurgeQueue(PurgeQueue {
                    namespace,
                    queue,
                    include_delayed,
                    rest,
                })
            }
        ),
        (name(), of(name()), any::<u128>()).prop_map(|(namespace, name, id)| {
            Command::OpenProducer(OpenProducer {
                namespace,
                name,
                fresh_id: ProducerId(id),
            })
        }),
    ]
}

fn consuming() -> impl Strategy<Value = Command> {
    let session = || any::<u128>().prop_map(SessionId);
    let receive = (
        name(),
        name(),
        any::<(u32, Option<u64>)>(),
        vec(any::<u8>(), 0..130),
    );
    let attach = (
        name(),
        name(),
        session(),
        owner(),
        any::<(u32, Option<u64>)>(),
    );
    prop_oneof![
        receive.prop_map(|(namespace, queue, (max_messages, lease_ms), attempt)| {
            Command::Receive(Receive {
                namespace,
                queue,
                max_messages,
                lease_ms,
                attempt,
            })
        }),
        attach.prop_map(|(namespace, queue, session, owner, (prefetch, lease_ms))| {
            Command::AttachConsumer(AttachConsumer {
                namespace,
                queue,
                session,
                owner,
                prefetch,
                lease_ms,
            })
        }),
        (session(), owner(), any::<u32>()).prop_map(|(session, owner, prefetch)| {
            Command::SetPrefetch(SetPrefetch {
                session,
                owner,
                prefetch,
            })
        }),
        (session(), owner(), any::<bool>()).prop_map(|(session, owner, release)| {
            Command::DetachConsumer(DetachConsumer {
                session,
                owner,
                release,
            })
        }),
        settle().prop_map(Command::Settle),
    ]
}

fn cluster() -> impl Strategy<Value = Command> {
    prop_oneof![
        any::<(u128, u64)>().prop_map(|(cluster_id, hash_seed)| {
            Command::Bootstrap(Bootstrap {
                cluster_id,
                hash_seed,
            })
        }),
        any::<u32>().prop_map(|version| Command::SetVersion(SetVersion { version })),
        any::<(u64, u64)>().prop_map(|(node, boot)| {
            Command::NodeBooted(NodeBooted {
                node: NodeId(node),
                boot: BootId(boot),
            })
        }),
        any::<(u64, u64)>().prop_map(|(node, boot)| {
            Command::SessionsLost(SessionsLost {
                node: NodeId(node),
                boot: BootId(boot),
            })
        }),
        any::<(u64, u128)>().prop_map(|(node, disk)| {
            Command::AdmitNode(AdmitNode {
                node: NodeId(node),
                disk: DiskId(disk),
            })
        }),
        any::<u64>().prop_map(|node| Command::RetireNode(RetireNode { node: NodeId(node) })),
    ]
}

/// Any key of a row.
pub(crate) fn row_key() -> BoxedStrategy<RowKey> {
    // Few numbers, so that keys often share parts and their order is decided by the rest.
    let number = || prop_oneof![0_u64..3, 254_u64..258, any::<u64>()];
    let at = move || (number().prop_map(QueueId), number().prop_map(Offset));
    let id = || prop_oneof![0_u128..300, any::<u128>()];
    prop_oneof![
        Just(RowKey::Meta),
        name().prop_map(RowKey::Namespace),
        id().prop_map(|id| RowKey::Producer(ProducerId(id))),
        (id(), number()).prop_map(|(id, chunk)| RowKey::ProducerChunk(ProducerId(id), chunk)),
        number().prop_map(|queue| RowKey::Queue(QueueId(queue))),
        id().prop_map(|id| RowKey::Session(SessionId(id))),
        at().prop_map(|(queue, offset)| RowKey::Run(queue, offset)),
        at().prop_map(|(queue, offset)| RowKey::Runs(queue, offset)),
        at().prop_map(|(queue, offset)| RowKey::Ready(queue, offset)),
        at().prop_map(|(queue, offset)| RowKey::Lease(queue, offset)),
        at().prop_map(|(queue, offset)| RowKey::Returned(queue, offset)),
        at().prop_map(|(queue, offset)| RowKey::Delayed(queue, offset)),
        at().prop_map(|(queue, offset)| RowKey::Parked(queue, offset)),
        at().prop_map(|(queue, offset)| RowKey::Deaths(queue, offset)),
        (at(), number()).prop_map(|((queue, at), bucket)| RowKey::Settled(queue, bucket, at)),
        at().prop_map(|(queue, offset)| RowKey::ReadySpans(queue, offset)),
        at().prop_map(|(queue, offset)| RowKey::ReturnedSpans(queue, offset)),
        at().prop_map(|(queue, offset)| RowKey::DelayedSpans(queue, offset)),
        (at(), number()).prop_map(|((queue, at), bucket)| RowKey::SettledSpans(queue, bucket, at)),
        (number(), number()).prop_map(|(queue, n)| RowKey::Attempt(QueueId(queue), n)),
        number().prop_map(|node| RowKey::Node(NodeId(node))),
    ]
    .boxed()
}

fn reason() -> impl Strategy<Value = DeathReason> {
    prop_oneof![
        Just(DeathReason::Rejected),
        Just(DeathReason::MaxDeliveries)
    ]
}

/// Any row.
pub(crate) fn row() -> BoxedStrategy<Row> {
    prop_oneof![cluster_row(), queue_row(), message_row()].boxed()
}

fn cluster_row() -> impl Strategy<Value = Row> {
    let meta = any::<(
        (u64, u64, u64),
        u64,
        u32,
        Option<(u128, u64)>,
        u64,
        u64,
        u64,
    )>();
    let remembered = any::<(u64, u64)>().prop_map(|(digest, id)| Remembered {
        digest,
        message_id: MessageId(id),
    });
    let openers = vec(
        any::<(u128, u32)>().prop_map(|(id, n)| (ProducerId(id), n)),
        0..4,
    );
    prop_oneof![
        meta.prop_map(
            |((applied_index, lease, wall), digest, version, boot, queue, id, lost)| {
                Row::Meta(MetaRow {
                    applied_index,
                    lease_now: LeaseTime(lease),
                    wall_now: WallTime(wall),
                    digest,
                    version,
                    bootstrap: boot,
                    next_queue: QueueId(queue),
                    next_message_id: MessageId(id),
                    unroutable: lost,
                })
            }
        ),
        Just(Row::Namespace),
        any::<(u128, bool)>().prop_map(|(disk, retired)| {
            let disk = DiskId(disk);
            Row::Node(NodeRow { disk, retired })
        }),
        (name(), of(name()), openers, any::<(u32, u64, u64, u64)>()).prop_map(
            |(namespace, name, openers, (epoch, last_sequence, first_remembered, used_at))| {
                Row::Producer(ProducerRow {
                    namespace,
                    name,
                    epoch,
                    openers,
                    last_sequence,
                    first_remembered,
                    used_at: WallTime(used_at),
                })
            }
        ),
        vec(remembered, 0..5).prop_map(Row::ProducerChunk),
    ]
}

fn queue_row() -> impl Strategy<Value = Row> {
    let session = any::<(u64, u32, Option<u64>, Option<u64>, Option<u64>)>();
    let attempt_range = any::<(u64, u32, u64)>().prop_map(|(offset, count, fence)| AttemptRange {
        first_offset: Offset(offset),
        count,
        first_fence: Fence(fence),
    });
    prop_oneof![
        (name(), name(), settings(), any::<[u64; 16]>()).prop_map(
            |(namespace, name, settings, numbers)| {
                Row::Queue(Box::new(queue(namespace, name, settings, numbers)))
            }
        ),
        (session, owner()).prop_map(|((queue, prefetch, lease_ms, turn, grace), owner)| {
            Row::Session(SessionRow {
                queue: QueueId(queue),
                owner,
                prefetch,
                lease_ms,
                turn,
                grace_until: grace.map(LeaseTime),
            })
        }),
        (
            vec(any::<u8>(), 0..130),
            any::<u64>(),
            vec(attempt_range, 0..4)
        )
            .prop_map(|(id, answered_at, leases)| {
                Row::Attempt(AttemptRow {
                    id,
                    answered_at: LeaseTime(answered_at),
                    leases,
                })
            }),
    ]
}

fn queue(namespace: String, name: String, settings: QueueSettings, n: [u64; 16]) -> QueueRow {
    let counters = Counters {
        published: n[0],
        published_bytes: n[1],
        dead_lettered_in: n[2],
        granted: n[3],
        redelivered: n[4],
        leases_expired: n[5],
        acknowledged: n[6],
        dead_lettered_out: n[7],
        expired: n[8],
        dropped: n[9],
        purged: n[10],
    };
    QueueRow {
        namespace,
        name,
        revision: n[11],
        settings,
        counters,
        next_offset: Offset(n[12]),
        next_fence: Fence(n[13]),
        next_turn: n[14],
        next_attempt: n[15],
    }
}

fn run() -> impl Strategy<Value = RunRow> {
    any::<((u32, u64), (u64, u32, u32), (u64, u64))>().prop_map(
        |((count, id), (index, place, item), (published_at, bytes))| RunRow {
            count,
            first_message_id: MessageId(id),
            body: BodyRef {
                position: Position { index, place },
                item,
            },
            published_at: WallTime(published_at),
            bytes,
        },
    )
}

/// Columns that may be left out get values or none at all.
fn runs() -> impl Strategy<Value = Row> {
    let series = (run(), 1..=u32::MAX, any::<(u64, u32, bool)>()).prop_map(
        |(run, runs, (id_step, place_step, alone))| {
            if alone {
                return RunSeries::one(run);
            }
            RunSeries {
                first: run,
                runs,
                id_step,
                place_step,
            }
        },
    );
    vec(series, 0..5).prop_map(Row::Runs)
}

fn message_row() -> impl Strategy<Value = Row> {
    let lease = any::<(u32, u64, Option<u128>, u64, u32)>();
    let death = (name(), reason(), name(), any::<(u64, u64, u64)>()).prop_map(
        |(queue, reason, routing_key, (count, first, last))| Death {
            queue,
            reason,
            count,
            first_time: WallTime(first),
            last_time: WallTime(last),
            routing_key,
        },
    );
    prop_oneof![
        run().prop_map(Row::Run),
        runs(),
        any::<u64>().prop_map(Row::Ready),
        vec((any::<u8>(), 1..=u64::MAX, any::<u64>()), 0..4).prop_map(|pieces| {
            let piece = |(at, count, value)| Piece { at, count, value };
            Row::Spans(pieces.into_iter().map(piece).collect())
        }),
        lease.prop_map(|(count, fence, session, deadline, delivery_count)| {
            Row::Lease(LeaseRow {
                count,
                first_fence: Fence(fence),
                session: session.map(SessionId),
                deadline: LeaseTime(deadline),
                delivery_count,
            })
        }),
        (1..=u64::MAX, any::<u32>())
            .prop_map(|(count, value)| Row::Returned(Span { count, value })),
        (1..=u64::MAX, any::<u64>().prop_map(LeaseTime))
            .prop_map(|(count, value)| Row::Delayed(Span { count, value })),
        (reason(), any::<u64>()).prop_map(|(reason, at)| Row::Parked(ParkedRow {
            reason,
            at: WallTime(at)
        })),
        vec(death, 0..4).prop_map(Row::Deaths),
        any::<(u64, u64)>().prop_map(|(count, fence)| {
            Row::Settled(SettledRow {
                count,
                first_fence: Fence(fence),
            })
        }),
    ]
}
