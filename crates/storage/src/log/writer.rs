//! The only code that writes to the log: one drained batch, one write, one sync, then the answers.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::footer::{self, Footer, FooterEntry, TRAILER_BYTES};
use super::format::{
    self, BATCH_HEADER_BYTES, BatchBuilder, BatchHeader, BatchKind, Position, RECORD_HEADER_BYTES,
    RecordKind, Standing,
};
use super::segment::{DATA_START, SegmentFile, SegmentMaker, TableChange};
use super::shared::{Shared, Waited, copy_of};
use super::state::{Op, Settled};
use super::supply::Supply;
use super::{Done, LogConfig, Record};
use crate::vote::VoteFile;

/// After so long without work a marker is written: from then on, damage to the last batch is told from a torn write.
const IDLE_MARK_AFTER: Duration = Duration::from_millis(20);

/// Room that every batch leaves for the marker after it.
const MARKER_BYTES: u64 = format::ALIGN_BYTES;

/// Largest payload that fits a segment which holds nothing else.
pub(crate) fn payload_bytes_max(segment_bytes: u64) -> usize {
    let overhead = BATCH_HEADER_BYTES as u64 + RECORD_HEADER_BYTES as u64 + format::ALIGN_BYTES;
    let seal = format::seal_bytes(Footer::default().encoded_bytes(1));
    (segment_bytes - DATA_START - MARKER_BYTES - seal - TRAILER_BYTES - overhead) as usize
}

/// Writes the log. Lives on one thread: [`LogWriter::run`] in production, [`LogWriter::step`] where a simulator decides when.
pub struct LogWriter {
    shared: Arc<Shared>,
    config: LogConfig,
    vote: VoteFile,
    standing: Standing,
    /// Sequence of the next batch.
    sequence: u64,
    /// What the last completed sync covered.
    synced: Position,
    /// Whether a batch was written after the newest mark on disk.
    mark_due: bool,
    active: Option<Active>,
    supply: Supply,
    batch: BatchBuilder,
    failed: bool,
}

/// What recovery hands to the writer.
pub(crate) struct WriterStart {
    pub(crate) vote: VoteFile,
    pub(crate) standing: Standing,
    pub(crate) sequence: u64,
    pub(crate) synced: Position,
    pub(crate) active: Option<Active>,
    pub(crate) ready: Vec<Arc<SegmentFile>>,
    pub(crate) maker: SegmentMaker,
}

/// The segment that is written to.
pub(crate) struct Active {
    pub(crate) segment: Arc<SegmentFile>,
    /// Where the next batch starts.
    pub(crate) end: u64,
    /// What it holds so far.
    pub(crate) footer: Footer,
}

impl Active {
    fn fits(&self, body_bytes: u64, more_entries: usize) -> bool {
        self.has_room(format::batch_bytes(body_bytes) + MARKER_BYTES, more_entries)
    }

    fn fits_marker(&self) -> bool {
        self.has_room(MARKER_BYTES, 0)
    }

    /// With what completes the segment.
    fn has_room(&self, bytes: u64, more_entries: usize) -> bool {
        let seal = format::seal_bytes(self.footer.encoded_bytes(more_entries));
        self.end + bytes + seal + TRAILER_BYTES <= self.segment.bytes
    }
}

impl LogWriter {
    pub(crate) fn new(config: LogConfig, shared: Arc<Shared>, start: WriterStart) -> Self {
        Self {
            shared,
            config,
            vote: start.vote,
            standing: start.standing,
            sequence: start.sequence,
            synced: start.synced,
            mark_due: start.active.is_some(),
            active: start.active,
            supply: Supply::Inline {
                ready: start.ready.into(),
                maker: start.maker,
            },
            batch: BatchBuilder::default(),
            failed: false,
        }
    }

    /// Writes until the log is closed, with a second thread that makes segments ready.
    ///
    /// # Errors
    /// The first failed write or sync; the log has been stopped by then.
    pub fn run(mut self) -> io::Result<()> {
        let preparer = self.supply.start_background()?;
        let result = self.run_until_closed();
        self.supply.stop();
        if preparer.join().is_err() && result.is_ok() {
            return Err(io::Error::other(
                "the thread that makes segments ready panicked",
            ));
        }
        result
    }

