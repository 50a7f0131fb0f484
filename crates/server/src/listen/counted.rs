//! Counts the bytes of requests before they are buffered.
//!
//! A gRPC message begins with five bytes, the last four of which are its length. When they have
//! come, the share of the budgets is taken; only then do they, and what follows them, reach the
//! decoder. A unary call that finds no room is refused at once; a stream waits, unread, so that
//! HTTP/2's flow control holds its client back. What is unread is bounded by the streams' windows
//! ([`crate::limits::STREAM_WINDOW_BYTES`]). A message whose rest does not come holds its share for
//! [`crate::limits::CALL_TIME_MAX`] at most: then its stream ends, as a call would.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body::{Frame, SizeHint};
use ticketrail_broker::{Admission, Bound, PublishBudget, Purse, Share};
use ticketrail_proto::error::{Problem, Reason};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};
use tonic::Status;
use tonic::body::Body;

use crate::limits;

const PUBLISH: &str = "/ticketrail.v1.PublisherService/Publish";
const PUBLISH_STREAM: &str = "/ticketrail.v1.PublisherService/PublishStream";
const CONSUME: &str = "/ticketrail.v1.ConsumerService/Consume";
const OURS: &str = "/ticketrail.v1.";
/// Compression flag and length.
const HEADER_BYTES: usize = 5;

/// What one message of a request takes of the budgets until it is answered.
#[derive(Debug)]
pub(crate) struct MessageShare {
    _node: Share,
    _connection: Option<Share>,
}

/// The shares of a request's messages, in their order. A request extension; what nobody takes is
/// given back with the call.
#[derive(Clone, Debug)]
pub(crate) struct MessageShares(Arc<Ledger>);

#[derive(Debug)]
struct Ledger {
    taken: Mutex<VecDeque<MessageShare>>,
    /// Since when a message waits for room.
    waiting: watch::Sender<Option<Instant>>,
}

impl MessageShares {
    fn new() -> Self {
        Self(Arc::new(Ledger {
            taken: Mutex::default(),
            waiting: watch::Sender::new(None),
        }))
    }

    /// The shares of a request that came through [`count`]; none are in it otherwise.
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Self {
        let shares = request.extensions().get::<Self>();
        shares.cloned().unwrap_or_else(Self::new)
    }

    /// The share of the next message: to be called once for each that was decoded.
    pub(crate) fn next(&self) -> Option<MessageShare> {
        self.taken().pop_front()
    }

    /// Since when a message waits for room, and each change of it.
    pub(crate) fn waiting(&self) -> watch::Receiver<Option<Instant>> {
        self.0.waiting.subscribe()
    }

    fn put(&self, share: MessageShare) {
        self.taken().push_back(share);
    }

    fn taken(&self) -> MutexGuard<'_, VecDeque<MessageShare>> {
        let taken = self.0.taken.lock();
        taken.unwrap_or_else(PoisonError::into_inner)
    }
}

/// The budgets that a call's messages are counted in.
#[derive(Clone, Debug)]
struct Budgets {
    node: Purse,
    connection: Option<Purse>,
    admission: Arc<Admission>,
    is_publish: bool,
}

impl Budgets {
    fn try_take(&self, bytes: usize) -> Result<MessageShare, Bound> {
        let connection = match &self.connection {
            Some(purse) => Some(purse.try_take(bytes).ok_or(Bound::ConnectionBytes)?),
            None => None,
        };
        let bound = match self.is_publish {
            true => Bound::PublishBytes,
            false => Bound::ReservedBytes,
        };
        Ok(MessageShare {
            _node: self.node.try_take(bytes).ok_or(bound)?,
            _connection: connection,
        })
    }

    async fn take(self, bytes: usize) -> MessageShare {
        let connection = match &self.connection {
            Some(purse) => Some(purse.take(bytes).await),
            None => None,
        };
        MessageShare {
            _node: self.node.take(bytes).await,
            _connection: connection,
        }
    }

    fn refuse(&self, bound: Bound) -> Status {
        let purse = match (bound, &self.connection) {
            (Bound::ConnectionBytes, Some(connection)) => connection,
            _ => &self.node,
        };
        let problem = self.admission.refuse(bound, purse.retry_after());
        problem.into_status()
    }
}

