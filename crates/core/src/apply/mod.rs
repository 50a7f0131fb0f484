//! One file per command: its check, its effect, its tests.
//!
//! Each effect begins only when every check has passed, so that a [`Rejection`] leaves no trace.

mod admit_node;
mod attach_consumer;
mod bootstrap;
mod create_namespace;
mod create_queue;
mod delete_namespace;
mod delete_queue;
mod detach_consumer;
mod node_booted;
mod open_producer;
mod publish;
mod purge_queue;
mod receive;
mod retire_node;
mod sessions_lost;
mod set_prefetch;
mod set_version;
mod settle;
mod update_queue;

use crate::command::Command;
use crate::id::Position;
use crate::limits;
use crate::outcome::{Outcome, Rejection};
use crate::settings::QueueSettings;
use crate::state::State;

pub(crate) type Answer = Result<Outcome, Rejection>;

impl State {
    pub(crate) fn command(&mut self, at: Position, command: &Command) -> Answer {
        if let Command::Bootstrap(bootstrap) = command {
            return self.bootstrap(bootstrap);
        }
        if self.bootstrap.is_none() {
            return Err(Rejection::NotBootstrapped);
        }
        match command {
            Command::Bootstrap(bootstrap) => self.bootstrap(bootstrap),
            Command::SetVersion(command) => self.set_version(command),
            Command::CreateNamespace(command) => self.create_namespace(command),
            Command::DeleteNamespace(command) => self.delete_namespace(command),
            Command::CreateQueue(command) => self.create_queue(command),
            Command::UpdateQueue(command) => self.update_queue(command),
            Command::DeleteQueue(command) => self.delete_queue(command),
            Command::PurgeQueue(command) => self.purge_queue(command),
            Command::OpenProducer(command) => self.open_producer(command),
            Command::Publish(command) => self.publish(at, command),
            Command::Receive(command) => self.receive(command),
            Command::AttachConsumer(command) => self.attach_consumer(command),
            Command::SetPrefetch(command) => self.set_prefetch(command),
            Command::DetachConsumer(command) => self.detach_consumer(command),
            Command::Settle(command) => self.settle(command),
            Command::NodeBooted(command) => self.node_booted(command),
            Command::SessionsLost(command) => self.sessions_lost(command),
            Command::AdmitNode(command) => self.admit_node(command),
            Command::RetireNode(command) => self.retire_node(command),
        }
    }
}

/// Is this a name that a namespace, queue or producer may have?
fn is_name(name: &str) -> bool {
    let length = 1..=limits::NAME_BYTES_MAX;
    length.contains(&name.len())
        && !name.chars().any(char::is_control)
        && !name.starts_with(limits::RESERVED_PREFIX)
}

fn check_name(field: &'static str, name: &str) -> Result<(), Rejection> {
    if is_name(name) {
        return Ok(());
    }
    let must = "be 1 to 255 bytes without control characters and not begin with `tr.`";
    Err(Rejection::InvalidName { field, must })
}

/// `InvalidField` unless `good`.
fn check(good: bool, field: &'static str, must: &'static str) -> Result<(), Rejection> {
    if good {
        return Ok(());
    }
    Err(Rejection::InvalidField { field, must })
}

fn check_settings(settings: &QueueSettings) -> Result<(), Rejection> {
    let lease = 1..=limits::LEASE_MS_MAX;
    check(
        lease.contains(&settings.lease_ms),
        "settings.lease_ms",
        "be 1 ms to 12 h",
    )?;
    if let Some(backoff) = &settings.retry_backoff {
        let delay = 1..=limits::DELAY_MS_MAX;
        check(
            delay.contains(&backoff.base_ms),
            "settings.retry_backoff.base_ms",
            "be 1 ms to 1 year",
        )?;
        check(
            (100..=10_000).contains(&backoff.factor_percent),
            "settings.retry_backoff.factor_percent",
            "be 100 to 10,000",
        )?;
        check(
            (backoff.base_ms..=limits::DELAY_MS_MAX).contains(&backoff.max_ms),
            "settings.retry_backoff.max_ms",
            "be at least base_ms and at most 1 year",
        )?;
        check(
            backoff.jitter_percent <= 100,
            "settings.retry_backoff.jitter_percent",
            "be 0 to 100",
        )?;
    }
    match &settings.dead_letter {
        Some(target) => check(
            is_name(&target.routing_key),
            "settings.dead_letter.routing_key",
            "be a queue's name",
        ),
        None => Ok(()),
    }
}
