//! What a producer has sent and not seen confirmed: pure bookkeeping, without a clock or a connection.
//!
//! The entries have consecutive sequences. Confirms take them from the front. A refusal stops the sending
//! until everything under way is decided, because the server refuses all that follows a refused message;
//! then either the same message is sent again, or it is given up and its sequence passes to the next one.

use std::collections::{BTreeMap, VecDeque};

use crate::error::Error;
use crate::message::Message;
use crate::publish::Published;
use ticketrail_proto::v1::{self, publish_exception::Kind};

/// How many messages one frame holds at most, as servers allow by default.
const FRAME_MESSAGES_MAX: usize = 100;
/// How many bytes one frame holds, unless a single message is larger.
const FRAME_BYTES_MAX: usize = 192 * 1024;

/// Refusals of one sequence after which no later one can succeed.
const FATAL: [&str; 4] = [
    "PRODUCER_FENCED",
    "UNKNOWN_PRODUCER",
    "SEQUENCE_REUSED",
    "OUT_OF_SEQUENCE",
];

#[derive(Debug)]
struct Entry<R> {
    item: v1::PublishItem,
    bytes: usize,
    reply: R,
    /// It was sent on a stream that broke: it may have been stored.
    unsure: bool,
}

/// `R` is whatever waits for the answer to one message.
#[derive(Debug)]
pub(super) struct Window<R> {
    first: u64,
    entries: VecDeque<Entry<R>>,
    sent: usize,
    sent_bytes: usize,
    refused: Option<Error>,
    decided: u64,
    strict: bool,
}

/// What a confirm did.
#[derive(Debug)]
pub(super) enum Progress {
    /// Go on.
    Going,
    /// The server cannot take the first message now: send it again later.
    Later(Error),
    /// No message of this producer can be stored any more.
    Fatal(Error),
}

