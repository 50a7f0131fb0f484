//! What the naive model holds.

use std::collections::BTreeMap;

use ticketrail_core::event::Event;
use ticketrail_core::row::Counters;
use ticketrail_core::{
    BodyRef, Death, DeathReason, DiskId, Fence, Grant, LeaseTime, MessageId, NodeId, Offset, Owner,
    ProducerId, QueueId, QueueSettings, SessionId, WallTime,
};

/// The whole broker.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Cluster id and hash seed.
    pub bootstrapped: Option<(u128, u64)>,
    /// Version of the state machine.
    pub version: u32,
    /// Replicated lease time.
    pub lease_now: LeaseTime,
    /// Replicated wall time.
    pub wall_now: WallTime,
    /// Messages that were accepted and reached no queue.
    pub unroutable: u64,
    /// Names of the namespaces.
    pub namespaces: Vec<String>,
    /// All queues.
    pub queues: BTreeMap<QueueId, Queue>,
    /// All sessions.
    pub sessions: BTreeMap<SessionId, Session>,
    /// All producers.
    pub producers: BTreeMap<ProducerId, Producer>,
    /// Node ids that were ever taken: the disk, or none once it was removed.
    pub nodes: BTreeMap<NodeId, Option<DiskId>>,
    pub(super) last_queue: u64,
    pub(super) last_message: u64,
    pub(super) events: Vec<Event>,
    pub(super) places: BTreeMap<&'static str, u64>,
}

/// One incarnation of a queue.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Its incarnation.
    pub id: QueueId,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its settings.
    pub settings: QueueSettings,
    /// Counts changes of settings, from 1.
    pub revision: u64,
    /// What is in it, by offset.
    pub messages: Vec<Message>,
    /// Offset of the next message.
    pub next_offset: u64,
    /// The last fence that was given out.
    pub last_fence: u64,
    /// What was settled for good: still told to those who repeat themselves.
    pub settled: Vec<Settled>,
    /// Answered receive attempts, oldest first.
    pub attempts: Vec<Attempt>,
    /// Sessions that can take messages, in the order of their turns.
    pub line: Vec<SessionId>,
    /// What came in and went out; bytes are not followed.
    pub tally: Counters,
    pub(super) became_ready: bool,
}

/// One message in one queue.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its place in the queue.
    pub offset: Offset,
    /// Its id.
    pub id: MessageId,
    /// Its bytes.
    pub body: BodyRef,
    /// When it was published.
    pub published_at: WallTime,
    /// How often it was granted in this queue, releases not counted.
    pub deliveries: u32,
    /// How often other queues gave it up.
    pub deaths: Vec<Death>,
    /// Where it stands.
    pub standing: Standing,
}

/// Where a message stands in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Can be granted.
    Ready,
    /// Becomes ready later.
    Delayed {
        /// When.
        due: LeaseTime,
    },
    /// In flight.
    Leased {
        /// The number that settles it.
        fence: Fence,
        /// When the lease ends.
        deadline: LeaseTime,
        /// The session that holds it; `None` after a `Receive`.
        holder: Option<SessionId>,
    },
    /// Given up, and its dead-letter queue is not there.
    Parked {
        /// Why.
        reason: DeathReason,
        /// When.
        at: WallTime,
    },
}

/// A message that its holder settled for good.
#[derive(Clone, Copy, Debug)]
pub struct Settled {
    /// Which.
    pub offset: Offset,
    /// Under which fence.
    pub fence: Fence,
    /// When.
    pub at: LeaseTime,
}

/// A receive attempt that was answered with messages.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The client's id for it.
    pub id: Vec<u8>,
    /// When.
    pub at: LeaseTime,
    /// What was leased.
    pub leases: Vec<(Offset, Fence)>,
}

/// A consumer.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// The queue it is on.
    pub queue: QueueId,
    /// Who serves it, or last did.
    pub owner: Owner,
    /// When it ends, while it has no connection.
    pub grace: Option<LeaseTime>,
    /// Most unsettled deliveries.
    pub prefetch: u32,
    /// Its lease, or the queue's.
    pub lease_ms: Option<u64>,
}

/// An idempotent producer.
#[derive(Clone, Debug)]
pub struct Producer {
    /// Its namespace.
    pub namespace: String,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// The newest epoch.
    pub epoch: u32,
    /// The last `fresh_id`s that opened an epoch, oldest first.
    pub openers: Vec<(ProducerId, u32)>,
    /// Last sequence stored.
    pub last_sequence: u64,
    /// (sequence, digest, id) of the last ones, oldest first.
    pub window: Vec<(u64, u64, MessageId)>,
    /// When it was last of use.
    pub used_at: WallTime,
}

impl Message {
    /// Can be granted.
    pub fn is_ready(&self) -> bool {
        self.standing == Standing::Ready
    }

    /// The session that holds it.
    pub fn holder(&self) -> Option<SessionId> {
        match self.standing {
            Standing::Leased { holder, .. } => holder,
            _ => None,
        }
    }

    /// The lease as it is told to its holder; `None` where there is none.
    pub fn grant(&self, queue: QueueId) -> Option<Grant> {
        let Standing::Leased {
            fence, deadline, ..
        } = self.standing
        else {
            return None;
        };
        Some(Grant {
            queue,
            first_offset: self.offset,
            count: 1,
            first_fence: fence,
            first_message_id: self.id,
            body: self.body,
            delivery_count: self.deliveries,
            deadline,
            published_at: self.published_at,
            deaths: self.deaths.clone(),
        })
    }
}

impl Queue {
    /// How many messages stand like this.
    pub fn count(&self, wanted: impl Fn(&Standing) -> bool) -> u64 {
        self.messages.iter().filter(|m| wanted(&m.standing)).count() as u64
    }

    /// The message at an offset, if it is still in the queue.
    pub fn message(&self, offset: Offset) -> Option<&Message> {
        let place = self.messages.binary_search_by_key(&offset, |m| m.offset);
        place.ok().map(|place| &self.messages[place])
    }

    pub(super) fn message_mut(&mut self, offset: Offset) -> &mut Message {
        let place = self.messages.binary_search_by_key(&offset, |m| m.offset);
        &mut self.messages[place.expect("the caller saw it here")]
    }

    pub(super) fn take(&mut self, offset: Offset) -> Message {
        let place = self.messages.binary_search_by_key(&offset, |m| m.offset);
        self.messages.remove(place.expect("the caller saw it here"))
    }

    /// What a session holds, in queue order.
    pub fn held_by(&self, session: SessionId) -> Vec<Offset> {
        let held = self.messages.iter();
        let held = held.filter(|m| m.holder() == Some(session));
        held.map(|m| m.offset).collect()
    }

    /// Everything that ever arrived is exactly somewhere.
    pub fn conserves(&self) -> bool {
        let t = &self.tally;
        let arrived = t.published + t.dead_lettered_in;
        let left = t.acknowledged + t.dead_lettered_out + t.expired + t.dropped + t.purged;
        arrived == left + self.messages.len() as u64 && arrived == self.next_offset
    }
}

impl Model {
    /// A cluster before its first command.
    pub fn new() -> Self {
        Self {
            version: 1,
            ..Self::default()
        }
    }

    /// The queue of that name.
    pub fn queue(&self, namespace: &str, name: &str) -> Option<&Queue> {
        let mut all = self.queues.values();
        all.find(|q| q.namespace == namespace && q.name == name)
    }

    pub(super) fn queue_mut(&mut self, id: QueueId) -> &mut Queue {
        self.queues.get_mut(&id).expect("the caller saw the queue")
    }
}
