//! Random histories: a restored state goes on exactly like the one it was taken from, the state's
//! views agree with each other, and no command whatsoever panics or breaks an invariant.
//!
//! Every failure prints its seed; `SEED=n` runs that one alone, `SEEDS=n` so many.

mod generator;

use std::collections::{BTreeMap, BTreeSet};

use generator::Generator;
use ticketrail_core::command::Bootstrap;
use ticketrail_core::*;

fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    match (number("SEED"), number("SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, seeds) => 0..seeds.unwrap_or(usual),
    }
}

fn bootstrapped() -> State {
    let mut state = State::new();
    let bootstrap = Command::Bootstrap(Bootstrap {
        cluster_id: 1,
        hash_seed: 5,
    });
    let entry = Entry {
        stamps: Stamps::default(),
        commands: vec![bootstrap],
    };
    state.apply(1, &entry).expect("bootstrap is always applied");
    state
}

/// What a run must have reached for it to count: the first word of every answer, rejection and
/// event.
#[derive(Default)]
struct Reached(BTreeSet<String>);

impl Reached {
    fn note(&mut self, applied: &Applied) {
        for outcome in &applied.outcomes {
            match outcome {
                Outcome::Rejected(rejection) => self.word("rejected", rejection),
                Outcome::Published { refused, .. } => {
                    self.word("outcome", outcome);
                    for item in refused {
                        self.word("refused", &item.rejection);
                    }
                }
                Outcome::Settled { exceptions } => {
                    self.word("outcome", outcome);
                    for exception in exceptions {
                        self.word("settle", &exception.status);
                    }
                }
                _ => self.word("outcome", outcome),
            }
        }
        for event in &applied.events {
            match event {
                Event::SessionEnded { why, .. } => self.word("ended", why),
                _ => self.word("event", event),
            }
        }
    }

    /// What messages went through, by the queues' own counts.
    fn note_counts(&mut self, state: &State) {
        for queue in state.queues("default", None) {
            let c = queue.counters;
            let counts = [
                ("delayed", queue.delayed),
                ("parked", queue.parked),
                ("redelivered", c.redelivered),
                ("expired", c.leases_expired),
                ("dead", c.dead_lettered_in),
                ("dropped", c.dropped),
                ("purged", c.purged),
                ("acknowledged", c.acknowledged),
            ];
            for (name, _) in counts.iter().filter(|(_, count)| *count > 0) {
                self.0.insert(format!("count {name}"));
            }
        }
    }

    fn word(&mut self, kind: &str, value: &impl std::fmt::Debug) {
        let told = format!("{value:?}");
        let word = told.split(|c: char| !c.is_alphanumeric()).next();
        self.0
            .insert(format!("{kind} {}", word.unwrap_or_default()));
    }

    /// A run that exercised too little is void, and void is failed.
    fn demand(&self, wanted: &str) {
        let missing: Vec<&str> = wanted
            .lines()
            .flat_map(|line| line.split(','))
            .map(str::trim)
            .filter(|word| !word.is_empty() && !self.0.contains(*word))
            .collect();
        assert!(missing.is_empty(), "never reached: {missing:?}");
    }
}

const WANTED: &str = "
    outcome Done, outcome Queue, outcome Deleted, outcome Purged, outcome Producer,
    outcome Published, outcome Received, outcome Attached, outcome Settled,
    rejected AlreadyBootstrapped, rejected VersionTooLow, rejected InvalidField,
    rejected InvalidName, rejected NamespaceNotFound, rejected NamespaceNotEmpty,
    rejected QueueNotFound, rejected QueueExists, rejected QueueNotEmpty,
    rejected RevisionMismatch, rejected SessionNotFound,
    refused Unroutable, refused ProducerFenced, refused UnknownProducer,
    refused SequenceReused, refused OutOfSequence, refused BatchRefused, refused InvalidField,
    settle AlreadySettled, settle LeaseLost, settle NotFound, settle Invalid,
    event Delivered, event LeasesLost, event SessionMoved, event Ready, event QueueDeleted,
    count delayed, count parked, count redelivered, count expired, count dead, count dropped,
    count purged, count acknowledged,
    ended Closed, ended GraceOver, ended QueueDeleted";

