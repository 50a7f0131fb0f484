//! Random entries, made with a look at the model so that the interesting happens often.
//!
//! Each episode draws its own habits (which commands, how often, how much is wrong), since what
//! is drawn evenly never goes far in any direction.

mod claims;
mod leases;
mod names;
pub mod wild;

use ticketrail_core::command::{
    Bootstrap, Command, CreateNamespace, CreateQueue, DeleteNamespace, DeleteQueue, Entry,
    OpenProducer, PurgeQueue, PurgeRest, SetVersion, Stamps, UpdateQueue,
};
use ticketrail_core::event::Event;
use ticketrail_core::outcome::Outcome;
use ticketrail_core::{
    DeadLetter, Fence, LeaseTime, Offset, ProducerId, QueueChanges, QueueId, QueueSettings,
    RetryBackoff, WallTime, limits,
};

use super::dice::Dice;
use super::state::Model;

/// What can be drawn; the order is that of [`Habits::weights`].
const KINDS: usize = 16;
const WEIGHTS: [u64; KINDS] = [1, 1, 1, 12, 8, 3, 3, 4, 60, 30, 14, 5, 8, 70, 2, 2];

/// One in so many episodes has large batches and long queues, and is short.
const HEAVY_EVERY: u64 = 40;

/// What an episode is like.
#[derive(Clone, Debug)]
struct Habits {
    /// Chances of the kinds of commands.
    weights: [u64; KINDS],
    /// One in so many details is wrong on purpose.
    wrong: u64,
    /// Largest usual publish.
    batch: u64,
    /// Messages in all queues together beyond which publishing rests.
    backlog: usize,
    /// Most commands of an entry.
    commands: u64,
    /// How time goes: 0 slow, 1 from deadline to deadline, 2 in full steps.
    pace: u64,
    /// Sessions, producers and names to choose from.
    names: u64,
}

/// What may be left over of a purge of one of the first queues.
fn purge_rest(dice: &mut Dice) -> PurgeRest {
    PurgeRest {
        queue: QueueId(dice.below(6)),
        below: Offset(dice.below(60)),
    }
}

/// Makes the entries of one episode.
#[derive(Debug)]
pub struct Generator {
    dice: Dice,
    habits: Habits,
    /// Leases that were once granted, the last ones.
    history: Vec<(QueueId, Offset, Fence)>,
    /// Producer ids that were once offered.
    openers: Vec<ProducerId>,
    /// Ticks that are still to be slept.
    asleep: u32,
    attempts: u64,
    bootstrapped: bool,
}

