//! Packed runs against a plain list of them.

use super::*;
use crate::id::{MessageId, Position, WallTime};
use crate::message::BodyRef;
use std::vec;

/// A run of `count` messages of 10 bytes each.
fn run(id: u64, index: u64, place: u32, count: u32) -> RunRow {
    RunRow {
        count,
        first_message_id: MessageId(id),
        body: BodyRef {
            position: Position { index, place },
            item: 0,
        },
        published_at: WallTime(1_000 + index),
        bytes: u64::from(count) * 10,
    }
}

struct Pair {
    runs: Runs,
    plain: Vec<(Offset, RunRow)>,
    next: Offset,
}

impl Pair {
    fn new(all: impl IntoIterator<Item = RunRow>) -> Self {
        let mut pair = Self {
            runs: Runs::default(),
            plain: Vec::new(),
            next: Offset(7),
        };
        for run in all {
            pair.runs.append(pair.next, run);
            pair.plain.push((pair.next, run));
            pair.next = pair.next.plus(u64::from(run.count));
        }
        pair
    }

    fn check(&self) {
        let told: Vec<(Offset, RunRow)> = self.runs.series().flat_map(each_run).collect();
        assert_eq!(told, self.plain);
        for (first, run) in &self.plain {
            for k in 0..u64::from(run.count) {
                assert_eq!(self.runs.at(first.plus(k)), Some((*first, *run)));
            }
        }
        assert_eq!(self.runs.at(Offset(6)), None);
        assert_eq!(self.runs.at(self.next), None);
    }

    fn rows(&self) -> Vec<(Offset, Vec<RunSeries>)> {
        let chunks = self.runs.chunks.iter();
        chunks
            .map(|(at, chunk)| (*at, stored(*at, chunk)))
            .collect()
    }

    fn bytes(&self) -> usize {
        let chunks = self.runs.chunks.values();
        chunks.map(|chunk| chunk.packed_bytes()).sum()
    }
}

fn each_run((first, series): (Offset, RunSeries)) -> Vec<(Offset, RunRow)> {
    let step = u64::from(series.first.count);
    (0..series.runs)
        .map(|k| (first.plus(step * u64::from(k)), series.run(k)))
        .collect()
}

/// One message per publish, a hundred publishes per entry.
fn singles(n: u64) -> impl Iterator<Item = RunRow> {
    (0..n).map(|k| run(1 + k, 5 + k / 100, (k % 100) as u32, 1))
}

/// What nobody expects.
fn wild(n: u64) -> impl Iterator<Item = RunRow> {
    let mut word = 1_u64;
    (0..n).map(move |_| {
        word = crate::digest::word(word, 99);
        let far = word.is_multiple_of(3);
        RunRow {
            count: 1 + (word % 5) as u32,
            first_message_id: MessageId(if far { word } else { word % 9 }),
            body: BodyRef {
                position: Position {
                    index: if far { word } else { word % 4 },
                    place: (word >> 40) as u32 % 7,
                },
                item: (word >> 50) as u32 % 3,
            },
            published_at: WallTime(if far { u64::MAX - word % 7 } else { word % 2 }),
            bytes: word % 1_000,
        }
    })
}

#[test]
fn every_run_is_found_again() {
    Pair::new(singles(1_000)).check();
    Pair::new(wild(2_000)).check();
    Pair::new((0..300).map(|k| run(1 + 50 * k, 5 + k / 40, (k % 40) as u32, 50))).check();
}

#[test]
fn what_is_expected_costs_nothing_and_the_rest_little() {
    let expected = Pair::new(singles(100_000)).bytes();
    assert!(expected < 10_000, "{expected} bytes for 100,000 messages");
    // Two queues take turns: every second place and every second id.
    let turns = (0..10_000).map(|k| run(1 + 2 * k, 5 + k / 50, 2 * (k % 50) as u32, 1));
    let turns = Pair::new(turns).bytes();
    assert!(turns < 2_000, "{turns} bytes for 10,000 messages");
    // An entry each, ids with gaps, and all of different sizes.
    let mixed = (0..10_000).map(|k| RunRow {
        bytes: 100 + k * 7 % 1_000,
        ..run(1 + 5 * k + k % 3, 5 + 2 * k, k as u32 % 3, 1)
    });
    let mixed = Pair::new(mixed).bytes();
    assert!(mixed < 80_000, "{mixed} bytes for 10,000 messages");
}

#[test]
fn stored_runs_come_back_and_grow_the_same_way() {
    for (before, after) in [
        (
            singles(950).collect::<Vec<_>>(),
            singles(2_000).skip(950).collect::<Vec<_>>(),
        ),
        (wild(777).collect(), wild(1_500).skip(777).collect()),
    ] {
        let mut pair = Pair::new(before);
        let mut twin = Runs::default();
        for (at, row) in pair.rows() {
            assert!(twin.load(at, &row, pair.next));
        }
        assert!(twin.revive(Offset(7), pair.next, |_| {}));
        for run in after {
            pair.runs.append(pair.next, run);
            twin.append(pair.next, run);
            pair.next = pair.next.plus(u64::from(run.count));
        }
        let rows = pair.rows();
        pair.runs = twin;
        assert_eq!(pair.rows(), rows);
    }
}

#[test]
fn rows_that_are_no_runs_are_refused() {
    let load = |stored: &[RunSeries], next| Runs::default().load(Offset(0), stored, Offset(next));
    let good = RunSeries::one(run(1, 5, 0, 3));
    assert!(load(&[good], 3) && load(&[good], 9));
    assert!(!load(&[good], 2), "it goes beyond the queue");
    assert!(!load(&[], 9));
    assert!(!load(&[RunSeries { runs: 0, ..good }], 9));
    assert!(!load(&[good, RunSeries::one(run(4, 5, 1, 0))], 9));
    let many = RunSeries {
        runs: u32::MAX,
        first: run(1, 5, 0, u32::MAX),
        ..good
    };
    assert!(!load(&[many, many], u64::MAX));
}

#[test]
fn what_leaves_is_told_by_publish_and_adds_up() {
    let mut pair = Pair::new([run(1, 5, 0, 7), run(8, 5, 1, 7), run(15, 6, 0, 4)]);
    let (mut told, mut bytes) = (Vec::new(), 0);
    let mut forget = |first, end| {
        let forgotten = pair.runs.forget(Offset(first), Offset(end), |part| {
            told.push((part.index, part.messages));
            bytes += part.bytes;
        });
        assert_eq!(forgotten, Ok(()));
    };
    forget(9, 23);
    forget(7, 9);
    forget(23, 25);
    assert_eq!(told, vec![(5, 5), (5, 7), (6, 2), (5, 2), (6, 2)]);
    assert_eq!(bytes, 180);
    assert!(pair.runs.chunks.is_empty());
    let again = pair.runs.forget(Offset(7), Offset(8), |_| {});
    assert_eq!(again, Err("a message has no run"));
}
