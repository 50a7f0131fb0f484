//! Receives, consumers and settles, rightful and not.

use ticketrail_core::command::{
    AdmitNode, AttachConsumer, Command, DetachConsumer, NodeBooted, Receive, RetireNode,
    SessionsLost, SetPrefetch, Settle, SettleKind, SettleRange,
};
use ticketrail_core::{BootId, DiskId, Fence, NodeId, Offset, Owner, QueueId, SessionId, limits};

use super::super::state::{Model, Queue, Standing};
use super::Generator;

impl Generator {
    pub(super) fn receive(&mut self, model: &Model) -> Command {
        let (namespace, queue) = self.some_queue(model);
        let again = self.dice.below(8) == 0;
        let attempt = match again {
            true => self.attempts - self.dice.below(self.attempts.min(5) + 1),
            false => {
                self.attempts += 1;
                self.attempts
            }
        };
        let longest = limits::ATTEMPT_ID_BYTES_MAX;
        Command::Receive(Receive {
            namespace,
            queue,
            max_messages: match self.wrong() {
                true => *self.dice.pick(&[
                    0,
                    limits::RECEIVE_MESSAGES_MAX,
                    limits::RECEIVE_MESSAGES_MAX + 1,
                ]),
                false => u32::try_from(self.dice.between(1, self.habits.batch)).expect("few"),
            },
            lease_ms: match self.dice.below(4) {
                0 => Some(self.lease_ms()),
                _ => None,
            },
            attempt: match self.wrong() {
                true => vec![0; *self.dice.pick(&[0, longest, longest + 1])],
                false => attempt.to_be_bytes().to_vec(),
            },
        })
    }

    fn lease_ms(&mut self) -> u64 {
        match self.wrong() {
            true => *self
                .dice
                .pick(&[0, limits::LEASE_MS_MAX, limits::LEASE_MS_MAX + 1, u64::MAX]),
            false => *self.dice.pick(&[1, 10, 400, 1_000, 2_500, 12_000]),
        }
    }

    fn session(&mut self) -> SessionId {
        SessionId(u128::from(self.dice.between(1, self.habits.names + 2)))
    }

    fn owner(&mut self) -> Owner {
        Owner {
            node: NodeId(self.dice.between(1, 3)),
            boot: BootId(self.dice.between(1, 3)),
            connection: self.dice.between(1, 3),
        }
    }

    fn prefetch(&mut self) -> u32 {
        match self.wrong() {
            true => *self
                .dice
                .pick(&[0, limits::PREFETCH_MAX, limits::PREFETCH_MAX + 1]),
            false => *self.dice.pick(&[1, 1, 2, 3, 10, 40]),
        }
    }

    pub(super) fn attach(&mut self, model: &Model) -> Command {
        let session = self.session();
        let known = model.sessions.get(&session);
        let at = known.and_then(|s| model.queues.get(&s.queue));
        let (namespace, queue) = match at {
            Some(queue) if !self.wrong() => (queue.namespace.clone(), queue.name.clone()),
            _ => self.some_queue(model),
        };
        let owner = match known {
            Some(known) if self.dice.one_in(3) => known.owner,
            Some(known) if self.dice.one_in(3) => Owner {
                connection: known.owner.connection + 1,
                ..known.owner
            },
            _ => self.owner(),
        };
        Command::AttachConsumer(AttachConsumer {
            namespace,
            queue,
            session,
            owner,
            prefetch: self.prefetch(),
            lease_ms: match self.dice.below(3) {
                0 => Some(self.lease_ms()),
                _ => None,
            },
        })
    }

    /// A session and who serves it, or who believes so.
    fn served(&mut self, model: &Model) -> (SessionId, Owner) {
        let session = self.session();
        match model.sessions.get(&session) {
            Some(known) if !self.wrong() => (session, known.owner),
            _ => (session, self.owner()),
        }
    }

    pub(super) fn set_prefetch(&mut self, model: &Model) -> Command {
        let (session, owner) = self.served(model);
        let prefetch = self.prefetch();
        Command::SetPrefetch(SetPrefetch {
            session,
            owner,
            prefetch,
        })
    }

    pub(super) fn detach(&mut self, model: &Model) -> Command {
        let (session, owner) = self.served(model);
        let release = self.dice.one_in(2);
        Command::DetachConsumer(DetachConsumer {
            session,
            owner,
            release,
        })
    }

