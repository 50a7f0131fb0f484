//! A consistent copy of the replica to read from: a snapshot file of the newest checkpoint, the
//! places of the bodies that are live in it, and a hold on them. Made by the checkpoint's worker on
//! request, for a peer that lags and for a backup.

use std::sync::{Mutex, MutexGuard};

use tokio::sync::oneshot;

use crate::hold::Hold;
use crate::shelf::Shelved;

/// Requests that may wait at a time.
const WAITING_MAX: usize = 16;

/// See the module.
pub(crate) struct Export {
    /// The snapshot file.
    pub(crate) file: Shelved,
    /// Live bodies are in these entries, from first to last, ascending; what else is there is dead.
    pub(crate) bodies: Vec<(u64, u64)>,
    /// Keeps the bodies, and the log from the file on.
    pub(crate) hold: Hold,
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExportError {
    /// Nothing was applied yet.
    #[error("this node has no state yet")]
    Empty,
    /// Others are waiting already.
    #[error("too many wait for a snapshot of this node")]
    Busy,
    /// The replica stops or failed.
    #[error("the replica stopped")]
    Stopped,
}

pub(crate) type Exported = Result<Export, ExportError>;

/// An export that was asked for; dropping it gives it up.
pub(crate) struct Asked(oneshot::Receiver<Exported>);

impl Asked {
    /// Waits for it. Cancel safe, and to be called until it answers.
    pub(crate) async fn exported(&mut self) -> Exported {
        (&mut self.0).await.unwrap_or(Err(ExportError::Stopped))
    }
}

/// Who waits for an export.
#[derive(Default)]
pub(crate) struct Exports {
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    answers: Vec<oneshot::Sender<Exported>>,
    closed: bool,
}

impl Exports {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no panic under this lock")
    }

    /// Asks for an export of the state as it is now or later.
    pub(crate) fn ask(&self) -> Result<Asked, ExportError> {
        let (answer, exported) = oneshot::channel();
        let mut waiting = self.lock();
        waiting.answers.retain(|answer| !answer.is_closed());
        if waiting.closed {
            return Err(ExportError::Stopped);
        }
        if waiting.answers.len() >= WAITING_MAX {
            return Err(ExportError::Busy);
        }
        waiting.answers.push(answer);
        Ok(Asked(exported))
    }

    /// Whether somebody waits.
    pub(crate) fn is_wanted(&self) -> bool {
        self.lock().answers.iter().any(|answer| !answer.is_closed())
    }

    /// Those who wait now, to be answered.
    pub(crate) fn take(&self) -> Vec<oneshot::Sender<Exported>> {
        std::mem::take(&mut self.lock().answers)
    }

    /// There will be no more.
    pub(crate) fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        waiting.answers.clear();
    }
}
