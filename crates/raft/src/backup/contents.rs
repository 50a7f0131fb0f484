//! A backup read as what it is: a state, and the bytes of every message in it.

use std::path::Path;

use bytes::Bytes;
use ticketrail_core::{LiveRun, STATE_VERSION, State};
use ticketrail_proto::stored::{DecodeError, Items, decode_bodies};
use ticketrail_storage::{Backup, BackupManifest};

use super::RestoreError;
use crate::compaction::normalise;
use crate::rows::Reading;

/// Steps of a survey at a time; nobody waits for it here.
const SURVEY_STEPS: usize = 1 << 16;

/// What is in a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupContents {
    /// What it is of.
    pub manifest: BackupManifest,
    /// Queues.
    pub queues: u64,
    /// Messages in any state.
    pub messages: u64,
    /// Their bytes, headers and properties included.
    pub message_bytes: u64,
}

/// Reads all of a backup and checks everything that can be: every byte against its checks, that the
/// rows are a state, that each message of it has its bytes, and that there is nothing missing.
///
/// # Errors
/// [`RestoreError`].
pub fn check_backup(folder: &Path) -> Result<BackupContents, RestoreError> {
    let opened = Opened::read(folder)?;
    opened.check_bodies()?;
    Ok(opened.contents)
}

/// A backup whose state was read.
pub(super) struct Opened {
    pub(super) backup: Backup,
    pub(super) state: State,
    pub(super) contents: BackupContents,
    /// The messages of the state by their place in the log.
    wanted: Vec<(u64, Items)>,
}

/// What is done with a body: its entry, its payload, and which messages of it are wanted.
pub(super) type EachBody<'a> = dyn FnMut(u64, Bytes, &[Items]) -> Result<(), BodyError> + 'a;

/// Why a body cannot be taken.
pub(super) enum BodyError {
    /// It is not what it should be.
    Broken(DecodeError),
    /// Another reason.
    Other(RestoreError),
}

impl From<DecodeError> for BodyError {
    fn from(error: DecodeError) -> Self {
        Self::Broken(error)
    }
}

impl Opened {
    /// Reads the state and checks it.
    pub(super) fn read(folder: &Path) -> Result<Self, RestoreError> {
        let backup = Backup::open_in(folder)?;
        let rows = backup.state()?;
        let found = rows.manifest().machine_version;
        if found > STATE_VERSION {
            let known = STATE_VERSION;
            return Err(RestoreError::NewerState { found, known });
        }
        let broken = |error: &dyn std::fmt::Display| RestoreError::Broken(error.to_string());
        let mut reading = Reading::default();
        let read = rows.for_each_row(&mut |key, value| reading.row(key, value));
        read.map_err(|error| broken(&error))?;
        let mut state = reading.state().map_err(|error| broken(&error))?;
        let manifest = *backup.manifest();
        if state.cluster_id() != Some(manifest.owner.cluster_id) {
            return Err(broken(&"its state is of another cluster, or of none yet"));
        }
        if state.applied_index() > manifest.last.index {
            return Err(broken(&"its state goes beyond its last entry"));
        }
        let mut contents = BackupContents {
            manifest,
            queues: state.queues_in_order(None).count() as u64,
            messages: 0,
            message_bytes: 0,
        };
        let wanted = survey(&mut state, &mut contents);
        Ok(Self {
            backup,
            state,
            contents,
            wanted,
        })
    }

    /// Checks that each message has its bytes.
    pub(super) fn check_bodies(&self) -> Result<(), RestoreError> {
        self.each_body(&mut |_, payload, items| {
            let bodies = decode_bodies(payload)?;
            for items in items {
                for item in (items.first_item..).take(items.count as usize) {
                    let place = items.place;
                    if bodies.get(place, item).is_none() {
                        return Err(DecodeError::MissingBody { place, item }.into());
                    }
                }
            }
            Ok(())
        })
    }

    /// Calls `each` for every entry that holds wanted messages, in the order of entries.
    pub(super) fn each_body(&self, each: &mut EachBody<'_>) -> Result<(), RestoreError> {
        let mut bodies = self.backup.bodies()?;
        let mut wanted = self.wanted.as_slice();
        let missing = |index: u64| {
            let what = format!("the bytes of log entry {index} are missing");
            Err(RestoreError::Broken(what))
        };
        let mut items = Vec::new();
        while let Some((index, payload)) = bodies.next()? {
            match wanted.first() {
                Some((first, _)) if *first < index => return missing(*first),
                _ => {}
            }
            let here = wanted.partition_point(|(of, _)| *of == index);
            items.clear();
            items.extend(wanted[..here].iter().map(|(_, items)| *items));
            normalise(&mut items);
            wanted = &wanted[here..];
            if items.is_empty() {
                continue;
            }
            each(index, payload, &items).map_err(|error| match error {
                BodyError::Broken(error) => {
                    RestoreError::Broken(format!("log entry {index}: {error}"))
                }
                BodyError::Other(error) => error,
            })?;
        }
        wanted.first().map_or(Ok(()), |(index, _)| missing(*index))
    }
}

/// All messages by their place in the log, each once.
fn survey(state: &mut State, contents: &mut BackupContents) -> Vec<(u64, Items)> {
    let mut wanted = Vec::new();
    let mut tell = |run: LiveRun| {
        contents.messages += u64::from(run.count);
        contents.message_bytes = contents.message_bytes.saturating_add(run.bytes);
        let items = Items {
            place: run.body.position.place,
            first_item: run.body.item,
            count: run.count,
        };
        wanted.push((run.body.position.index, items));
    };
    let mut at = Some(state.begin_survey());
    while let Some(from) = at {
        at = state.survey(from, SURVEY_STEPS, &mut tell);
    }
    wanted.sort_unstable();
    wanted
}
