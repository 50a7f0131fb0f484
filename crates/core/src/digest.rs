//! The running digest: by it replicas find out that they disagree.
//!
//! It folds every answer and event of every entry, in order, and the clocks after it. No
//! cryptography: replicas may be wrong, they do not cheat.

use crate::event::{Event, SessionEnd};
use crate::id::{LeaseTime, Owner, Position, WallTime};
use crate::message::{Death, DeathReason, Grant};
use crate::outcome::{Outcome, Rejection, SettleStatus};

/// A digest with one more word in it.
#[must_use]
pub fn word(digest: u64, word: u64) -> u64 {
    let mixed = (digest.rotate_left(5) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ (mixed >> 32)
}

/// The digest after an entry: from the one before it, what the entry answered and what happened.
/// The state machine also folds in the seed of its hashes when a `Bootstrap` sets it, before the
/// entry's own answers: `word(digest, hash_seed)`.
#[must_use]
pub fn after_entry(
    before: u64,
    index: u64,
    clocks: (LeaseTime, WallTime),
    outcomes: &[Outcome],
    events: &[Event],
) -> u64 {
    let mut fold = Fold(before);
    fold.word(index);
    fold.word(clocks.0.0);
    fold.word(clocks.1.0);
    fold.each(outcomes, Fold::outcome);
    fold.each(events, Fold::event);
    fold.0
}

struct Fold(u64);

impl Fold {
    fn word(&mut self, value: u64) {
        self.0 = word(self.0, value);
    }

    fn wide(&mut self, value: u128) {
        self.word(value as u64);
        self.word((value >> 64) as u64);
    }

    fn text(&mut self, text: &str) {
        self.word(text.len() as u64);
        for chunk in text.as_bytes().chunks(8) {
            let packed = chunk
                .iter()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            self.word(packed);
        }
    }

    fn each<T>(&mut self, items: &[T], fold: impl Fn(&mut Self, &T)) {
        self.word(items.len() as u64);
        for item in items {
            fold(self, item);
        }
    }

    fn position(&mut self, position: Position) {
        self.word(position.index);
        self.word(u64::from(position.place));
    }

    fn owner(&mut self, owner: Owner) {
        self.word(owner.node.0);
        self.word(owner.boot.0);
        self.word(owner.connection);
    }

    fn death(&mut self, death: &Death) {
        self.text(&death.queue);
        self.word(match death.reason {
            DeathReason::Rejected => 0,
            DeathReason::MaxDeliveries => 1,
        });
        self.word(death.count);
        self.word(death.first_time.0);
        self.word(death.last_time.0);
        self.text(&death.routing_key);
    }

    fn grant(&mut self, grant: &Grant) {
        self.word(grant.queue.0);
        self.word(grant.first_offset.0);
        self.word(u64::from(grant.count));
        self.word(grant.first_fence.0);
        self.word(grant.first_message_id.0);
        self.position(grant.body.position);
        self.word(u64::from(grant.body.item));
        self.word(u64::from(grant.delivery_count));
        self.word(grant.deadline.0);
        self.word(grant.published_at.0);
        self.each(&grant.deaths, Self::death);
    }

    fn outcome(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Done => self.word(0),
            Outcome::Rejected(rejection) => {
                self.word(1);
                self.rejection(rejection);
            }
            Outcome::Queue {
                id,
                revision,
                created,
            } => {
                self.word(2);
                self.word(id.0);
                self.word(*revision);
                self.word(u64::from(*created));
            }
            Outcome::Deleted { messages } => {
                self.word(3);
                self.word(*messages);
            }
            Outcome::Purged { messages, rest } => {
                self.word(4);
                self.word(*messages);
                // A purge that is done counts as it did before there were others.
                if let Some(rest) = rest {
                    self.word(rest.queue.0);
                    self.word(rest.below.0);
                }
            }
            Outcome::Producer {
                id,
                epoch,
                last_sequence,
            } => {
                self.word(5);
                self.wide(id.0);
                self.word(u64::from(*epoch));
                self.word(*last_sequence);
            }
            Outcome::Published { accepted, refused } => {
                self.word(6);
                self.each(accepted, |fold, range| {
                    fold.word(u64::from(range.first_item));
                    fold.word(u64::from(range.count));
                    fold.word(range.first_message_id.0);
                    fold.word(u64::from(range.queues));
                    fold.word(u64::from(range.duplicate));
                });
                self.each(refused, |fold, item| {
                    fold.word(u64::from(item.item));
                    fold.rejection(&item.rejection);
                });
            }
            Outcome::Received { grants } => {
                self.word(7);
                self.each(grants, Self::grant);
            }
            Outcome::Attached {
                queue,
                resumed,
                held,
            } => {
                self.word(8);
                self.word(queue.0);
                self.word(u64::from(*resumed));
                self.each(held, Self::grant);
            }
            Outcome::Settled { exceptions } => {
                self.word(9);
                self.each(exceptions, |fold, exception| {
                    fold.word(u64::from(exception.range));
                    fold.word(exception.first_offset.0);
                    fold.word(u64::from(exception.count));
                    fold.word(match exception.status {
                        SettleStatus::AlreadySettled => 0,
                        SettleStatus::LeaseLost => 1,
                        SettleStatus::NotFound => 2,
                        SettleStatus::Invalid => 3,
                    });
                });
            }
        }
    }

    fn rejection(&mut self, rejection: &Rejection) {
        match rejection {
            Rejection::NotBootstrapped => self.word(0),
            Rejection::AlreadyBootstrapped => self.word(1),
            Rejection::VersionTooLow { current } => {
                self.word(2);
                self.word(u64::from(*current));
            }
            Rejection::InvalidField { field, must } => {
                self.word(3);
                self.text(field);
                self.text(must);
            }
            Rejection::InvalidName { field, must } => {
                self.word(4);
                self.text(field);
                self.text(must);
            }
            Rejection::NamespaceNotFound { namespace } => {
                self.word(5);
                self.text(namespace);
            }
            Rejection::NamespaceNotEmpty { queues } => {
                self.word(6);
                self.word(*queues);
            }
            Rejection::QueueNotFound { namespace, queue } => {
                self.word(7);
                self.text(namespace);
                self.text(queue);
            }
            Rejection::QueueExists { differs } => {
                self.word(8);
                self.each(differs, |fold, name| fold.text(name));
            }
            Rejection::QueueNotEmpty { messages } => {
                self.word(9);
                self.word(*messages);
            }
            Rejection::RevisionMismatch { current } => {
                self.word(10);
                self.word(*current);
            }
            Rejection::Unroutable { routing_key } => {
                self.word(11);
                self.text(routing_key);
            }
            Rejection::ProducerFenced { current_epoch } => {
                self.word(12);
                self.word(u64::from(*current_epoch));
            }
            Rejection::UnknownProducer => self.word(13),
            Rejection::SequenceReused { sequence } => {
                self.word(14);
                self.word(*sequence);
            }
            Rejection::OutOfSequence { expected } => {
                self.word(15);
                self.word(*expected);
            }
            Rejection::BatchRefused => self.word(16),
            Rejection::TooMany { what, limit } => {
                self.word(17);
                self.text(what);
                self.word(*limit);
            }
            Rejection::SessionNotFound => self.word(18),
            Rejection::NodeIdUsed { node, retired } => {
                self.word(19);
                self.word(node.0);
                self.word(u64::from(*retired));
            }
        }
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Delivered {
                session,
                owner,
                grant,
            } => {
                self.word(0);
                self.wide(session.0);
                self.owner(*owner);
                self.grant(grant);
            }
            Event::LeasesLost {
                session,
                owner,
                queue,
                first_offset,
                count,
            } => {
                self.word(1);
                self.wide(session.0);
                self.owner(*owner);
                self.word(queue.0);
                self.word(first_offset.0);
                self.word(u64::from(*count));
            }
            Event::SessionEnded {
                session,
                owner,
                why,
            } => {
                self.word(2);
                self.wide(session.0);
                self.owner(*owner);
                self.word(match why {
                    SessionEnd::Closed => 0,
                    SessionEnd::GraceOver => 1,
                    SessionEnd::QueueDeleted => 2,
                });
            }
            Event::SessionMoved { session, from } => {
                self.word(3);
                self.wide(session.0);
                self.owner(*from);
            }
            Event::Ready { queue } => {
                self.word(4);
                self.word(queue.0);
            }
            Event::QueueDeleted {
                queue,
                namespace,
                name,
            } => {
                self.word(5);
                self.word(queue.0);
                self.text(namespace);
                self.text(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::QueueId;

    fn of(index: u64, outcomes: &[Outcome], events: &[Event]) -> u64 {
        after_entry(1, index, (LeaseTime(2), WallTime(3)), outcomes, events)
    }

    #[test]
    fn everything_counts() {
        let digests = [
            of(1, &[], &[]),
            of(2, &[], &[]),
            of(1, &[Outcome::Done], &[]),
            of(1, &[Outcome::Deleted { messages: 0 }], &[]),
            of(1, &[Outcome::Deleted { messages: 1 }], &[]),
            of(1, &[], &[Event::Ready { queue: QueueId(1) }]),
            of(1, &[], &[Event::Ready { queue: QueueId(2) }]),
        ];
        let distinct: alloc::collections::BTreeSet<u64> = digests.into_iter().collect();
        assert_eq!(distinct.len(), digests.len());
        assert_eq!(of(1, &[Outcome::Done], &[]), of(1, &[Outcome::Done], &[]));
    }
}