    fn run_until_closed(&mut self) -> io::Result<()> {
        loop {
            match self.shared.wait(self.mark_due.then_some(IDLE_MARK_AFTER)) {
                Waited::Work => _ = self.step(),
                Waited::Idle => self.mark_idle(),
                Waited::Closed => {
                    self.mark_idle();
                    return match self.shared.lock().failed() {
                        Some(reason) => Err(io::Error::other(reason)),
                        None => Ok(()),
                    };
                }
            }
        }
    }

    /// Writes and syncs what is waiting, as far as it fits one batch, then answers. Returns false when nothing was waiting.
    pub fn step(&mut self) -> bool {
        let (taken, committed) = self.shared.drain(self.config.drain_bytes_max);
        if taken.is_empty() {
            return false;
        }
        let (ops, answers): (Vec<Op>, Vec<Done>) = taken.into_iter().unzip();
        let result = if self.failed {
            Err(io::Error::other("the log stopped"))
        } else {
            self.write(ops, committed)
        };
        match result {
            Ok(settled) => {
                self.shared.settle(settled);
                for done in answers {
                    done(Ok(()));
                }
            }
            Err(error) => {
                self.failed = true;
                self.shared.fail(&error);
                for done in answers {
                    done(Err(copy_of(&error)));
                }
            }
        }
        true
    }

    /// Writes a marker if the newest batch is not under a mark yet.
    pub fn mark_idle(&mut self) {
        if self.failed || !self.mark_due {
            return;
        }
        if let Err(error) = self.write_marker() {
            self.failed = true;
            self.shared.fail(&error);
        }
    }

    fn write_marker(&mut self) -> io::Result<()> {
        if self
            .active
            .as_ref()
            .is_some_and(|active| active.fits_marker())
        {
            let committed = self.shared.lock().committed_as_written();
            self.standing.committed = committed.max(self.standing.committed);
            self.flush(BatchKind::Marker)?;
            self.sync()?;
        }
        self.mark_due = false;
        Ok(())
    }

    fn write(&mut self, ops: Vec<Op>, committed: Option<u64>) -> io::Result<Settled> {
        let mut settled = Settled::default();
        let mut dirty = false;
        for op in ops {
            settled.payload_bytes += op.payload_bytes();
            dirty |= !matches!(op, Op::Nothing | Op::Vote(_));
            self.write_op(op, &mut settled)?;
        }
        if dirty {
            self.make_room(0, 0, &mut settled)?;
            // Only with the last of the operations: where a segment ends among them, a crash would leave a header that calls
            // committed what a truncation behind it removes.
            self.standing.committed = committed.max(self.standing.committed);
            self.flush(BatchKind::Data)?;
            self.sync()?;
            self.mark_due = true;
        }
        settled.purged = self.standing.purged;
        Ok(settled)
    }

    fn write_op(&mut self, op: Op, settled: &mut Settled) -> io::Result<()> {
        match op {
            Op::Append { records, append } => {
                for record in &records {
                    self.write_entry(record, settled)?;
                }
                settled.append = Some(append);
            }
            Op::Truncate { from } => self.write_truncate(from, settled)?,
            Op::Purge { upto, forget } => {
                if forget {
                    self.write_truncate(0, settled)?;
                }
                self.standing.purged = Some(upto);
                self.standing.start_index = Some(upto.index + 1);
            }
            Op::Vote(vote) => {
                self.vote.save(&vote)?;
                self.standing.vote_sequence = self.vote.sequence();
            }
            Op::Nothing => {}
        }
        Ok(())
    }

    fn write_entry(&mut self, record: &Record, settled: &mut Settled) -> io::Result<()> {
        let has_gap = self.active.as_ref().is_some_and(|active| {
            active
                .footer
                .next_index()
                .is_some_and(|next| next != record.index)
        });
        if has_gap {
            // A segment holds one run of indexes; after a purge beyond the end of the log a new run begins.
            self.roll(settled)?;
        }
        let active = self.make_room(RECORD_HEADER_BYTES + record.payload.len(), 1, settled)?;
        let (seed, epoch, end) = (active.segment.crc_seed, active.segment.epoch, active.end);
        let at = self.batch.push(seed, epoch, RecordKind::Entry, record);
        let entry = FooterEntry {
            index: record.index,
            term: record.term,
            offset: (end + at as u64) as u32,
            length: (RECORD_HEADER_BYTES + record.payload.len()) as u32,
        };
        let active = self
            .active
            .as_mut()
            .expect("make_room leaves an active segment");
        active.footer.entry(&entry);
        settled.changes.push(TableChange::Entry {
            index: entry.index,
            offset: entry.offset,
            length: entry.length,
        });
        self.standing.start_index = self.standing.start_index.or(Some(record.index));
        Ok(())
    }

