//! The state as rows of bytes: what a checkpoint and a snapshot file hold.

use std::io;

use ticketrail_core::State;
use ticketrail_core::{Row, RowKey};
use ticketrail_proto::stored::{decode_row, decode_row_key, encode_row, encode_row_key};

/// All rows of a state.
pub(crate) fn encode_all(state: &State) -> Vec<(Vec<u8>, Vec<u8>)> {
    let rows = state.rows().into_iter();
    rows.map(|(key, row)| (encode_row_key(&key), encode_row(&row)))
        .collect()
}

/// The rows of a change, as a checkpoint store takes them.
pub(crate) fn encode_changes(
    changes: Vec<(RowKey, Option<Row>)>,
) -> Vec<ticketrail_storage::checkpoint::Row> {
    let changes = changes.into_iter();
    changes
        .map(|(key, row)| (encode_row_key(&key), row.as_ref().map(encode_row)))
        .collect()
}

/// Gathers rows while they are read, then makes a state of them.
#[derive(Default)]
pub(crate) struct Reading {
    rows: Vec<(RowKey, Row)>,
    broken: Option<String>,
}

impl Reading {
    /// Takes one row.
    pub(crate) fn row(&mut self, key: &[u8], value: &[u8]) {
        if self.broken.is_some() {
            return;
        }
        match (decode_row_key(key), decode_row(value)) {
            (Ok(key), Ok(row)) => self.rows.push((key, row)),
            (Err(error), _) | (_, Err(error)) => self.broken = Some(error.to_string()),
        }
    }

    /// The state of all rows; without any, the state before the first entry.
    pub(crate) fn state(self) -> io::Result<State> {
        if let Some(reason) = self.broken {
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        if self.rows.is_empty() {
            return Ok(State::new());
        }
        State::restore(self.rows)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
    }
}
