//! What every [`CheckpointStore`] must do; each implementation passes this one suite.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Changes, CheckpointStore};
use crate::disk::sim::SplitMix;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Runs the suite on an empty store; `open` is called again to see what a restart would find, after the handle before it was dropped.
///
/// # Panics
/// Where the store does not conform.
pub fn run(mut open: impl FnMut() -> Box<dyn CheckpointStore>) {
    starts_empty(&mut *open());
    survives_reopening(&mut open);
    random_batches_match_a_map(&mut open);
    large_writes_are_whole(&mut open);
    clear_leaves_nothing(&mut open);
}

fn expect_content(store: &dyn CheckpointStore, rows: &Model, meta: Option<&[u8]>) {
    let mut found = Vec::new();
    let read = store.for_each_row(&mut |key, value| found.push((key.to_vec(), value.to_vec())));
    read.expect("rows can be read");
    let expected: Vec<_> = rows
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    assert!(
        found == expected,
        "{} rows were read, in order and equal to {} expected ones",
        found.len(),
        expected.len()
    );
    let found_meta = store.load_meta().expect("the meta can be read");
    assert_eq!(found_meta.as_deref(), meta);
}

fn starts_empty(store: &mut dyn CheckpointStore) {
    expect_content(store, &Model::new(), None);
}

fn survives_reopening(open: &mut dyn FnMut() -> Box<dyn CheckpointStore>) {
    let mut rows = Model::new();
    let mut store = open();
    let batch = vec![
        (
            b"m".to_vec(),
            Some(b"a key that looks like the meta's".to_vec()),
        ),
        (b"rm".to_vec(), Some(Vec::new())),
        (vec![0xff; 300], Some(vec![7; 100_000])),
        (vec![0], Some(vec![0])),
    ];
    for (key, value) in &batch {
        rows.insert(key.clone(), value.clone().unwrap_or_default());
    }
    store
        .write(&batch.into_iter().collect(), Bytes::from_static(b"first"))
        .expect("a batch is written");
    expect_content(&*store, &rows, Some(b"first"));
    drop(store);
    expect_content(&*open(), &rows, Some(b"first"));
    let mut store = open();
    store
        .write(&Changes::default(), Bytes::from_static(b"only the meta"))
        .expect("an empty batch is written");
    drop(store);
    expect_content(&*open(), &rows, Some(b"only the meta"));
    let mut store = open();
    let removed: [(&[u8], Option<&[u8]>); 2] = [(&[0], None), (b"never there", None)];
    store
        .write(&removed.into_iter().collect(), Bytes::new())
        .expect("rows are removed");
    rows.remove(&vec![0]);
    drop(store);
    let mut store = open();
    expect_content(&*store, &rows, Some(b""));
    store.clear().expect("it is cleared");
}

fn random_batches_match_a_map(open: &mut dyn FnMut() -> Box<dyn CheckpointStore>) {
    let mut rng = SplitMix(42);
    let mut rows = Model::new();
    for round in 0..40_u64 {
        let mut store = open();
        let mut batch = BTreeMap::new();
        for _ in 0..rng.below(60) {
            let key = format!("{}/{}", rng.below(3), rng.below(80)).into_bytes();
            let value = (rng.below(3) > 0).then(|| vec![rng.next() as u8; rng.below(200) as usize]);
            batch.insert(key, value);
        }
        for (key, value) in &batch {
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        let batch: Changes = batch.into_iter().collect();
        let meta = Bytes::from(format!("round {round}"));
        store
            .write(&batch, meta.clone())
            .expect("a batch is written");
        if rng.below(2) == 0 {
            drop(store);
            store = open();
        }
        expect_content(&*store, &rows, Some(&meta));
    }
}

/// More rows than a store may write at a time.
fn large_writes_are_whole(open: &mut dyn FnMut() -> Box<dyn CheckpointStore>) {
    let mut rows = Model::new();
    let mut store = open();
    store.clear().expect("it is cleared");
    for (round, count) in [10_000_u32, 4_096, 4_097, 8_192].into_iter().enumerate() {
        let mut changes = Changes::default();
        for row in 0..count {
            let key = row.wrapping_mul(0x9e37_79b1).to_be_bytes();
            let value = [round as u8; 20];
            if round > 0 && row % 3 == 0 {
                rows.remove(&key[..]);
                changes.push(&key, None);
            } else {
                rows.insert(key.to_vec(), value.to_vec());
                changes.push(&key, Some(&value));
            }
        }
        let meta = Bytes::from(format!("{count} rows"));
        store
            .write(&changes, meta.clone())
            .expect("they are written");
        expect_content(&*store, &rows, Some(&meta));
        drop(store);
        store = open();
        expect_content(&*store, &rows, Some(&meta));
    }
    store.clear().expect("it is cleared");
}

fn clear_leaves_nothing(open: &mut dyn FnMut() -> Box<dyn CheckpointStore>) {
    let mut store = open();
    store
        .write(
            &[("key", Some("value"))].into_iter().collect(),
            Bytes::from_static(b"meta"),
        )
        .expect("a batch is written");
    store.clear().expect("it is cleared");
    expect_content(&*store, &Model::new(), None);
    drop(store);
    let mut store = open();
    expect_content(&*store, &Model::new(), None);
    store
        .write(&Changes::default(), Bytes::from_static(b"again"))
        .expect("a batch is written after it was cleared");
    expect_content(&*store, &Model::new(), Some(b"again"));
    store.clear().expect("it is cleared again");
}