/// Makes the messages of a call count, where they are of a kind that does; the shares are for the
/// call's extensions and its answer.
pub(crate) fn count(
    path: &str,
    body: Body,
    admission: &Arc<Admission>,
    connection: Option<&PublishBudget>,
    message_bytes_max: usize,
) -> (Body, MessageShares) {
    let shares = MessageShares::new();
    if !path.starts_with(OURS) {
        return (body, shares);
    }
    let purse: Option<fn(&PublishBudget) -> Purse> = match path {
        PUBLISH => Some(PublishBudget::of_calls),
        PUBLISH_STREAM => Some(PublishBudget::of_streams),
        _ => None,
    };
    let budgets = Budgets {
        node: purse.map_or_else(
            || admission.reserved.clone().into(),
            |purse| purse(&admission.publish),
        ),
        connection: purse.zip(connection).map(|(purse, budget)| purse(budget)),
        admission: Arc::clone(admission),
        is_publish: purse.is_some(),
    };
    let counted = Counted {
        inner: body,
        budgets,
        waits: matches!(path, PUBLISH_STREAM | CONSUME),
        message_bytes_max,
        shares: shares.clone(),
        left: 0,
        whole_by: None,
        header: Vec::with_capacity(HEADER_BYTES),
        chunk: Bytes::new(),
        taking: None,
    };
    (Body::new(counted), shares)
}

/// Whether a call stores messages, and is answered once.
pub(crate) fn is_unary_publish(path: &str) -> bool {
    path == PUBLISH
}

struct Counted {
    inner: Body,
    budgets: Budgets,
    /// A stream waits for room; a call is refused.
    waits: bool,
    message_bytes_max: usize,
    shares: MessageShares,
    /// Bytes of the current message that are still to come.
    left: usize,
    /// When they must have come; set while they are waited for.
    whole_by: Option<Pin<Box<Sleep>>>,
    /// The bytes of a header that are here already and were not handed on.
    header: Vec<u8>,
    /// Came and was not handed on.
    chunk: Bytes,
    /// The share that a message waits for.
    taking: Option<BoxFuture<'static, MessageShare>>,
}

/// What a look at the chunk found.
enum Found {
    /// So many of its bytes may go on.
    Go(usize),
    /// A header that is not whole, or whose message must wait, begins the chunk.
    Header,
}

impl Counted {
    /// How far the chunk may go on: over messages whose shares could be taken at once.
    fn look(&mut self) -> Result<Found, Status> {
        let mut at = 0;
        while at < self.chunk.len() {
            let body = self.left.min(self.chunk.len() - at);
            at += body;
            self.left -= body;
            if self.left == 0 {
                self.whole_by = None;
            }
            let rest = &self.chunk[at..];
            if rest.is_empty() {
                break;
            }
            let Some(length) = length_of(rest) else { break };
            if !self.admit(length)? {
                break;
            }
            at += HEADER_BYTES;
            self.left = length;
        }
        Ok(match at {
            0 => Found::Header,
            at => Found::Go(at),
        })
    }

    /// Takes the share of a message; `false`: it must wait.
    fn admit(&mut self, length: usize) -> Result<bool, Status> {
        if length > self.message_bytes_max {
            // The decoder refuses it by its length, before anything is buffered.
            return Ok(true);
        }
        match self.budgets.try_take(length) {
            Ok(share) => self.shares.put(share),
            Err(_) if self.waits => return Ok(false),
            Err(bound) => return Err(self.budgets.refuse(bound)),
        }
        Ok(true)
    }

    /// Moves what there is of a header out of the chunk. When it is whole: hands it on, or waits.
    fn header(&mut self) -> Result<Option<Bytes>, Status> {
        let more = (HEADER_BYTES - self.header.len()).min(self.chunk.len());
        let more = self.chunk.split_to(more);
        self.header.extend_from_slice(&more);
        let Some(length) = length_of(&self.header) else {
            return Ok(None);
        };
        if self.admit(length)? {
            return Ok(Some(self.header_goes(length)));
        }
        let budgets = self.budgets.clone();
        self.shares.0.waiting.send_replace(Some(Instant::now()));
        self.taking = Some(budgets.take(length).boxed());
        Ok(None)
    }

