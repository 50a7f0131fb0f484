//! Random commands from a seed: mostly sensible, sometimes wild.

use ticketrail_core::command::*;
use ticketrail_core::limits;
use ticketrail_core::*;

/// xorshift64*, so that a printed seed brings everything back.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize].clone()
    }
}

/// Makes entries; remembers grants, so that settles often hit.
pub(crate) struct Generator {
    pub(crate) random: Random,
    /// Also values at and beyond every bound, and clocks that jump.
    wild: bool,
    grants: Vec<Grant>,
    next_sequence: [u64; 4],
    fresh: u128,
}

const QUEUES: [&str; 4] = ["a", "b", "c", "dead"];

impl Generator {
    pub(crate) fn new(seed: u64, wild: bool) -> Self {
        Self {
            random: Random::new(seed),
            wild,
            grants: Vec::new(),
            next_sequence: [1; 4],
            fresh: 100,
        }
    }

    /// Learns what an entry granted.
    pub(crate) fn learn(&mut self, applied: &Applied) {
        let mut new: Vec<Grant> = Vec::new();
        for event in &applied.events {
            if let Event::Delivered { grant, .. } = event {
                new.push(grant.clone());
            }
        }
        for outcome in &applied.outcomes {
            match outcome {
                Outcome::Received { grants } => new.extend(grants.iter().cloned()),
                Outcome::Attached { held, .. } => new.extend(held.iter().cloned()),
                _ => {}
            }
        }
        self.grants.append(&mut new);
        let surplus = self.grants.len().saturating_sub(200);
        self.grants.drain(..surplus);
    }

    pub(crate) fn entry(&mut self, state: &State) -> Entry {
        let commands = (0..self.random.below(4)).map(|_| self.command());
        let commands = commands.collect();
        Entry {
            stamps: self.stamps(state),
            commands,
        }
    }

    fn stamps(&mut self, state: &State) -> Stamps {
        let lease = state.lease_now().0;
        let wall = state.wall_now().0;
        if self.wild && self.random.one_in(10) {
            let jump = [0, u64::MAX, lease, wall, lease.wrapping_sub(1)];
            let wall_jump = [0, wall.saturating_add(limits::PRODUCER_IDLE_MS / 3), wall];
            return Stamps {
                lease_now: LeaseTime(self.random.pick(&jump)),
                wall_now: WallTime(self.random.pick(&wall_jump)),
            };
        }
        let step = self.random.pick(&[0, 1, 50, 700, 1_000, 2_000]);
        Stamps {
            lease_now: LeaseTime(lease.saturating_add(step)),
            wall_now: WallTime(wall.saturating_add(step)),
        }
    }

    fn namespace(&mut self) -> String {
        if self.random.one_in(8) {
            return self.random.pick(&["n", "n", "n", "none", ""]).into();
        }
        "default".into()
    }

    fn queue(&mut self) -> String {
        if self.random.one_in(30) {
            return self.random.pick(&["none", "", "tr.x", "\u{7}"]).into();
        }
        self.random.pick(&QUEUES).into()
    }

    /// Mostly below `usual`, when wild sometimes anything.
    fn number(&mut self, usual: u64) -> u64 {
        if self.wild && self.random.one_in(8) {
            let shift = self.random.below(64);
            let extremes = [0, 1, u64::MAX, u64::MAX - 1, u64::from(u32::MAX)];
            let any = self.random.next() >> shift;
            return if self.random.one_in(2) {
                self.random.pick(&extremes)
            } else {
                any
            };
        }
        self.random.below(usual)
    }

    fn number32(&mut self, usual: u64) -> u32 {
        u32::try_from(self.number(usual)).unwrap_or(u32::MAX)
    }

    fn from(&mut self, least: u64, usual: u64) -> u64 {
        self.number(usual).saturating_add(least)
    }

    fn from32(&mut self, least: u32, usual: u64) -> u32 {
        self.number32(usual).saturating_add(least)
    }

    fn session(&mut self) -> SessionId {
        SessionId(u128::from(self.random.below(5)))
    }

    fn owner(&mut self) -> Owner {
        Owner {
            node: NodeId(1 + self.random.below(2)),
            boot: BootId(1 + self.random.below(2)),
            connection: self.random.below(2),
        }
    }