impl Generator {
    /// The episode of a seed.
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut weights = WEIGHTS;
        for weight in &mut weights {
            *weight *= *dice.pick(&[0, 1, 1, 2, 4]);
        }
        // Without queues, messages and leases there is nothing to see.
        for needed in [3, 8, 13] {
            weights[needed] = weights[needed].max(WEIGHTS[needed]);
        }
        let heavy = seed.is_multiple_of(HEAVY_EVERY);
        if heavy {
            // Large receives that expire together, and producers that go far.
            (weights[7], weights[9], weights[10]) = (20, 60, 0);
        }
        let habits = Habits {
            weights,
            wrong: *dice.pick(if heavy { &[100] } else { &[8, 25, 25, 100] }),
            batch: *dice.pick(if heavy { &[200, 1_000] } else { &[2, 5, 5, 20] }),
            backlog: *dice.pick(if heavy {
                &[1_500, 3_000]
            } else {
                &[5, 20, 40, 80]
            }),
            commands: *dice.pick(&[1, 3, 8]),
            pace: if heavy { 2 } else { dice.below(3) },
            names: dice.between(2, 5),
        };
        Self {
            dice,
            habits,
            history: Vec::new(),
            openers: Vec::new(),
            asleep: 0,
            attempts: 0,
            bootstrapped: false,
        }
    }

    /// Commands that make an episode; then everything starts anew with other habits.
    pub fn length(&self) -> u64 {
        if self.habits.batch > 100 { 600 } else { 1_500 }
    }

    /// How far the log's index moves to the next entry.
    pub fn index_step(&mut self) -> u64 {
        if self.dice.one_in(10) {
            self.dice.between(1, 200)
        } else {
            1
        }
    }

    /// The next entry.
    pub fn entry(&mut self, model: &Model) -> Entry {
        let stamps = self.stamps(model);
        let mut commands = Vec::new();
        if self.asleep > 0 {
            self.asleep -= 1;
            return Entry { stamps, commands };
        }
        if self.dice.one_in(400) {
            self.asleep = *self.dice.pick(&[10, 60, 320]);
        }
        if !self.bootstrapped && self.dice.one_in(2) {
            self.bootstrapped = true;
            commands.push(self.bootstrap(false));
        }
        for _ in 0..self.dice.between(0, self.habits.commands) {
            commands.push(self.command(model));
        }
        Entry { stamps, commands }
    }

    /// Remembers what was leased, to be confused about it later.
    pub fn observe(&mut self, outcomes: &[Outcome], events: &[Event]) {
        let received = outcomes.iter().flat_map(|outcome| match outcome {
            Outcome::Received { grants } => grants.as_slice(),
            _ => &[],
        });
        let delivered = events.iter().filter_map(|event| match event {
            Event::Delivered { grant, .. } => Some(grant),
            _ => None,
        });
        for grant in received.chain(delivered) {
            let lease = (grant.queue, grant.first_offset, grant.first_fence);
            self.history.push(lease);
        }
        let too_many = self.history.len().saturating_sub(200);
        self.history.drain(..too_many);
    }

    fn wrong(&mut self) -> bool {
        self.dice.one_in(self.habits.wrong)
    }

    fn stamps(&mut self, model: &Model) -> Stamps {
        let now = model.lease_now.0;
        let next = model.next_deadline().map_or(now, |due| due.0);
        let lease = if self.asleep > 0 {
            now + limits::LEASE_STEP_MS_MAX
        } else {
            match (self.dice.below(20), self.habits.pace) {
                (0, _) => now.saturating_sub(self.dice.below(2_000)),
                (1, _) => u64::MAX,
                (2, _) => next.saturating_sub(1),
                (3..=8, 0) => now,
                (_, 0) => now + self.dice.below(40),
                (_, 1) => next,
                _ => now + limits::LEASE_STEP_MS_MAX,
            }
        };
        let wall = model.wall_now.0;
        let wall = match self.dice.below(300) {
            0 => wall + limits::PRODUCER_IDLE_MS,
            1 => wall + limits::PRODUCER_IDLE_MS - 1,
            2 => wall + 86_400_000,
            3..=12 => wall.saturating_sub(self.dice.below(10_000)),
            13..=100 => wall,
            _ => wall + self.dice.below(2_000),
        };
        Stamps {
            lease_now: LeaseTime(lease),
            wall_now: WallTime(wall),
        }
    }

    fn command(&mut self, model: &Model) -> Command {
        let total = self.habits.weights.iter().sum();
        let mut roll = self.dice.below(total);
        let mut kind = 0;
        while roll >= self.habits.weights[kind] {
            roll -= self.habits.weights[kind];
            kind += 1;
        }
        match kind {
            0 => self.cluster(),
            1 => Command::CreateNamespace(CreateNamespace {
                namespace: self.namespace(),
            }),
            2 => Command::DeleteNamespace(DeleteNamespace {
                namespace: self.namespace(),
            }),
            3 => self.create_queue(model),
            4 => self.update_queue(model),
            5 => {
                let (namespace, queue) = self.some_queue(model);
                Command::DeleteQueue(DeleteQueue {
                    namespace,
                    queue,
                    if_empty: self.dice.one_in(2),
                })
            }
            6 => {
                let (namespace, queue) = self.some_queue(model);
                Command::PurgeQueue(PurgeQueue {
                    namespace,
                    queue,
                    include_delayed: self.dice.one_in(2),
                    rest: self.dice.maybe(3, purge_rest),
                })
            }
            7 => self.open_producer(),
            8 if self.is_overfull(model) => self.make_room(model),
            8 => self.publish(model),
            9 => self.receive(model),
            10 => self.attach(model),
            11 => self.set_prefetch(model),
            12 => self.detach(model),
            13 => self.settle(model),
            14 if self.dice.one_in(4) => self.known_node(),
            14 => self.node_booted(),
            _ => self.sessions_lost(model),
        }
    }

    fn is_overfull(&mut self, model: &Model) -> bool {
        let messages: usize = model.queues.values().map(|q| q.messages.len()).sum();
        messages > self.habits.backlog && !self.dice.one_in(20)
    }

    fn make_room(&mut self, model: &Model) -> Command {
        let longest = model.queues.values().max_by_key(|q| q.messages.len());
        let longest = longest.expect("overfull");
        let (namespace, queue) = (longest.namespace.clone(), longest.name.clone());
        if self.dice.one_in(8) {
            return Command::DeleteQueue(DeleteQueue {
                namespace,
                queue,
                if_empty: false,
            });
        }
        if self.dice.one_in(2) {
            return self.settle(model);
        }
        Command::PurgeQueue(PurgeQueue {
            namespace,
            queue,
            include_delayed: true,
            rest: None,
        })
    }

    fn bootstrap(&mut self, other: bool) -> Command {
        Command::Bootstrap(Bootstrap {
            cluster_id: 7 + u128::from(other),
            hash_seed: 11 + self.dice.below(2) * u64::from(other),
        })
    }

    fn cluster(&mut self) -> Command {
        if self.dice.one_in(2) {
            let other = self.dice.one_in(2);
            return self.bootstrap(other);
        }
        let version = u32::from(!self.dice.one_in(2));
        Command::SetVersion(SetVersion { version })
    }

    fn create_queue(&mut self, model: &Model) -> Command {
        let (namespace, queue) = self.some_queue(model);
        let same = model.queue(&namespace, &queue);
        let settings = match same {
            Some(queue) if !self.dice.one_in(3) => queue.settings.clone(),
            _ => self.settings(),
        };
        Command::CreateQueue(CreateQueue {
            namespace,
            queue,
            settings,
        })
    }

    fn update_queue(&mut self, model: &Model) -> Command {
        let (namespace, queue) = self.some_queue(model);
        let settings = self.settings();
        let dice = &mut self.dice;
        let changes = QueueChanges {
            lease_ms: dice.maybe(4, |_| settings.lease_ms),
            max_deliveries: dice.maybe(4, |_| settings.max_deliveries),
            retry_backoff: dice.maybe(4, |_| settings.retry_backoff),
            dead_letter: dice.maybe(4, |_| settings.dead_letter),
            paused: dice.maybe(3, |dice| dice.one_in(3)),
        };
        let revision = model.queue(&namespace, &queue).map_or(1, |q| q.revision);
        let revision = match self.dice.below(4) {
            0 => Some(revision),
            1 => Some(revision + 1),
            _ => None,
        };
        Command::UpdateQueue(UpdateQueue {
            namespace,
            queue,
            changes,
            revision,
        })
    }

    fn settings(&mut self) -> QueueSettings {
        let leases = [1, 20, 500, 1_000, 3_000, 7_000, 30_000];
        QueueSettings {
            lease_ms: if self.wrong() {
                *self
                    .dice
                    .pick(&[0, limits::LEASE_MS_MAX, limits::LEASE_MS_MAX + 1])
            } else {
                *self.dice.pick(&leases)
            },
            max_deliveries: *self.dice.pick(&[0, 1, 2, 2, 3, 10, u32::MAX]),
            retry_backoff: match self.dice.below(3) {
                0 => Some(self.backoff()),
                _ => None,
            },
            dead_letter: match self.dice.below(3) {
                0 => None,
                _ => Some(DeadLetter {
                    routing_key: self.queue_name(),
                }),
            },
            paused: self.dice.one_in(8),
        }
    }

    fn backoff(&mut self) -> RetryBackoff {
        let base_ms = if self.wrong() {
            *self
                .dice
                .pick(&[0, limits::DELAY_MS_MAX, limits::DELAY_MS_MAX + 1])
        } else {
            *self.dice.pick(&[1, 10, 333, 1_000, 5_000])
        };
        RetryBackoff {
            base_ms,
            factor_percent: if self.wrong() {
                *self.dice.pick(&[0, 99, 10_001, u32::MAX])
            } else {
                *self.dice.pick(&[100, 101, 150, 200, 333, 10_000])
            },
            max_ms: if self.wrong() {
                *self.dice.pick(&[0, limits::DELAY_MS_MAX + 1, u64::MAX])
            } else {
                *self
                    .dice
                    .pick(&[base_ms, base_ms.saturating_mul(7), limits::DELAY_MS_MAX])
            },
            jitter_percent: if self.wrong() {
                *self.dice.pick(&[101, u32::MAX])
            } else {
                *self.dice.pick(&[0, 0, 1, 20, 100])
            },
        }
    }

    fn open_producer(&mut self) -> Command {
        let fresh_id = match self.dice.maybe(4, |_| ()) {
            Some(()) if !self.openers.is_empty() => *self.dice.pick(&self.openers),
            _ => ProducerId(u128::from(self.dice.bits())),
        };
        self.openers.push(fresh_id);
        let namespace = self.namespace();
        let name = match self.dice.below(3) {
            0 => None,
            _ => Some(self.producer_name()),
        };
        Command::OpenProducer(OpenProducer {
            namespace,
            name,
            fresh_id,
        })
    }
}
