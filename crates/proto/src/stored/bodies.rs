use bytes::Bytes;
use prost::Message as _;

use super::entry::check_version;
use super::error::DecodeError;
use super::kept::{KEPT, decode_kept};
use crate::store;
use crate::store::command::Kind;

/// The message bodies of one entry, found by the place of their command and their place in it. Holds
/// slices of the entry's payload, and so keeps it in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bodies {
    /// By ascending place of the command and item.
    publishes: Vec<PublishBodies>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct PublishBodies {
    place: u32,
    /// Item of the first message: not 0 where those before it were not kept.
    first_item: u32,
    /// For each run: the first message after it, counted from the first one here, and its routing key.
    runs: Vec<(u32, String)>,
    messages: Vec<Bytes>,
}

/// One message as it was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredBody<'a> {
    /// The routing key that it was published with.
    pub routing_key: &'a str,
    /// Its encoded `StoredMessage`.
    pub message: &'a Bytes,
}

impl Bodies {
    /// Item `item` of the publish at `place`; none where there is no such item.
    #[must_use]
    pub fn get(&self, place: u32, item: u32) -> Option<StoredBody<'_>> {
        let after = self
            .publishes
            .partition_point(|publish| (publish.place, publish.first_item) <= (place, item));
        let publish = self.publishes.get(after.checked_sub(1)?)?;
        if publish.place != place {
            return None;
        }
        let nth = item - publish.first_item;
        let message = publish.messages.get(nth as usize)?;
        let run = publish.runs.partition_point(|(end, _)| *end <= nth);
        let (_, routing_key) = publish.runs.get(run)?;
        Some(StoredBody {
            routing_key,
            message,
        })
    }

    /// No message at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.publishes.is_empty()
    }

    /// Adds the publish at `place`; places come in ascending order.
    pub(crate) fn add(&mut self, place: u32, runs: Vec<(u32, String)>, messages: Vec<Bytes>) {
        self.publishes.push(PublishBodies {
            place,
            first_item: 0,
            runs,
            messages,
        });
    }

    /// Adds what is kept of a publish, behind what was added before. False if it does not come in order.
    pub(super) fn add_kept(&mut self, run: store::KeptRun) -> bool {
        let (place, first_item) = (run.place, run.first_item);
        let Ok(count) = u32::try_from(run.messages.len()) else {
            return false;
        };
        let follows = self.publishes.last().is_none_or(|last| {
            let end = u64::from(last.first_item) + last.messages.len() as u64;
            (last.place, end) <= (place, u64::from(first_item))
        });
        if count == 0 || !follows || first_item.checked_add(count - 1).is_none() {
            return false;
        }
        self.publishes.push(PublishBodies {
            place,
            first_item,
            runs: vec![(count, run.routing_key)],
            messages: run.messages,
        });
        true
    }
}

/// The bodies of an entry's payload, or of what is kept of it, without building the commands for the
/// state machine.
///
/// # Errors
/// When the bytes are not an entry of a known version.
pub fn decode_bodies(payload: Bytes) -> Result<Bodies, DecodeError> {
    if payload.first() == Some(&KEPT) {
        return decode_kept(payload.slice(1..));
    }
    let mut bodies = Bodies::default();
    let entry = store::Entry::decode(payload).map_err(DecodeError::malformed("Entry"))?;
    check_version(entry.version)?;
    for (place, command) in (0..).zip(entry.commands) {
        if let Some(Kind::Publish(publish)) = command.kind {
            let runs = run_ends(&publish)?;
            bodies.add(place, runs, publish.messages);
        }
    }
    Ok(bodies)
}

/// For each run the first item after it, checked against the number of messages.
pub(crate) fn run_ends(publish: &store::Publish) -> Result<Vec<(u32, String)>, DecodeError> {
    let mut end = 0_u64;
    let mut ends = Vec::with_capacity(publish.runs.len());
    for run in &publish.runs {
        end += u64::from(run.count);
        // Past u32 the counts cannot match any number of messages that fits into an entry.
        ends.push((
            u32::try_from(end).unwrap_or(u32::MAX),
            run.routing_key.clone(),
        ));
    }
    if end == publish.messages.len() as u64 {
        Ok(ends)
    } else {
        Err(DecodeError::MessageCount {
            messages: publish.messages.len(),
            counted: end,
        })
    }
}
