//! `OpenProducer`.

use alloc::vec::Vec;

use super::{Answer, check, check_name};
use crate::command::OpenProducer;
use crate::id::ProducerId;
use crate::limits;
use crate::outcome::{Outcome, Rejection};
use crate::producer::{Producer, use_step};
use crate::row::ProducerRow;
use crate::state::State;

impl State {
    pub(super) fn open_producer(&mut self, command: &OpenProducer) -> Answer {
        if let Some(name) = &command.name {
            check_name("name", name)?;
        }
        let Some(namespace) = self.namespaces.get(&command.namespace) else {
            return Err(Rejection::NamespaceNotFound {
                namespace: command.namespace.clone(),
            });
        };
        let name = command.name.as_ref();
        let named = name.and_then(|name| namespace.producer_names.get(name));
        if let Some(id) = named.copied() {
            return self.reopen_producer(id, command.fresh_id);
        }
        if let Some(there) = self.producers.get(&command.fresh_id) {
            let same = there.row.namespace == command.namespace && there.row.name == command.name;
            check(same, "fresh_id", "not be another producer's id")?;
            return Ok(opened(command.fresh_id, 1, there.row.last_sequence));
        }
        if self.producers.len() >= limits::PRODUCERS_MAX {
            return Err(Rejection::TooMany {
                what: "producers",
                limit: limits::PRODUCERS_MAX as u64,
            });
        }
        self.add_producer(command);
        Ok(opened(command.fresh_id, 1, 0))
    }

    /// Raises a named producer's epoch, unless this request did already.
    fn reopen_producer(&mut self, id: ProducerId, fresh_id: ProducerId) -> Answer {
        if fresh_id != id {
            let taken = self.producers.get(&fresh_id).is_some();
            check(!taken, "fresh_id", "not be another producer's id")?;
        }
        let Some(producer) = self.producers.get(&id) else {
            return Err(Rejection::UnknownProducer);
        };
        let last_sequence = producer.row.last_sequence;
        let first = (fresh_id == id).then_some(1);
        if let Some(epoch) = first.or(producer.opened_by(fresh_id)) {
            return Ok(opened(id, epoch, last_sequence));
        }
        let Some(epoch) = producer.row.epoch.checked_add(1) else {
            return Err(Rejection::TooMany {
                what: "epochs",
                limit: u64::from(u32::MAX),
            });
        };
        if let Some(producer) = self.producers.get_mut(&id) {
            producer.row.epoch = epoch;
            producer.note_opener(fresh_id);
        }
        self.use_producer(id);
        Ok(opened(id, epoch, last_sequence))
    }

    fn add_producer(&mut self, command: &OpenProducer) {
        let id = command.fresh_id;
        let used_at = use_step(self.shared.wall_now);
        let producer = Producer::new(ProducerRow {
            namespace: command.namespace.clone(),
            name: command.name.clone(),
            epoch: 1,
            openers: Vec::new(),
            last_sequence: 0,
            first_remembered: 1,
            used_at,
        });
        self.producers.insert(id, producer);
        self.producer_uses.insert((used_at, id));
        if let Some(namespace) = self.namespaces.get_unmarked(&command.namespace) {
            namespace.producers.insert(id);
            if let Some(name) = &command.name {
                namespace.producer_names.insert(name.clone(), id);
            }
        }
    }

    /// Notes that a producer was used now.
    pub(super) fn use_producer(&mut self, id: ProducerId) {
        let now = use_step(self.shared.wall_now);
        let Some(producer) = self.producers.get_unmarked(&id) else {
            return;
        };
        let before = producer.row.used_at;
        if before == now {
            return;
        }
        if let Some(producer) = self.producers.get_mut(&id) {
            producer.row.used_at = now;
        }
        self.producer_uses.remove(&(before, id));
        self.producer_uses.insert((now, id));
    }
}

fn opened(id: ProducerId, epoch: u32, last_sequence: u64) -> Outcome {
    Outcome::Producer {
        id,
        epoch,
        last_sequence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::*;
    use crate::*;
    use std::vec;

    fn open(name: Option<&str>, fresh_id: u128) -> Command {
        Command::OpenProducer(OpenProducer {
            namespace: "default".into(),
            name: name.map(Into::into),
            fresh_id: ProducerId(fresh_id),
        })
    }

    fn is(id: u128, epoch: u32) -> Outcome {
        opened(ProducerId(id), epoch, 0)
    }

    #[test]
    fn a_name_raises_its_epoch_and_a_retry_does_not() {
        let mut script = Script::new();
        assert_eq!(script.run(open(Some("p"), 1)), is(1, 1));
        assert_eq!(script.run(open(Some("p"), 1)), is(1, 1));
        assert_eq!(script.run(open(Some("p"), 2)), is(1, 2));
        assert_eq!(script.run(open(Some("p"), 3)), is(1, 3));
        assert_eq!(script.run(open(Some("p"), 2)), is(1, 2));
        assert_eq!(script.run(open(Some("p"), 1)), is(1, 1));
        assert_eq!(script.run(open(Some("p"), 4)), is(1, 4));
        assert_eq!(script.state.producers(), 1);
    }

    #[test]
    fn without_a_name_every_id_is_a_producer() {
        let mut script = Script::new();
        assert_eq!(script.run(open(None, 1)), is(1, 1));
        assert_eq!(script.run(open(None, 1)), is(1, 1));
        assert_eq!(script.run(open(None, 2)), is(2, 1));
        let other = script.refused(open(Some("p"), 1));
        assert!(matches!(
            other,
            Rejection::InvalidField {
                field: "fresh_id",
                ..
            }
        ));
        let bad = script.refused(open(Some("tr.p"), 9));
        assert!(matches!(bad, Rejection::InvalidName { field: "name", .. }));
    }

    #[test]
    fn an_idle_one_is_forgotten_by_wall_time_and_a_used_one_is_not() {
        let mut script = Script::new();
        script.run(open(Some("idle"), 1));
        script.run(open(Some("used"), 2));
        let at = |ms| Stamps {
            lease_now: LeaseTime(0),
            wall_now: WallTime(ms),
        };
        let week = limits::PRODUCER_IDLE_MS;
        script.entry(at(week), vec![open(Some("used"), 3)]);
        assert_eq!(script.state.producers(), 2);
        script.entry(at(week + limits::PRODUCER_USE_STEP_MS - 1), vec![]);
        assert_eq!(script.state.producers(), 2);
        script.entry(at(week + limits::PRODUCER_USE_STEP_MS), vec![]);
        assert_eq!(script.state.producers(), 1);
        assert_eq!(script.run(open(Some("idle"), 4)), is(4, 1));
        assert_eq!(script.run(open(Some("used"), 5)), is(2, 3));
    }
}
