//! The vote file: two slots with two copies each, one sync per vote.
//!
//! A new vote goes to the slot that holds the older one, as two copies in pages of their own, and is answered after the sync.
//! So an acknowledged vote has two good copies: a torn write can only hurt the slot that was being written, and one damaged
//! copy is told from a torn write because its twin is whole. Log batches carry the sequence of the last vote, so a vote
//! file that went back in time is noticed when the log is opened.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{Disk, DiskFile, read_up_to};
use crate::error::StorageError;
use crate::header::{self, HEADER_BYTES, Magic, u32_at, u64_at};
use crate::identity::Identity;

pub(crate) const FILE: &str = "vote";
const NEW_FILE: &str = "vote.new";
const MAGIC: Magic = Magic(b"TRVOTE1\n");

/// A page for each copy, so that no page holds two.
const PAGE_BYTES: usize = 4096;
/// Largest vote, in bytes.
pub(crate) const VOTE_BYTES_MAX: usize = 256;
/// crc, length, sequence.
const COPY_HEADER_BYTES: usize = 16;
const COPIES: u64 = 2;
const FILE_BYTES: u64 = PAGE_BYTES as u64 * (1 + 2 * COPIES);

/// The open vote file; owned by the one thread that writes.
pub(crate) struct VoteFile {
    file: Arc<dyn DiskFile>,
    owner: Identity,
    sequence: u64,
}

/// What was found when the file was opened.
pub(crate) struct FoundVote {
    pub(crate) vote: Option<Bytes>,
    pub(crate) sequence: u64,
    /// Copies that were damaged or torn and have been written again.
    pub(crate) copies_repaired: u32,
}

impl VoteFile {
    /// Creates an empty vote file: durable with its name when this returns.
    pub(crate) fn create(disk: &dyn Disk, owner: Identity) -> io::Result<()> {
        if disk.list()?.iter().any(|name| name == NEW_FILE) {
            disk.remove(NEW_FILE)?;
        }
        let file = disk.create(NEW_FILE)?;
        let mut bytes = vec![0; FILE_BYTES as usize];
        bytes[..HEADER_BYTES].copy_from_slice(&header::encode(MAGIC, owner, &[]));
        file.write_at(&bytes, 0)?;
        file.sync_data()?;
        disk.rename(NEW_FILE, FILE)?;
        disk.sync_dir()
    }

    pub(crate) fn open(
        disk: &dyn Disk,
        owner: Identity,
    ) -> Result<(Self, FoundVote), StorageError> {
        let file = disk
            .open(FILE)
            .map_err(|e| StorageError::io("open", FILE, e))?;
        header::read(MAGIC, owner, FILE, &*file)?;
        let mut slots = [[None, None], [None, None]];
        for (slot, copies) in slots.iter_mut().enumerate() {
            for (copy, found) in copies.iter_mut().enumerate() {
                *found = read_copy(&*file, owner, slot as u64, copy as u64)?;
            }
        }
        let best = slots
            .iter()
            .flatten()
            .flatten()
            .max_by_key(|found| found.0)
            .cloned();
        let mut vote_file = Self {
            file,
            owner,
            sequence: best.as_ref().map_or(0, |found| found.0),
        };
        let Some((sequence, vote)) = best else {
            // No vote was ever acknowledged: an acknowledged one has two good copies, and one flip leaves one of them.
            return Ok((
                vote_file,
                FoundVote {
                    vote: None,
                    sequence: 0,
                    copies_repaired: 0,
                },
            ));
        };
        let whole = slots[(sequence % 2) as usize]
            .iter()
            .flatten()
            .filter(|found| found.0 == sequence)
            .count() as u32;
        let copies_repaired = COPIES as u32 - whole;
        if copies_repaired > 0 {
            vote_file
                .write_slot(sequence, &vote)
                .map_err(|e| StorageError::io("repair", FILE, e))?;
        } else {
            // Found is not yet durable: the process may have died between the write and the sync.
            vote_file
                .file
                .sync_data()
                .map_err(|e| StorageError::io("sync", FILE, e))?;
        }
        Ok((
            vote_file,
            FoundVote {
                vote: Some(vote),
                sequence,
                copies_repaired,
            },
        ))
    }

