//! What is measured: the same shapes for every system.

mod consuming;
mod drain;
mod failover;
mod flow;
mod fsyncs;
mod measured;
mod paced;
mod producing;
mod queued;
mod sync;
mod syscalls;

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::drivers::Broker;
use crate::page::number;
use crate::results::Figures;
use crate::servers::Servers;

/// Publishers, and as many consumers.
const CLIENTS: usize = 8;
/// Unconfirmed messages of each publisher, where it does not wait for each.
const WINDOW: u32 = 1_000;
/// Unacknowledged messages of each consumer.
const PREFETCH: u16 = 1_000;
/// Messages that a publisher hands to its library in one go.
const BATCH: u32 = 50;
/// Body bytes, but for the drain.
const BODY_BYTES: usize = 1_024;

/// Of a load that has no end of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    /// Load before it is measured.
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Load {
    /// Publish, deliver and acknowledge at once.
    EndToEnd,
    /// Publish into a growing queue.
    Publish,
    /// 64 publishers that wait for each confirm.
    #[value(name = "sync-64")]
    #[serde(rename = "sync-64")]
    Sync64,
    /// One publisher that waits for each confirm.
    #[value(name = "sync-1")]
    #[serde(rename = "sync-1")]
    Sync1,
    /// A steady 1,000 messages a second, from publish to receive.
    Paced,
    /// Emptying a queue.
    Drain,
    /// Whether a confirm waits for fsyncs, and of how many nodes.
    Fsyncs,
    /// Kill -9 of the leader.
    Failover,
    /// A million messages in a queue.
    Queued,
}

impl Load {
    pub(crate) const ALL: [Self; 9] = [
        Self::EndToEnd,
        Self::Publish,
        Self::Sync64,
        Self::Sync1,
        Self::Paced,
        Self::Drain,
        Self::Fsyncs,
        Self::Failover,
        Self::Queued,
    ];

    /// Whether one round tells all.
    pub(crate) fn is_done_once(self) -> bool {
        matches!(self, Self::Queued | Self::Fsyncs)
    }

    /// Whether what other loads left in the servers would falsify it.
    pub(crate) fn wants_new_servers(self) -> bool {
        self == Self::Queued
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::EndToEnd => "Publish, deliver, acknowledge",
            Self::Publish => "Publish only",
            Self::Sync64 => "64 synchronous publishers",
            Self::Sync1 => "One synchronous publisher",
            Self::Paced => "Publish to receive at 1,000 messages/s",
            Self::Drain => "Drain",
            Self::Failover => "Leader killed with -9 to the next confirm",
            Self::Queued => "A million messages queued",
            Self::Fsyncs => "Fsyncs, as strace counts them",
        }
    }

    /// The shape, for the page.
    pub(crate) fn shape(self) -> String {
        match self {
            Self::EndToEnd => format!(
                "{CLIENTS} publishers with at most {WINDOW} unconfirmed messages each, handed over in batches of {BATCH}, {CLIENTS} consumers with at most \
                 {PREFETCH} unacknowledged ones each, {BODY_BYTES} B bodies, one queue; publishers pause while \
                 {} messages are in the system. A message counts when its consumer has it and has told its \
                 library to acknowledge it.",
                number(flow::IN_SYSTEM_MAX as f64, 0)
            ),
            Self::Publish => format!(
                "{CLIENTS} publishers with at most {WINDOW} unconfirmed messages each, {BODY_BYTES} B bodies, one queue that \
                 nobody consumes. A message counts when it is confirmed."
            ),
            Self::Sync64 => format!(
                "{} publishers that each wait for the confirm before they go on, over {CLIENTS} connections (Redis: \
                 one each), {BODY_BYTES} B bodies.",
                sync::MANY
            ),
            Self::Sync1 => {
                format!("One publisher, one message after the other, {BODY_BYTES} B bodies.")
            }
            Self::Paced => format!(
                "One publisher, one consumer, {BODY_BYTES} B bodies. Latency counts from the moment at which a message \
                 was due, which a thread of its own keeps to."
            ),
            Self::Drain => format!(
                "{} messages of {} B are queued, then {CLIENTS} consumers take and acknowledge them; from the first \
                 delivery to the last.",
                number(drain::MESSAGES as f64, 0),
                drain::BODY_BYTES
            ),
            Self::Failover => format!(
                "A publisher on a node that survives sends a message every {} ms; from the kill to the first confirm \
                 of a message sent after it. {} kills in each round.",
                failover::EVERY.as_millis(),
                failover::KILLS
            ),
            Self::Queued => format!(
                "{} messages of {BODY_BYTES} B, published as above, lie in one queue; resident memory of all server \
                 processes {} s later. Filling stops after {} s.",
                number(queued::MESSAGES as f64, 0),
                queued::SETTLE.as_secs(),
                queued::FILL_MAX.as_secs()
            ),
            Self::Fsyncs => format!(
                "Each system under strace (which slows it down), {} s each under the loads of one synchronous \
                 publisher and of publish only. One publisher waits for each confirm, so whoever syncs for each of them \
                 syncs as often; the count does not show which of the two comes first.",
                fsyncs::SECONDS.as_secs()
            ),
        }
    }
}

/// Puts a running system under a load.
pub(crate) async fn measure<B: Broker>(
    load: Load,
    servers: &mut Servers,
    span: Span,
) -> Result<Vec<Figures>> {
    let one = match load {
        Load::EndToEnd => flow::end_to_end::<B>(servers, span).await,
        Load::Publish => flow::publish::<B>(servers, span).await,
        Load::Sync64 => sync::many::<B>(servers, span).await,
        Load::Sync1 => sync::one::<B>(servers, span).await,
        Load::Paced => paced::measure::<B>(servers, span).await,
        Load::Drain => drain::measure::<B>(servers).await,
        Load::Queued => queued::measure::<B>(servers).await,
        Load::Fsyncs => fsyncs::measure::<B>(servers).await,
        Load::Failover => return failover::measure::<B>(servers).await,
    };
    Ok(vec![one?])
}
