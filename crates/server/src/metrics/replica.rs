//! The numbers of the replica: what it keeps on disk, what went from node to node, whether nodes agree.

use std::sync::atomic::{AtomicU64, Ordering};

use ticketrail_raft::{CompactionCounts, DigestCounts, DiskUse, Figures, Replica, TransferCounts};

use super::names as n;
use super::text::Text;

const NS: f64 = 1e9;

/// Writes all of it.
pub(super) fn write(replica: &Replica, text: &mut Text) {
    log(&replica.figures(), text);
    disk_use(replica.disk_use(), text);
    compactions(replica.compactions(), text);
    transfers(&replica.transfer_counts(), text);
    digests(replica.digest_counts(), text);
}

fn read(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

fn log(figures: &Figures, text: &mut Text) {
    text.one(&n::LEADER_CHANGES, figures.leader_changes);
    text.one(
        &n::DURABLE_INDEX,
        figures.log_durable_index.unwrap_or_default(),
    );
    text.histogram(&n::LOG_SYNC_SECONDS, &figures.log_syncs, NS);
    text.one(&n::LOG_WRITTEN_BYTES, figures.log_bytes_written);
    text.one(&n::LOG_SEGMENTS_BEGUN, figures.log_segments_begun);
    text.one(&n::LOG_SEGMENTS, figures.log_segments);
    text.one(&n::LOG_SEGMENT_BYTES, figures.log_segment_bytes);
    text.one(&n::LOG_ENTRY_BYTES, figures.log_entry_bytes);
    text.one(&n::LOG_SPARE_SEGMENTS, figures.log_spare_segments);
    text.one(&n::LOG_QUEUED_BYTES, figures.log_queued_bytes);
    text.one(&n::LOG_CACHED_BYTES, figures.log_cached_bytes);
    text.histogram(&n::CHECKPOINT_SECONDS, &figures.checkpoints, NS);
    text.one(&n::CHECKPOINT_INDEX, figures.checkpoint_index);
    text.one(&n::CHECKPOINT_AGE, figures.checkpoint_age.as_secs_f64());
    text.histogram(&n::SNAPSHOT_SECONDS, &figures.snapshots, NS);
}

fn disk_use(found: DiskUse, text: &mut Text) {
    text.begin(&n::LOG_FOLDER_BYTES);
    for (what, bytes) in [
        ("log", found.log_bytes),
        ("live_bodies", found.live_bytes),
        ("dead_bodies", found.dead_bytes),
        ("spare", found.spare_bytes),
    ] {
        text.sample(&n::LOG_FOLDER_BYTES, &[what], bytes);
    }
    text.one(&n::BODIES_BYTES_MAX, found.stored_bytes_max);
}

fn compactions(counts: &CompactionCounts, text: &mut Text) {
    text.begin(&n::COMPACTIONS);
    text.sample(&n::COMPACTIONS, &["done"], read(&counts.jobs));
    text.sample(&n::COMPACTIONS, &["given_up"], read(&counts.failures));
    text.one(&n::COMPACTION_MOVED_BYTES, read(&counts.bytes_moved));
    text.one(&n::COMPACTION_FREED_BYTES, read(&counts.bytes_freed));
}

fn transfers(counts: &TransferCounts, text: &mut Text) {
    text.one(&n::SNAPSHOTS_SENT, read(&counts.opened));
    text.one(&n::SNAPSHOT_SENT_BYTES, read(&counts.bytes_sent));
    text.one(&n::SNAPSHOTS_INSTALLED, read(&counts.installed));
    text.one(&n::SNAPSHOT_RECEIVED_BYTES, read(&counts.bytes_received));
    text.one(&n::SNAPSHOT_PIECES_RETRIED, read(&counts.resumed));
    text.one(&n::SNAPSHOT_FAILURES, read(&counts.failed));
    text.begin(&n::STATE_REPLACED);
    text.sample(&n::STATE_REPLACED, &["wrong"], read(&counts.replaced_wrong));
    text.sample(&n::STATE_REPLACED, &["lost"], read(&counts.replaced_lost));
}

fn digests(counts: &DigestCounts, text: &mut Text) {
    text.one(&n::DIGESTS_AGREED, read(&counts.agreed));
    text.one(&n::DIGESTS_UNDECIDED, read(&counts.undecided));
    text.one(&n::DIGESTS_DIFFER, read(&counts.others_differ));
}