impl<R> Window<R> {
    /// The first message will have the sequence `first`. Strict means that a refusal ends the producer, so
    /// that no sequence ever passes from one message to another.
    pub(super) fn new(first: u64, strict: bool) -> Self {
        Self {
            first,
            entries: VecDeque::new(),
            sent: 0,
            sent_bytes: 0,
            refused: None,
            decided: first - 1,
            strict,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Something was sent on this stream and is not decided.
    pub(super) fn is_waiting(&self) -> bool {
        self.sent > 0
    }

    pub(super) fn push(&mut self, item: v1::PublishItem, reply: R) {
        let bytes = item.message.as_ref().map_or(0, Message::size) + item.routing_key.len();
        self.entries.push_back(Entry {
            item,
            bytes,
            reply,
            unsure: false,
        });
    }

    /// A new stream: everything unconfirmed has to be sent again, and some of it may have been stored.
    pub(super) fn restart(&mut self) {
        self.entries
            .iter_mut()
            .take(self.sent)
            .for_each(|entry| entry.unsure = true);
        self.send_again();
    }

    /// The node confirmed all that it took: what is unconfirmed was surely not stored, and goes elsewhere.
    pub(super) fn not_taken(&mut self) {
        self.send_again();
    }

    fn send_again(&mut self) {
        self.sent = 0;
        self.sent_bytes = 0;
        self.refused = None;
        self.decided = self.first - 1;
    }

    /// How many messages the next frame would hold within the credit.
    pub(super) fn sendable(&self, credit_messages: usize, credit_bytes: usize) -> usize {
        if self.refused.is_some() {
            return 0;
        }
        let messages = credit_messages
            .saturating_sub(self.sent)
            .min(FRAME_MESSAGES_MAX);
        let mut frame_bytes = 0;
        let fits = |entry: &&Entry<R>| {
            frame_bytes += entry.bytes;
            let alone = frame_bytes == entry.bytes;
            let in_frame = alone || frame_bytes <= FRAME_BYTES_MAX;
            let in_credit = self.sent_bytes + frame_bytes <= credit_bytes;
            in_frame && (in_credit || (alone && self.sent == 0))
        };
        self.entries
            .iter()
            .skip(self.sent)
            .take(messages)
            .take_while(fits)
            .count()
    }

    /// Takes the next `count` messages, which `sendable` has counted.
    pub(super) fn take_frame(&mut self, count: usize) -> v1::PublishBatch {
        let first_sequence = self.first + self.sent as u64;
        let entries = self.entries.iter().skip(self.sent).take(count);
        let mut bytes = 0;
        let items = entries
            .inspect(|entry| bytes += entry.bytes)
            .map(|entry| entry.item.clone())
            .collect();
        self.sent += count;
        self.sent_bytes += bytes;
        v1::PublishBatch {
            first_sequence,
            items,
        }
    }

    /// Takes what a confirm decides and answers it through `answer`.
    pub(super) fn confirm(
        &mut self,
        confirm: v1::PublishConfirm,
        mut answer: impl FnMut(R, Result<Published, Error>),
    ) -> Progress {
        let last_sent = self.first + self.sent as u64 - 1;
        let through = confirm.through_sequence.min(last_sent);
        let mut decisions = Decisions::new(confirm);
        self.decided = self.decided.max(through);

        while self.sent > 0 && self.first <= through && self.refused.is_none() {
            let sequence = self.first;
            match decisions.of(sequence) {
                Ok(published) => {
                    let entry = self.pop();
                    self.first += 1;
                    answer(entry.reply, Ok(published));
                }
                Err(error) => self.refused = Some(error),
            }
        }
        if self.decided < last_sent {
            return Progress::Going;
        }
        match self.refused.take() {
            None => Progress::Going,
            Some(error) => self.rewind(error, answer),
        }
    }

    /// All that was under way is decided, and the first message of the window was refused.
    fn rewind(
        &mut self,
        error: Error,
        mut answer: impl FnMut(R, Result<Published, Error>),
    ) -> Progress {
        self.send_again();
        if error.is_retryable() {
            return Progress::Later(error);
        }
        if self.strict || FATAL.contains(&error.reason()) {
            return Progress::Fatal(error);
        }
        // The refused sequence was not consumed: it passes to the next message.
        let entry = self.pop();
        answer(entry.reply, Err(error));
        Progress::Going
    }

    /// Gives everything up. What was never sent, or was refused, surely has no effect; what a broken stream
    /// carried may have been stored.
    pub(super) fn fail(
        &mut self,
        error: &Error,
        mut answer: impl FnMut(R, Result<Published, Error>),
    ) {
        self.restart();
        for entry in self.entries.drain(..) {
            answer(
                entry.reply,
                Err(error.clone().with_outcome_unknown(entry.unsure)),
            );
        }
    }

    fn pop(&mut self) -> Entry<R> {
        let entry = self
            .entries
            .pop_front()
            .expect("only entries that were sent are decided");
        if self.sent > 0 {
            self.sent -= 1;
            self.sent_bytes -= entry.bytes;
        }
        entry
    }
}

/// The decisions of one confirm, by sequence.
struct Decisions {
    ranges: VecDeque<v1::ConfirmedRange>,
    exceptions: BTreeMap<u64, Kind>,
}

impl Decisions {
    fn new(confirm: v1::PublishConfirm) -> Self {
        let exceptions = confirm.exceptions.into_iter();
        Self {
            ranges: confirm.ranges.into(),
            exceptions: exceptions
                .filter_map(|one| Some((one.sequence, one.kind?)))
                .collect(),
        }
    }

    fn of(&mut self, sequence: u64) -> Result<Published, Error> {
        match self.exceptions.remove(&sequence) {
            Some(Kind::Refusal(refusal)) => Err(Error::from(&refusal)),
            Some(Kind::Result(result)) => Ok(Published {
                message_id: result.message_id,
                queues: result.queues,
                duplicate: result.duplicate,
                sequence,
                position: None,
            }),
            None => Ok(self.in_range(sequence)),
        }
    }

    fn in_range(&mut self, sequence: u64) -> Published {
        let over =
            |range: &v1::ConfirmedRange| range.first_sequence + u64::from(range.count) <= sequence;
        while self.ranges.front().is_some_and(over) {
            self.ranges.pop_front();
        }
        let range = self
            .ranges
            .front()
            .filter(|range| range.first_sequence <= sequence);
        range.map_or(
            Published {
                sequence,
                ..Default::default()
            },
            |range| Published {
                message_id: range.first_message_id + (sequence - range.first_sequence),
                queues: range.queues,
                duplicate: false,
                sequence,
                position: range.position,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tonic::Code;

    fn window(messages: u32) -> Window<u32> {
        let mut window = Window::new(1, false);
        for n in 0..messages {
            window.push(item(10), n);
        }
        window
    }

    fn item(bytes: usize) -> v1::PublishItem {
        let message = Some(Message::new(vec![0; bytes]).into());
        v1::PublishItem {
            message,
            ..Default::default()
        }
    }

    fn send(window: &mut Window<u32>) -> (u64, usize) {
        let frame = window.take_frame(window.sendable(1024, 1 << 30));
        (frame.first_sequence, frame.items.len())
    }

    fn confirm(through_sequence: u64, ranges: &[(u64, u32, u64)]) -> v1::PublishConfirm {
        let range =
            |&(first_sequence, count, first_message_id): &(u64, u32, u64)| v1::ConfirmedRange {
                first_sequence,
                count,
                first_message_id,
                queues: 1,
                position: None,
            };
        let ranges = ranges.iter().map(range).collect();
        v1::PublishConfirm {
            through_sequence,
            ranges,
            exceptions: vec![],
        }
    }

    fn refusing(
        mut confirm: v1::PublishConfirm,
        refused: &[(u64, Code, &str)],
    ) -> v1::PublishConfirm {
        for &(sequence, code, reason) in refused {
            let retry_after = (code == Code::ResourceExhausted).then_some(prost_types::Duration {
                seconds: 3,
                nanos: 0,
            });
            let kind = Some(Kind::Refusal(v1::Refusal {
                code: code.into(),
                reason: reason.into(),
                retry_after,
                ..Default::default()
            }));
            confirm
                .exceptions
                .push(v1::PublishException { sequence, kind });
        }
        confirm
    }

    type Answer = (u32, Result<u64, String>);

    fn answers(window: &mut Window<u32>, confirm: v1::PublishConfirm) -> (Progress, Vec<Answer>) {
        let mut answers = Vec::new();
        let progress = window.confirm(confirm, |reply, result| {
            let result = result
                .map(|one| one.message_id)
                .map_err(|e| e.reason().to_owned());
            answers.push((reply, result));
        });
        (progress, answers)
    }

    #[test]
    fn frames_keep_to_count_bytes_and_credit() {
        let mut window = window(250);
        assert_eq!(window.sendable(1024, 1 << 30), FRAME_MESSAGES_MAX);
        assert_eq!(send(&mut window), (1, 100));
        assert_eq!(window.sendable(130, 1 << 30), 30);
        assert_eq!(window.sendable(100, 1 << 30), 0);
        assert_eq!(window.sendable(1024, 1), 0);
        assert_eq!(send(&mut window), (101, 100));
        assert_eq!(send(&mut window), (201, 50));
        assert_eq!(window.sendable(1024, 1 << 30), 0);
    }

    #[test]
    fn a_large_message_travels_alone_even_beyond_the_credit_of_bytes() {
        let mut window = Window::new(1, false);
        window.push(item(1_000_000), 0);
        window.push(item(10), 1);
        assert_eq!(window.sendable(10, 1000), 1);
        send(&mut window);
        assert_eq!(window.sendable(10, 1000), 0);
        assert_eq!(window.sendable(10, 2_000_000), 1);
    }

    #[test]
    fn confirms_are_cumulative_and_find_their_ids() {
        let mut window = window(5);
        send(&mut window);
        let (_, first) = answers(&mut window, confirm(3, &[(1, 2, 70), (3, 1, 90)]));
        assert_eq!(first, [(0, Ok(70)), (1, Ok(71)), (2, Ok(90))]);
        let (_, again) = answers(&mut window, confirm(3, &[(1, 2, 70)]));
        assert!(again.is_empty());
        let (_, rest) = answers(&mut window, confirm(5, &[(4, 2, 91)]));
        assert_eq!(rest, [(3, Ok(91)), (4, Ok(92))]);
        assert!(window.is_empty() && !window.is_waiting());
    }

    #[test]
    fn a_broken_stream_sends_again_from_the_first_unconfirmed() {
        let mut window = window(5);
        send(&mut window);
        answers(&mut window, confirm(2, &[(1, 2, 70)]));
        window.restart();
        assert_eq!(send(&mut window), (3, 3));
    }

    #[test]
    fn what_a_node_that_stops_did_not_take_was_surely_not_stored() {
        let mut window = window(3);
        send(&mut window);
        answers(&mut window, confirm(1, &[(1, 1, 70)]));
        window.not_taken();
        let error = Error::new(Code::Unavailable, "NO_LEADER", "");
        let mut unknown = Vec::new();
        window.fail(&error, |_, result| {
            unknown.push(result.unwrap_err().is_outcome_unknown());
        });
        assert_eq!(unknown, [false, false]);
    }

    #[test]
    fn a_confirm_beyond_what_was_sent_confirms_only_what_was_sent() {
        let mut window = window(3);
        window.take_frame(1);
        let (_, got) = answers(&mut window, confirm(9, &[(1, 9, 70)]));
        assert_eq!(got, [(0, Ok(70))]);
        assert_eq!(window.len(), 2);
    }

    #[test]
    fn a_refused_message_gives_its_sequence_to_the_next() {
        let mut window = window(4);
        send(&mut window);
        let (_, got) = answers(
            &mut window,
            refusing(
                confirm(3, &[(1, 1, 70)]),
                &[
                    (2, Code::NotFound, "QUEUE_NOT_FOUND"),
                    (3, Code::FailedPrecondition, "OUT_OF_SEQUENCE"),
                ],
            ),
        );
        assert_eq!(got, [(0, Ok(70))]);
        assert_eq!(window.sendable(1024, 1 << 30), 0, "4 is still under way");
        let late = refusing(
            confirm(4, &[]),
            &[(4, Code::FailedPrecondition, "OUT_OF_SEQUENCE")],
        );
        let (progress, got) = answers(&mut window, late);
        assert!(matches!(progress, Progress::Going));
        assert_eq!(got, [(1, Err("QUEUE_NOT_FOUND".to_owned()))]);
        assert_eq!(send(&mut window), (2, 2));
        let (_, got) = answers(&mut window, confirm(3, &[(2, 2, 80)]));
        assert_eq!(got, [(2, Ok(80)), (3, Ok(81))]);
    }

    #[test]
    fn a_full_queue_is_tried_again_with_the_same_sequence() {
        let mut window = window(2);
        send(&mut window);
        let full = refusing(
            confirm(2, &[]),
            &[
                (1, Code::ResourceExhausted, "QUEUE_FULL"),
                (2, Code::FailedPrecondition, "OUT_OF_SEQUENCE"),
            ],
        );
        let (progress, got) = answers(&mut window, full);
        assert!(
            matches!(progress, Progress::Later(error) if error.retry_after() == Some(Duration::from_secs(3)))
        );
        assert!(got.is_empty());
        assert_eq!(send(&mut window), (1, 2));
    }

    #[test]
    fn a_strict_producer_ends_at_a_refusal_and_nothing_behind_it_was_stored() {
        let mut window = Window::new(1, true);
        (0..3).for_each(|n| window.push(item(10), n));
        window.take_frame(2);
        window.restart();
        window.take_frame(3);
        let refused = [
            (1, Code::NotFound, "QUEUE_NOT_FOUND"),
            (2, Code::FailedPrecondition, "OUT_OF_SEQUENCE"),
            (3, Code::FailedPrecondition, "OUT_OF_SEQUENCE"),
        ];
        let (progress, got) = answers(&mut window, refusing(confirm(3, &[]), &refused));
        assert!(got.is_empty());
        let Progress::Fatal(error) = progress else {
            panic!("{progress:?}")
        };
        let mut unknown = Vec::new();
        window.fail(&error, |_, result| {
            unknown.push(result.unwrap_err().is_outcome_unknown())
        });
        assert_eq!(
            unknown,
            [true, true, false],
            "1 and 2 were on a stream that broke"
        );
    }

    #[test]
    fn a_fenced_producer_is_over() {
        let mut window = window(2);
        send(&mut window);
        let fenced = refusing(
            confirm(2, &[]),
            &[(1, Code::FailedPrecondition, "PRODUCER_FENCED")],
        );
        let (progress, _) = answers(&mut window, fenced);
        let Progress::Fatal(error) = progress else {
            panic!("{progress:?}")
        };
        let mut failed = 0;
        window.fail(&error, |_, result| failed += u32::from(result.is_err()));
        assert_eq!((failed, window.len()), (2, 0));
    }
}
