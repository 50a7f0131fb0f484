//! Has a run seen enough to count? A run that has not is void, and void is failed.

use std::collections::BTreeMap;
use std::fmt::Write;

use ticketrail_core::command::{Command, Entry, SettleKind};
use ticketrail_core::event::{Event, SessionEnd};
use ticketrail_core::outcome::{Outcome, Rejection, SettleStatus};

/// Everything that a run must have reached.
const WANTED: &[(&str, &[&str])] = &[
    ("command", &COMMANDS),
    ("settle", &["Ack", "Nack", "Reject", "Release", "Extend"]),
    (
        "settle status",
        &["Ok", "AlreadySettled", "LeaseLost", "NotFound", "Invalid"],
    ),
    ("outcome", &OUTCOMES),
    ("rejection", &REJECTIONS),
    ("event", &EVENTS),
    ("session end", &["Closed", "GraceOver", "QueueDeleted"]),
    ("place", &PLACES),
    (
        "check",
        &[
            "restored and went on",
            "rows accumulated",
            "bodies",
            "peeked",
        ],
    ),
];

const COMMANDS: [&str; 19] = [
    "Bootstrap",
    "SetVersion",
    "CreateNamespace",
    "DeleteNamespace",
    "CreateQueue",
    "UpdateQueue",
    "DeleteQueue",
    "PurgeQueue",
    "OpenProducer",
    "Publish",
    "Receive",
    "AttachConsumer",
    "SetPrefetch",
    "DetachConsumer",
    "Settle",
    "NodeBooted",
    "SessionsLost",
    "AdmitNode",
    "RetireNode",
];

const OUTCOMES: [&str; 10] = [
    "Done",
    "Rejected",
    "Queue",
    "Deleted",
    "Purged",
    "Producer",
    "Published",
    "Received",
    "Attached",
    "Settled",
];

const REJECTIONS: [&str; 20] = [
    "NotBootstrapped",
    "AlreadyBootstrapped",
    "VersionTooLow",
    "InvalidField",
    "InvalidName",
    "NamespaceNotFound",
    "NamespaceNotEmpty",
    "QueueNotFound",
    "QueueExists",
    "QueueNotEmpty",
    "RevisionMismatch",
    "Unroutable",
    "ProducerFenced",
    "UnknownProducer",
    "SequenceReused",
    "OutOfSequence",
    "BatchRefused",
    "TooMany",
    "SessionNotFound",
    "NodeIdUsed",
];

const EVENTS: [&str; 6] = [
    "Delivered",
    "LeasesLost",
    "SessionEnded",
    "SessionMoved",
    "Ready",
    "QueueDeleted",
];

/// Rare ways through the model.
const PLACES: [&str; 22] = [
    "a session held more than one entry may expire",
    "atomic publish refused whole",
    "dead letter into its own queue",
    "delay ended",
    "duplicate publish",
    "duplicate whose id is forgotten",
    "given up and dead-lettered",
    "given up and dropped",
    "given up and parked",
    "idle producer forgotten",
    "lease expired",
    "more was due than one entry may fire",
    "more was parked than one entry may move",
    "parked and dropped later",
    "parked and moved later",
    "producer opening asked again",
    "producer re-opened",
    "producers forgotten with their namespace",
    "purges that leave a rest",
    "receive attempt asked again",
    "redelivery",
    "session came back within its grace",
];

/// Counts of what a run reached.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    counts: BTreeMap<(&'static str, &'static str), u64>,
}

impl Coverage {
    /// Counts something `times` times.
    pub fn add(&mut self, kind: &'static str, name: &'static str, times: u64) {
        *self.counts.entry((kind, name)).or_default() += times;
    }

    /// Counts what is in an entry, its answers and its events.
    pub fn see(&mut self, entry: &Entry, outcomes: &[Outcome], events: &[Event]) {
        for (command, outcome) in entry.commands.iter().zip(outcomes) {
            self.add("command", command_name(command), 1);
            self.see_outcome(outcome);
            if let (Command::Settle(settle), Outcome::Settled { exceptions }) = (command, outcome) {
                for (place, range) in (0..).zip(&settle.ranges) {
                    let went_wrong = exceptions.iter().filter(|e| e.range == place);
                    let wrong: u32 = went_wrong.map(|e| e.count).sum();
                    if wrong < range.count {
                        self.add("settle", settle_name(range.kind), 1);
                        self.add("settle status", "Ok", 1);
                    }
                }
                for exception in exceptions {
                    self.add("settle status", status_name(exception.status), 1);
                }
            }
        }
        for event in events {
            self.add("event", event_name(event), 1);
            if let Event::SessionEnded { why, .. } = event {
                self.add("session end", end_name(*why), 1);
            }
        }
    }

    fn see_outcome(&mut self, outcome: &Outcome) {
        self.add("outcome", outcome_name(outcome), 1);
        match outcome {
            Outcome::Rejected(rejection) => {
                self.add("rejection", rejection_name(rejection), 1);
            }
            Outcome::Published { refused, .. } => {
                for item in refused {
                    self.add("rejection", rejection_name(&item.rejection), 1);
                }
            }
            _ => {}
        }
    }

