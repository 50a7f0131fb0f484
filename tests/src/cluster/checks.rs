//! What must hold at the end of every test, whatever happened before.

use ticketrail_proto::v1::QueueStats;

use super::{Cluster, secs, until};

/// Asserts that every message that arrived is accounted for.
///
/// # Panics
/// When one is not.
pub fn conserved(queue: &str, stats: &QueueStats) {
    let arrived = stats.published + stats.dead_lettered_in + stats.redriven_in;
    let accounted = [
        stats.acknowledged,
        stats.ready,
        stats.delayed,
        stats.in_flight,
        stats.parked,
        stats.dead_lettered_out,
        stats.expired,
        stats.dropped,
        stats.purged,
        stats.moved,
    ];
    assert_eq!(
        arrived,
        accounted.iter().sum::<u64>(),
        "conservation of `{queue}`: {stats:?}"
    );
}

/// How far all nodes have come, and what they agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The log index up to which everything is applied on every node.
    pub index: u64,
    /// The outcome digest there.
    pub digest: u64,
}

/// Asks every node until all stand at one index, and asserts that their digests are equal there.
/// Nothing may be going on in the cluster.
///
/// # Panics
/// When digests differ, or the nodes never come to stand at one index.
pub async fn agreed(cluster: &Cluster) -> Agreement {
    until("all nodes to stand at one index", secs(30), async || {
        let mut seen = Vec::new();
        for id in cluster.ids() {
            let view = cluster
                .view(id)
                .await
                .map_err(|refused| vec![(id, 0, refused.to_string())])?;
            let digest = view.digest.unwrap_or_default();
            let lag = view.commit_index.saturating_sub(view.applied_index);
            seen.push((id, digest.index, format!("{:016x} lag {lag}", digest.value)));
            if digest.index != view.applied_index || lag > 0 {
                return Err(seen);
            }
        }
        if seen.iter().any(|node| node.1 != seen[0].1) {
            return Err(seen);
        }
        assert!(
            seen.iter().all(|node| node.2 == seen[0].2),
            "the nodes disagree: {seen:?}"
        );
        let view = cluster
            .view(cluster.ids()[0])
            .await
            .map_err(|_| seen.clone())?;
        let digest = view.digest.unwrap_or_default();
        if digest.index == seen[0].1 {
            Ok(Agreement {
                index: digest.index,
                digest: digest.value,
            })
        } else {
            Err(seen)
        }
    })
    .await
}