    pub(crate) fn command(&mut self) -> Command {
        match self.random.below(100) {
            0..=24 => self.publish(),
            25..=34 => self.receive(),
            35..=64 => self.settle(),
            65..=72 => self.attach(),
            73..=75 => self.set_prefetch(),
            76..=80 => self.detach(),
            81..=82 => self.node(),
            83..=86 => self.open_producer(),
            87..=89 => Command::CreateQueue(CreateQueue {
                namespace: self.namespace(),
                queue: self.queue(),
                settings: self.settings(),
            }),
            90..=93 => self.update_queue(),
            94 => Command::DeleteQueue(DeleteQueue {
                namespace: self.namespace(),
                queue: self.queue(),
                if_empty: !self.random.one_in(3),
            }),
            95 => Command::PurgeQueue(PurgeQueue {
                namespace: self.namespace(),
                queue: self.queue(),
                include_delayed: self.random.one_in(2),
                rest: self.random.one_in(3).then(|| PurgeRest {
                    queue: QueueId(self.number(6)),
                    below: Offset(self.number(60)),
                }),
            }),
            96..=97 => Command::CreateNamespace(CreateNamespace {
                namespace: self.random.pick(&["n", "n", "default", ""]).into(),
            }),
            98 => Command::DeleteNamespace(DeleteNamespace {
                namespace: self.random.pick(&["n", "n", "default", "none"]).into(),
            }),
            _ => self.rare(),
        }
    }

    fn rare(&mut self) -> Command {
        if self.random.one_in(2) {
            let version = self.random.below(2) as u32;
            return Command::SetVersion(SetVersion { version });
        }
        Command::Bootstrap(Bootstrap {
            cluster_id: u128::from(self.random.below(2)),
            hash_seed: 5,
        })
    }

    fn settings(&mut self) -> QueueSettings {
        let backoff = RetryBackoff {
            base_ms: self.from(1, 2_000),
            factor_percent: self.from32(100, 200),
            max_ms: self.from(2_000, 5_000),
            jitter_percent: self.number32(101),
        };
        QueueSettings {
            lease_ms: self.from(1, 8_000),
            max_deliveries: self.number32(4),
            retry_backoff: self.random.one_in(3).then_some(backoff),
            dead_letter: self.random.one_in(2).then(|| DeadLetter {
                routing_key: self.queue(),
            }),
            paused: self.random.one_in(10),
        }
    }

    fn update_queue(&mut self) -> Command {
        let settings = self.settings();
        let changes = QueueChanges {
            lease_ms: self.random.one_in(3).then_some(settings.lease_ms),
            max_deliveries: self.random.one_in(3).then_some(settings.max_deliveries),
            retry_backoff: self.random.one_in(3).then_some(settings.retry_backoff),
            dead_letter: self.random.one_in(2).then_some(settings.dead_letter),
            paused: self.random.one_in(2).then_some(settings.paused),
        };
        Command::UpdateQueue(UpdateQueue {
            namespace: self.namespace(),
            queue: self.queue(),
            changes,
            revision: self.random.one_in(5).then(|| self.random.below(5)),
        })
    }

    fn open_producer(&mut self) -> Command {
        self.fresh += 1;
        let known = self.random.below(4);
        let (name, fresh_id) = match known {
            0 | 1 => (None, u128::from(known)),
            _ if self.random.one_in(2) => (Some(known.to_string()), u128::from(known)),
            _ => (Some(known.to_string()), self.fresh),
        };
        Command::OpenProducer(OpenProducer {
            namespace: self.namespace(),
            name,
            fresh_id: ProducerId(fresh_id),
        })
    }

    fn publish(&mut self) -> Command {
        let runs: Vec<PublishRun> = (0..1 + self.random.below(3))
            .map(|_| PublishRun {
                routing_key: self.queue(),
                count: self.from32(1, 30),
                bytes: self.number(10_000),
                mandatory: self.random.one_in(3),
            })
            .collect();
        let count: u64 = runs.iter().map(|run| u64::from(run.count)).sum();
        let producer = self.random.one_in(3).then(|| self.claim(count.min(2_000)));
        Command::Publish(Publish {
            namespace: self.namespace(),
            producer,
            atomic: self.random.one_in(2),
            runs,
        })
    }

