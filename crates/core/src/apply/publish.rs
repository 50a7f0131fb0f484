//! `Publish`.
//!
//! First every message gets its verdict, in ranges, with nothing changed; then the accepted ones
//! are stored. A verdict of "next in sequence" counts the messages before it in the same publish
//! as stored: those that are accepted, and in an atomic publish also those that are refused for
//! their routing, so that only what is wrong in itself is named.

use alloc::vec::Vec;

use super::{Answer, check};
use crate::command::{ProducerSequence, Publish, PublishRun};
use crate::id::{MessageId, Position, QueueId};
use crate::limits;
use crate::message::BodyRef;
use crate::outcome::{AcceptedRange, Outcome, RefusedItem, Rejection};
use crate::producer::{Producer, window};
use crate::queue::{low32, share};
use crate::row::RunRow;
use crate::state::State;

/// What becomes of neighbouring messages of one run.
enum Verdict {
    /// Stored in the queue, or accepted and kept nowhere.
    New {
        run: usize,
        first_item: u32,
        count: u32,
        queue: Option<QueueId>,
    },
    /// Stored before under this id, or 0.
    Duplicate { item: u32, id: MessageId },
    /// Refused.
    Refused(RefusedItem),
}

impl State {
    pub(super) fn publish(&mut self, at: Position, command: &Publish) -> Answer {
        let count = count_messages(command)?;
        if !self.has_namespace(&command.namespace) {
            return Err(Rejection::NamespaceNotFound {
                namespace: command.namespace.clone(),
            });
        }
        let verdicts = self.judge(command);
        let refused = verdicts
            .iter()
            .any(|verdict| matches!(verdict, Verdict::Refused(_)));
        if command.atomic && refused {
            return Ok(refuse_all(verdicts, count));
        }
        Ok(self.store(at, command, verdicts))
    }

    fn judge(&self, command: &Publish) -> Vec<Verdict> {
        let mut judge = Judge::new(self, command);
        let mut first_item = 0;
        for (place, run) in command.runs.iter().enumerate() {
            let queue = self.queue_id(&command.namespace, &run.routing_key);
            judge.run(place, first_item, run, queue);
            first_item = first_item.saturating_add(run.count);
        }
        judge.verdicts
    }

    fn store(&mut self, at: Position, command: &Publish, verdicts: Vec<Verdict>) -> Outcome {
        let mut accepted: Vec<AcceptedRange> = Vec::new();
        let mut refused = Vec::new();
        for verdict in verdicts {
            let range = match verdict {
                Verdict::New {
                    run,
                    first_item,
                    count,
                    queue,
                } => {
                    let id = self.take_ids(count);
                    self.note_stored(command, first_item, count, id);
                    let body = BodyRef {
                        position: at,
                        item: first_item,
                    };
                    if let Some(run) = command.runs.get(run) {
                        self.put(queue, run, body, count, id);
                    }
                    AcceptedRange {
                        first_item,
                        count,
                        first_message_id: id,
                        queues: u32::from(queue.is_some()),
                        duplicate: false,
                    }
                }
                Verdict::Duplicate { item, id } => AcceptedRange {
                    first_item: item,
                    count: 1,
                    first_message_id: id,
                    queues: 0,
                    duplicate: true,
                },
                Verdict::Refused(item) => {
                    refused.push(item);
                    continue;
                }
            };
            add_accepted(&mut accepted, range);
        }
        if let (Some(claim), false) = (&command.producer, accepted.is_empty()) {
            let window = window(self.producers.len());
            if let Some(producer) = self.producers.get_mut(&claim.id) {
                producer.trim(window);
            }
            self.use_producer(claim.id);
        }
        Outcome::Published { accepted, refused }
    }

    fn take_ids(&mut self, count: u32) -> MessageId {
        let id = self.next_message_id;
        match id.0.checked_add(u64::from(count)) {
            Some(next) => self.next_message_id = MessageId(next),
            None => self.shared.halt("message ids are used up"),
        }
        id
    }

    fn note_stored(&mut self, command: &Publish, first_item: u32, count: u32, id: MessageId) {
        let Some(claim) = &command.producer else {
            return;
        };
        let first = first_item as usize;
        let digests = claim
            .digests
            .get(first..first.saturating_add(count as usize));
        if let (Some(digests), Some(producer)) = (digests, self.producers.get_mut(&claim.id)) {
            producer.store(digests, id);
        }
    }

    fn put(
        &mut self,
        queue: Option<QueueId>,
        run: &PublishRun,
        body: BodyRef,
        count: u32,
        id: MessageId,
    ) {
        let Some(queue) = queue else {
            self.unroutable = self.unroutable.saturating_add(u64::from(count));
            return;
        };
        let published_at = self.shared.wall_now;
        let Some((queue, shared)) = self.change(queue) else {
            return self.shared.halt("a message was routed to no queue");
        };
        let row = RunRow {
            count,
            first_message_id: id,
            body,
            published_at,
            bytes: share(run.bytes, count, run.count),
        };
        let counters = &mut queue.counters;
        counters.published = counters.published.saturating_add(u64::from(count));
        counters.published_bytes = counters.published_bytes.saturating_add(row.bytes);
        queue.append(row, shared);
    }
}

