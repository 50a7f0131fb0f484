//! One `PublishStream`: frames of messages in, confirms out, in order, with a bounded number of
//! messages under way.

use std::collections::VecDeque;

use futures::FutureExt;
use ticketrail_broker::{Confirm, Producer, PublishStream, Published};
use ticketrail_proto::error::Problem;
use ticketrail_proto::v1::{self, publish_stream_request, publish_stream_response};
use tokio::time::{Instant, timeout};
use tonic::Streaming;

use super::flow::Flow;
use super::stream::{Gone, Outbox, next_frame};
use crate::convert::{self, Checked, Trace};
use crate::limits;
use crate::listen::{MessageShare, MessageShares};
use crate::node::SharedNode;
use crate::spans::Publishing;

type Frames = Streaming<v1::PublishStreamRequest>;
type Out = Outbox<v1::PublishStreamResponse>;

/// Serves one stream to its end.
pub(super) async fn serve(
    node: SharedNode,
    trace: Trace,
    mut frames: Frames,
    shares: MessageShares,
    mut outbox: Out,
) {
    let opened = tokio::select! {
        opened = open(&node, &mut frames) => opened,
        () = node.stopping.drains() => Err(node.shutting_down()),
        () = outbox.gone() => return,
    };
    let end = match opened {
        Ok((stream, opened, next_sequence)) => {
            outbox.push(frame(publish_stream_response::Frame::Opened(opened)));
            // That of the first frame, which is answered.
            drop(shares.next());
            let session = Session {
                flow: Flow::new(node.broker.admission(), &shares),
                shares,
                node,
                trace,
                stream,
                next_sequence,
                under_way: VecDeque::new(),
                messages: 0,
                bytes: 0,
            };
            session.run(frames, &mut outbox).await
        }
        Err(problem) => Err(End::Problem(problem)),
    };
    match end {
        Ok(()) => outbox.end(Ok(())).await,
        Err(End::Problem(problem)) => outbox.end(Err(problem)).await,
        Err(End::Gone) => {}
    }
}

/// Why a stream ends other than well.
enum End {
    Problem(Problem),
    Gone,
}

