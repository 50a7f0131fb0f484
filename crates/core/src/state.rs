//! The state of a cluster, and how an entry of the log changes it.
//!
//! Here are the frame of an entry (clocks, commands, what is due, the checks at its end) and the
//! indexes that find things by name. Queues and sessions live in their own files.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::command::{Command, Entry, Stamps};
use crate::digest;
use crate::event::Event;
use crate::id::{LeaseTime, MessageId, NodeId, Position, ProducerId, QueueId, WallTime};
use crate::limits;
use crate::outcome::{Outcome, Rejection};
use crate::producer::Producer;
use crate::queue::{Queue, low32};
use crate::row::NodeRow;
use crate::shared::Shared;
use crate::tracked::Tracked;

/// The newest version of the state machine that this program knows.
pub const STATE_VERSION: u32 = 1;

/// What an entry did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// One per command, in order.
    pub outcomes: Vec<Outcome>,
    /// In the order in which they happened.
    pub events: Vec<Event>,
}

/// The node must stop: an invariant is broken, or the log asks for a version that this program
/// does not know. The entry is not answered and the state must not be used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halt {
    /// What is wrong and what to do.
    pub reason: String,
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl core::error::Error for Halt {}

/// A namespace's indexes.
#[derive(Default)]
pub(crate) struct Namespace {
    pub(crate) queues: BTreeMap<String, QueueId>,
    pub(crate) producers: BTreeSet<ProducerId>,
    pub(crate) producer_names: BTreeMap<String, ProducerId>,
    /// Queues with parked dead letters, by the name of the queue that they wait for.
    pub(crate) waiting: BTreeMap<String, BTreeSet<QueueId>>,
}

/// The state machine: see [`State::apply`]. Made empty, or from rows by [`State::restore`].
#[derive(Default)]
pub struct State {
    pub(crate) applied_index: u64,
    pub(crate) digest: u64,
    pub(crate) version: u32,
    /// Cluster id and seed.
    pub(crate) bootstrap: Option<(u128, u64)>,
    pub(crate) next_queue: QueueId,
    pub(crate) next_message_id: MessageId,
    pub(crate) unroutable: u64,
    pub(crate) namespaces: Tracked<String, Namespace>,
    pub(crate) queues: BTreeMap<QueueId, Box<Queue>>,
    /// Node ids that were ever taken.
    pub(crate) nodes: Tracked<NodeId, NodeRow>,
    pub(crate) producers: Tracked<ProducerId, Producer>,
    /// Producers by their last use.
    pub(crate) producer_uses: BTreeSet<(WallTime, ProducerId)>,
    /// Queues whose parked dead letters can move or be dropped now.
    pub(crate) unparking: BTreeSet<QueueId>,
    pub(crate) meta_dirty: bool,
    pub(crate) shared: Shared,
}

impl State {
    /// The state before the first entry.
    #[must_use]
    pub fn new() -> Self {
        Self {
            next_queue: QueueId(1),
            next_message_id: MessageId(1),
            meta_dirty: true,
            ..Self::default()
        }
    }

    /// Applies the entry at `index`, which must be beyond [`State::applied_index`].
    ///
    /// # Errors
    /// [`Halt`]: nothing was answered, and the state must not be used again. If the reason is a
    /// version that this program does not know, nothing of the entry was applied either.
    pub fn apply(&mut self, index: u64, entry: &Entry) -> Result<Applied, Halt> {
        self.admit(index, entry)?;
        self.advance_clocks(entry.stamps);
        let mut outcomes = Vec::with_capacity(entry.commands.len());
        for (place, command) in entry.commands.iter().enumerate() {
            let place = low32(place as u64);
            let outcome = self.command(Position { index, place }, command);
            outcomes.push(outcome.unwrap_or_else(Outcome::Rejected));
            self.hand_out();
        }
        self.fire_due();
        self.forget_due();
        self.end_entry()?;
        let events = core::mem::take(&mut self.shared.events);
        let clocks = (self.lease_now(), self.wall_now());
        self.digest = digest::after_entry(self.digest, index, clocks, &outcomes, &events);
        self.applied_index = index;
        self.meta_dirty = true;
        Ok(Applied { outcomes, events })
    }

    /// Notes that the log's entries up to `index` hold nothing for the state machine.
    pub fn skip(&mut self, index: u64) {
        if index > self.applied_index {
            self.applied_index = index;
            self.meta_dirty = true;
        }
    }

