//! A second, naive broker: the state machine once more, written from its specification alone.
//!
//! One message is one struct, every question is a linear scan, nothing is a range. It is slow and
//! meant to be obviously right; the integration test `model` feeds it and the real core the same
//! random entries and wants equal answers, equal events and equal views after each one.
//!
//! Start reading at [`Model::apply`]; the commands are in the files named after what they do. The
//! comparison is [`compare`], its commands come from [`generate`], and [`coverage`] knows whether
//! a run has seen enough to count.

pub mod compare;
pub mod coverage;
pub mod dice;
pub mod generate;
pub mod lies;
pub mod normal;
pub mod scenes;

mod consumers;
mod deal;
mod give_up;
mod producers;
mod publish;
mod queues;
mod settle;
mod state;
mod timers;

use std::collections::BTreeMap;

use ticketrail_core::command::{Command, Entry, Stamps};
use ticketrail_core::event::Event;
use ticketrail_core::outcome::{Outcome, Rejection};
use ticketrail_core::{Position, limits};

pub use state::{Message, Model, Producer, Queue, Session, Standing};

/// What a command comes to; a rejection must be decided before anything is changed.
type Answer = Result<Outcome, Rejection>;

impl Model {
    /// Applies one entry and answers each command. Answers and events speak of single messages:
    /// every grant has `count` 1 (see [`normal`]).
    pub fn apply(&mut self, index: u64, entry: &Entry) -> (Vec<Outcome>, Vec<Event>) {
        self.move_clocks(entry.stamps);
        let mut outcomes = Vec::new();
        for (place, command) in entry.commands.iter().enumerate() {
            let place = u32::try_from(place).expect("entries of tests are small");
            let answer = self.command(Position { index, place }, command);
            outcomes.push(answer.unwrap_or_else(Outcome::Rejected));
            self.deal_everywhere();
        }
        self.fire_timers();
        self.announce_ready();
        (outcomes, std::mem::take(&mut self.events))
    }

    fn move_clocks(&mut self, stamps: Stamps) {
        let limit = self.lease_now.plus_ms(limits::LEASE_STEP_MS_MAX);
        self.lease_now = self.lease_now.max(stamps.lease_now.min(limit));
        self.wall_now = self.wall_now.max(stamps.wall_now);
        self.forget_settled();
    }

    fn command(&mut self, position: Position, command: &Command) -> Answer {
        if self.bootstrapped.is_none() && !matches!(command, Command::Bootstrap(_)) {
            return Err(Rejection::NotBootstrapped);
        }
        match command {
            Command::Bootstrap(c) => self.bootstrap(c),
            Command::SetVersion(c) => self.set_version(c),
            Command::CreateNamespace(c) => self.create_namespace(c),
            Command::DeleteNamespace(c) => self.delete_namespace(c),
            Command::CreateQueue(c) => self.create_queue(c),
            Command::UpdateQueue(c) => self.update_queue(c),
            Command::DeleteQueue(c) => self.delete_queue(c),
            Command::PurgeQueue(c) => self.purge_queue(c),
            Command::OpenProducer(c) => self.open_producer(c),
            Command::Publish(c) => self.publish(position, c),
            Command::Receive(c) => self.receive(c),
            Command::AttachConsumer(c) => self.attach(c),
            Command::SetPrefetch(c) => self.set_prefetch(c),
            Command::DetachConsumer(c) => self.detach(c),
            Command::Settle(c) => self.settle(c),
            Command::NodeBooted(c) => self.node_booted(c),
            Command::SessionsLost(c) => self.sessions_lost(c),
            Command::AdmitNode(c) => self.admit_node(c),
            Command::RetireNode(c) => self.retire_node(c),
        }
    }

    /// `Ready` for every queue where something became ready in this entry and is left over.
    fn announce_ready(&mut self) {
        for queue in self.queues.values_mut() {
            let announce = std::mem::take(&mut queue.became_ready);
            let left = queue.messages.iter().any(Message::is_ready);
            if announce && left && !queue.settings.paused {
                self.events.push(Event::Ready { queue: queue.id });
            }
        }
    }

    /// Notes that a rare place was reached, so that a run can prove what it exercised.
    fn reached(&mut self, place: &'static str) {
        *self.places.entry(place).or_default() += 1;
    }

    /// How often each noteworthy place was reached since this was last asked.
    pub fn take_places(&mut self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.places)
    }
}
