//! A steady trickle, timed to microseconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use super::measured::Begun;
use super::{BODY_BYTES, PREFETCH, Span, producing};
use crate::drivers::{Broker, Publisher, Subscriber};
use crate::latencies::Latencies;
use crate::results::Figures;
use crate::servers::Servers;

/// Between two messages.
const EVERY: Duration = Duration::from_millis(1);
const QUEUE: &str = "paced";
/// How long nothing may come.
const STALLED_AFTER: Duration = Duration::from_secs(20);

pub(super) async fn measure<B: Broker>(servers: &Servers, span: Span) -> Result<Figures> {
    let broker = B::connect(&servers.endpoints()).await?;
    broker.create_queue(QUEUE).await?;
    let mut subscriber = broker.subscriber(QUEUE, 0, PREFETCH).await?;
    let publisher = broker.publisher(QUEUE, 0).await?;
    let origin = Instant::now();
    let count = |time: Duration| (time.as_millis() / EVERY.as_millis()) as u64;
    let (first, all) = (count(span.warm_up), count(span.warm_up + span.measured));
    let mut clock = Clock::start(origin, all);
    let sending = tokio::spawn(send(publisher, clock.due.take(), origin));

    let mut latencies = Latencies::new();
    let mut begun = None;
    let mut received = 0;
    while received < all {
        let bodies = tokio::time::timeout(STALLED_AFTER, subscriber.receive()).await;
        let now = origin.elapsed();
        let bodies = bodies.context("nothing came any more")??;
        subscriber.acknowledge().await?;
        for body in &bodies {
            if received >= first {
                latencies.record(now.saturating_sub(stamp(body)?));
            }
            received += 1;
        }
        if received >= first && begun.is_none() {
            begun = Some(Begun::now(servers, received));
        }
    }
    let begun = begun.context("nothing was measured")?;
    let mut figures = begun.end(servers, received, BODY_BYTES);
    figures.latency_ms = Some(latencies.quantiles());
    let late = sending.await?.context("the publisher")?;
    figures.late_ms = Some(late.quantiles());
    subscriber.close().await?;
    broker.delete_queue(QUEUE).await?;
    Ok(figures)
}

/// Publishes when it is told; gives how late it was told each time.
async fn send(
    mut publisher: impl Publisher,
    due: Option<mpsc::UnboundedReceiver<Duration>>,
    origin: Instant,
) -> Result<Latencies> {
    let mut due = due.context("the clock was taken")?;
    let (sent, mut confirms) = mpsc::unbounded_channel();
    let confirming = tokio::spawn(async move {
        while let Some(confirm) = confirms.recv().await {
            let confirm: crate::drivers::Confirm = confirm;
            confirm.await?;
        }
        anyhow::Ok(())
    });
    let plain = producing::body(BODY_BYTES);
    let mut late = Latencies::new();
    while let Some(at) = due.recv().await {
        late.record(origin.elapsed().saturating_sub(at));
        let confirm = publisher.publish(vec![stamped(&plain, at)]).await?;
        if sent.send(confirm).is_err() {
            break;
        }
    }
    drop(sent);
    confirming.await??;
    Ok(late)
}

/// The body, with the time in front.
fn stamped(plain: &Bytes, at: Duration) -> Bytes {
    let mut body = BytesMut::from(&plain[..]);
    body[..8].copy_from_slice(&(at.as_nanos() as u64).to_le_bytes());
    body.freeze()
}

fn stamp(body: &Bytes) -> Result<Duration> {
    ensure!(body.len() == BODY_BYTES, "a body of {} bytes", body.len());
    let first: [u8; 8] = body[..8].try_into()?;
    Ok(Duration::from_nanos(u64::from_le_bytes(first)))
}

/// A thread that says when a message is due: the timers of the runtime are only good to a millisecond.
struct Clock {
    due: Option<mpsc::UnboundedReceiver<Duration>>,
    stop: Arc<AtomicBool>,
}

impl Clock {
    /// So many times, counted from the origin.
    fn start(origin: Instant, times: u64) -> Self {
        let (told, due) = mpsc::unbounded_channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        thread::spawn(move || {
            // SAFETY: sets how exact the sleeps of this thread are; takes numbers only.
            unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000_u64) };
            for n in 1..=times {
                let at = EVERY * u32::try_from(n).unwrap_or(u32::MAX);
                thread::sleep(at.saturating_sub(origin.elapsed()));
                if stopped.load(Relaxed) || told.send(at).is_err() {
                    break;
                }
            }
        });
        Self {
            due: Some(due),
            stop,
        }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_carries_its_time() {
        let at = Duration::from_micros(1_234_567);
        let body = stamped(&producing::body(BODY_BYTES), at);
        assert_eq!(stamp(&body).expect("stamped"), at);
        assert!(stamp(&body.slice(1..)).is_err());
    }
}
