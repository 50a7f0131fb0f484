use super::*;
use crate::disk::sim::{SimDisk, StopPoint};

const OWNER: Identity = Identity {
    cluster_id: 7,
    node_id: 1,
};

fn manifest(last_index: u64) -> Manifest {
    let meta = Bytes::from(format!("members at {last_index}"));
    Manifest {
        group: 0,
        last_index,
        last_term: 3,
        machine_version: 1,
        meta,
    }
}

fn rows(last_index: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
    (0..20)
        .map(|row| {
            (
                format!("key {row}").into_bytes(),
                vec![(last_index + row) as u8; row as usize * 3],
            )
        })
        .collect()
}

fn write_one(disk: &SimDisk, last_index: u64) -> Result<SnapshotName, StorageError> {
    write(
        disk,
        OWNER,
        &manifest(last_index),
        rows(last_index).into_iter(),
    )
}

fn check(snapshot: &Snapshot) {
    let index = snapshot.manifest().last_index;
    assert_eq!(snapshot.manifest(), &manifest(index));
    let mut found = Vec::new();
    snapshot
        .for_each_row(&mut |key, value| found.push((key.to_vec(), value.to_vec())))
        .unwrap();
    assert_eq!(found, rows(index));
}

#[test]
fn the_two_newest_are_kept() {
    let disk = SimDisk::new(1);
    for index in [10, 20, 30] {
        write_one(&disk, index).unwrap();
    }
    disk.crash(1);
    let indexes: Vec<_> = list(&disk, 0)
        .unwrap()
        .iter()
        .map(|name| name.last_index)
        .collect();
    assert_eq!(indexes, [30, 20]);
    let (newest, refused) = newest_good(&disk, OWNER, 0).unwrap();
    assert!(refused.is_empty());
    check(&newest.unwrap());
}

#[test]
fn rows_beyond_one_frame_come_back() {
    let disk = SimDisk::new(1);
    let many = || (0..30_000_u32).map(|row| (row.to_be_bytes().to_vec(), vec![row as u8; 40]));
    let name = write(&disk, OWNER, &manifest(1), many()).unwrap();
    let snapshot = open(&disk, OWNER, &name).unwrap();
    let mut expected = many();
    snapshot
        .for_each_row(&mut |key, value| {
            assert_eq!(expected.next().unwrap(), (key.to_vec(), value.to_vec()))
        })
        .unwrap();
    assert_eq!(snapshot.row_count(), 30_000);
}

#[test]
fn every_flipped_byte_sends_to_the_older_file() {
    let disk = SimDisk::new(1);
    write_one(&disk, 10).unwrap();
    let newest = write_one(&disk, 20).unwrap().file_name();
    for offset in 0..disk.bytes_of(&newest).unwrap().len() as u64 {
        assert!(disk.flip(&newest, offset, 0x04));
        let (found, refused) = newest_good(&disk, OWNER, 0).unwrap();
        assert_eq!(refused.len(), 1, "a flip at {offset} passed");
        assert_eq!(found.unwrap().manifest().last_index, 10);
        assert!(disk.flip(&newest, offset, 0x04));
    }
    check(&newest_good(&disk, OWNER, 0).unwrap().0.unwrap());
}

#[test]
fn a_file_that_was_cut_short_is_refused() {
    let disk = SimDisk::new(1);
    let name = write_one(&disk, 20).unwrap();
    let length = disk.bytes_of(&name.file_name()).unwrap().len() as u64;
    for cut in 0..length {
        let cut_disk = disk.fork();
        cut_disk
            .open(&name.file_name())
            .unwrap()
            .set_len(cut)
            .unwrap();
        assert!(
            open(&cut_disk, OWNER, &name).is_err(),
            "{cut} of {length} bytes passed"
        );
    }
}

#[test]
fn a_crash_at_any_point_leaves_the_older_or_the_newer_one() {
    let base = SimDisk::new(1);
    write_one(&base, 10).unwrap();
    write_one(&base, 20).unwrap();
    for stop in 0..30 {
        for seed in 0..20 {
            let disk = base.fork();
            disk.stop_at(StopPoint::After(base.ops() + stop));
            let written = write_one(&disk, 30).is_ok();
            disk.crash(seed);
            let (newest, refused) = newest_good(&disk, OWNER, 0).unwrap();
            assert!(refused.is_empty(), "{refused:?}");
            let newest = newest.unwrap();
            check(&newest);
            assert!(
                newest.manifest().last_index == 30
                    || (!written && newest.manifest().last_index == 20)
            );
            write_one(&disk, 40).unwrap();
        }
    }
}
