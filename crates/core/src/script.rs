//! The one helper of this room's tests: a state that is asked in scripts and answers in words.
//!
//! After every entry it also checks what must hold always: the drained changes add up to the
//! rows, a state restored from the rows has the same rows, deadline and digest, and the counts of
//! every queue add up (the state itself checks that and would halt).

use alloc::collections::BTreeMap;
use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

use crate::command::*;
use crate::*;

pub(crate) const SEED: u64 = 42;

/// See the top of the file.
pub(crate) struct Script {
    pub(crate) state: State,
    stored: BTreeMap<RowKey, Row>,
    /// Events of the last entry, in words.
    pub(crate) events: Vec<String>,
}

impl Script {
    /// A bootstrapped cluster.
    pub(crate) fn new() -> Self {
        let mut script = Self::empty();
        let answer = script.run(Command::Bootstrap(Bootstrap {
            cluster_id: 7,
            hash_seed: SEED,
        }));
        assert_eq!(answer, Outcome::Done);
        script
    }

    /// A cluster before its bootstrap.
    pub(crate) fn empty() -> Self {
        Self {
            state: State::new(),
            stored: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    /// A cluster with these queues, all with default settings.
    pub(crate) fn with_queues(names: &[&str]) -> Self {
        let mut script = Self::new();
        for name in names {
            script.run(create(name, QueueSettings::default()));
        }
        script
    }

    /// One command in an entry of its own, with no time passing.
    pub(crate) fn run(&mut self, command: Command) -> Outcome {
        let stamps = Stamps {
            lease_now: self.state.lease_now(),
            wall_now: self.state.wall_now(),
        };
        self.entry(stamps, vec![command]).pop().unwrap()
    }

    /// The same for a command that is refused.
    pub(crate) fn refused(&mut self, command: Command) -> Rejection {
        let before = self.state.rows();
        match self.run(command) {
            Outcome::Rejected(rejection) => {
                let (meta, rest) = (|row: &(RowKey, Row)| row.0 == RowKey::Meta, 1..);
                assert!(meta(&before[0]));
                assert_eq!(before[rest.clone()], self.state.rows()[rest]);
                rejection
            }
            other => panic!("not refused but {other:?}"),
        }
    }

    pub(crate) fn entry(&mut self, stamps: Stamps, commands: Vec<Command>) -> Vec<Outcome> {
        let index = self.state.applied_index() + 1;
        let applied = self
            .state
            .apply(index, &Entry { stamps, commands })
            .unwrap();
        self.events = applied.events.iter().map(event_in_words).collect();
        self.check_rows();
        applied.outcomes
    }

    fn check_rows(&mut self) {
        let stored = &mut self.stored;
        self.state.drain_changes(|key, row| match row {
            Some(row) => drop(stored.insert(key, row)),
            None => assert!(stored.remove(&key).is_some(), "{key:?} never stored"),
        });
        let rows = self.state.rows();
        let stored: Vec<_> = self.stored.clone().into_iter().collect();
        assert_eq!(stored, rows, "drained changes do not add up to the rows");
        let mut restored = State::restore(rows.clone()).unwrap();
        assert_eq!(restored.rows(), rows);
        assert_eq!(restored.next_deadline(), self.state.next_deadline());
        restored.drain_changes(|key, _| panic!("{key:?} of a restored state has changed"));
    }

    /// Lets time pass in ticks of at most a second; the events of all of them, in words.
    pub(crate) fn pass(&mut self, ms: u64) -> Vec<String> {
        let mut events = Vec::new();
        let mut left = ms;
        while left > 0 {
            let step = left.min(1_000);
            let stamps = Stamps {
                lease_now: self.state.lease_now().plus_ms(step),
                wall_now: WallTime(self.state.wall_now().0 + step),
            };
            self.entry(stamps, vec![]);
            events.append(&mut self.events);
            left -= step;
        }
        events
    }

    pub(crate) fn receive(&mut self, queue: &str, max: u32, attempt: &str) -> Vec<Grant> {
        match self.run(receive(queue, max, attempt)) {
            Outcome::Received { grants } => grants,
            other => panic!("not received but {other:?}"),
        }
    }

    /// Settles, and tells the exceptions in words.
    pub(crate) fn settle(&mut self, ranges: Vec<SettleRange>) -> Vec<String> {
        match self.run(Command::Settle(Settle { ranges })) {
            Outcome::Settled { exceptions } => exceptions
                .iter()
                .map(|e| format!("{} {:?}", span(e.first_offset, e.count), e.status))
                .collect(),
            other => panic!("not settled but {other:?}"),
        }
    }

    pub(crate) fn queue(&self, name: &str) -> QueueView<'_> {
        self.state.queue("default", name).unwrap()
    }

    /// Ready, delayed, in flight, parked.
    pub(crate) fn counts(&self, name: &str) -> [u64; 4] {
        let queue = self.queue(name);
        [queue.ready, queue.delayed, queue.in_flight, queue.parked]
    }
}

pub(crate) fn create(name: &str, settings: QueueSettings) -> Command {
    Command::CreateQueue(CreateQueue {
        namespace: "default".into(),
        queue: name.into(),
        settings,
    })
}

/// Settings with a dead-letter target and so many deliveries.
pub(crate) fn dead_to(target: &str, max_deliveries: u32) -> QueueSettings {
    QueueSettings {
        max_deliveries,
        dead_letter: Some(DeadLetter {
            routing_key: target.into(),
        }),
        ..QueueSettings::default()
    }
}

/// A publish of `count` messages of 10 bytes.
pub(crate) fn publish(queue: &str, count: u32) -> Command {
    publish_runs(&[(queue, count)])
}

pub(crate) fn publish_runs(runs: &[(&str, u32)]) -> Command {
    Command::Publish(Publish {
        namespace: "default".into(),
        producer: None,
        atomic: true,
        runs: runs
            .iter()
            .map(|(queue, count)| PublishRun {
                routing_key: (*queue).into(),
                count: *count,
                bytes: u64::from(*count) * 10,
                mandatory: false,
            })
            .collect(),
    })
}

pub(crate) fn receive(queue: &str, max_messages: u32, attempt: &str) -> Command {
    Command::Receive(Receive {
        namespace: "default".into(),
        queue: queue.into(),
        max_messages,
        lease_ms: None,
        attempt: attempt.as_bytes().to_vec(),
    })
}

/// A connection of node 1's first boot.
pub(crate) fn owner(connection: u64) -> Owner {
    Owner {
        node: NodeId(1),
        boot: BootId(1),
        connection,
    }
}

/// Session `id`, on connection `id` of node 1.
pub(crate) fn attach(queue: &str, id: u64, prefetch: u32) -> Command {
    Command::AttachConsumer(AttachConsumer {
        namespace: "default".into(),
        queue: queue.into(),
        session: SessionId(u128::from(id)),
        owner: owner(id),
        prefetch,
        lease_ms: None,
    })
}

pub(crate) fn detach(id: u64, release: bool) -> Command {
    Command::DetachConsumer(DetachConsumer {
        session: SessionId(u128::from(id)),
        owner: owner(id),
        release,
    })
}

/// Queue 1's leases from this offset and fence on.
pub(crate) fn range(first: u64, count: u32, fence: u64, kind: SettleKind) -> SettleRange {
    SettleRange {
        queue: QueueId(1),
        first_offset: Offset(first),
        count,
        first_fence: Fence(fence),
        kind,
    }
}

fn span(first: Offset, count: u32) -> String {
    match count {
        1 => format!("{first}"),
        _ => format!("{first}-{}", first.0 + u64::from(count) - 1),
    }
}

/// Offsets, first fence, delivery: `0-2@1 x1`, and how they died before.
pub(crate) fn grant_in_words(grant: &Grant) -> String {
    let Grant {
        first_offset,
        count,
        first_fence,
        delivery_count,
        deaths,
        ..
    } = grant;
    let mut words = format!(
        "{}@{first_fence} x{delivery_count}",
        span(*first_offset, *count)
    );
    for death in deaths {
        words += &format!(" {}:{:?}*{}", death.queue, death.reason, death.count);
    }
    words
}

pub(crate) fn in_words(grants: &[Grant]) -> Vec<String> {
    grants.iter().map(grant_in_words).collect()
}

fn event_in_words(event: &Event) -> String {
    match event {
        Event::Delivered { session, grant, .. } => {
            format!("s{session} gets {}", grant_in_words(grant))
        }
        Event::LeasesLost {
            session,
            first_offset,
            count,
            ..
        } => format!("s{session} loses {}", span(*first_offset, *count)),
        Event::SessionEnded { session, why, .. } => format!("s{session} ends {why:?}"),
        Event::SessionMoved { session, from } => {
            format!("s{session} leaves connection {}", from.connection)
        }
        Event::Ready { queue } => format!("q{queue} ready"),
        Event::QueueDeleted { queue, name, .. } => format!("q{queue} `{name}` deleted"),
    }
}
