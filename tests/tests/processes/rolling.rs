//! A rolling restart of all nodes under load costs no failed request at the client library, and
//! redelivers nothing that was acknowledged.

mod gaps;
pub(crate) mod load;

use std::time::{Duration, Instant};

use ticketrail_tests::cluster::checks::{agreed, conserved};
use ticketrail_tests::cluster::{Cluster, secs, until};

use crate::number;
use load::{Load, QUEUE, QUIET_QUEUE};

/// A stop takes at most what the nodes allow it by default, and a moment.
const STOP_MAX: Duration = secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_costs_no_request() {
    let rounds = number("TICKETRAIL_ROLLING_RESTARTS", 1);
    let rate = number("TICKETRAIL_ROLLING_RATE", 1_000);
    let cluster = Cluster::builder().alone().start().await;
    cluster.queue(QUEUE).create().await;
    cluster.queue(QUIET_QUEUE).create().await;
    let load = Load::start(&cluster, rate).await;
    load.flows(&cluster, "before").await;
    for round in 0..rounds {
        for id in cluster.ids() {
            let led = cluster.leader().await == id;
            let asked = Instant::now();
            cluster.terminate(id);
            let status = cluster.ended(id, STOP_MAX).await;
            let stopped = asked.elapsed();
            assert!(status.success(), "node {id} ended with {status}");
            cluster.restart(id).await;
            let back = asked.elapsed();
            // What was stopped has caught up when it serves what flows now.
            load.flows(&cluster, "after a restart").await;
            let gap = load.gaps.longest_since(asked);
            println!(
                "round {round}, node {id}{}: stopped in {stopped:?}, serves after {back:?}, longest \
                 gap in confirms {gap:?}",
                if led { " (leader)" } else { "" },
            );
            load.nothing_failed();
        }
    }
    let report = load.finish(&cluster).await;
    println!("{report}");
    for queue in [QUEUE, QUIET_QUEUE] {
        let stats = until("all to be acknowledged", secs(20), async || {
            let stats = cluster.stats(queue).await;
            match stats.acknowledged == stats.published {
                true => Ok(stats),
                false => Err(stats),
            }
        })
        .await;
        conserved(queue, &stats);
    }
    agreed(&cluster).await;
}
