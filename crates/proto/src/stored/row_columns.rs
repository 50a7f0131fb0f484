//! Rows of a checkpoint in columns: what messages are, and what neighbours have in common.

use ticketrail_core::row::{Piece, RunRow, RunSeries};
use ticketrail_core::{BodyRef, MessageId, Position, WallTime};

use super::error::DecodeError;
use crate::store::{RunsRow, SpansRow};

pub(super) fn runs(all: &[RunSeries]) -> RunsRow {
    let mut row = RunsRow::default();
    let (mut id, mut index, mut time) = (0, 0, 0);
    for series in all {
        let run = series.first;
        row.more_runs.push(series.runs.saturating_sub(1));
        row.count.push(run.count);
        row.first_message_id
            .push(further(&mut id, run.first_message_id.0));
        row.id_step.push(series.id_step);
        row.index.push(further(&mut index, run.body.position.index));
        row.place.push(run.body.position.place);
        row.place_step.push(series.place_step);
        row.item.push(run.body.item);
        row.published_at_ms
            .push(further(&mut time, run.published_at.0));
        row.bytes.push(run.bytes);
    }
    for column in [
        &mut row.more_runs,
        &mut row.place,
        &mut row.place_step,
        &mut row.item,
    ] {
        leave_out_zeros(column);
    }
    leave_out_zeros(&mut row.id_step);
    row
}

fn further(before: &mut u64, value: u64) -> i64 {
    value.wrapping_sub(std::mem::replace(before, value)) as i64
}

fn leave_out_zeros<T: Default + PartialEq>(column: &mut Vec<T>) {
    if column.iter().all(|value| *value == T::default()) {
        column.clear();
    }
}

pub(super) fn runs_from(row: &RunsRow) -> Result<Vec<RunSeries>, DecodeError> {
    read_runs(row).ok_or(DecodeError::OutOfRange { field: "RunsRow" })
}

fn read_runs(row: &RunsRow) -> Option<Vec<RunSeries>> {
    let (mut id, mut index, mut time) = (0_u64, 0_u64, 0_u64);
    let mut all = Vec::with_capacity(row.count.len());
    for (k, count) in row.count.iter().enumerate() {
        let runs = value(&row.more_runs, k)?.checked_add(1);
        id = id.wrapping_add(value(&row.first_message_id, k)? as u64);
        index = index.wrapping_add(value(&row.index, k)? as u64);
        time = time.wrapping_add(value(&row.published_at_ms, k)? as u64);
        let place = value(&row.place, k)?;
        all.push(RunSeries {
            first: RunRow {
                count: *count,
                first_message_id: MessageId(id),
                body: BodyRef {
                    position: Position { index, place },
                    item: value(&row.item, k)?,
                },
                published_at: WallTime(time),
                bytes: value(&row.bytes, k)?,
            },
            runs: runs?,
            id_step: value(&row.id_step, k)?,
            place_step: value(&row.place_step, k)?,
        });
    }
    Some(all)
}

pub(super) fn spans(all: &[Piece]) -> SpansRow {
    let mut before = 0;
    let mut row = SpansRow {
        at: all.iter().map(|piece| u32::from(piece.at)).collect(),
        more: all
            .iter()
            .map(|piece| piece.count.saturating_sub(1))
            .collect(),
        value: all
            .iter()
            .map(|piece| further(&mut before, piece.value))
            .collect(),
    };
    leave_out_zeros(&mut row.more);
    leave_out_zeros(&mut row.value);
    row
}

pub(super) fn spans_from(row: &SpansRow) -> Result<Vec<Piece>, DecodeError> {
    read_spans(row).ok_or(DecodeError::OutOfRange { field: "SpansRow" })
}

fn read_spans(row: &SpansRow) -> Option<Vec<Piece>> {
    let mut word = 0_u64;
    let mut all = Vec::with_capacity(row.at.len());
    for (k, at) in row.at.iter().enumerate() {
        word = word.wrapping_add(value(&row.value, k)? as u64);
        all.push(Piece {
            at: u8::try_from(*at).ok()?,
            count: value(&row.more, k)?.checked_add(1)?,
            value: word,
        });
    }
    Some(all)
}

/// The `k`-th value of a column, which may be left out but not be short.
fn value<T: Copy + Default>(column: &[T], k: usize) -> Option<T> {
    if column.is_empty() {
        return Some(T::default());
    }
    column.get(k).copied()
}