    fn write_truncate(&mut self, from: u64, settled: &mut Settled) -> io::Result<()> {
        let active = self.make_room(RECORD_HEADER_BYTES, 0, settled)?;
        let (seed, epoch) = (active.segment.crc_seed, active.segment.epoch);
        let record = Record {
            group: 0,
            term: 0,
            index: from,
            payload: bytes::Bytes::new(),
        };
        self.batch.push(seed, epoch, RecordKind::Truncate, &record);
        let active = self
            .active
            .as_mut()
            .expect("make_room leaves an active segment");
        active.footer.truncate(from);
        settled.changes.push(TableChange::Truncate { from });
        if self.standing.purged.is_none()
            && self.standing.start_index.is_some_and(|start| start >= from)
        {
            self.standing.start_index = None;
        }
        Ok(())
    }

    /// Makes sure that the active segment has room for so much more in the batch, rolling over where it has not.
    fn make_room(
        &mut self,
        record_bytes: usize,
        entries: usize,
        settled: &mut Settled,
    ) -> io::Result<&Active> {
        let body_bytes = self.batch.body_bytes() + record_bytes as u64;
        match &self.active {
            None => self.activate(settled)?,
            Some(active) if !active.fits(body_bytes, entries) => self.roll(settled)?,
            Some(_) => {}
        }
        Ok(self
            .active
            .as_ref()
            .expect("a segment has just been activated"))
    }

    /// Completes the segment, with its footer, and goes on in the next one.
    fn roll(&mut self, settled: &mut Settled) -> io::Result<()> {
        if !self.batch.is_empty() {
            self.flush(BatchKind::Data)?;
        }
        if let Some(active) = &self.active {
            let footer = Record {
                group: 0,
                term: 0,
                index: active.footer.first_index,
                payload: active.footer.encode(),
            };
            let (seed, epoch, seal_at) =
                (active.segment.crc_seed, active.segment.epoch, active.end);
            self.batch.push(seed, epoch, RecordKind::Footer, &footer);
            self.flush(BatchKind::Seal)?;
            // Before anything goes to the next segment: so a batch there proves that this one was complete.
            self.sync()?;
            self.write_trailer(seal_at)?;
            settled.changes.push(TableChange::Seal);
        }
        self.activate(settled)
    }

    /// Says where the seal is, which a start then takes for all that the segment holds: only behind the seal's sync. Not synced
    /// itself, since nothing depends on it.
    fn write_trailer(&self, seal_at: u64) -> io::Result<()> {
        let Some(active) = &self.active else {
            return Ok(());
        };
        let segment = &active.segment;
        let at = segment.bytes - TRAILER_BYTES;
        if active.end > at {
            return Ok(()); // Begun by a release that left no room for one.
        }
        let trailer = footer::encode_trailer(segment.crc_seed, segment.epoch, seal_at);
        self.shared.counts.note_write(TRAILER_BYTES);
        segment.file.write_at(&trailer, at)
    }

    fn activate(&mut self, settled: &mut Settled) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let segment = self.supply.take(&|| shared.is_closed())?;
        self.shared.counts.note_segment();
        settled.changes.push(TableChange::Segment(segment.clone()));
        self.active = Some(Active {
            segment,
            end: DATA_START,
            footer: Footer::new(self.sequence),
        });
        Ok(())
    }

    fn flush(&mut self, kind: BatchKind) -> io::Result<()> {
        let active = self
            .active
            .as_mut()
            .expect("a batch is only built for an active segment");
        let header = BatchHeader {
            kind,
            body_bytes: 0,
            position: Position {
                epoch: active.segment.epoch,
                offset: active.end,
            },
            sequence: self.sequence,
            mark: self.synced,
            record_count: 0,
            standing: self.standing,
        };
        let bytes = format::batch_bytes(self.batch.body_bytes());
        self.batch
            .finish(active.segment.crc_seed, header, |bytes| {
                active.segment.file.write_at(bytes, active.end)
            })?;
        active.end += bytes;
        self.sequence += 1;
        self.shared.counts.note_write(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if let Some(active) = &self.active {
            let start = Instant::now();
            active.segment.file.sync_data()?;
            self.shared.counts.syncs.record_duration(start.elapsed());
            self.synced = Position {
                epoch: active.segment.epoch,
                offset: active.end,
            };
        }
        Ok(())
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.supply.stop();
        self.shared.abandon();
    }
}
