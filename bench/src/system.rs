//! What is measured.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::loads::Load;

#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum System {
    Ticketrail,
    Rabbitmq,
    /// NATS JetStream, syncing before each confirm.
    NatsSync,
    /// NATS JetStream as it comes.
    Nats,
    /// One node.
    Redis,
    /// A primary and two replicas.
    RedisWait,
    /// What no broker over gRPC can do without, and nothing else.
    Floor,
}

impl System {
    pub(crate) const ALL: [Self; 7] = [
        Self::Ticketrail,
        Self::Rabbitmq,
        Self::NatsSync,
        Self::Nats,
        Self::Redis,
        Self::RedisWait,
        Self::Floor,
    ];

    /// As a heading.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Ticketrail => "Ticketrail",
            Self::Rabbitmq => "RabbitMQ",
            Self::NatsSync => "NATS, sync always",
            Self::Nats => "NATS, default",
            Self::Redis => "Redis, 1 node",
            Self::RedisWait => "Redis, WAIT 1",
            Self::Floor => "gRPC and fsync alone",
        }
    }

    /// How it is set up, and what a confirm of it promises.
    pub(crate) fn setup(self) -> &'static str {
        match self {
            Self::Ticketrail => {
                "three nodes, default settings. A confirm: fsynced on a majority and applied."
            }
            Self::Rabbitmq => {
                "three nodes, a quorum queue with three members; default settings but for `+sbwt none` (its \
                 guide's advice where CPUs are shared: idle schedulers do not spin). A confirm: written and \
                 fsynced by a majority."
            }
            Self::NatsSync => {
                "three nodes, JetStream stream with `replicas: 3`, file storage, work-queue retention, \
                 `sync_interval: always`. A confirm: written and fsynced by a majority."
            }
            Self::Nats => {
                "the same with the default `sync_interval` (2 min). A confirm: written by a majority, into the \
                 page cache: it does not wait for a disk, so a power cut of all nodes may lose confirmed messages."
            }
            Self::Redis => {
                "ONE node, `appendonly yes`, `appendfsync always`, a stream with a consumer group. A confirm: \
                 fsynced on that node. No replication: when the node or its disk is lost, so are the messages."
            }
            Self::RedisWait => {
                "a primary and two replicas, all with `appendfsync always`; `WAIT 1` after each batch. A confirm: \
                 fsynced on the primary, and received by one replica (Redis 7.0 promises no more of it; `WAITAOF` \
                 came with 7.2). There is no election: without Sentinel a lost primary stays lost, and with it \
                 a replica that lacks confirmed messages may be chosen."
            }
            Self::Floor => {
                "no broker, but what none over gRPC can do without: one process takes messages by the same tonic \
                 streams, writes and fsyncs them, and sends them to two others by bare TCP, which do the same; all that \
                 waits goes together. A confirm, and the delivery to the consumer whose turn it is: fsynced on a \
                 majority; acknowledgements are stored with the next messages. No election, no state, no checksums, \
                 nothing can be read again (`src/floor`). What is left between it and Ticketrail is Ticketrail's."
            }
        }
    }

    pub(crate) fn nodes(self) -> usize {
        match self {
            Self::Redis => 1,
            _ => 3,
        }
    }

    /// The nodes whose fsync a confirm has to wait for, to be called durable here.
    pub(crate) fn majority(self) -> usize {
        self.nodes() / 2 + 1
    }

    /// Whether what it stored can be read again.
    pub(crate) fn is_broker(self) -> bool {
        self != Self::Floor
    }

    /// Whether it can be put under this load.
    pub(crate) fn does(self, load: Load) -> bool {
        match self {
            // No other node takes over by itself when one is lost.
            Self::Redis | Self::RedisWait => load != Load::Failover,
            // What it stored is gone, and it has no election.
            Self::Floor => !matches!(load, Load::Drain | Load::Failover | Load::Queued),
            _ => true,
        }
    }
}