    /// Saves a vote; durable when this returns.
    pub(crate) fn save(&mut self, vote: &Bytes) -> io::Result<()> {
        let sequence = self.sequence + 1;
        self.write_slot(sequence, vote)?;
        self.sequence = sequence;
        Ok(())
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    fn write_slot(&mut self, sequence: u64, vote: &[u8]) -> io::Result<()> {
        let mut slot = vec![0; PAGE_BYTES * COPIES as usize];
        for copy in 0..COPIES as usize {
            let page = &mut slot[copy * PAGE_BYTES..(copy + 1) * PAGE_BYTES];
            page[4..8].copy_from_slice(&(vote.len() as u32).to_le_bytes());
            page[8..16].copy_from_slice(&sequence.to_le_bytes());
            page[COPY_HEADER_BYTES..COPY_HEADER_BYTES + vote.len()].copy_from_slice(vote);
            let crc = checksum(self.owner, &page[4..COPY_HEADER_BYTES + vote.len()]);
            page[..4].copy_from_slice(&crc.to_le_bytes());
        }
        self.file.write_at(&slot, copy_offset(sequence % 2, 0))?;
        self.file.sync_data()
    }
}

fn copy_offset(slot: u64, copy: u64) -> u64 {
    (1 + slot * COPIES + copy) * PAGE_BYTES as u64
}

fn checksum(owner: Identity, bytes: &[u8]) -> u32 {
    let seed = crc32c::crc32c_append(owner.node_id as u32, &owner.cluster_id.to_le_bytes());
    crc32c::crc32c_append(seed, bytes)
}

fn read_copy(
    file: &dyn DiskFile,
    owner: Identity,
    slot: u64,
    copy: u64,
) -> Result<Option<(u64, Bytes)>, StorageError> {
    let page = read_up_to(
        file,
        copy_offset(slot, copy),
        COPY_HEADER_BYTES + VOTE_BYTES_MAX,
    )
    .map_err(|e| StorageError::io("read", FILE, e))?;
    if page.len() < COPY_HEADER_BYTES {
        return Err(StorageError::damaged(
            FILE,
            copy_offset(slot, copy),
            "the file is too short",
        ));
    }
    let length = u32_at(&page, 4) as usize;
    let sequence = u64_at(&page, 8);
    if sequence == 0
        || sequence % 2 != slot
        || length > VOTE_BYTES_MAX
        || COPY_HEADER_BYTES + length > page.len()
    {
        return Ok(None);
    }
    if checksum(owner, &page[4..COPY_HEADER_BYTES + length]) != u32_at(&page, 0) {
        return Ok(None);
    }
    Ok(Some((
        sequence,
        Bytes::copy_from_slice(&page[COPY_HEADER_BYTES..COPY_HEADER_BYTES + length]),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::{SimDisk, StopPoint};

    const OWNER: Identity = Identity {
        cluster_id: 7,
        node_id: 1,
    };

    fn vote(number: u64) -> Bytes {
        Bytes::from(format!("term {number} for node {}", number % 3))
    }

    fn disk_with_votes(count: u64) -> SimDisk {
        let disk = SimDisk::new(1);
        VoteFile::create(&disk, OWNER).unwrap();
        let (mut file, _) = VoteFile::open(&disk, OWNER).unwrap();
        for number in 1..=count {
            file.save(&vote(number)).unwrap();
        }
        disk
    }

    #[test]
    fn the_newest_vote_is_found_again() {
        for count in 0..5 {
            let disk = disk_with_votes(count);
            disk.crash(count);
            let (_, found) = VoteFile::open(&disk, OWNER).unwrap();
            assert_eq!(found.vote, (count > 0).then(|| vote(count)));
            assert_eq!((found.sequence, found.copies_repaired), (count, 0));
        }
    }

    #[test]
    fn a_crash_at_any_point_leaves_the_old_vote_or_the_new_one() {
        for stop in 0..40 {
            for seed in 0..20 {
                let disk = disk_with_votes(0);
                disk.stop_at(StopPoint::After(disk.ops() + stop));
                let (mut file, _) = VoteFile::open(&disk, OWNER).unwrap();
                let acknowledged = (1..=10)
                    .take_while(|number| file.save(&vote(*number)).is_ok())
                    .count() as u64;
                disk.crash(seed);
                let (_, found) = VoteFile::open(&disk, OWNER).unwrap();
                assert!(found.sequence == acknowledged || found.sequence == acknowledged + 1);
                assert_eq!(
                    found.vote,
                    (found.sequence > 0).then(|| vote(found.sequence))
                );
            }
        }
    }

    #[test]
    fn every_flipped_byte_is_noticed_or_healed() {
        let disk = disk_with_votes(3);
        let mut healed = 0;
        for offset in 0..FILE_BYTES {
            let flipped = disk.fork();
            assert!(flipped.flip(FILE, offset, 0x10));
            match VoteFile::open(&flipped, OWNER) {
                Err(error) => assert!(error.is_data_loss(), "{error}"),
                Ok((_, found)) => {
                    assert_eq!(
                        found.vote,
                        Some(vote(3)),
                        "a flip at {offset} changed the vote"
                    );
                    healed += found.copies_repaired;
                }
            }
        }
        assert!(healed > 0, "no flip hit a live copy");
    }
}
