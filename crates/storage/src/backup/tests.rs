use std::sync::Arc;

use super::*;
use crate::disk::Disk;
use crate::disk::sim::SimDisk;
use crate::log::LogPosition;
use crate::snapshot;

const OWNER: Identity = Identity {
    cluster_id: 7,
    node_id: 2,
};
const LAST: LogPosition = LogPosition { index: 90, term: 3 };

fn snapshot_bytes(owner: Identity, last: LogPosition, rows: u8) -> Vec<u8> {
    let disk = SimDisk::new(1);
    let manifest = snapshot::Manifest {
        group: 0,
        last_index: last.index,
        last_term: last.term,
        machine_version: 1,
        meta: bytes::Bytes::new(),
    };
    let rows = (0..rows).map(|row| (vec![row], vec![row; 40]));
    let name = snapshot::write(&disk, owner, &manifest, rows).unwrap();
    disk.bytes_of(&name.file_name()).unwrap()
}

fn bodies() -> Vec<(u64, Vec<u8>)> {
    // One is longer than what is read at a time.
    let long = PIECE_BYTES + 17;
    [(3, 0), (4, 100), (64, long), (90, 1)]
        .into_iter()
        .map(|(index, length)| (index, vec![index as u8; length]))
        .collect()
}

fn written(disk: &Arc<SimDisk>, rows: u8) -> BackupWriter {
    let mut writer = BackupWriter::create(disk.clone(), OWNER, LAST).unwrap();
    for piece in snapshot_bytes(OWNER, LAST, rows).chunks(100) {
        writer.push_state(piece).unwrap();
    }
    for (index, body) in bodies() {
        writer.push_body(index, &body).unwrap();
    }
    writer
}

fn backup(rows: u8) -> Arc<SimDisk> {
    let disk = Arc::new(SimDisk::new(1));
    written(&disk, rows).finish(1_000).unwrap();
    disk
}

/// Rows of the state, and the bodies.
type Contents = (u64, Vec<(u64, Vec<u8>)>);

/// Reads all of it.
fn read(disk: &Arc<SimDisk>) -> Result<Contents, BackupError> {
    let backup = Backup::open(disk.clone())?;
    let rows = backup.state()?.row_count();
    let mut found = Vec::new();
    let mut bodies = backup.bodies()?;
    while let Some((index, body)) = bodies.next()? {
        found.push((index, body.to_vec()));
    }
    Ok((rows, found))
}

fn replace(disk: &SimDisk, name: &str, bytes: &[u8]) {
    disk.remove(name).unwrap();
    disk.create(name).unwrap().write_at(bytes, 0).unwrap();
}

#[test]
fn what_was_written_is_read_back() {
    let disk = backup(9);
    let manifest = *Backup::open(disk.clone()).unwrap().manifest();
    assert_eq!((manifest.owner, manifest.last), (OWNER, LAST));
    assert_eq!((manifest.taken_at_ms, manifest.body_count), (1_000, 4));
    assert_eq!(read(&disk).unwrap(), (9, bodies()));
}

#[test]
fn without_its_manifest_it_is_no_backup_wherever_the_writer_stopped() {
    let disk = Arc::new(SimDisk::new(1));
    assert!(matches!(read(&disk), Err(BackupError::Unfinished)));
    drop(written(&disk, 9));
    assert!(matches!(read(&disk), Err(BackupError::Unfinished)));
    // Cut off by a crash at any operation: whole, or no backup.
    let all = {
        let disk = Arc::new(SimDisk::new(1));
        written(&disk, 9).finish(1).unwrap();
        disk.ops()
    };
    let mut whole = 0;
    for stop in 1..=all {
        let disk = Arc::new(SimDisk::new(stop));
        disk.stop_at(crate::disk::sim::StopPoint::Before(stop));
        let done = BackupWriter::create(disk.clone(), OWNER, LAST).and_then(|mut writer| {
            writer.push_state(&snapshot_bytes(OWNER, LAST, 9))?;
            writer.push_body(3, b"body")?;
            writer.finish(1)
        });
        disk.crash(stop);
        match read(&disk) {
            Ok(found) => {
                assert_eq!(found, (9, vec![(3, b"body".to_vec())]));
                whole += 1;
            }
            Err(BackupError::Unfinished) => assert!(done.is_err(), "a finished one is lost"),
            Err(error) => panic!("stopped at {stop}: {error}"),
        }
    }
    assert!(whole > 0);
}

