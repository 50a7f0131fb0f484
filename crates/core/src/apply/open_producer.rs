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
        let Some(namespace) = self.namespaces.map().get(&command.namespace) else {
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
