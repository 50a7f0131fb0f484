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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::*;
    use crate::*;
    use std::vec;

    use std::vec::Vec;

    const NOTHING: Vec<RefusedItem> = Vec::new();

    fn range_of(first_item: u32, count: u32, id: u64, queues: u32, again: bool) -> AcceptedRange {
        AcceptedRange {
            first_item,
            count,
            first_message_id: MessageId(id),
            queues,
            duplicate: again,
        }
    }

    fn published(outcome: Outcome) -> (Vec<AcceptedRange>, Vec<RefusedItem>) {
        match outcome {
            Outcome::Published { accepted, refused } => (accepted, refused),
            other => panic!("{other:?}"),
        }
    }

    /// A claimed publish: digests are the sequences plus `salt`.
    fn claimed(epoch: u32, first_sequence: u64, runs: &[(&str, u32)], salt: u64) -> Publish {
        let Command::Publish(mut publish) = publish_runs(runs) else {
            panic!("not a publish");
        };
        let count: u32 = runs.iter().map(|(_, count)| count).sum();
        publish.atomic = false;
        publish.runs.iter_mut().for_each(|run| run.mandatory = true);
        publish.producer = Some(ProducerSequence {
            id: ProducerId(1),
            epoch,
            first_sequence,
            digests: (0..u64::from(count))
                .map(|k| first_sequence.wrapping_add(k).wrapping_add(salt))
                .collect(),
        });
        publish
    }

    fn with_producer() -> Script {
        let mut script = Script::with_queues(&["q"]);
        open(&mut script, 1);
        script
    }

    fn open(script: &mut Script, fresh_id: u128) {
        script.run(Command::OpenProducer(crate::command::OpenProducer {
            namespace: "default".into(),
            name: Some("p".into()),
            fresh_id: ProducerId(fresh_id),
        }));
    }

    #[test]
    fn messages_get_ids_and_offsets_in_order() {
        let mut script = Script::with_queues(&["q", "r"]);
        let outcome = script.run(publish_runs(&[("q", 2), ("r", 1), ("q", 3), ("none", 2)]));
        let accepted = vec![range_of(0, 6, 1, 1, false), range_of(6, 2, 7, 0, false)];
        assert_eq!(published(outcome), (accepted, NOTHING));
        assert_eq!(script.counts("q"), [5, 0, 0, 0]);
        assert_eq!(script.state.unroutable(), 2);
        assert_eq!(script.queue("q").bytes, 50);
        assert_eq!(script.events, vec!["q1 ready", "q2 ready"]);
        let peeked = script.state.peek(QueueId(1), None, Offset(1), 2);
        let told: Vec<_> = peeked
            .iter()
            .map(|p| (p.offset.0, p.message_id.0, p.body.item))
            .collect();
        assert_eq!(told, vec![(1, 2, 1), (2, 4, 3)]);
    }

    #[test]
    fn bad_shapes_are_refused() {
        let mut script = Script::with_queues(&["q"]);
        let field = |rejection| match rejection {
            Rejection::InvalidField { field, .. } => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(script.refused(publish_runs(&[]))), "runs");
        assert_eq!(field(script.refused(publish("q", 1_001))), "runs");
        assert_eq!(
            field(script.refused(publish_runs(&[("q", 1), ("q", 0)]))),
            "runs.count"
        );
        let mut short = claimed(1, 1, &[("q", 2)], 0);
        short.producer.as_mut().unwrap().digests.pop();
        assert_eq!(
            field(script.refused(Command::Publish(short))),
            "producer.digests"
        );
        let mut elsewhere = claimed(1, 1, &[("q", 2)], 0);
        elsewhere.namespace = "none".into();
        let rejection = script.refused(Command::Publish(elsewhere));
        assert!(matches!(rejection, Rejection::NamespaceNotFound { .. }));
    }

    #[test]
    fn a_retry_is_stored_once() {
        let mut script = with_producer();
        let mut go = |first, count, salt| {
            published(script.run(Command::Publish(claimed(1, first, &[("q", count)], salt))))
        };
        assert_eq!(go(1, 3, 0), (vec![range_of(0, 3, 1, 1, false)], NOTHING));
        assert_eq!(go(1, 3, 0), (vec![range_of(0, 3, 1, 0, true)], NOTHING));
        let both = vec![range_of(0, 1, 3, 0, true), range_of(1, 2, 4, 1, false)];
        assert_eq!(go(3, 3, 0), (both, NOTHING));
        let reused = RefusedItem {
            item: 0,
            rejection: Rejection::SequenceReused { sequence: 5 },
        };
        assert_eq!(go(5, 1, 1), (vec![], vec![reused]));
        let gap = RefusedItem {
            item: 0,
            rejection: Rejection::OutOfSequence { expected: 6 },
        };
        assert_eq!(go(7, 1, 0), (vec![], vec![gap]));
        assert_eq!(script.counts("q"), [5, 0, 0, 0]);
    }

    #[test]
    fn old_epochs_unknown_producers_and_bad_claims_are_told() {
        let mut script = with_producer();
        open(&mut script, 2);
        let mut why = |publish: Publish| {
            let (accepted, refused) = published(script.run(Command::Publish(publish)));
            assert_eq!(accepted, vec![]);
            refused[0].rejection.clone()
        };
        let fenced = Rejection::ProducerFenced { current_epoch: 2 };
        assert_eq!(why(claimed(1, 1, &[("q", 1)], 0)), fenced);
        let epoch = why(claimed(3, 1, &[("q", 1)], 0));
        assert!(matches!(
            epoch,
            Rejection::InvalidField {
                field: "producer.epoch",
                ..
            }
        ));
        let zero = why(claimed(2, 0, &[("q", 1)], 0));
        let field = "producer.first_sequence";
        assert!(matches!(zero, Rejection::InvalidField { field: f, .. } if f == field));
        let mut stranger = claimed(2, 1, &[("q", 1)], 0);
        stranger.producer.as_mut().unwrap().id = ProducerId(99);
        assert_eq!(why(stranger), Rejection::UnknownProducer);
        let far = Rejection::OutOfSequence { expected: 1 };
        assert_eq!(why(claimed(2, u64::MAX, &[("q", 2)], 0)), far);
    }

    #[test]
    fn a_refused_message_consumes_no_sequence() {
        let mut script = with_producer();
        let runs = [("q", 1), ("none", 1), ("q", 1)];
        let outcome = script.run(Command::Publish(claimed(1, 1, &runs, 0)));
        let (accepted, refused) = published(outcome);
        assert_eq!(accepted, vec![range_of(0, 1, 1, 1, false)]);
        let unroutable = Rejection::Unroutable {
            routing_key: "none".into(),
        };
        let gap = Rejection::OutOfSequence { expected: 2 };
        let reasons: Vec<_> = refused.into_iter().map(|r| (r.item, r.rejection)).collect();
        assert_eq!(reasons, vec![(1, unroutable), (2, gap)]);
        script.run(create("none", QueueSettings::default()));
        let (accepted, refused) = published(script.run(Command::Publish(claimed(1, 1, &runs, 0))));
        assert_eq!(refused, NOTHING);
        assert_eq!(
            accepted,
            vec![range_of(0, 1, 1, 0, true), range_of(1, 2, 2, 1, false)]
        );
    }

    #[test]
    fn an_atomic_publish_names_what_is_wrong_in_itself() {
        let mut script = with_producer();
        let mut publish = claimed(1, 1, &[("q", 1), ("none", 1), ("q", 1)], 0);
        publish.atomic = true;
        let (accepted, refused) = published(script.run(Command::Publish(publish.clone())));
        assert_eq!(accepted, vec![]);
        let unroutable = Rejection::Unroutable {
            routing_key: "none".into(),
        };
        let reasons: Vec<_> = refused.into_iter().map(|r| r.rejection).collect();
        let whole = Rejection::BatchRefused;
        assert_eq!(reasons, vec![whole.clone(), unroutable, whole]);
        assert_eq!(script.counts("q"), [0, 0, 0, 0]);
        script.run(create("none", QueueSettings::default()));
        let (accepted, _) = published(script.run(Command::Publish(publish)));
        assert_eq!(accepted, vec![range_of(0, 3, 1, 1, false)]);
    }

    #[test]
    fn what_is_no_longer_remembered_is_a_duplicate_without_id() {
        let mut script = with_producer();
        for first in [1, 1_001] {
            script.run(Command::Publish(claimed(1, first, &[("q", 1_000)], 0)));
        }
        let window = limits::PRODUCER_WINDOW_MAX as u64;
        let oldest = 2_001 - window;
        let outcome = script.run(Command::Publish(claimed(1, oldest - 2, &[("q", 4)], 0)));
        let forgotten = range_of(0, 2, 0, 0, true);
        let known = range_of(2, 2, oldest, 0, true);
        assert_eq!(published(outcome), (vec![forgotten, known], NOTHING));
    }

    #[test]
    fn a_new_epoch_goes_on_where_the_old_one_stood() {
        let mut script = with_producer();
        script.run(Command::Publish(claimed(1, 1, &[("q", 2)], 0)));
        open(&mut script, 2);
        let outcome = script.run(Command::Publish(claimed(2, 2, &[("q", 2)], 0)));
        let accepted = vec![range_of(0, 1, 2, 0, true), range_of(1, 1, 3, 1, false)];
        assert_eq!(published(outcome), (accepted, NOTHING));
    }
}