    /// Nothing came: a message that has begun must be whole in time, as its share is held.
    fn poll_patience<T>(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, Status>>> {
        if self.left == 0 {
            return Poll::Pending;
        }
        let limit = limits::CALL_TIME_MAX;
        let whole_by = self.whole_by.get_or_insert_with(|| Box::pin(sleep(limit)));
        whole_by.as_mut().poll(cx).map(|()| {
            let message =
                format!("a message was begun, and the rest of it did not come within {limit:?}");
            Some(Err(
                Problem::new(Reason::DeadlinePassed, message).into_status()
            ))
        })
    }

    fn header_goes(&mut self, length: usize) -> Bytes {
        self.left = length;
        Bytes::from(std::mem::take(&mut self.header))
    }
}

fn length_of(header: &[u8]) -> Option<usize> {
    let length = header.get(1..HEADER_BYTES)?;
    let length = u32::from_be_bytes(length.try_into().ok()?);
    Some(length as usize)
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(taking) = &mut self.taking {
                let Poll::Ready(share) = taking.poll_unpin(cx) else {
                    return Poll::Pending;
                };
                self.taking = None;
                self.shares.0.waiting.send_replace(None);
                self.shares.put(share);
                let length = length_of(&self.header).unwrap_or_default();
                let header = self.header_goes(length);
                return Poll::Ready(Some(Ok(Frame::data(header))));
            }
            if self.chunk.is_empty() {
                let Poll::Ready(next) = Pin::new(&mut self.inner).poll_frame(cx) else {
                    return self.poll_patience(cx);
                };
                match next.map(|next| next.map(Frame::into_data)) {
                    Some(Ok(Ok(data))) => self.chunk = data,
                    Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                    Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                    None => return Poll::Ready(None),
                }
                continue;
            }
            if self.header.is_empty() {
                match self.look() {
                    Ok(Found::Go(bytes)) => {
                        let data = self.chunk.split_to(bytes);
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    Ok(Found::Header) => {}
                    Err(refused) => return Poll::Ready(Some(Err(refused))),
                }
            }
            match self.header() {
                Ok(Some(header)) => return Poll::Ready(Some(Ok(Frame::data(header)))),
                Ok(None) => {}
                Err(refused) => return Poll::Ready(Some(Err(refused))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let empty = self.chunk.is_empty() && self.header.is_empty() && self.taking.is_none();
        empty && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::{Stream, StreamExt, stream};
    use http_body::Body as _;
    use ticketrail_broker::AdmissionConfig;
    use ticketrail_proto::error::{Reason, reason_of, retry_after_of};

    use super::*;

    /// A body of these chunks.
    struct Chunks<S>(S);

    impl<S: Stream<Item = Bytes> + Unpin> http_body::Body for Chunks<S> {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            let next = self.0.poll_next_unpin(cx);
            next.map(|next| next.map(|data| Ok(Frame::data(data))))
        }
    }

    fn message(length: usize) -> Vec<u8> {
        let mut message = vec![0];
        message.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        message.extend((0..length).map(|place| place as u8));
        message
    }

    fn admission(bytes: u32) -> Arc<Admission> {
        Arc::new(Admission::new(AdmissionConfig {
            publish_bytes_max: bytes,
            reserved_bytes_max: bytes,
            ..AdmissionConfig::default()
        }))
    }

    fn body(path: &str, admission: &Arc<Admission>, chunks: Vec<Bytes>) -> (Body, MessageShares) {
        let body = Body::new(Chunks(stream::iter(chunks)));
        count(path, body, admission, None, 1_000)
    }

    async fn next(body: &mut Body) -> Option<Result<Bytes, Status>> {
        let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
        Some(frame.map(|frame| frame.into_data().unwrap()))
    }

    /// All that comes at once.
    fn at_once(body: &mut Body) -> Vec<u8> {
        let mut came = Vec::new();
        while let Some(Some(Ok(data))) = next(body).now_or_never() {
            came.extend_from_slice(&data);
        }
        came
    }

    #[test]
    fn every_byte_goes_through_however_it_is_cut() {
        let sent: Vec<u8> = [0, 3, 0, 700, 40].into_iter().flat_map(message).collect();
        for cut in 1..30 {
            let admission = admission(10_000);
            let chunks = sent.chunks(cut).map(Bytes::copy_from_slice).collect();
            let (mut body, shares) = body(PUBLISH_STREAM, &admission, chunks);
            assert_eq!(at_once(&mut body), sent, "cut at {cut}");
            assert_eq!(admission.publish.used(), 743);
            let taken: Vec<_> = std::iter::from_fn(|| shares.next()).collect();
            assert_eq!(taken.len(), 5);
            drop(taken);
            assert_eq!(admission.publish.used(), 0);
        }
    }

    #[test]
    fn a_stream_waits_for_room_and_loses_nothing() {
        let sent: Vec<u8> = [60, 60, 30].into_iter().flat_map(message).collect();
        for cut in [1, 7, 64, 1_000] {
            let admission = admission(120);
            let chunks = sent.chunks(cut).map(Bytes::copy_from_slice).collect();
            let (mut body, shares) = body(PUBLISH_STREAM, &admission, chunks);
            let first = at_once(&mut body);
            assert_eq!(
                first,
                sent[..65],
                "the first message goes on alone, cut at {cut}"
            );
            assert!(shares.waiting().borrow().is_some());
            drop(shares.next());
            let rest = at_once(&mut body);
            assert_eq!(rest, sent[65..], "cut at {cut}");
            assert!(shares.waiting().borrow().is_none());
            drop((shares, body));
            assert_eq!(admission.publish.used(), 0, "given back with the call");
        }
    }

    #[tokio::test]
    async fn a_call_is_refused_at_once_and_says_when_to_come_back() {
        let admission = admission(400);
        let held = admission.publish.of_streams().try_take(300).unwrap();
        let chunks = || vec![Bytes::from(message(60))];
        let (mut stream, _stream) = body(PUBLISH_STREAM, &admission, chunks());
        assert!(at_once(&mut stream).is_empty(), "it waits");
        // Calls do not wait behind it: a part is theirs.
        let (mut call, call_shares) = body(PUBLISH, &admission, chunks());
        assert_eq!(at_once(&mut call).len(), 65);
        let (mut refused, _refused) = body(PUBLISH, &admission, chunks());
        let status = next(&mut refused).await.unwrap().unwrap_err();
        assert_eq!(reason_of(&status), Some(Reason::Overloaded));
        assert!(retry_after_of(&status).is_some());
        assert_eq!(admission.refusals().of(Bound::PublishBytes), 1);
        drop(call_shares.next());
        let (mut again, _again) = body(PUBLISH, &admission, chunks());
        assert_eq!(at_once(&mut again).len(), 65, "there is room again");
        // Settles have a budget of their own.
        let (mut settle, _settle) = body(
            "/ticketrail.v1.ConsumerService/Settle",
            &admission,
            chunks(),
        );
        assert_eq!(at_once(&mut settle).len(), 65);
        drop((held, stream, again, settle));
        drop((_stream, _again, _settle));
        assert_eq!(
            (admission.publish.used(), admission.reserved.used()),
            (0, 0)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_whose_rest_does_not_come_ends_its_stream_and_holds_nothing() {
        for path in [PUBLISH_STREAM, CONSUME] {
            let admission = admission(200);
            let begun = Bytes::from([message(40), message(100)[..60].to_vec()].concat());
            let inner = Chunks(stream::iter([begun]).chain(stream::pending()));
            let (mut body, shares) = count(path, Body::new(inner), &admission, None, 1_000);
            assert_eq!(at_once(&mut body).len(), 45 + 60);
            let began = Instant::now();
            let status = next(&mut body).await.unwrap().unwrap_err();
            assert_eq!(reason_of(&status), Some(Reason::DeadlinePassed));
            assert_eq!(began.elapsed(), limits::CALL_TIME_MAX);
            drop((body, shares));
            let used = (admission.publish.used(), admission.reserved.used());
            assert_eq!(used, (0, 0), "{path}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn between_messages_a_stream_may_be_silent_for_ever() {
        let admission = admission(200);
        let later = stream::once(async {
            tokio::time::sleep(limits::CALL_TIME_MAX * 10).await;
            Bytes::from(message(30))
        });
        let inner = Chunks(Box::pin(
            stream::iter([Bytes::from(message(40))]).chain(later),
        ));
        let (mut body, _shares) = count(CONSUME, Body::new(inner), &admission, None, 1_000);
        assert_eq!(at_once(&mut body).len(), 45);
        assert_eq!(next(&mut body).await.unwrap().unwrap().len(), 35);
    }

    #[test]
    fn a_stream_that_is_dropped_while_it_waits_holds_nothing() {
        let admission = admission(100);
        let connection = PublishBudget::new(104);
        let chunks = vec![Bytes::from([message(70), message(70)].concat())];
        let inner = Body::new(Chunks(stream::iter(chunks)));
        let (mut body, shares) = count(PUBLISH_STREAM, inner, &admission, Some(&connection), 1_000);
        assert_eq!(at_once(&mut body).len(), 75);
        // What waits is given what there is, until there is enough.
        assert_eq!((admission.publish.used(), connection.used()), (70, 78));
        drop((body, shares));
        assert_eq!((admission.publish.used(), connection.used()), (0, 0));
    }
}