/// All bodies that messages refer to, as the queues tell them.
fn live_bodies(state: &State) -> Vec<BodyRef> {
    let queues = (1..200).map(QueueId);
    let mut live: Vec<BodyRef> = queues
        .flat_map(|id| state.peek(id, None, Offset(0), usize::MAX))
        .map(|message| message.body)
        .collect();
    live.sort_unstable();
    live
}

fn bodies_of(run: LiveRun) -> impl Iterator<Item = BodyRef> {
    (0..run.count).map(move |k| BodyRef {
        item: run.body.item + k,
        ..run.body
    })
}

/// A survey of a state that stands still tells exactly what is live.
fn check_survey(state: &mut State, seed: u64) {
    let mut told = Vec::new();
    let mut messages = 0;
    let mut at = Some(state.begin_survey());
    while let Some(from) = at {
        at = state.survey(from, 1 + (seed % 5) as usize, &mut |run| {
            messages += u64::from(run.count);
            told.extend(bodies_of(run));
        });
    }
    told.sort_unstable();
    assert_eq!(told, live_bodies(state), "seed {seed}");
    assert_eq!(state.end_survey(), Some(Vec::new()), "seed {seed}");
    let (live, left) = state.live_in(0, u64::MAX, usize::MAX);
    assert_eq!((live.messages, left), (messages, None), "seed {seed}");
}

/// A survey of a state that goes on changing tells, with what moved meanwhile, whatever is live at its
/// end and was published before it began.
#[test]
fn a_survey_misses_nothing_while_messages_come_move_and_go() {
    let (mut surveys, mut only_moved) = (0, 0);
    for seed in seeds(20) {
        let mut generator = Generator::new(seed + 5_000, false);
        let mut state = bootstrapped();
        let mut told = BTreeSet::new();
        let mut began = 1;
        let mut at = state.begin_survey();
        for index in 2..400 {
            let entry = generator.entry(&state);
            let applied = state.apply(index, &entry).expect("goes on");
            generator.learn(&applied);
            let next = state.survey(at, 2, &mut |run| told.extend(bodies_of(run)));
            if let Some(next) = next {
                at = next;
                continue;
            }
            let moved: BTreeSet<BodyRef> =
                state.end_survey().expect("few move").into_iter().collect();
            for body in live_bodies(&state) {
                let is_told = told.contains(&body);
                assert!(
                    is_told || moved.contains(&body) || body.position.index > began,
                    "seed {seed}, index {index}: {body:?} was missed"
                );
                only_moved += u64::from(!is_told && body.position.index <= began);
            }
            surveys += 1;
            told.clear();
            began = index;
            at = state.begin_survey();
        }
    }
    assert!(surveys > 100, "only {surveys} surveys");
    assert!(only_moved > 0, "no message moved behind a survey's back");
}

/// Two ways to look at a queue agree.
fn check_views(state: &State, seed: u64) {
    for id in (1..200).map(QueueId) {
        let Some(queue) = state.queue_by_id(id) else {
            continue;
        };
        let mut seen: BTreeMap<MessageState, u64> = BTreeMap::new();
        let messages = state.peek(id, None, Offset(0), usize::MAX);
        for message in &messages {
            *seen.entry(message.state).or_insert(0) += 1;
            let index = message.body.position.index;
            assert!(state.body_is_live(index, index), "seed {seed}");
            assert!(state.is_live(id, message.offset), "seed {seed}");
        }
        let of = |state| seen.get(&state).copied().unwrap_or(0);
        let peeked = [
            of(MessageState::Ready),
            of(MessageState::Delayed),
            of(MessageState::InFlight),
            of(MessageState::Parked),
        ];
        let counted = [queue.ready, queue.delayed, queue.in_flight, queue.parked];
        assert_eq!(peeked, counted, "seed {seed}, queue {id}");
        let offsets = messages
            .windows(2)
            .all(|pair| pair[0].offset < pair[1].offset);
        assert!(offsets, "seed {seed}, queue {id}");
        if messages.is_empty() {
            assert_eq!(queue.bytes, 0, "seed {seed}, queue {id}");
        }
    }
    for session in state.sessions() {
        let grants = state.held(session.session);
        let held: u64 = grants.iter().map(|grant| u64::from(grant.count)).sum();
        assert_eq!(held, session.held, "seed {seed}");
    }
}

