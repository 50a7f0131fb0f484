//! The cluster's own commands, namespaces and queues.

use std::collections::BTreeSet;

use ticketrail_core::command::{
    Bootstrap, CreateNamespace, CreateQueue, DeleteNamespace, DeleteQueue, PurgeQueue, PurgeRest,
    SetVersion, UpdateQueue,
};
use ticketrail_core::event::{Event, SessionEnd};
use ticketrail_core::outcome::{Outcome, Rejection};
use ticketrail_core::row::Counters;
use ticketrail_core::{Offset, QueueId, QueueSettings, limits};

use super::state::{Message, Model, Queue, Standing};
use super::{Answer, normal::invalid};

/// Refuses a name that breaks the rules.
pub(super) fn check_name(field: &'static str, name: &str) -> Result<(), Rejection> {
    let good = !name.is_empty()
        && name.len() <= limits::NAME_BYTES_MAX
        && !name.chars().any(char::is_control)
        && !name.starts_with(limits::RESERVED_PREFIX);
    if good {
        return Ok(());
    }
    Err(Rejection::InvalidName { field, must: "" })
}

fn check_settings(settings: &QueueSettings) -> Result<(), Rejection> {
    if !(1..=limits::LEASE_MS_MAX).contains(&settings.lease_ms) {
        return Err(invalid("settings.lease_ms"));
    }
    if let Some(backoff) = settings.retry_backoff {
        if !(1..=limits::DELAY_MS_MAX).contains(&backoff.base_ms) {
            return Err(invalid("settings.retry_backoff.base_ms"));
        }
        if !(100..=10_000).contains(&backoff.factor_percent) {
            return Err(invalid("settings.retry_backoff.factor_percent"));
        }
        if !(backoff.base_ms..=limits::DELAY_MS_MAX).contains(&backoff.max_ms) {
            return Err(invalid("settings.retry_backoff.max_ms"));
        }
        if backoff.jitter_percent > 100 {
            return Err(invalid("settings.retry_backoff.jitter_percent"));
        }
    }
    if let Some(target) = &settings.dead_letter
        && check_name("", &target.routing_key).is_err()
    {
        return Err(invalid("settings.dead_letter.routing_key"));
    }
    Ok(())
}

fn differences(a: &QueueSettings, b: &QueueSettings) -> Vec<&'static str> {
    let fields = [
        ("lease_ms", a.lease_ms == b.lease_ms),
        ("max_deliveries", a.max_deliveries == b.max_deliveries),
        ("retry_backoff", a.retry_backoff == b.retry_backoff),
        ("dead_letter", a.dead_letter == b.dead_letter),
        ("paused", a.paused == b.paused),
    ];
    let differ = fields.into_iter().filter(|(_, same)| !same);
    differ.map(|(name, _)| name).collect()
}

impl Model {
    pub(super) fn bootstrap(&mut self, c: &Bootstrap) -> Answer {
        let values = (c.cluster_id, c.hash_seed);
        match self.bootstrapped {
            Some(before) if before != values => Err(Rejection::AlreadyBootstrapped),
            Some(_) => Ok(Outcome::Done),
            None => {
                self.bootstrapped = Some(values);
                self.namespaces.push(limits::DEFAULT_NAMESPACE.to_owned());
                Ok(Outcome::Done)
            }
        }
    }

    pub(super) fn set_version(&mut self, c: &SetVersion) -> Answer {
        if c.version < self.version {
            let current = self.version;
            return Err(Rejection::VersionTooLow { current });
        }
        self.version = c.version;
        Ok(Outcome::Done)
    }

    pub(super) fn need_namespace(&self, name: &str) -> Result<(), Rejection> {
        if self.namespaces.iter().any(|n| n == name) {
            return Ok(());
        }
        let namespace = name.to_owned();
        Err(Rejection::NamespaceNotFound { namespace })
    }

    pub(super) fn need_queue(&self, namespace: &str, name: &str) -> Result<&Queue, Rejection> {
        self.need_namespace(namespace)?;
        let found = self.queue(namespace, name);
        found.ok_or_else(|| Rejection::QueueNotFound {
            namespace: namespace.to_owned(),
            queue: name.to_owned(),
        })
    }

    pub(super) fn create_namespace(&mut self, c: &CreateNamespace) -> Answer {
        check_name("namespace", &c.namespace)?;
        if self.need_namespace(&c.namespace).is_ok() {
            return Ok(Outcome::Done);
        }
        if self.namespaces.len() >= limits::NAMESPACES_MAX {
            let limit = limits::NAMESPACES_MAX as u64;
            let what = "namespaces";
            return Err(Rejection::TooMany { what, limit });
        }
        self.namespaces.push(c.namespace.clone());
        Ok(Outcome::Done)
    }

    pub(super) fn delete_namespace(&mut self, c: &DeleteNamespace) -> Answer {
        if c.namespace == limits::DEFAULT_NAMESPACE {
            return Err(invalid("namespace"));
        }
        self.need_namespace(&c.namespace)?;
        let queues = self.queues.values();
        let queues = queues.filter(|q| q.namespace == c.namespace).count() as u64;
        if queues > 0 {
            return Err(Rejection::NamespaceNotEmpty { queues });
        }
        let before = self.producers.len();
        self.producers.retain(|_, p| p.namespace != c.namespace);
        if self.producers.len() < before {
            self.reached("producers forgotten with their namespace");
        }
        self.namespaces.retain(|n| *n != c.namespace);
        Ok(Outcome::Done)
    }