    /// Continues, repeats, reuses or skips a producer's sequence.
    fn claim(&mut self, count: u64) -> ProducerSequence {
        let id = self.random.below(4);
        let next = self.next_sequence[id as usize];
        let first_sequence = match self.random.below(8) {
            0 => self.number(next.saturating_add(3)),
            1 => next.saturating_sub(count),
            2 => 1,
            _ => next,
        };
        if first_sequence == next {
            self.next_sequence[id as usize] = next.saturating_add(count);
        }
        let salt = u64::from(self.random.one_in(10));
        let digests = (0..count).map(|k| first_sequence.wrapping_add(k) ^ salt << 63);
        ProducerSequence {
            id: ProducerId(u128::from(id)),
            epoch: self.from32(1, 2),
            first_sequence,
            digests: digests.collect(),
        }
    }

    fn receive(&mut self) -> Command {
        Command::Receive(Receive {
            namespace: self.namespace(),
            queue: self.queue(),
            max_messages: self.from32(1, 40),
            lease_ms: self.random.one_in(3).then(|| self.number(5_000)),
            attempt: vec![0; self.number(20).min(200) as usize],
        })
    }

    fn attach(&mut self) -> Command {
        Command::AttachConsumer(AttachConsumer {
            namespace: self.namespace(),
            queue: self.random.pick(&["a", "b"]).into(),
            session: self.session(),
            owner: self.owner(),
            prefetch: self.from32(1, 60),
            lease_ms: self.random.one_in(3).then(|| self.from(1, 2_000)),
        })
    }

    fn set_prefetch(&mut self) -> Command {
        Command::SetPrefetch(SetPrefetch {
            session: self.session(),
            owner: self.owner(),
            prefetch: self.number32(60),
        })
    }

    fn detach(&mut self) -> Command {
        Command::DetachConsumer(DetachConsumer {
            session: self.session(),
            owner: self.owner(),
            release: self.random.one_in(2),
        })
    }

    fn node(&mut self) -> Command {
        let Owner { node, boot, .. } = self.owner();
        match self.random.below(8) {
            0 => {
                let (node, disk) = (NodeId(self.number(5)), DiskId(self.number(2).into()));
                return Command::AdmitNode(AdmitNode { node, disk });
            }
            1 => {
                let node = NodeId(self.number(9));
                return Command::RetireNode(RetireNode { node });
            }
            2..=4 => return Command::NodeBooted(NodeBooted { node, boot }),
            _ => {}
        }
        Command::SessionsLost(SessionsLost { node, boot })
    }

    fn settle(&mut self) -> Command {
        let ranges = (0..self.random.below(4)).map(|_| self.range());
        Command::Settle(Settle {
            ranges: ranges.collect(),
        })
    }

    /// Part of a known grant, or a little beside it, or anything.
    fn range(&mut self) -> SettleRange {
        let kind = match self.random.below(10) {
            0..=3 => SettleKind::Ack,
            4 | 5 => SettleKind::Nack {
                delay_ms: self.random.one_in(2).then(|| self.number(3_000)),
            },
            6 => SettleKind::Reject,
            7 => SettleKind::Release,
            _ => SettleKind::Extend {
                lease_ms: self.number(9_000),
            },
        };
        if self.grants.is_empty() || (self.wild && self.random.one_in(10)) {
            return SettleRange {
                queue: QueueId(self.number(5)),
                first_offset: Offset(self.number(300)),
                count: self.number32(100),
                first_fence: Fence(self.number(300)),
                kind,
            };
        }
        let place = self.random.below(self.grants.len() as u64) as usize;
        let grant = &self.grants[place];
        let (queue, offset, fence) = (grant.queue, grant.first_offset.0, grant.first_fence.0);
        let count = u64::from(grant.count);
        let skip = self.random.below(count);
        let beside = u64::from(self.random.one_in(12));
        SettleRange {
            queue,
            first_offset: Offset(offset + skip),
            count: self.from32(1, count - skip + 1),
            first_fence: Fence(fence + skip + beside),
            kind,
        }
    }
}
