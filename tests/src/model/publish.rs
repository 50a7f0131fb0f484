//! Publishing: one message after the other, on trial; then all of it is kept, or none.

use ticketrail_core::command::{Publish, PublishRun};
use ticketrail_core::outcome::{AcceptedRange, Outcome, RefusedItem, Rejection};
use ticketrail_core::{BodyRef, MessageId, Offset, Position, QueueId, limits};

use super::producers::{Claim, check_claim};
use super::state::{Message, Model, Producer, Standing};
use super::{Answer, normal::invalid};

/// What becomes of one message of a publish.
enum Verdict {
    Stored(MessageId, QueueId),
    NoQueue(MessageId),
    Duplicate(MessageId),
    Refused(Rejection),
}

impl Model {
    pub(super) fn publish(&mut self, position: Position, c: &Publish) -> Answer {
        let messages: u64 = c.runs.iter().map(|run| u64::from(run.count)).sum();
        if messages == 0 || messages > limits::PUBLISH_MESSAGES_MAX as u64 {
            return Err(invalid("runs"));
        }
        if c.runs.iter().any(|run| run.count == 0) {
            return Err(invalid("runs.count"));
        }
        if let Some(claim) = &c.producer
            && claim.digests.len() as u64 != messages
        {
            return Err(invalid("producer.digests"));
        }
        self.need_namespace(&c.namespace)?;
        let mut producer = self.claimed_producer(c);
        let mut last_message = self.last_message;
        let mut verdicts = Vec::new();
        for run in &c.runs {
            for _ in 0..run.count {
                let k = verdicts.len();
                verdicts.push(self.judge(c, run, k, &mut producer, &mut last_message));
            }
        }
        let refused = verdicts.iter().any(|v| matches!(v, Verdict::Refused(_)));
        if c.atomic && refused {
            self.reached("atomic publish refused whole");
            return Ok(refuse_all(verdicts));
        }
        self.last_message = last_message;
        if let (Some(claim), Some(mut producer)) = (&c.producer, producer) {
            let accepted = |v: &Verdict| !matches!(v, Verdict::Refused(_));
            if verdicts.iter().any(accepted) {
                producer.used_at = self.wall_now;
            }
            self.producers.insert(claim.id, producer);
        }
        Ok(self.keep(position, verdicts))
    }

    fn claimed_producer(&self, c: &Publish) -> Option<Producer> {
        let claim = c.producer.as_ref()?;
        let producer = self.producers.get(&claim.id);
        let producer = producer.filter(|p| p.namespace == c.namespace);
        producer.cloned()
    }

    fn judge(
        &self,
        c: &Publish,
        run: &PublishRun,
        k: usize,
        producer: &mut Option<Producer>,
        last_message: &mut u64,
    ) -> Verdict {
        if let Some(claim) = &c.producer {
            match check_claim(producer.as_ref(), claim, k) {
                Ok(Claim::Fresh) => {}
                Ok(Claim::Stored(id)) => return Verdict::Duplicate(id),
                Err(rejection) => return Verdict::Refused(rejection),
            }
        }
        let queue = self.queue(&c.namespace, &run.routing_key).map(|q| q.id);
        if queue.is_none() && run.mandatory {
            let routing_key = run.routing_key.clone();
            if let (true, Some(producer)) = (c.atomic, producer) {
                // All are refused anyway; those behind it are judged as if it had been accepted,
                // so that only the culprits are named.
                producer.last_sequence += 1;
            }
            return Verdict::Refused(Rejection::Unroutable { routing_key });
        }
        *last_message += 1;
        let id = MessageId(*last_message);
        if let (Some(claim), Some(producer)) = (&c.producer, producer) {
            producer.last_sequence += 1;
            let entry = (producer.last_sequence, claim.digests[k], id);
            producer.window.push(entry);
            let too_many = producer.window.len().saturating_sub(self.window_size());
            producer.window.drain(..too_many);
        }
        match queue {
            Some(queue) => Verdict::Stored(id, queue),
            None => Verdict::NoQueue(id),
        }
    }

    fn keep(&mut self, position: Position, verdicts: Vec<Verdict>) -> Outcome {
        let (mut accepted, mut refused) = (Vec::new(), Vec::new());
        for (item, verdict) in (0..).zip(verdicts) {
            let (id, queues, duplicate) = match verdict {
                Verdict::Stored(id, queue) => {
                    let body = BodyRef { position, item };
                    self.store(queue, id, body);
                    (id, 1, false)
                }
                Verdict::NoQueue(id) => {
                    self.unroutable += 1;
                    (id, 0, false)
                }
                Verdict::Duplicate(id) => {
                    if id == MessageId(0) {
                        self.reached("duplicate whose id is forgotten");
                    }
                    self.reached("duplicate publish");
                    (id, 0, true)
                }
                Verdict::Refused(rejection) => {
                    refused.push(RefusedItem { item, rejection });
                    continue;
                }
            };
            accepted.push(AcceptedRange {
                first_item: item,
                count: 1,
                first_message_id: id,
                queues,
                duplicate,
            });
        }
        Outcome::Published { accepted, refused }
    }

    fn store(&mut self, queue: QueueId, id: MessageId, body: BodyRef) {
        let published_at = self.wall_now;
        let queue = self.queue_mut(queue);
        queue.messages.push(Message {
            offset: Offset(queue.next_offset),
            id,
            body,
            published_at,
            deliveries: 0,
            deaths: Vec::new(),
            standing: Standing::Ready,
        });
        queue.next_offset += 1;
        queue.tally.published += 1;
        queue.became_ready = true;
    }
}

fn refuse_all(verdicts: Vec<Verdict>) -> Outcome {
    let refused = (0..).zip(verdicts).map(|(item, verdict)| RefusedItem {
        item,
        rejection: match verdict {
            Verdict::Refused(rejection) => rejection,
            _ => Rejection::BatchRefused,
        },
    });
    Outcome::Published {
        accepted: Vec::new(),
        refused: refused.collect(),
    }
}
