//! Real processes, real faults: long runs against clusters of `faulty-node`, the server on a machine
//! that loses what was not synced, refuses to sync, or has a wrong clock.
//!
//! The program `ticketrail-jepsen-like` starts the long forms; `tests/` runs them in small. The
//! clusters come from `ticketrail_tests::cluster`. Nothing of the product depends on this package.
//!
//! Start reading at [`power_cuts`].

pub mod power_cuts;