/// Messages of a publish, or what is wrong with its shape.
fn count_messages(command: &Publish) -> Result<u32, Rejection> {
    let total: u64 = command.runs.iter().map(|run| u64::from(run.count)).sum();
    check(
        (1..=limits::PUBLISH_MESSAGES_MAX as u64).contains(&total),
        "runs",
        "hold 1 to 1,000 messages together",
    )?;
    check(
        command.runs.iter().all(|run| run.count > 0),
        "runs.count",
        "be at least 1",
    )?;
    if let Some(claim) = &command.producer {
        check(
            claim.digests.len() as u64 == total,
            "producer.digests",
            "be as many as messages",
        )?;
    }
    Ok(low32(total))
}

struct Judge<'a> {
    claim: Option<&'a ProducerSequence>,
    producer: Option<&'a Producer>,
    /// The next sequence, if what was accepted so far is stored.
    expected: u64,
    atomic: bool,
    verdicts: Vec<Verdict>,
}

impl<'a> Judge<'a> {
    fn new(state: &'a State, command: &'a Publish) -> Self {
        let claim = command.producer.as_ref();
        let producer = claim
            .and_then(|claim| state.producers.get(&claim.id))
            .filter(|producer| producer.row.namespace == command.namespace);
        Self {
            claim,
            producer,
            expected: producer.map_or(1, |known| known.row.last_sequence.saturating_add(1)),
            atomic: command.atomic,
            verdicts: Vec::new(),
        }
    }

    fn run(&mut self, place: usize, first_item: u32, run: &PublishRun, queue: Option<QueueId>) {
        let unroutable = queue.is_none() && run.mandatory;
        if !unroutable && self.is_next(first_item) {
            self.expected = self.expected.saturating_add(u64::from(run.count));
            self.verdicts.push(Verdict::New {
                run: place,
                first_item,
                count: run.count,
                queue,
            });
            return;
        }
        for item in (0..run.count).map(|k| first_item.saturating_add(k)) {
            let verdict = self.one(place, item, run, queue);
            self.verdicts.push(verdict);
        }
    }

    fn one(
        &mut self,
        place: usize,
        item: u32,
        run: &PublishRun,
        queue: Option<QueueId>,
    ) -> Verdict {
        match self.sequence(item) {
            Err(rejection) => return Verdict::Refused(RefusedItem { item, rejection }),
            Ok(Some(id)) => return Verdict::Duplicate { item, id },
            Ok(None) => {}
        }
        let routed = queue.is_some() || !run.mandatory;
        if self.claim.is_some() && (routed || self.atomic) {
            self.expected = self.expected.saturating_add(1);
        }
        if !routed {
            let routing_key = run.routing_key.clone();
            let rejection = Rejection::Unroutable { routing_key };
            return Verdict::Refused(RefusedItem { item, rejection });
        }
        Verdict::New {
            run: place,
            first_item: item,
            count: 1,
            queue,
        }
    }

    /// Can this message and those that follow it be stored as far as their producer goes?
    fn is_next(&self, item: u32) -> bool {
        self.claim.is_none() || matches!(self.sequence(item), Ok(None))
    }

    /// Nothing for the next message in sequence, the id of one seen before.
    fn sequence(&self, item: u32) -> Result<Option<MessageId>, Rejection> {
        let Some(claim) = self.claim else {
            return Ok(None);
        };
        let producer = self.producer.ok_or(Rejection::UnknownProducer)?;
        if claim.epoch < producer.row.epoch {
            return Err(Rejection::ProducerFenced {
                current_epoch: producer.row.epoch,
            });
        }
        let opened = claim.epoch == producer.row.epoch;
        check(opened, "producer.epoch", "be an epoch that was opened")?;
        let sequence = claim.first_sequence.saturating_add(u64::from(item));
        check(sequence > 0, "producer.first_sequence", "be at least 1")?;
        if sequence == self.expected && sequence < u64::MAX {
            return Ok(None);
        }
        if sequence > producer.row.last_sequence {
            return Err(Rejection::OutOfSequence {
                expected: self.expected,
            });
        }
        match producer.remembered(sequence) {
            None => Ok(Some(MessageId(0))),
            Some(there) if claim.digests.get(item as usize) == Some(&there.digest) => {
                Ok(Some(there.message_id))
            }
            Some(_) => Err(Rejection::SequenceReused { sequence }),
        }
    }
}

/// The answer to an atomic publish that was refused: every message, each with its reason.
fn refuse_all(verdicts: Vec<Verdict>, count: u32) -> Outcome {
    let mut refused: Vec<RefusedItem> = Vec::with_capacity(count as usize);
    let mut named = verdicts
        .into_iter()
        .filter_map(|verdict| match verdict {
            Verdict::Refused(item) => Some(item),
            _ => None,
        })
        .peekable();
    for item in 0..count {
        let rejection = named
            .next_if(|refused| refused.item == item)
            .map_or(Rejection::BatchRefused, |refused| refused.rejection);
        refused.push(RefusedItem { item, rejection });
    }
    Outcome::Published {
        accepted: Vec::new(),
        refused,
    }
}

/// Adds accepted items, together with neighbours that were accepted alike.
fn add_accepted(accepted: &mut Vec<AcceptedRange>, next: AcceptedRange) {
    if let Some(last) = accepted.last_mut() {
        let unknown = MessageId(0);
        let follows = last.first_message_id.0.checked_add(u64::from(last.count));
        let id_follows = match (last.first_message_id, next.first_message_id) {
            (last, next) if last == unknown || next == unknown => last == next,
            (_, next) => follows == Some(next.0),
        };
        if id_follows
            && last.first_item.checked_add(last.count) == Some(next.first_item)
            && (last.queues, last.duplicate) == (next.queues, next.duplicate)
        {
            last.count = last.count.saturating_add(next.count);
            return;
        }
    }
    accepted.push(next);
}
