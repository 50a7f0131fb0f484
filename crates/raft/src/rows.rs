//! The state as rows of bytes: what a checkpoint and a snapshot file hold.

use std::io;

use ticketrail_core::{Restoring, State};
use ticketrail_proto::stored::{decode_row, decode_row_key, encode_row, encode_row_key};
use ticketrail_storage::checkpoint::Changes;

/// All rows of a state.
pub(crate) fn encode_all(state: &State) -> Vec<(Vec<u8>, Vec<u8>)> {
    let rows = state.rows().into_iter();
    rows.map(|(key, row)| (encode_row_key(&key), encode_row(&row)))
        .collect()
}

/// What changed in a state since it was last asked, as a checkpoint store takes it.
pub(crate) fn drain_changes(state: &mut State) -> Changes {
    let mut changes = Changes::default();
    state.drain_changes(|key, row| {
        let row = row.as_ref().map(encode_row);
        changes.push(&encode_row_key(&key), row.as_deref());
    });
    changes
}

/// Makes a state of rows while they are read: they are never in memory all at once.
#[derive(Default)]
pub(crate) struct Reading {
    restoring: Restoring,
    rows: u64,
    broken: Option<String>,
}

impl Reading {
    /// Takes one row.
    pub(crate) fn row(&mut self, key: &[u8], value: &[u8]) {
        if self.broken.is_none() {
            self.rows += 1;
            self.broken = self.take(key, value).err();
        }
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let key = decode_row_key(key).map_err(|error| error.to_string())?;
        let row = decode_row(value).map_err(|error| error.to_string())?;
        let taken = self.restoring.row(key, row);
        taken.map_err(|error| error.to_string())
    }

    /// The state of all rows; without any, the state before the first entry.
    pub(crate) fn state(self) -> io::Result<State> {
        let broken = |reason| io::Error::new(io::ErrorKind::InvalidData, reason);
        if let Some(reason) = self.broken {
            return Err(broken(reason));
        }
        if self.rows == 0 {
            return Ok(State::new());
        }
        let restored = self.restoring.finish();
        restored.map_err(|error| broken(error.to_string()))
    }
}
