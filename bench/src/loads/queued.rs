//! What a long queue holds in memory.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::sleep;

use super::measured::Begun;
use super::{BODY_BYTES, producing};
use crate::drivers::Broker;
use crate::results::Figures;
use crate::servers::Servers;

pub(super) const MESSAGES: u64 = 1_000_000;
pub(super) const FILL_MAX: Duration = Duration::from_secs(120);
pub(super) const SETTLE: Duration = Duration::from_secs(3);
const QUEUE: &str = "queued";

pub(super) async fn measure<B: Broker>(servers: &Servers) -> Result<Figures> {
    let broker = B::connect(&servers.endpoints()).await?;
    broker.create_queue(QUEUE).await?;
    let confirmed = Arc::default();
    let body = producing::body(BODY_BYTES);
    let deadline = Instant::now() + FILL_MAX;
    let begun = Begun::now(servers, 0);
    producing::fill(&broker, QUEUE, MESSAGES, body, &confirmed, deadline).await?;
    let filled = begun.end(servers, confirmed.load(Relaxed), BODY_BYTES);
    sleep(SETTLE).await;
    let settled = begun.end(servers, confirmed.load(Relaxed), BODY_BYTES);
    broker.delete_queue(QUEUE).await?;
    Ok(Figures {
        resident_mib: settled.resident_mib,
        ..filled
    })
}
