//! Per queue, at every index: what arrived is somewhere.

use ticketrail_core::QueueView;

use super::Violation;

/// Whether a queue's counts add up.
///
/// # Errors
/// They do not.
pub fn conserved(index: u64, queue: &QueueView<'_>) -> Result<(), Violation> {
    let counters = queue.counters;
    let arrived = counters.published + counters.dead_lettered_in;
    let gone = [
        counters.acknowledged,
        counters.dead_lettered_out,
        counters.expired,
        counters.dropped,
        counters.purged,
    ];
    let there = [queue.ready, queue.delayed, queue.in_flight, queue.parked];
    let accounted: u64 = gone.iter().chain(&there).sum();
    if arrived == accounted {
        return Ok(());
    }
    Err(format!(
        "of queue `{}` {arrived} messages arrived and {accounted} are accounted for at entry {index}: {counters:?}, ready, \
         delayed, in flight, parked: {there:?}",
        queue.name
    ))
}