/// The rows as a store that follows the drained changes has them.
#[derive(Default)]
struct Stored(BTreeMap<RowKey, Row>);

impl Stored {
    fn follow(&mut self, state: &mut State) {
        let mut told = BTreeSet::new();
        state.drain_changes(|key, row| {
            assert!(told.insert(key.clone()), "{key:?} is told twice");
            match row {
                Some(row) => {
                    self.0.insert(key, row);
                }
                None => {
                    let gone = self.0.remove(&key);
                    assert!(gone.is_some(), "{key:?} was never stored");
                }
            }
        });
    }
}

#[test]
fn a_restored_state_goes_on_like_the_one_it_was_taken_from() {
    let mut reached = Reached::default();
    for seed in seeds(30) {
        let mut generator = Generator::new(seed, seed % 3 == 0);
        let mut state = bootstrapped();
        let mut stored = Stored::default();
        let mut twin: Option<State> = None;
        let mut index = 1;
        for step in 0..400 {
            let entry = generator.entry(&state);
            index += 1 + generator.random.below(40);
            let applied = state
                .apply(index, &entry)
                .unwrap_or_else(|halt| panic!("seed {seed}, step {step}: {halt}"));
            if let Some(twin) = &mut twin {
                let same = twin.apply(index, &entry).expect("the other one went on");
                assert_eq!(same, applied, "seed {seed}, step {step}");
                assert_eq!(twin.digest(), state.digest(), "seed {seed}, step {step}");
                assert_eq!(twin.next_deadline(), state.next_deadline(), "seed {seed}");
            }
            generator.learn(&applied);
            reached.note(&applied);
            reached.note_counts(&state);
            if generator.random.one_in(15) {
                stored.follow(&mut state);
                let rows: Vec<_> = stored.0.clone().into_iter().collect();
                assert_eq!(rows, state.rows(), "seed {seed}, step {step}");
                if let Some(twin) = &twin {
                    assert_eq!(twin.rows(), rows, "seed {seed}, step {step}");
                }
                twin = Some(State::restore(rows).expect("rows of a state"));
                check_views(&state, seed);
                check_survey(&mut state, seed);
            }
        }
    }
    if std::env::var("SEED").is_err() {
        reached.demand(WANTED);
    }
}

#[test]
fn wild_commands_never_panic_nor_break_an_invariant() {
    for seed in seeds(30) {
        let mut generator = Generator::new(seed + 1_000_000, true);
        let mut state = if seed % 10 == 0 {
            State::new()
        } else {
            bootstrapped()
        };
        let mut index = 1;
        for step in 0..300 {
            let entry = generator.entry(&state);
            index += 1;
            let applied = state
                .apply(index, &entry)
                .unwrap_or_else(|halt| panic!("seed {seed}, step {step}: {halt}"));
            assert_eq!(applied.outcomes.len(), entry.commands.len());
            generator.learn(&applied);
        }
        check_views(&state, seed);
        let mut rows = state.rows();
        // Rows that are not of one state are refused, and never a panic either.
        let place = generator.random.below(rows.len() as u64) as usize;
        let (key, row) = rows.remove(place);
        let _ = State::restore(rows.clone());
        if key == RowKey::Meta {
            assert!(State::restore(rows.clone()).is_err());
        }
        rows.push((key.clone(), row.clone()));
        rows.push((key, row));
        let _ = State::restore(rows);
    }
}

#[test]
fn the_same_seed_gives_the_same_digest() {
    let run = |seed| {
        let mut generator = Generator::new(seed, false);
        let mut state = bootstrapped();
        for index in 2..200 {
            let entry = generator.entry(&state);
            let applied = state.apply(index, &entry).expect("goes on");
            generator.learn(&applied);
        }
        state.digest()
    };
    assert_eq!(run(9), run(9));
    assert_ne!(run(9), run(10));
}

#[test]
fn an_index_is_applied_once() {
    let mut state = bootstrapped();
    let tick = Entry {
        stamps: Stamps::default(),
        commands: vec![],
    };
    assert!(state.apply(1, &tick).is_err());
    state.skip(5);
    assert!(state.apply(5, &tick).is_err());
    assert!(state.apply(6, &tick).is_ok());
    assert_eq!(state.applied_index(), 6);
}