    fn admit(&self, index: u64, entry: &Entry) -> Result<(), Halt> {
        if let Some(reason) = &self.shared.broken {
            return Err(Halt {
                reason: reason.clone(),
            });
        }
        if index <= self.applied_index {
            let reason = format!(
                "entry {index} was applied before; the state is at {}",
                self.applied_index
            );
            return Err(Halt { reason });
        }
        for command in &entry.commands {
            if let Command::SetVersion(set) = command
                && set.version > STATE_VERSION
            {
                let reason = format!(
                    "entry {index} raises the state machine to version {}, this program knows \
                     {STATE_VERSION}: upgrade it",
                    set.version
                );
                return Err(Halt { reason });
            }
        }
        Ok(())
    }

    fn advance_clocks(&mut self, stamps: Stamps) {
        let now = self.shared.lease_now;
        let limit = now.plus_ms(limits::LEASE_STEP_MS_MAX);
        self.shared.lease_now = now.max(stamps.lease_now.min(limit));
        self.shared.wall_now = self.shared.wall_now.max(stamps.wall_now);
    }

    pub(crate) fn end_entry(&mut self) -> Result<(), Halt> {
        let touched = self.shared.touched.take();
        for id in &touched {
            self.end_queue(*id);
        }
        self.shared.touched.reuse(touched);
        match &self.shared.broken {
            None => Ok(()),
            Some(reason) => Err(Halt {
                reason: reason.clone(),
            }),
        }
    }

    /// Checks a queue that the entry changed, and tells that there is something left over in it.
    fn end_queue(&mut self, id: QueueId) {
        self.shared.dirty.insert(id);
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        if !queue.is_conserved() {
            let reason = format!("the counts of queue {id} do not add up");
            self.shared.halt(&reason);
        }
        let became_ready = core::mem::take(&mut queue.became_ready);
        if became_ready && queue.ready.len() > 0 && !queue.settings.paused {
            self.shared.events.push(Event::Ready { queue: id });
        }
    }

    /// Lets the queues that the present command or timer touched hand out what is ready, in the
    /// order of their ids.
    pub(crate) fn hand_out(&mut self) {
        let touched = self.shared.to_hand_out.take();
        for id in &touched {
            if let Some(queue) = self.queues.get_mut(id) {
                queue.hand_out(&mut self.shared);
            }
        }
        self.shared.to_hand_out.reuse(touched);
    }

    /// A queue that is about to change, and what it shares with the others.
    pub(crate) fn change(&mut self, id: QueueId) -> Option<(&mut Queue, &mut Shared)> {
        let queue = self.queues.get_mut(&id)?;
        self.shared.touch(id);
        Some((queue, &mut self.shared))
    }

    pub(crate) fn queue_id(&self, namespace: &str, name: &str) -> Option<QueueId> {
        let namespace = self.namespaces.get(namespace)?;
        namespace.queues.get(name).copied()
    }

    /// The queue, or who is missing.
    pub(crate) fn find_queue(&self, namespace: &str, name: &str) -> Result<QueueId, Rejection> {
        let Some(space) = self.namespaces.get(namespace) else {
            return Err(Rejection::NamespaceNotFound {
                namespace: namespace.into(),
            });
        };
        let id = space.queues.get(name).copied();
        id.ok_or_else(|| Rejection::QueueNotFound {
            namespace: namespace.into(),
            queue: name.into(),
        })
    }

    /// Index of the last entry applied or skipped.
    #[must_use]
    pub fn applied_index(&self) -> u64 {
        self.applied_index
    }

    /// Digest of everything answered so far; equal on replicas at equal index.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Replicated lease time.
    #[must_use]
    pub fn lease_now(&self) -> LeaseTime {
        self.shared.lease_now
    }

    /// Replicated wall time.
    #[must_use]
    pub fn wall_now(&self) -> WallTime {
        self.shared.wall_now
    }

    /// Version of the state machine; 0 before bootstrap.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Identity of the cluster; none before bootstrap.
    #[must_use]
    pub fn cluster_id(&self) -> Option<u128> {
        self.bootstrap.map(|(cluster_id, _)| cluster_id)
    }

    /// Seed of every hash in the state; 0 before bootstrap.
    #[must_use]
    pub fn hash_seed(&self) -> u64 {
        self.shared.hash_seed
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("applied_index", &self.applied_index)
            .field("digest", &self.digest)
            .field("queues", &self.queues.len())
            .finish_non_exhaustive()
    }
}
