//! Idempotent producers: opening, and the check of one sequence number.

use ticketrail_core::command::{OpenProducer, ProducerSequence};
use ticketrail_core::outcome::{Outcome, Rejection};
use ticketrail_core::{MessageId, ProducerId, limits};

use super::state::{Model, Producer};
use super::{Answer, normal::invalid, queues::check_name};

/// What the producer's check says of one message.
pub(super) enum Claim {
    /// Next in sequence.
    Fresh,
    /// Stored before under this id; 0 where that is forgotten.
    Stored(MessageId),
}

impl Model {
    pub(super) fn open_producer(&mut self, c: &OpenProducer) -> Answer {
        if let Some(name) = &c.name {
            check_name("name", name)?;
        }
        self.need_namespace(&c.namespace)?;
        let same = self.producers.get(&c.fresh_id);
        if same.is_some_and(|p| p.namespace != c.namespace || p.name != c.name) {
            return Err(invalid("fresh_id"));
        }
        let id = same.map(|_| c.fresh_id).or_else(|| self.producer_named(c));
        if let Some(id) = id {
            return Ok(self.open_again(id, c.fresh_id));
        }
        if self.producers.len() >= limits::PRODUCERS_MAX {
            let (what, limit) = ("producers", limits::PRODUCERS_MAX as u64);
            return Err(Rejection::TooMany { what, limit });
        }
        let producer = Producer {
            namespace: c.namespace.clone(),
            name: c.name.clone(),
            epoch: 1,
            openers: vec![(c.fresh_id, 1)],
            last_sequence: 0,
            window: Vec::new(),
            used_at: self.wall_now,
        };
        self.producers.insert(c.fresh_id, producer);
        Ok(Outcome::Producer {
            id: c.fresh_id,
            epoch: 1,
            last_sequence: 0,
        })
    }

    fn producer_named(&self, c: &OpenProducer) -> Option<ProducerId> {
        let name = c.name.as_ref()?;
        let mut all = self.producers.iter();
        let found = all.find(|(_, p)| p.namespace == c.namespace && p.name.as_ref() == Some(name));
        found.map(|(id, _)| *id)
    }

    fn open_again(&mut self, id: ProducerId, fresh_id: ProducerId) -> Outcome {
        let now = self.wall_now;
        let producer = self.producers.get_mut(&id).expect("just found");
        let last_sequence = producer.last_sequence;
        let mut openers = producer.openers.iter();
        let before = openers.find(|(opener, _)| *opener == fresh_id);
        let before = before.map(|(_, epoch)| *epoch);
        // The first opener may be forgotten as such, but the id is still its own.
        let before = before.or((id == fresh_id).then_some(1));
        if let Some(epoch) = before {
            self.reached("producer opening asked again");
            return Outcome::Producer {
                id,
                epoch,
                last_sequence,
            };
        }
        producer.epoch = producer.epoch.saturating_add(1);
        producer.used_at = now;
        let epoch = producer.epoch;
        producer.openers.push((fresh_id, epoch));
        let too_many = producer.openers.len();
        let too_many = too_many.saturating_sub(limits::PRODUCER_OPENERS_MAX);
        producer.openers.drain(..too_many);
        self.reached("producer re-opened");
        Outcome::Producer {
            id,
            epoch,
            last_sequence,
        }
    }

    /// How many messages of each producer are remembered.
    pub(super) fn window_size(&self) -> usize {
        let share = limits::PRODUCER_WINDOWS_TOTAL / self.producers.len().max(1);
        share.clamp(limits::PRODUCER_WINDOW_MIN, limits::PRODUCER_WINDOW_MAX)
    }
}

/// The check of message `k` of a publish, in the order that the specification gives.
pub(super) fn check_claim(
    producer: Option<&Producer>,
    claim: &ProducerSequence,
    k: usize,
) -> Result<Claim, Rejection> {
    let Some(producer) = producer else {
        return Err(Rejection::UnknownProducer);
    };
    if claim.epoch < producer.epoch {
        let current_epoch = producer.epoch;
        return Err(Rejection::ProducerFenced { current_epoch });
    }
    if claim.epoch > producer.epoch {
        return Err(invalid("producer.epoch"));
    }
    let sequence = claim.first_sequence.saturating_add(k as u64);
    if sequence == 0 {
        return Err(invalid("producer.first_sequence"));
    }
    let expected = producer.last_sequence + 1;
    if sequence == expected {
        return Ok(Claim::Fresh);
    }
    if sequence > expected {
        return Err(Rejection::OutOfSequence { expected });
    }
    let mut window = producer.window.iter();
    match window.find(|(stored, _, _)| *stored == sequence) {
        None => Ok(Claim::Stored(MessageId(0))),
        Some((_, digest, id)) if *digest == claim.digests[k] => Ok(Claim::Stored(*id)),
        Some(_) => Err(Rejection::SequenceReused { sequence }),
    }
}