impl From<Problem> for End {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

fn frame(frame: publish_stream_response::Frame) -> v1::PublishStreamResponse {
    v1::PublishStreamResponse { frame: Some(frame) }
}

fn first_frame_missing() -> Problem {
    Problem::invalid_field("open", "the first frame of the stream, and only the first")
}

async fn open(
    node: &SharedNode,
    frames: &mut Frames,
) -> Checked<(PublishStream, v1::PublishOpened, NextSequence)> {
    let first = timeout(limits::OPEN_WAIT_MAX, next_frame(frames)).await;
    let first = first.unwrap_or_else(|_| Err(first_frame_missing()))?;
    let Some(publish_stream_request::Frame::Open(open)) = first.and_then(|first| first.frame)
    else {
        return Err(first_frame_missing());
    };
    convert::namespace(&open.namespace).map_err(|problem| problem.inside("open"))?;
    let producer = producer(&open)?;
    let last_sequence = last_sequence(node, &open.namespace, producer).await?;
    let opened = v1::PublishOpened {
        last_sequence,
        credit_messages: limits::STREAM_CREDIT_MESSAGES,
        credit_bytes: limits::STREAM_CREDIT_BYTES,
        leader_address: node.leader_elsewhere().unwrap_or_default(),
    };
    let next = NextSequence {
        next: last_sequence + 1,
        may_repeat: producer.is_some(),
    };
    Ok((
        node.broker.publish_stream(&open.namespace, producer),
        opened,
        next,
    ))
}

fn producer(open: &v1::PublishOpen) -> Checked<Option<Producer>> {
    if open.producer_id.is_empty() {
        if open.epoch != 0 {
            return Err(Problem::invalid_field("open.epoch", "0 without a producer"));
        }
        return Ok(None);
    }
    let id = convert::producer_id(&open.producer_id, "open.producer_id")?;
    if open.epoch == 0 {
        return Err(Problem::invalid_field(
            "open.epoch",
            "the epoch that OpenProducer gave",
        ));
    }
    Ok(Some(Producer {
        id,
        epoch: open.epoch,
    }))
}

/// Where the producer stands; 0 without one. Says at once whether it is known and not fenced.
async fn last_sequence(
    node: &SharedNode,
    namespace: &str,
    producer: Option<Producer>,
) -> Checked<u64> {
    let deadline = Instant::now() + limits::DEADLINE_DEFAULT;
    let namespace = convert::namespace_or_default(namespace);
    let read = node.broker.read(deadline, |state| {
        let known = producer.map(|producer| state.producer(namespace, producer.id));
        (state.has_namespace(namespace), known)
    });
    let (has_namespace, known) = read.await?;
    if !has_namespace {
        return Err(Problem::namespace_not_found(namespace));
    }
    use ticketrail_core::Rejection;
    match (producer, known) {
        (None, _) | (_, None) => Ok(0),
        (Some(_), Some(None)) => Err(Problem::from(&Rejection::UnknownProducer)),
        (Some(mine), Some(Some(known))) if mine.epoch < known.epoch => {
            Err(Problem::from(&Rejection::ProducerFenced {
                current_epoch: known.epoch,
            }))
        }
        (Some(mine), Some(Some(known))) if mine.epoch > known.epoch => Err(Problem::invalid_field(
            "open.epoch",
            "the epoch that OpenProducer gave",
        )),
        (Some(_), Some(Some(known))) => Ok(known.last_sequence),
    }
}

/// The sequence that must come next, and whether an older one may.
struct NextSequence {
    next: u64,
    may_repeat: bool,
}

impl NextSequence {
    fn take(&mut self, first: u64, count: u64) -> Checked<()> {
        let fits = if self.may_repeat {
            first <= self.next
        } else {
            first == self.next
        };
        if first == 0 || !fits {
            let or_less = if self.may_repeat {
                ", or one that is sent again"
            } else {
                ""
            };
            let must = format!("{}, the next one{or_less}; it is {first}", self.next);
            return Err(Problem::invalid_field("batch.first_sequence", must));
        }
        let end = first.checked_add(count);
        let end = end.ok_or_else(|| Problem::invalid_field("batch.first_sequence", "smaller"))?;
        self.next = self.next.max(end);
        Ok(())
    }
}

struct Session {
    node: SharedNode,
    flow: Flow,
    shares: MessageShares,
    trace: Trace,
    stream: PublishStream,
    next_sequence: NextSequence,
    /// Each frame that is not confirmed.
    under_way: VecDeque<UnderWay>,
    /// Their messages and bytes.
    messages: u64,
    bytes: u64,
}

/// What a frame holds until it is confirmed.
struct UnderWay {
    messages: u64,
    bytes: u64,
    publishing: Publishing,
    _share: Option<MessageShare>,
}

impl Session {
    async fn run(mut self, mut frames: Frames, outbox: &mut Out) -> Result<(), End> {
        let (mut open, mut leaving) = (true, false);
        let (alone, stopping) = (self.node.alone.clone(), self.node.stopping.clone());
        // Made once: each takes a lock to begin and one to end.
        let (ends, drains, is_alone) = (stopping.ends(), stopping.drains(), alone.begins());
        tokio::pin!(ends, drains, is_alone);
        loop {
            if !open && self.under_way.is_empty() && outbox.is_empty() {
                return match leaving {
                    true => self.leave(outbox),
                    false => Ok(()),
                };
            }
            let takes = open && !outbox.is_full() && !self.flow.is_blocked();
            tokio::select! {
                biased;
                () = &mut ends => return Err(self.node.cut_off().into()),
                () = &mut is_alone => return Err(self.node.lost_quorum().into()),
                () = &mut drains, if open => {
                    // What is not read by now is never taken.
                    (open, leaving) = (false, true);
                }
                sent = outbox.advance() => sent?,
                flow = self.flow.next(), if !outbox.is_full() => {
                    outbox.push(frame(publish_stream_response::Frame::Flow(flow)));
                }
                // Also while the client does not read: what is under way has a share of what others wait for. No more
                // is taken from it then, so that at most a window of confirms waits.
                Some(confirm) = self.stream.next() => self.confirm(confirm, outbox)?,
                frame = next_frame(&mut frames), if takes => match frame? {
                    Some(frame) => self.take(frame)?,
                    None => open = false,
                },
            }
        }
    }

