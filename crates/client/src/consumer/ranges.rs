//! Many settlements in few ranges.

use ticketrail_proto::v1::SettleRange;

use crate::receive::Settlement;

/// How many ranges one frame holds at most.
pub(super) const RANGES_MAX: usize = 1_000;

/// Merges settlements of neighbouring deliveries that are alike. Settlements of one delivery keep their
/// order; otherwise the order is free, since each delivery stands alone.
pub(super) fn merge(mut settlements: Vec<(u64, Settlement)>) -> Vec<SettleRange> {
    settlements.sort_by_key(|(delivery_id, _)| *delivery_id);
    let mut ranges: Vec<(SettleRange, Settlement)> = Vec::new();
    for (delivery_id, settlement) in settlements {
        match ranges.last_mut() {
            Some((range, kind))
                if *kind == settlement && range.last_delivery_id + 1 == delivery_id =>
            {
                range.last_delivery_id = delivery_id;
            }
            _ => ranges.push((range(delivery_id, settlement), settlement)),
        }
    }
    ranges.into_iter().map(|(range, _)| range).collect()
}

fn range(delivery_id: u64, settlement: Settlement) -> SettleRange {
    SettleRange {
        first_delivery_id: delivery_id,
        last_delivery_id: delivery_id,
        kind: settlement.kind().into(),
        delay: settlement.delay(),
        lease_duration: settlement.lease_duration(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn merged(settlements: &[(u64, Settlement)]) -> Vec<(u64, u64)> {
        let ranges = merge(settlements.to_vec());
        ranges
            .iter()
            .map(|range| (range.first_delivery_id, range.last_delivery_id))
            .collect()
    }

    #[test]
    fn neighbours_of_one_kind_become_one_range() {
        use Settlement::*;
        assert_eq!(
            merged(&[(3, Ack), (1, Ack), (2, Ack), (5, Ack)]),
            [(1, 3), (5, 5)]
        );
        assert_eq!(
            merged(&[(1, Ack), (2, Reject), (3, Ack)]),
            [(1, 1), (2, 2), (3, 3)]
        );
        let delay = |ms| Nack(Some(Duration::from_millis(ms)));
        assert_eq!(
            merged(&[(1, delay(5)), (2, delay(5)), (3, delay(6))]),
            [(1, 2), (3, 3)]
        );
        assert_eq!(merged(&[]), []);
    }

    #[test]
    fn an_extension_stays_before_the_settlement_of_the_same_delivery() {
        let extend = Settlement::Extend(Duration::from_secs(1));
        let ranges = merge(vec![(1, extend), (1, Settlement::Ack)]);
        assert_eq!(ranges.len(), 2);
        assert_eq!(ranges[0].kind(), extend.kind());
        assert_eq!(ranges[1].kind(), Settlement::Ack.kind());
    }

    proptest! {
        #[test]
        fn ranges_hold_exactly_what_was_settled(ids in proptest::collection::btree_set(1..200_u64, 0..100)) {
            let settlements: Vec<_> = ids.iter().rev().map(|id| (*id, Settlement::Ack)).collect();
            let mut covered = Vec::new();
            for range in merge(settlements) {
                covered.extend(range.first_delivery_id..=range.last_delivery_id);
            }
            prop_assert_eq!(covered, ids.into_iter().collect::<Vec<_>>());
        }
    }
}
