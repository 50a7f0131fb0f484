//! Replicated time never goes back, and lease time moves by at most one second per entry.

use ticketrail_core::limits::LEASE_STEP_MS_MAX;
use ticketrail_core::{LeaseTime, WallTime};

use super::Violation;

/// The clocks after the last entry.
#[derive(Default)]
pub struct ReplicatedTime {
    lease: LeaseTime,
    wall: WallTime,
}

impl ReplicatedTime {
    /// The clocks after the next entry.
    ///
    /// # Errors
    /// One went back, or lease time leapt.
    pub fn after(&mut self, index: u64, lease: LeaseTime, wall: WallTime) -> Result<(), Violation> {
        let (last_lease, last_wall) = (self.lease, self.wall);
        (self.lease, self.wall) = (lease, wall);
        if lease < last_lease || wall < last_wall {
            return Err(format!(
                "replicated time goes back at entry {index}: {last_lease:?} {last_wall:?} to {lease:?} {wall:?}"
            ));
        }
        if lease.0 - last_lease.0 > LEASE_STEP_MS_MAX {
            return Err(format!(
                "lease time leaps at entry {index}: {last_lease:?} to {lease:?}"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn leaps_and_steps_back_are_told() {
        let mut time = ReplicatedTime::default();
        time.after(1, LeaseTime(1_000), WallTime(5)).unwrap();
        time.after(2, LeaseTime(1_000), WallTime(5)).unwrap();
        assert!(time.after(3, LeaseTime(2_001), WallTime(5)).is_err());
        assert!(time.after(4, LeaseTime(2_001), WallTime(4)).is_err());
        assert!(time.after(5, LeaseTime(2_000), WallTime(9)).is_err());
    }
}