    pub(super) fn create_queue(&mut self, c: &CreateQueue) -> Answer {
        check_name("queue", &c.queue)?;
        check_settings(&c.settings)?;
        self.need_namespace(&c.namespace)?;
        if let Some(queue) = self.queue(&c.namespace, &c.queue) {
            let differs = differences(&queue.settings, &c.settings);
            if !differs.is_empty() {
                return Err(Rejection::QueueExists { differs });
            }
            return Ok(queue_answer(queue, false));
        }
        self.last_queue += 1;
        let queue = Queue {
            id: QueueId(self.last_queue),
            namespace: c.namespace.clone(),
            name: c.queue.clone(),
            settings: c.settings.clone(),
            revision: 1,
            messages: Vec::new(),
            next_offset: 0,
            last_fence: 0,
            settled: Vec::new(),
            attempts: Vec::new(),
            line: Vec::new(),
            tally: Counters::default(),
            became_ready: false,
        };
        let answer = queue_answer(&queue, true);
        self.queues.insert(queue.id, queue);
        Ok(answer)
    }

    pub(super) fn update_queue(&mut self, c: &UpdateQueue) -> Answer {
        let queue = self.need_queue(&c.namespace, &c.queue)?;
        let mut settings = queue.settings.clone();
        let changes = c.changes.clone();
        settings.lease_ms = changes.lease_ms.unwrap_or(settings.lease_ms);
        settings.max_deliveries = changes.max_deliveries.unwrap_or(settings.max_deliveries);
        settings.retry_backoff = changes.retry_backoff.unwrap_or(settings.retry_backoff);
        settings.dead_letter = changes.dead_letter.unwrap_or(settings.dead_letter);
        settings.paused = changes.paused.unwrap_or(settings.paused);
        if c.revision.is_some_and(|wanted| wanted != queue.revision) {
            let current = queue.revision;
            return Err(Rejection::RevisionMismatch { current });
        }
        check_settings(&settings)?;
        let id = queue.id;
        let queue = self.queue_mut(id);
        if queue.settings != settings {
            queue.revision += 1;
        }
        if queue.settings.paused && !settings.paused {
            queue.became_ready = true;
        }
        queue.settings = settings;
        Ok(queue_answer(queue, false))
    }

    pub(super) fn delete_queue(&mut self, c: &DeleteQueue) -> Answer {
        let queue = self.need_queue(&c.namespace, &c.queue)?;
        let (id, messages) = (queue.id, queue.messages.len() as u64);
        if c.if_empty && messages > 0 {
            return Err(Rejection::QueueNotEmpty { messages });
        }
        for session in self.sessions_on(id) {
            self.tell_lost(session);
            self.forget_session(session, SessionEnd::QueueDeleted);
        }
        self.queues.remove(&id);
        self.events.push(Event::QueueDeleted {
            queue: id,
            namespace: c.namespace.clone(),
            name: c.queue.clone(),
        });
        Ok(Outcome::Deleted { messages })
    }

    pub(super) fn purge_queue(&mut self, c: &PurgeQueue) -> Answer {
        let queue = self.need_queue(&c.namespace, &c.queue)?;
        let id = queue.id;
        let now = PurgeRest {
            queue: id,
            below: Offset(queue.next_offset),
        };
        let rest = c.rest.unwrap_or(now);
        let mut wanted = Vec::new();
        if rest.queue == id {
            let below = |m: &&Message| m.offset < rest.below;
            let is_ready = |m: &&Message| m.standing == Standing::Ready;
            let is_delayed = |m: &&Message| matches!(m.standing, Standing::Delayed { .. });
            let standing = |m: &Message| (m.offset, m.standing);
            let all = || queue.messages.iter().filter(below);
            wanted.extend(all().filter(is_ready).map(standing));
            if c.include_delayed {
                wanted.extend(all().filter(is_delayed).map(standing));
            }
        }
        let first = first_to_purge(&wanted);
        let all = first.len() == wanted.len();
        if !all {
            self.reached("purges that leave a rest");
        }
        let queue = self.queue_mut(id);
        queue.messages.retain(|m| !first.contains(&m.offset));
        let messages = first.len() as u64;
        queue.tally.purged += messages;
        let rest = (!all).then_some(rest);
        Ok(Outcome::Purged { messages, rest })
    }
}

/// Those that one command removes: so many at most, in so many neighbourhoods of one standing.
fn first_to_purge(wanted: &[(Offset, Standing)]) -> BTreeSet<Offset> {
    let mut first = BTreeSet::new();
    let mut neighbourhoods = 0;
    let mut before: Option<(Offset, Standing)> = None;
    for &(offset, standing) in wanted {
        let is_neighbour = before == offset.0.checked_sub(1).map(|at| (Offset(at), standing));
        if before.is_none() || !is_neighbour {
            neighbourhoods += 1;
        }
        let enough = first.len() as u64 == limits::PURGE_MESSAGES_MAX;
        if enough || neighbourhoods > limits::PURGE_SPANS_MAX {
            break;
        }
        first.insert(offset);
        before = Some((offset, standing));
    }
    first
}

fn queue_answer(queue: &Queue, created: bool) -> Outcome {
    Outcome::Queue {
        id: queue.id,
        revision: queue.revision,
        created,
    }
}
