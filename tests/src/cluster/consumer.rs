//! Consuming on the raw interface: streams, long polls, settling by receipt.

use std::time::Duration;

use bytes::Bytes;
use ticketrail_proto::v1::consume_request::Frame as Ask;
use ticketrail_proto::v1::consume_response::Frame as Answer;
use ticketrail_proto::v1::{
    ConsumeCredit, ConsumeDrain, ConsumeOpen, ConsumeOpened, ConsumeRequest, ConsumeResponse,
    ConsumeSettlement, Delivery, ReceiveRequest, SettleItem, SettleKind, SettleOutcome,
    SettleRange, SettleRequest,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Clients, duration, secs, within};

/// An answer to `open` that takes longer is a stream that hangs.
const OPENED_IN: Duration = Duration::from_secs(30);

/// Asks to consume a queue of the default namespace.
#[must_use]
pub fn open(queue: &str) -> ConsumeOpen {
    ConsumeOpen {
        queue: queue.to_owned(),
        ..ConsumeOpen::default()
    }
}

/// An open consume stream. Dropped, it breaks off without a drain.
#[derive(Debug)]
pub struct Consumer {
    /// What the server answered to `open`.
    pub opened: ConsumeOpened,
    asks: mpsc::Sender<ConsumeRequest>,
    answers: Streaming<ConsumeResponse>,
}

impl Consumer {
    /// Opens a stream.
    ///
    /// # Errors
    /// Why not; `DEADLINE_EXCEEDED` when nothing is answered within 30 s.
    pub async fn open(clients: &Clients, open: ConsumeOpen) -> Result<Self, Status> {
        match timeout(OPENED_IN, Self::opened(clients, open)).await {
            Ok(opened) => opened,
            Err(_) => Err(Status::deadline_exceeded("nothing came back in time")),
        }
    }

    async fn opened(clients: &Clients, open: ConsumeOpen) -> Result<Self, Status> {
        let (asks, requests) = mpsc::channel(64);
        send(&asks, Ask::Open(open)).await?;
        let mut client = clients.consumer.clone();
        let mut answers = client
            .consume(ReceiverStream::new(requests))
            .await?
            .into_inner();
        match answers.message().await?.and_then(|answer| answer.frame) {
            Some(Answer::Opened(opened)) => Ok(Self {
                opened,
                asks,
                answers,
            }),
            other => Err(Status::internal(format!(
                "`opened` comes first, not {other:?}"
            ))),
        }
    }

    /// The next frame; nothing when the stream ended with OK.
    ///
    /// # Errors
    /// How the stream broke.
    pub async fn frame(&mut self) -> Result<Option<Answer>, Status> {
        loop {
            match self.answers.message().await? {
                None => return Ok(None),
                Some(ConsumeResponse { frame: Some(frame) }) => return Ok(Some(frame)),
                Some(ConsumeResponse { frame: None }) => {}
            }
        }
    }

    /// The next `count` deliveries; other frames that come in between are an error.
    ///
    /// # Errors
    /// How the stream broke.
    ///
    /// # Panics
    /// When they do not come in time.
    pub async fn deliveries(&mut self, count: usize) -> Result<Vec<Delivery>, Status> {
        let mut all = Vec::new();
        while all.len() < count {
            let frame = timeout(secs(10), self.frame()).await;
            match frame.unwrap_or_else(|_| panic!("{} of {count} deliveries came", all.len()))? {
                Some(Answer::Deliveries(frame)) => all.extend(frame.deliveries),
                other => {
                    return Err(Status::internal(format!(
                        "deliveries expected, not {other:?}"
                    )));
                }
            }
        }
        Ok(all)
    }

