//! From a reference to a message's bytes: out of the entry that published it, which is still in
//! memory for normal traffic and read back from the log for a backlog.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use ticketrail_core::BodyRef;
use ticketrail_proto::error::{Problem, Reason};
use ticketrail_proto::stored::{self, Bodies as EntryBodies, StoredBody};
use ticketrail_raft::Replica;

/// Decoded entries kept.
const RECENT_ENTRIES_MAX: usize = 256;
/// Their bytes, at most.
const RECENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// See the module.
pub(crate) struct Bodies {
    replica: Replica,
    recent: Mutex<Recent>,
}

#[derive(Default)]
struct Recent {
    entries: BTreeMap<u64, (Arc<EntryBodies>, usize)>,
    order: VecDeque<u64>,
    bytes: usize,
}

impl Bodies {
    pub(crate) fn new(replica: Replica) -> Self {
        Self {
            replica,
            recent: Mutex::default(),
        }
    }

    /// The messages of the entry at a log index; `None` when nothing refers to them any more: the
    /// queue was deleted or purged since they were granted or seen.
    pub(crate) fn entry(&self, index: u64) -> Result<Option<Arc<EntryBodies>>, Problem> {
        if let Some((messages, _)) = self.recent().entries.get(&index) {
            return Ok(Some(Arc::clone(messages)));
        }
        let payload = match self.replica.body(index) {
            Ok(payload) => payload,
            Err(_) if self.is_unreferred(index) => return Ok(None),
            Err(error) => return Err(lost(index, &error)),
        };
        let bytes = payload.len();
        let messages = stored::decode_bodies(payload).map_err(|error| lost(index, &error))?;
        let messages = Arc::new(messages);
        self.recent().keep(index, Arc::clone(&messages), bytes);
        Ok(Some(messages))
    }

    /// One message's routing key and bytes; `None` as in [`Self::entry`].
    pub(crate) fn message(&self, body: BodyRef) -> Result<Option<(String, Bytes)>, Problem> {
        let Some(entry) = self.entry(body.position.index)? else {
            return Ok(None);
        };
        let stored = pick(&entry, body)?;
        Ok(Some((
            stored.routing_key.to_owned(),
            stored.message.clone(),
        )))
    }

    fn is_unreferred(&self, index: u64) -> bool {
        self.replica
            .with_state(|state| !state.body_is_live(index, index))
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One message of an entry.
pub(crate) fn pick(entry: &EntryBodies, body: BodyRef) -> Result<StoredBody<'_>, Problem> {
    let found = entry.get(body.position.place, body.item);
    found.ok_or_else(|| lost(body.position.index, &"no such message in the entry"))
}

impl Recent {
    fn keep(&mut self, index: u64, messages: Arc<EntryBodies>, bytes: usize) {
        if self.entries.insert(index, (messages, bytes)).is_some() {
            return;
        }
        self.bytes += bytes;
        self.order.push_back(index);
        while self.order.len() > RECENT_ENTRIES_MAX || self.bytes > RECENT_BYTES_MAX {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            if let Some((_, bytes)) = self.entries.remove(&oldest) {
                self.bytes -= bytes;
            }
        }
    }
}

fn lost(index: u64, error: &dyn std::fmt::Display) -> Problem {
    tracing::error!(index, %error, "a message's bytes cannot be read from the log");
    Problem::new(
        Reason::Corrupt,
        format!(
            "the bytes of log entry {index} cannot be read on this node ({error}); use another node and replace this one's disk"
        ),
    )
}