    pub(super) fn node_booted(&mut self) -> Command {
        let Owner { node, boot, .. } = self.owner();
        Command::NodeBooted(NodeBooted { node, boot })
    }

    pub(super) fn known_node(&mut self) -> Command {
        let node = self.owner().node;
        if self.dice.one_in(6) {
            return Command::RetireNode(RetireNode { node });
        }
        let disk = DiskId(self.dice.below(3).into());
        Command::AdmitNode(AdmitNode { node, disk })
    }

    pub(super) fn sessions_lost(&mut self, model: &Model) -> Command {
        let (_, owner) = self.served(model);
        let Owner { node, boot, .. } = owner;
        Command::SessionsLost(SessionsLost { node, boot })
    }

    pub(super) fn settle(&mut self, model: &Model) -> Command {
        if self.dice.one_in(200) {
            let ranges = Vec::new();
            return Command::Settle(Settle { ranges });
        }
        let ranges = (0..self.dice.between(1, 4)).map(|_| self.settle_range(model));
        let ranges = ranges.collect();
        Command::Settle(Settle { ranges })
    }

    fn settle_range(&mut self, model: &Model) -> SettleRange {
        let kind = self.settle_kind();
        let current = match self.wrong() {
            true => None,
            false => self.current_leases(model),
        };
        let (queue, first_offset, first_fence, count) = match current {
            Some(lease) => lease,
            None => self.stale_leases(),
        };
        SettleRange {
            queue,
            first_offset,
            count,
            first_fence,
            kind,
        }
    }

    fn current_leases(&mut self, model: &Model) -> Option<(QueueId, Offset, Fence, u32)> {
        let queues = model.queues.values().map(|queue| (queue.id, leases(queue)));
        let queues = queues.filter(|(_, leases)| !leases.is_empty());
        let queues: Vec<_> = queues.collect();
        if queues.is_empty() {
            return None;
        }
        let (queue, leases) = self.dice.pick(&queues);
        let place = self.dice.below(leases.len() as u64);
        let place = usize::try_from(place).expect("a place");
        let (offset, fence) = leases[place];
        let most = self.dice.between(1, self.habits.batch);
        let row = (1..most).zip(&leases[place + 1..]);
        let row = row.take_while(|(k, (o, f))| o.0 == offset.0 + k && f.0 == fence.0 + k);
        let count = 1 + u32::try_from(row.count()).expect("few");
        Some((*queue, offset, fence, count))
    }

    fn stale_leases(&mut self) -> (QueueId, Offset, Fence, u32) {
        let count = self.dice.between(1, 3);
        let count = u32::try_from(count).expect("few");
        if self.history.is_empty() {
            return (QueueId(1), Offset(0), Fence(1), count);
        }
        let (queue, offset, fence) = *self.dice.pick(&self.history);
        match self.dice.below(20) {
            0 => (queue, offset, fence, 0),
            1 => (queue, offset, fence, u32::MAX),
            2 => (queue, Offset(u64::MAX), fence, count),
            3 => (queue, offset, Fence(u64::MAX), count),
            4 => (queue, offset, Fence(0), count),
            5 => (queue, offset, Fence(fence.0 + 1), count),
            6 => (queue, Offset(offset.0 + 1_000_000), fence, count),
            7 => (QueueId(queue.0 + 1), offset, fence, count),
            8 => (QueueId(0), offset, fence, count),
            _ => (queue, offset, fence, count),
        }
    }

    fn settle_kind(&mut self) -> SettleKind {
        match self.dice.below(12) {
            0..=3 => SettleKind::Ack,
            4..=6 => SettleKind::Nack {
                delay_ms: match self.dice.below(4) {
                    0 if self.wrong() => Some(
                        *self
                            .dice
                            .pick(&[limits::DELAY_MS_MAX, limits::DELAY_MS_MAX + 1]),
                    ),
                    0 => Some(0),
                    1 => Some(self.dice.between(1, 4_000)),
                    _ => None,
                },
            },
            7 | 8 => SettleKind::Reject,
            9 => SettleKind::Release,
            _ => SettleKind::Extend {
                lease_ms: self.lease_ms(),
            },
        }
    }
}

fn leases(queue: &Queue) -> Vec<(Offset, Fence)> {
    let held = queue.messages.iter();
    let held = held.filter_map(|m| match m.standing {
        Standing::Leased { fence, .. } => Some((m.offset, fence)),
        _ => None,
    });
    held.collect()
}