    /// Adds what another run reached.
    pub fn join(&mut self, other: Self) {
        for ((kind, name), times) in other.counts {
            self.add(kind, name, times);
        }
    }

    /// What was wanted and never reached.
    pub fn missing(&self) -> Vec<String> {
        let wanted = WANTED.iter();
        let wanted = wanted.flat_map(|(kind, names)| names.iter().map(move |name| (*kind, *name)));
        let missing = wanted.filter(|key| !self.counts.contains_key(key));
        missing
            .map(|(kind, name)| format!("{kind}: {name}"))
            .collect()
    }

    /// All counts, a line each.
    pub fn table(&self) -> String {
        let mut table = String::new();
        for ((kind, name), count) in &self.counts {
            writeln!(table, "{kind:14} {name:44} {count:>12}").expect("a string grows");
        }
        table
    }
}

fn command_name(command: &Command) -> &'static str {
    match command {
        Command::Bootstrap(_) => "Bootstrap",
        Command::SetVersion(_) => "SetVersion",
        Command::CreateNamespace(_) => "CreateNamespace",
        Command::DeleteNamespace(_) => "DeleteNamespace",
        Command::CreateQueue(_) => "CreateQueue",
        Command::UpdateQueue(_) => "UpdateQueue",
        Command::DeleteQueue(_) => "DeleteQueue",
        Command::PurgeQueue(_) => "PurgeQueue",
        Command::OpenProducer(_) => "OpenProducer",
        Command::Publish(_) => "Publish",
        Command::Receive(_) => "Receive",
        Command::AttachConsumer(_) => "AttachConsumer",
        Command::SetPrefetch(_) => "SetPrefetch",
        Command::DetachConsumer(_) => "DetachConsumer",
        Command::Settle(_) => "Settle",
        Command::NodeBooted(_) => "NodeBooted",
        Command::SessionsLost(_) => "SessionsLost",
        Command::AdmitNode(_) => "AdmitNode",
        Command::RetireNode(_) => "RetireNode",
    }
}

fn settle_name(kind: SettleKind) -> &'static str {
    match kind {
        SettleKind::Ack => "Ack",
        SettleKind::Nack { .. } => "Nack",
        SettleKind::Reject => "Reject",
        SettleKind::Release => "Release",
        SettleKind::Extend { .. } => "Extend",
    }
}

fn status_name(status: SettleStatus) -> &'static str {
    match status {
        SettleStatus::AlreadySettled => "AlreadySettled",
        SettleStatus::LeaseLost => "LeaseLost",
        SettleStatus::NotFound => "NotFound",
        SettleStatus::Invalid => "Invalid",
    }
}

fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done => "Done",
        Outcome::Rejected(_) => "Rejected",
        Outcome::Queue { .. } => "Queue",
        Outcome::Deleted { .. } => "Deleted",
        Outcome::Purged { .. } => "Purged",
        Outcome::Producer { .. } => "Producer",
        Outcome::Published { .. } => "Published",
        Outcome::Received { .. } => "Received",
        Outcome::Attached { .. } => "Attached",
        Outcome::Settled { .. } => "Settled",
    }
}

fn rejection_name(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::NotBootstrapped => "NotBootstrapped",
        Rejection::AlreadyBootstrapped => "AlreadyBootstrapped",
        Rejection::VersionTooLow { .. } => "VersionTooLow",
        Rejection::InvalidField { .. } => "InvalidField",
        Rejection::InvalidName { .. } => "InvalidName",
        Rejection::NamespaceNotFound { .. } => "NamespaceNotFound",
        Rejection::NamespaceNotEmpty { .. } => "NamespaceNotEmpty",
        Rejection::QueueNotFound { .. } => "QueueNotFound",
        Rejection::QueueExists { .. } => "QueueExists",
        Rejection::QueueNotEmpty { .. } => "QueueNotEmpty",
        Rejection::RevisionMismatch { .. } => "RevisionMismatch",
        Rejection::Unroutable { .. } => "Unroutable",
        Rejection::ProducerFenced { .. } => "ProducerFenced",
        Rejection::UnknownProducer => "UnknownProducer",
        Rejection::SequenceReused { .. } => "SequenceReused",
        Rejection::OutOfSequence { .. } => "OutOfSequence",
        Rejection::BatchRefused => "BatchRefused",
        Rejection::TooMany { .. } => "TooMany",
        Rejection::SessionNotFound => "SessionNotFound",
        Rejection::NodeIdUsed { .. } => "NodeIdUsed",
    }
}

fn event_name(event: &Event) -> &'static str {
    match event {
        Event::Delivered { .. } => "Delivered",
        Event::LeasesLost { .. } => "LeasesLost",
        Event::SessionEnded { .. } => "SessionEnded",
        Event::SessionMoved { .. } => "SessionMoved",
        Event::Ready { .. } => "Ready",
        Event::QueueDeleted { .. } => "QueueDeleted",
    }
}

fn end_name(why: SessionEnd) -> &'static str {
    match why {
        SessionEnd::Closed => "Closed",
        SessionEnd::GraceOver => "GraceOver",
        SessionEnd::QueueDeleted => "QueueDeleted",
    }
}
