//! What strace saw.

use super::series::number;
use super::table::lines;
use crate::loads::Load;
use crate::results::{Fsyncs, Results, Syncing};
use crate::system::System;

/// So many syncs for each confirm are one each: the ends of the time that is counted are not sharp.
const ONE_EACH: f64 = 0.9;
/// Below so few there is none for a confirm.
const NONE: f64 = 0.1;

pub(super) fn table(results: &Results) -> String {
    let mut rows = Vec::new();
    for system in System::ALL {
        for figures in results.figures(system, Load::Fsyncs) {
            if let Some(fsyncs) = &figures.fsyncs {
                rows.push(row(system, fsyncs));
            }
        }
    }
    let heading = [
        "system",
        "who syncs for each confirm",
        "one publisher: syncs per confirm, by node",
        "publish only: confirms/s",
        "syncs/s, by node",
        "messages per sync of the node with most",
        "calls",
    ];
    lines(heading.map(str::to_owned).into(), rows)
}

fn row(system: System, fsyncs: &Fsyncs) -> Vec<String> {
    let (one, many) = (&fsyncs.one_by_one, &fsyncs.many);
    let each = per_confirm(one);
    let by_node = each.iter().map(|syncs| number(*syncs, 2));
    let rates = many
        .calls
        .iter()
        .map(|calls| number(*calls as f64 / many.seconds, 0));
    let most = many.calls.iter().max().copied().unwrap_or(0);
    let calls = fsyncs.calls.iter();
    let calls: Vec<_> = calls
        .map(|(name, count)| format!("{name} ({count})"))
        .collect();
    vec![
        system.title().to_owned(),
        verdict(system, &each),
        by_node.collect::<Vec<_>>().join(", "),
        number(many.confirmed as f64 / many.seconds, 0),
        rates.collect::<Vec<_>>().join(", "),
        match most {
            0 => "no sync".to_owned(),
            most => number(many.confirmed as f64 / most as f64, 1),
        },
        if calls.is_empty() {
            "none".to_owned()
        } else {
            calls.join(", ")
        },
    ]
}

fn per_confirm(syncing: &Syncing) -> Vec<f64> {
    let confirmed = syncing.confirmed.max(1) as f64;
    let calls = syncing.calls.iter();
    calls.map(|calls| *calls as f64 / confirmed).collect()
}

/// One publisher waits for each confirm, so a node that syncs for each of them syncs as often.
fn verdict(system: System, each: &[f64]) -> String {
    let syncing = each.iter().filter(|syncs| **syncs >= ONE_EACH).count();
    if syncing >= system.majority() {
        match system.nodes() {
            1 => "its one node".to_owned(),
            _ => "a majority".to_owned(),
        }
    } else if each.iter().all(|syncs| *syncs < NONE) {
        "**nobody**".to_owned()
    } else {
        format!("**{syncing} of {} nodes**", system.nodes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_sync_is_told() {
        let of = |system, each: &[f64]| verdict(system, each);
        assert_eq!(of(System::Ticketrail, &[1.0, 0.98, 0.2]), "a majority");
        assert_eq!(of(System::NatsSync, &[2.0, 0.5, 0.5]), "**1 of 3 nodes**");
        assert_eq!(of(System::Nats, &[0.0, 0.01, 0.0]), "**nobody**");
        assert_eq!(of(System::Redis, &[1.0]), "its one node");
    }
}
