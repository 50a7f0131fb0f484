//! Publishes, with and without an idempotent producer's claim.

use ticketrail_core::ProducerId;
use ticketrail_core::command::{Command, ProducerSequence, Publish, PublishRun};
use ticketrail_core::limits;

use super::super::state::{Model, Producer};
use super::Generator;

impl Generator {
    pub(super) fn publish(&mut self, model: &Model) -> Command {
        let (namespace, _) = self.some_queue(model);
        let runs: Vec<PublishRun> = match self.dice.below(40) {
            0 => Vec::new(),
            1 => vec![
                self.run(model, &namespace, 0),
                self.run(model, &namespace, 1),
            ],
            2 => vec![self.run(model, &namespace, u32::MAX); 3],
            3 if self.habits.batch > 100 => {
                let most = u32::try_from(limits::PUBLISH_MESSAGES_MAX).expect("a thousand");
                let count = *self.dice.pick(&[most - 1, most, most, most + 1]);
                vec![self.run(model, &namespace, count)]
            }
            _ => (0..self.dice.between(1, 3))
                .map(|_| {
                    let count = self.dice.between(1, self.habits.batch);
                    let count = u32::try_from(count).expect("a batch");
                    self.run(model, &namespace, count)
                })
                .collect(),
        };
        let messages: u64 = runs.iter().map(|run| u64::from(run.count)).sum();
        let any = !model.producers.is_empty() || self.wrong();
        let producer = match self.dice.below(2) {
            1 if any => Some(self.claim(model, messages)),
            _ => None,
        };
        // A producer stays in its namespace, unless it errs.
        let known = producer.as_ref().and_then(|p| model.producers.get(&p.id));
        let namespace = match known {
            Some(producer) if !self.wrong() => producer.namespace.clone(),
            _ => namespace,
        };
        Command::Publish(Publish {
            namespace,
            producer,
            atomic: self.dice.one_in(2),
            runs,
        })
    }

    fn run(&mut self, model: &Model, namespace: &str, count: u32) -> PublishRun {
        let (there, name) = self.some_queue(model);
        let routing_key = if there == namespace {
            name
        } else {
            self.queue_name()
        };
        PublishRun {
            routing_key,
            count,
            bytes: match self.dice.below(200) {
                0 => u64::MAX,
                _ => u64::from(count) * self.dice.below(2_000),
            },
            mandatory: self.dice.one_in(3),
        }
    }

    fn claim(&mut self, model: &Model, messages: u64) -> ProducerSequence {
        let mut known = model.producers.iter();
        let place = usize::try_from(self.dice.below(model.producers.len() as u64)).expect("few");
        let known = known.nth(place).filter(|_| !self.dice.one_in(30));
        let Some((id, producer)) = known else {
            let first_sequence = self.dice.between(1, 2);
            return self.claim_as(ProducerId(1), 1, first_sequence, messages);
        };
        let epoch = match self.wrong() {
            true => *self
                .dice
                .pick(&[0, producer.epoch - 1, producer.epoch + 1, u32::MAX]),
            false => producer.epoch,
        };
        let first_sequence = self.sequence(producer);
        self.claim_as(*id, epoch, first_sequence, messages)
    }

    fn sequence(&mut self, producer: &Producer) -> u64 {
        let next = producer.last_sequence + 1;
        match self.dice.below(12) {
            0 | 1 => next - self.dice.below(next.min(10)),
            2 => 1,
            3 if self.wrong() => *self.dice.pick(&[0, next + 1, next + 7, u64::MAX]),
            _ => next,
        }
    }

    fn claim_as(
        &mut self,
        id: ProducerId,
        epoch: u32,
        first_sequence: u64,
        messages: u64,
    ) -> ProducerSequence {
        let count = messages.min(2 * limits::PUBLISH_MESSAGES_MAX as u64);
        let last = first_sequence.saturating_add(count);
        let mut digests: Vec<u64> = (first_sequence..last).map(|s| s.wrapping_mul(31)).collect();
        if self.wrong() {
            let place = self.dice.below(digests.len() as u64);
            let place = usize::try_from(place).expect("a place");
            if let Some(digest) = digests.get_mut(place) {
                *digest ^= 1;
            }
        }
        if self.wrong() && self.dice.one_in(4) {
            digests.pop();
        }
        ProducerSequence {
            id,
            epoch,
            first_sequence,
            digests,
        }
    }
}
