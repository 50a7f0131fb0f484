//! One consumer of a run.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use ticketrail_client::{Consumer, Settling};
use tokio::sync::{mpsc, watch};

use super::counts::Counts;
use super::stamp::Stamps;
use crate::failure::{Failure, Result};
use crate::verbs::receive::is_settled;

pub(super) struct Consuming {
    pub(super) consumer: Consumer,
    pub(super) queue: String,
    /// Among the consumers, from 0.
    pub(super) place: usize,
    pub(super) prefetch: u32,
    pub(super) counts: Arc<Counts>,
    pub(super) stamps: Stamps,
    pub(super) stop: watch::Receiver<bool>,
}

/// An acknowledgement that is under way.
struct Acknowledging {
    at: u64,
    settling: Settling,
}

impl Consuming {
    /// Acknowledges all that comes, until it is told to stop.
    pub(super) async fn run(self) -> Result {
        let Self {
            consumer,
            queue,
            place,
            prefetch,
            counts,
            stamps,
            stop,
        } = self;
        let (acknowledged, answers) = mpsc::channel(prefetch as usize);
        let counting = count(answers, &counts, place);
        let taking = take(
            consumer,
            &queue,
            place,
            &counts,
            &stamps,
            stop,
            acknowledged,
        );
        let (taken, counted) = tokio::join!(taking, counting);
        taken?;
        counted
    }
}

async fn take(
    mut consumer: Consumer,
    queue: &str,
    place: usize,
    counts: &Counts,
    stamps: &Stamps,
    mut stop: watch::Receiver<bool>,
    acknowledged: mpsc::Sender<Acknowledging>,
) -> Result {
    let mut stopped = std::pin::pin!(stop.wait_for(|stop| *stop));
    loop {
        let delivery = tokio::select! {
            delivery = consumer.next() => delivery,
            _ = &mut stopped => break,
        };
        let Some(delivery) = delivery.transpose()? else {
            break;
        };
        let Some(at) = stamps.at(delivery.body()) else {
            let id = delivery.message_id();
            delivery.release();
            // What was asked for is settled; why it ends is known.
            let _ = consumer.close().await;
            return Err(Failure::Refused(format!(
                "message {id} of queue `{queue}` is not of this run: somebody else publishes to it"
            )));
        };
        counts.record(&counts.deliver, place, at);
        counts.received.fetch_add(1, Relaxed);
        if delivery.delivery_count() > 1 {
            counts.redelivered.fetch_add(1, Relaxed);
        }
        let acknowledging = Acknowledging {
            at: counts.now(),
            settling: delivery.ack(),
        };
        if acknowledged.send(acknowledging).await.is_err() {
            break;
        }
    }
    drop(acknowledged);
    Ok(consumer.close().await?)
}

/// Looks at the answers in their order.
async fn count(
    mut answers: mpsc::Receiver<Acknowledging>,
    counts: &Counts,
    place: usize,
) -> Result {
    while let Some(Acknowledging { at, settling }) = answers.recv().await {
        if is_settled(settling.await?) {
            counts.record(&counts.acknowledge, place, at);
            counts.acknowledged.fetch_add(1, Relaxed);
        } else {
            counts.lost.fetch_add(1, Relaxed);
        }
    }
    Ok(())
}