    /// The deliveries that come within this time.
    ///
    /// # Errors
    /// How the stream broke.
    pub async fn deliveries_for(&mut self, time: Duration) -> Result<Vec<Delivery>, Status> {
        let end = tokio::time::Instant::now() + time;
        let mut all = Vec::new();
        while let Ok(frame) = tokio::time::timeout_at(end, self.frame()).await {
            match frame? {
                Some(Answer::Deliveries(frame)) => all.extend(frame.deliveries),
                other => {
                    return Err(Status::internal(format!(
                        "deliveries expected, not {other:?}"
                    )));
                }
            }
        }
        Ok(all)
    }

    /// Settles ranges in one frame; the answer comes as a frame.
    ///
    /// # Errors
    /// The stream is closed.
    pub async fn settle(&self, ranges: Vec<SettleRange>) -> Result<(), Status> {
        send(&self.asks, Ask::Settlement(ConsumeSettlement { ranges })).await
    }

    /// Changes the credit.
    ///
    /// # Errors
    /// The stream is closed.
    pub async fn credit(&self, prefetch: u32) -> Result<(), Status> {
        send(
            &self.asks,
            Ask::Credit(ConsumeCredit {
                prefetch,
                prefetch_bytes: None,
            }),
        )
        .await
    }

    /// Asks for the end of deliveries.
    ///
    /// # Errors
    /// The stream is closed.
    pub async fn drain(&self, release_unsettled: bool) -> Result<(), Status> {
        send(&self.asks, Ask::Drain(ConsumeDrain { release_unsettled })).await
    }
}

/// A range of deliveries to settle.
#[must_use]
pub fn range(first: u64, last: u64, kind: SettleKind) -> SettleRange {
    let kind = kind as i32;
    SettleRange {
        first_delivery_id: first,
        last_delivery_id: last,
        kind,
        ..SettleRange::default()
    }
}

async fn send(asks: &mpsc::Sender<ConsumeRequest>, frame: Ask) -> Result<(), Status> {
    let request = ConsumeRequest { frame: Some(frame) };
    asks.send(request)
        .await
        .map_err(|_| Status::unavailable("the stream is closed"))
}

/// Takes up to `max` messages of a queue, waiting up to 5 s for the first.
///
/// # Errors
/// Why not.
pub async fn receive(clients: &Clients, queue: &str, max: u32) -> Result<Vec<Delivery>, Status> {
    let request = ReceiveRequest {
        queue: queue.to_owned(),
        max_messages: Some(max),
        wait: Some(duration(secs(5))),
        ..ReceiveRequest::default()
    };
    let answer = clients
        .consumer
        .clone()
        .receive(within(secs(15), request))
        .await?;
    Ok(answer.into_inner().deliveries)
}

/// Settles by receipts, all in one way.
///
/// # Errors
/// Why not.
pub async fn settle(
    clients: &Clients,
    queue: &str,
    receipts: &[Bytes],
    kind: SettleKind,
) -> Result<Vec<SettleOutcome>, Status> {
    let lease_duration = (kind == SettleKind::Extend).then(|| duration(secs(30)));
    let item = |receipt: &Bytes| SettleItem {
        receipt: receipt.clone(),
        kind: kind as i32,
        lease_duration,
        ..SettleItem::default()
    };
    settle_items(clients, queue, receipts.iter().map(item).collect()).await
}

/// Settles items.
///
/// # Errors
/// Why not.
pub async fn settle_items(
    clients: &Clients,
    queue: &str,
    items: Vec<SettleItem>,
) -> Result<Vec<SettleOutcome>, Status> {
    let request = SettleRequest {
        queue: queue.to_owned(),
        items,
        ..SettleRequest::default()
    };
    let answer = clients
        .consumer
        .clone()
        .settle(within(secs(10), request))
        .await?;
    Ok(answer
        .into_inner()
        .results
        .iter()
        .map(|result| result.outcome())
        .collect())
}

/// The body of a delivery.
#[must_use]
pub fn body(delivery: &Delivery) -> Bytes {
    delivery
        .message
        .as_ref()
        .map(|message| message.body.clone())
        .unwrap_or_default()
}
