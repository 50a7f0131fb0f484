//! From a reference to a message's bytes: out of the entry that published it, which is still in
//! memory for normal traffic and read back from the log for a backlog.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use ticketrail_core::{BodyRef, Grant, Offset, QueueId};
use ticketrail_proto::error::{Problem, Reason};
use ticketrail_proto::stored::{self, Bodies as EntryBodies, StoredBody};
use ticketrail_raft::Replica;

/// Decoded entries kept: what is read ahead for some queues at a time.
const RECENT_ENTRIES_MAX: usize = 4 * 1_024;
/// Their bytes, at most.
const RECENT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes of a backlog that are read from the disk together, where its entries are wanted one after the other.
const AHEAD_BYTES: usize = 256 * 1024;
/// How far behind the last entry that was read from the disk the next one may lie to count as one after the other.
const AHEAD_INDEXES: u64 = 64;

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
    /// One past the last entry that was read.
    read_upto: u64,
}

impl Bodies {
    pub(crate) fn new(replica: Replica) -> Self {
        Self {
            replica,
            recent: Mutex::default(),
        }
    }

    /// The messages of the entry that holds a grant's; `None` when none of them is in the queue any
    /// more: they were settled, or the queue was deleted or purged, since they were granted.
    pub(crate) fn entry(&self, grant: &Grant) -> Result<Option<Arc<EntryBodies>>, Problem> {
        let index = grant.body.position.index;
        match self.read(index) {
            Ok(entry) => Ok(Some(entry)),
            Err(_) if !self.any_is_live(grant) => Ok(None),
            Err(reason) => Err(lost(index, &reason)),
        }
    }

    /// One message's routing key and bytes; `None` when it is not in the queue any more.
    pub(crate) fn message(
        &self,
        queue: QueueId,
        offset: Offset,
        body: BodyRef,
    ) -> Result<Option<(String, Bytes)>, Problem> {
        let index = body.position.index;
        let entry = match self.read(index) {
            Ok(entry) => entry,
            Err(_) if !self.is_live(queue, offset) => return Ok(None),
            Err(reason) => return Err(lost(index, &reason)),
        };
        let stored = self.pick(&entry, queue, offset, body)?;
        Ok(stored.map(|stored| (stored.routing_key.to_owned(), stored.message.clone())))
    }

    /// One message of an entry; `None` when it is not in the queue any more. What is dead may be gone
    /// from its entry.
    pub(crate) fn pick<'a>(
        &self,
        entry: &'a EntryBodies,
        queue: QueueId,
        offset: Offset,
        body: BodyRef,
    ) -> Result<Option<StoredBody<'a>>, Problem> {
        match entry.get(body.position.place, body.item) {
            Some(stored) => Ok(Some(stored)),
            None if !self.is_live(queue, offset) => Ok(None),
            None => Err(lost(body.position.index, &"no such message in the entry")),
        }
    }

    /// The entry, or why it cannot be read.
    fn read(&self, index: u64) -> Result<Arc<EntryBodies>, String> {
        let ahead = {
            let mut recent = self.recent();
            if let Some((messages, _)) = recent.entries.get(&index) {
                return Ok(Arc::clone(messages));
            }
            recent.goes_on_at(index)
        };
        let found = self
            .replica
            .bodies_from(index, if ahead { AHEAD_BYTES } else { 0 });
        // What is wrong with those behind it is told when they are wanted.
        let found = found.or_else(|_| self.replica.bodies_from(index, 0));
        let mut wanted = None;
        for (at, payload) in found.map_err(|error| error.to_string())? {
            let bytes = payload.len();
            let messages = match stored::decode_bodies(payload) {
                Ok(messages) => Arc::new(messages),
                Err(error) if at == index => return Err(error.to_string()),
                Err(_) => break,
            };
            wanted.get_or_insert_with(|| Arc::clone(&messages));
            self.recent().keep(at, messages, bytes);
        }
        wanted.ok_or_else(|| "nothing was read".to_owned())
    }

    fn is_live(&self, queue: QueueId, offset: Offset) -> bool {
        self.replica
            .with_state(|state| state.is_live(queue, offset))
    }

    fn any_is_live(&self, grant: &Grant) -> bool {
        let offsets = (0..grant.count).map(|k| grant.first_offset.plus(u64::from(k)));
        self.replica.with_state(|state| {
            offsets
                .into_iter()
                .any(|offset| state.is_live(grant.queue, offset))
        })
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recent {
    /// Whether an entry that is about to be read comes soon after the last one that was.
    fn goes_on_at(&mut self, index: u64) -> bool {
        let gap = index.checked_sub(self.read_upto);
        self.read_upto = index + 1;
        gap.is_some_and(|gap| gap <= AHEAD_INDEXES)
    }

    fn keep(&mut self, index: u64, messages: Arc<EntryBodies>, bytes: usize) {
        self.read_upto = self.read_upto.max(index + 1);
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