    /// All that was taken is confirmed: the client goes on elsewhere.
    fn leave(&self, outbox: &mut Out) -> Result<(), End> {
        let go_away = v1::GoAway {
            addresses: self.node.elsewhere(),
        };
        outbox.push(frame(publish_stream_response::Frame::GoAway(go_away)));
        Err(self.node.shutting_down().into())
    }

    fn take(&mut self, frame: v1::PublishStreamRequest) -> Result<(), End> {
        let share = self.shares.next();
        let Some(publish_stream_request::Frame::Batch(batch)) = frame.frame else {
            return Err(match frame.frame {
                Some(_) => first_frame_missing().into(),
                None => Problem::invalid_field("frame", "`batch`").into(),
            });
        };
        let inside = |problem: Problem| problem.inside("batch");
        let mut publishing = self.node.spans.publishing(&batch.items, &self.trace);
        let messages =
            convert::batch(batch.items, &self.node.limits, &self.trace).map_err(inside)?;
        let count = messages.len() as u64;
        let bytes = messages
            .iter()
            .map(|message| message.message.len() as u64)
            .sum();
        self.next_sequence.take(batch.first_sequence, count)?;
        publishing.handed_over();
        self.count_in(count, bytes, publishing, share)?;
        self.stream.send(batch.first_sequence, messages);
        Ok(())
    }

    /// Holds the client to its credit, which is within what the broker's stream may have unconfirmed.
    fn count_in(
        &mut self,
        count: u64,
        bytes: u64,
        publishing: Publishing,
        share: Option<MessageShare>,
    ) -> Checked<()> {
        let over_messages = self.messages + count > u64::from(limits::STREAM_CREDIT_MESSAGES);
        let over_bytes = self.messages > 0 && self.bytes + bytes > limits::STREAM_CREDIT_BYTES;
        if over_messages || over_bytes {
            let must = format!(
                "within the credit: {} messages and {} bytes unconfirmed; wait for confirms",
                limits::STREAM_CREDIT_MESSAGES,
                limits::STREAM_CREDIT_BYTES
            );
            return Err(Problem::invalid_field("batch.items", must));
        }
        self.under_way.push_back(UnderWay {
            messages: count,
            bytes,
            publishing,
            _share: share,
        });
        self.messages += count;
        self.bytes += bytes;
        Ok(())
    }

    fn count_refused(&self, published: &Published) {
        for item in &published.refused {
            let reason = Problem::from(&item.rejection).reason();
            self.node.calls.refused(reason);
        }
    }

    /// Tells a confirm, and those that are there already, in one frame.
    fn confirm(&mut self, first: Confirm, outbox: &mut Out) -> Result<(), End> {
        let mut told = v1::PublishConfirm::default();
        let mut next = first;
        let mut together = 0;
        let ended = loop {
            let Confirm {
                first_sequence,
                count,
                result,
            } = next;
            if let Some(frame) = self.under_way.pop_front() {
                self.messages -= frame.messages;
                self.bytes -= frame.bytes;
                frame.publishing.done(result.as_ref());
            }
            match result {
                Ok(published) => {
                    self.count_refused(&published);
                    convert::confirm(first_sequence, count, &published, &mut told);
                }
                Err(problem) => break Some(problem),
            }
            together += 1;
            if together == limits::CONFIRMS_TOGETHER_MAX || self.under_way.is_empty() {
                break None;
            }
            match self.stream.next().now_or_never().flatten() {
                Some(more) => next = more,
                None => break None,
            }
        };
        if together > 0 {
            outbox.push(frame(publish_stream_response::Frame::Confirm(told)));
        }
        ended.map_or(Ok(()), |problem| Err(problem.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_go_on_or_repeat_but_never_skip() {
        let mut next = NextSequence {
            next: 5,
            may_repeat: true,
        };
        assert!(next.take(6, 1).is_err() && next.take(0, 1).is_err());
        assert!(next.take(u64::MAX, 1).is_err());
        assert!(next.take(5, 3).is_ok() && next.take(2, 2).is_ok());
        assert_eq!(next.next, 8);
        let mut strict = NextSequence {
            next: 1,
            may_repeat: false,
        };
        assert!(strict.take(1, 2).is_ok() && strict.take(1, 2).is_err());
        assert!(strict.take(3, u64::MAX).is_err());
    }
}
