//! The newest settlements that were confirmed.

use std::collections::{HashMap, VecDeque};

use crate::delivery::Receipt;
use crate::receive::Settlement;

/// How many are remembered: as many as a consumer can hold.
const FINISHED_MAX: usize = 10_000;

/// The receipts are copies: a slice would keep the whole frame that it came in.
#[derive(Debug, Default)]
pub(super) struct Finished {
    settlements: HashMap<Box<[u8]>, Settlement>,
    order: VecDeque<Box<[u8]>>,
}

impl Finished {
    pub(super) fn add(&mut self, receipt: &Receipt, settlement: Settlement) {
        let receipt: Box<[u8]> = receipt.as_bytes().as_ref().into();
        if self
            .settlements
            .insert(receipt.clone(), settlement)
            .is_none()
        {
            self.order.push_back(receipt);
        }
        while self.order.len() > FINISHED_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.settlements.remove(&oldest);
            }
        }
    }

    pub(super) fn of(&self, receipt: &[u8]) -> Option<Settlement> {
        self.settlements.get(receipt).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_settlements_are_remembered() {
        let mut finished = Finished::default();
        for number in 0..=FINISHED_MAX {
            finished.add(&Receipt::from_bytes(number.to_string()), Settlement::Ack);
        }
        assert_eq!(finished.of(b"0"), None);
        assert_eq!(finished.of(b"1"), Some(Settlement::Ack));
        assert_eq!(finished.settlements.len(), FINISHED_MAX);
    }
}
