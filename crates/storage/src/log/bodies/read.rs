//! Reading on through everything that is stored, whichever file holds it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;

use super::BodySegment;
use crate::error::StorageError;
use crate::log::reader::{READ_BYTES_MAX, Stretch};
use crate::log::segment::{Place, SegmentIndex};
use crate::log::shared::Shared;
use crate::log::state::State;

/// Most bytes that one call answers with, whatever it asks for.
const BYTES_MAX: usize = 16 << 20;
/// Most entries of one call: they are looked up under the log's lock.
const ENTRIES_MAX: usize = 4096;

pub(crate) fn read_bodies(
    shared: &Shared,
    range: RangeInclusive<u64>,
    bytes_max: usize,
) -> Result<Vec<(u64, Bytes)>, StorageError> {
    let planned = plan(&shared.lock(), range, bytes_max.min(BYTES_MAX));
    let mut found = Vec::with_capacity(planned.len());
    let mut stretch: Option<Stretch> = None;
    for (index, source) in planned {
        let place = match source {
            Found::InMemory(payload) => {
                read_into(&mut found, stretch.take())?;
                found.push((index, payload));
                continue;
            }
            Found::At(place) => place,
        };
        match &mut stretch {
            Some(stretch) if stretch.takes(&place, READ_BYTES_MAX) => stretch.add(index, place),
            _ => {
                read_into(&mut found, stretch.take())?;
                stretch = Some(Stretch::of(index, place));
            }
        }
    }
    read_into(&mut found, stretch)?;
    Ok(found)
}

fn read_into(found: &mut Vec<(u64, Bytes)>, stretch: Option<Stretch>) -> Result<(), StorageError> {
    if let Some(stretch) = stretch {
        let records = stretch.read()?.into_iter();
        found.extend(records.map(|record| (record.index, record.payload)));
    }
    Ok(())
}

enum Found {
    InMemory(Bytes),
    At(Place),
}

/// What holds entries; the first of several that hold the same one wins.
enum Source<'a> {
    Memory(&'a State),
    Run(&'a SegmentIndex),
    Bodies(&'a Arc<BodySegment>),
}

impl Source<'_> {
    /// The first entry at or after an index.
    fn next(&self, from: u64) -> Option<u64> {
        match self {
            Self::Memory(state) => {
                let first = state.cache.first_index()?.max(from);
                state.cache.get(first).map(|_| first)
            }
            Self::Run(run) => {
                let next = run.first_index.max(from);
                (next <= run.last_index()?).then_some(next)
            }
            Self::Bodies(segment) => {
                let nth = segment.indexes.partition_point(|index| *index < from);
                segment.indexes.get(nth).copied()
            }
        }
    }

    fn get(&self, index: u64) -> Option<Found> {
        match self {
            Self::Memory(state) => {
                let record = state.cache.get(index)?;
                Some(Found::InMemory(record.payload.clone()))
            }
            Self::Run(run) => Some(Found::At(run.locate(index)?)),
            Self::Bodies(segment) => Some(Found::At(segment.place(index)?)),
        }
    }
}

fn plan(state: &State, range: RangeInclusive<u64>, bytes_max: usize) -> Vec<(u64, Found)> {
    let (from, last) = range.into_inner();
    let mut sources = vec![Source::Memory(state)];
    sources.extend(state.table.segments.iter().map(Source::Run));
    sources.extend(state.bodies.segments.iter().rev().map(Source::Bodies));
    let next_of = |source: &Source<'_>, from: u64| match source {
        Source::Run(_) => {
            let next = source.next(from.max(state.body_floor()))?;
            state.may_serve_body(next).then_some(next)
        }
        _ => source.next(from),
    };
    let mut heads: BinaryHeap<Reverse<(u64, usize)>> = sources
        .iter()
        .enumerate()
        .filter_map(|(rank, source)| Some(Reverse((next_of(source, from)?, rank))))
        .collect();
    let mut planned: Vec<(u64, Found)> = Vec::new();
    let mut bytes = 0;
    while let Some(Reverse((index, rank))) = heads.pop() {
        if index > last {
            break;
        }
        let is_new = planned.last().is_none_or(|(newest, _)| *newest < index);
        if is_new && let Some(found) = sources[rank].get(index) {
            bytes += found.bytes();
            if !planned.is_empty() && (bytes > bytes_max || planned.len() >= ENTRIES_MAX) {
                break;
            }
            planned.push((index, found));
        }
        if let Some(next) = next_of(&sources[rank], index + 1) {
            heads.push(Reverse((next, rank)));
        }
    }
    planned
}

impl Found {
    fn bytes(&self) -> usize {
        match self {
            Self::InMemory(payload) => payload.len(),
            Self::At(place) => place.payload_bytes(),
        }
    }
}