#[test]
fn every_flipped_byte_is_noticed() {
    let disk = Arc::new(SimDisk::new(1));
    let mut writer = BackupWriter::create(disk.clone(), OWNER, LAST).unwrap();
    writer.push_state(&snapshot_bytes(OWNER, LAST, 9)).unwrap();
    writer.push_body(3, &[5; 50]).unwrap();
    writer.finish(1).unwrap();
    for name in [MANIFEST, STATE, BODIES] {
        for offset in 0..disk.bytes_of(name).unwrap().len() as u64 {
            assert!(disk.flip(name, offset, 0x10));
            assert!(read(&disk).is_err(), "a flip in {name} at {offset} passed");
            assert!(disk.flip(name, offset, 0x10));
        }
    }
    read(&disk).unwrap();
}

#[test]
fn a_damaged_body_is_named_by_its_place() {
    let disk = backup(9);
    let second = crate::header::HEADER_BYTES as u64 + RECORD_HEADER_BYTES as u64;
    assert!(disk.flip(BODIES, second + 50, 1));
    match read(&disk) {
        Err(BackupError::Damaged { file, offset, .. }) => {
            assert_eq!((file.as_str(), offset), (BODIES, second));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_is_gone_cut_off_or_anothers_is_refused() {
    for name in [STATE, BODIES] {
        let disk = backup(9);
        let bytes = disk.bytes_of(name).unwrap();
        replace(&disk, name, &bytes[..bytes.len() - 1]);
        let cut = read(&disk).unwrap_err();
        assert!(matches!(cut, BackupError::NotTheManifests { .. }), "{cut}");
        disk.remove(name).unwrap();
        let gone = read(&disk).unwrap_err();
        assert!(matches!(gone, BackupError::Missing { file } if file == name));
    }
    // Of the same length and whole, but of another time.
    let disk = backup(9);
    let other = snapshot_bytes(OWNER, LogPosition { index: 91, ..LAST }, 9);
    replace(&disk, STATE, &other);
    let others = read(&disk).unwrap_err();
    assert!(others.to_string().contains("entry 91, not 90"), "{others}");
    let stranger = Identity {
        node_id: 3,
        ..OWNER
    };
    replace(&disk, STATE, &snapshot_bytes(stranger, LAST, 9));
    let strange = read(&disk).unwrap_err();
    assert!(
        matches!(strange, BackupError::NotTheManifests { file: STATE, .. }),
        "{strange}"
    );
}

#[test]
fn the_manifest_of_another_backup_is_refused() {
    let (disk, other) = (backup(9), backup(10));
    replace(&disk, MANIFEST, &other.bytes_of(MANIFEST).unwrap());
    let refused = read(&disk).unwrap_err();
    assert!(
        matches!(refused, BackupError::NotTheManifests { file: STATE, .. }),
        "{refused}"
    );
}

#[test]
fn a_newer_format_is_told() {
    let disk = backup(9);
    let mut bytes = disk.bytes_of(MANIFEST).unwrap();
    bytes[8..12].copy_from_slice(&2_u32.to_le_bytes());
    bytes[12..16].fill(0);
    let crc = crc32c::crc32c(&bytes);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    replace(&disk, MANIFEST, &bytes);
    let newer = read(&disk).unwrap_err();
    assert!(
        matches!(newer, BackupError::NewerFormat { found: 2, .. }),
        "{newer}"
    );
}

#[test]
fn what_is_pushed_must_be_a_copy() {
    let disk = Arc::new(SimDisk::new(1));
    let mut writer = BackupWriter::create(disk.clone(), OWNER, LAST).unwrap();
    let state = snapshot_bytes(OWNER, LAST, 9);
    writer.push_state(&state[..state.len() - 3]).unwrap();
    writer.push_body(5, b"x").unwrap();
    for index in [5, 4, LAST.index + 1] {
        assert!(writer.push_body(index, b"x").is_err());
    }
    assert!(matches!(writer.finish(1), Err(BackupError::Damaged { .. })));
    assert!(matches!(read(&disk), Err(BackupError::Unfinished)));
}

#[test]
fn a_folder_with_something_in_it_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("mine")).unwrap();
    let refused = BackupWriter::create_in(folder.path(), OWNER, LAST);
    assert!(matches!(refused, Err(BackupError::NotEmpty)));
    let new = folder.path().join("new");
    assert!(matches!(
        Backup::open_in(&new),
        Err(BackupError::Unfinished)
    ));
    assert!(!new.exists());
    BackupWriter::create_in(&new, OWNER, LAST).unwrap();
}
