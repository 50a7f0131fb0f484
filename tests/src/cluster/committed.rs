//! The committed log of a node, read from its files after its process has ended: what counts is what
//! is there, not what a client was told.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;
use ticketrail_core::{Command, Outcome, State};
use ticketrail_proto::stored::{StoredEntry, decode_entry, decode_message};
use ticketrail_storage::{Log, LogConfig, OsDisk};

use super::checks::Agreement;
use super::{Cluster, NodeId};

/// First byte of a record that is no entry of the state machine: a blank or a membership.
const OF_RAFT: [u8; 2] = [0, 1];

/// All entries of a node's log up to an index that is known to be committed.
#[derive(Debug)]
pub struct CommittedLog {
    entries: BTreeMap<u64, StoredEntry>,
    last: u64,
}

/// What became of one message of an idempotent producer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// How many commands of the log carry it.
    pub proposed: u64,
    /// How many of them stored it.
    pub stored: u64,
    /// How many were answered as duplicates.
    pub duplicates: u64,
}

/// What a replay of the log comes to.
pub struct Replay {
    /// The state after the last entry.
    pub state: State,
    /// Messages of idempotent producers, by producer id and sequence.
    pub sequences: BTreeMap<(u128, u64), Told>,
    /// How many messages were put into queues by publishes.
    pub stored: u64,
}

impl CommittedLog {
    /// Reads the log of a node whose process has ended, up to what the nodes agreed on.
    ///
    /// # Panics
    /// When the files do not read, or the log does not hold everything from its beginning.
    #[must_use]
    pub fn read(cluster: &Cluster, id: NodeId, upto: Agreement) -> Self {
        assert!(
            !cluster.running().contains(&id),
            "node {id} must have ended"
        );
        let copy = TempDir::new().expect("a folder for a copy");
        copy_files(&log_folder(&cluster.data_dir(id)), copy.path());
        let disk = OsDisk::new(copy.path()).expect("the copy can be opened");
        let config = LogConfig::new(cluster.cluster_id(), id);
        let (log, _writer, _) = Log::open(Arc::new(disk), config).expect("the log is sound");
        let first = log.state().first_index;
        assert!(
            first <= 1,
            "the log begins at {first}: too much was purged to count"
        );
        let (mut entries, mut next) = (BTreeMap::new(), first);
        while next <= upto.index {
            let records = log
                .read_range(next..upto.index + 1, 4 << 20)
                .expect("the log is sound");
            assert!(
                !records.is_empty(),
                "entry {next} of {} is missing",
                upto.index
            );
            for record in records {
                next = record.index + 1;
                if !OF_RAFT.contains(record.payload.first().expect("no record is empty")) {
                    let entry = decode_entry(record.payload).expect("a committed entry decodes");
                    entries.insert(record.index, entry);
                }
            }
        }
        Self {
            entries,
            last: upto.index,
        }
    }

    /// Every message body that a publish of the log carries, as often as one does.
    #[must_use]
    pub fn bodies(&self) -> BTreeMap<Bytes, u64> {
        let mut bodies = BTreeMap::new();
        for entry in self.entries.values() {
            for (place, command) in (0..).zip(&entry.entry.commands) {
                let Command::Publish(publish) = command else {
                    continue;
                };
                let count: u32 = publish.runs.iter().map(|run| run.count).sum();
                for item in 0..count {
                    let stored = entry
                        .bodies
                        .get(place, item)
                        .expect("a publish has its bodies");
                    let message =
                        decode_message(stored.message.clone()).expect("a message decodes");
                    *bodies.entry(message.body).or_default() += 1;
                }
            }
        }
        bodies
    }

    /// Applies the whole log to an empty state.
    ///
    /// # Panics
    /// When the state machine halts.
    #[must_use]
    pub fn replay(&self) -> Replay {
        let (state, sequences) = (State::new(), BTreeMap::new());
        let mut replay = Replay {
            state,
            sequences,
            stored: 0,
        };
        for (index, entry) in &self.entries {
            let applied = replay
                .state
                .apply(*index, &entry.entry)
                .expect("a committed entry applies");
            for (command, outcome) in entry.entry.commands.iter().zip(&applied.outcomes) {
                replay.count(command, outcome);
            }
        }
        replay.state.skip(self.last);
        replay
    }
}

impl Replay {
    fn count(&mut self, command: &Command, outcome: &Outcome) {
        let Command::Publish(publish) = command else {
            return;
        };
        let mut told = |item: u64, what: fn(&mut Told)| {
            if let Some(producer) = &publish.producer {
                let sequence = producer.first_sequence + item;
                what(self.sequences.entry((producer.id.0, sequence)).or_default());
            }
        };
        let count: u64 = publish.runs.iter().map(|run| u64::from(run.count)).sum();
        (0..count).for_each(|item| told(item, |told| told.proposed += 1));
        let Outcome::Published { accepted, .. } = outcome else {
            return;
        };
        for range in accepted {
            for item in 0..u64::from(range.count) {
                let item = u64::from(range.first_item) + item;
                if range.duplicate {
                    told(item, |told| told.duplicates += 1);
                } else {
                    told(item, |told| told.stored += 1);
                    self.stored += u64::from(range.queues);
                }
            }
        }
    }
}

/// The folder of the log: the one that holds the node's identity.
fn log_folder(data: &Path) -> PathBuf {
    let mut folders = vec![data.to_owned()];
    while let Some(folder) = folders.pop() {
        if folder.join("identity").is_file() {
            return folder;
        }
        let entries = fs::read_dir(&folder).expect("a data folder can be read");
        folders.extend(
            entries
                .filter_map(Result::ok)
                .map(|entry| entry.path())
                .filter(|p| p.is_dir()),
        );
    }
    panic!("no file `identity` below {}", data.display());
}

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a data folder can be read") {
        let path = entry.expect("a data folder can be read").path();
        if path.is_file() {
            let name = path.file_name().expect("a file has a name");
            fs::copy(&path, to.join(name)).expect("a file can be copied");
        }
    }
}
